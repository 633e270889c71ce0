"""One map per image, from whatever a user has: a Captum attribution, a function, or a tensor."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor

__all__ = ["MapSource", "maps_of"]

MapSource: TypeAlias = Tensor | Attribution | Callable[..., Any]
"""Maps `(B, H, W)` or `(B, C, H, W)`; a Captum `Attribution`; or a function `(images, target)` that gives such maps."""


def maps_of(source: MapSource, images: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
    """One signed map per image, `(B, H, W)`, detached: channels are added up.

    Maps that an attribution or a function gives at a lower resolution, such as Captum's layer attributions, are brought
    to the size of the images (bilinear); a tensor keeps its size.

    The metrics that have images and a target call this on their `maps`, so that those can be any of the three; metrics
    that know neither, such as `energy_in_box`, take `maps_of(attribution, images, target)`.

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
        found = source.attribute(images, target=target, **kwargs)
    elif callable(source):
        found = source(images, target, **kwargs)
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
