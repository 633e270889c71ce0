"""Hugging Face's ZeroGPU lends a GPU for the time of a function; elsewhere functions stay as they are."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def on_gpu(function: F) -> F:
    """`spaces.GPU` where the package `spaces` is there, which it is on Hugging Face alone."""
    try:
        import spaces  # type: ignore[import-not-found]
    except ImportError:
        return function
    decorated: F = spaces.GPU(function)
    return decorated


def pick_device() -> torch.device:
    """CUDA where there is one (ZeroGPU says so too), else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
