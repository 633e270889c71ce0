"""Inherently interpretable image classifiers for timm, with their attributions behind Captum's interface.

Importing this package registers its models with timm. Its parts are imported when they are first used:
`timm_interpretable.attr` and `timm_interpretable.metrics` need no import of their own.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timm_interpretable import attr as attr, metrics as metrics, models as models
    from timm_interpretable.models.weights import weights_source as weights_source

__all__ = ["attr", "metrics", "models", "weights_source"]
__version__ = "0.1.0"

_PARTS = ("attr", "metrics", "models")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    if name == "weights_source":
        return import_module(f"{__name__}.models.weights").weights_source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command_line() -> bool:
    """Whether this process is `timm-interpretable` or `python -m timm_interpretable.cli`.

    Its help must not wait seconds for torch and timm; the commands import the models themselves.
    """
    started = sys.argv[0] if sys.argv else ""
    return Path(started).stem == "timm-interpretable" or (started == "-m" and f"{__name__}.cli" in sys.orig_argv)


if not _is_command_line():
    import_module(f"{__name__}.models")
