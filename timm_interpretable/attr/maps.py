"""One map per image, from whatever a user has: a Captum attribution, a function, or a tensor."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor

from timm_interpretable.attr.contract import gradients

__all__ = ["MapSource", "MapsOfClasses", "images_per_pass", "maps_by_class", "maps_of", "spread"]

MapSource: TypeAlias = Tensor | Attribution | Callable[..., Any]
"""Maps `(B, H, W)` or `(B, C, H, W)`; a Captum `Attribution`; or a function `(images, target)` that gives such maps."""


def maps_of(source: MapSource, images: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
    """One signed map per image, `(B, H, W)`, detached: channels are added up.

    Maps that an attribution or a function gives at a lower resolution, such as Captum's layer attributions, are brought
    to the size of the images (bilinear); a tensor keeps its size.

    The metrics that have images and a target call this on their `maps`, so that those can be any of the three; metrics
    that know neither, such as `energy_in_box`, take `maps_of(attribution, images, target)`. An attribution or a
    function may take gradients: they are on while it runs, whatever mode the caller is in.

    Args:
        source: maps `(B, H, W)` or `(B, C, H, W)`, returned as they are but for channels; an attribution; or a
            function `(images, target)` to maps.
        images: `(B, C, H, W)`.
        target: classes `(B,)`.
        kwargs: of `source.attribute`, or of the function.

    Raises:
        TypeError: a source that is none of these, or does not give a tensor (or a 1-tuple of one); options of a tensor.
        ValueError: maps of another shape.
    """
    found: Any
    if isinstance(source, Tensor):
        if kwargs:
            raise TypeError(f"maps are given as a tensor, which takes no options: got {', '.join(kwargs)}.")
        found = source
    elif isinstance(source, Attribution):
        found = _asked(lambda x, classes: source.attribute(x, target=classes, **kwargs), images, target)
    elif callable(source):
        found = _asked(lambda x, classes: source(x, classes, **kwargs), images, target)
    else:
        raise TypeError(f"maps from {type(source).__name__}: expected a tensor, a Captum Attribution or a function.")
    if isinstance(found, tuple) and len(found) == 1:
        found = found[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"{type(source).__name__} gave {type(found).__name__}, expected a tensor of maps.")
    maps = found.detach()
    if maps.ndim not in (3, 4) or len(maps) != len(images):
        raise ValueError(
            f"maps {tuple(maps.shape)} of images {tuple(images.shape)}, expected (B, H, W) or (B, C, H, W)."
        )
    if maps.ndim == 4:
        # bf16 would lose what cancels between the channels
        maps = maps.sum(1, dtype=torch.promote_types(maps.dtype, torch.float32)) if maps.shape[1] > 1 else maps[:, 0]
    if isinstance(source, Tensor) or maps.shape[1:] == images.shape[2:]:
        return maps
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0]


def _asked(source: Callable[[Tensor, Tensor], Any], images: Tensor, target: Tensor) -> Any:
    with gradients():
        # tensors of inference mode take no gradient
        return source(*(t.clone() if t.is_inference() else t for t in (images, target)))


MapsOfClasses = Callable[[Tensor, Tensor], Tensor]
"""Images `(B, C, H, W)` and n classes for each, `(B, n)`, to signed maps `(B, n, H, W)`."""


def maps_by_class(attribute: Callable[[Tensor, Tensor], Tensor]) -> MapsOfClasses:
    """Of an attribution `(images, target) -> (B, c, H, W)`, such as Captum's: one call per class, channels added up."""

    def maps(images: Tensor, classes: Tensor) -> Tensor:
        return torch.stack([attribute(images, column).sum(1) for column in classes.unbind(1)], dim=1)

    return maps


def images_per_pass(images: Tensor, batch_size: int | None) -> int:
    """The size that was asked for, or one that suits the device (see `removal_curves`).

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is None:
        return 64 if images.device.type != "cpu" else max(1, 8 * 224**2 // images.shape[2:].numel())
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected at least 1.")
    return batch_size


def spread(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps `(B, n, h, w)` to `(B, n, H, W)`, such that each adds up to its spatial mean."""
    large = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    # bilinear upsampling keeps the mean for integer factors only; elsewhere the rest goes to all pixels alike
    rest = maps.mean((2, 3), keepdim=True) - large.mean((2, 3), keepdim=True)
    return (large + rest) / size.numel()
