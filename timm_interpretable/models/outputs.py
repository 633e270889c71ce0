"""What the numbers of a model mean"""

from typing import Any

from torch import Tensor

__all__ = ["class_probabilities"]


def class_probabilities(model: Any, logits: Tensor) -> Tensor:
    """Of logits `(..., K)`: sigmoids for a CoDA-Net, trained with one binary cross-entropy per class, else softmax."""
    return logits.sigmoid() if hasattr(model, "dynamic_weights") else logits.softmax(-1)
