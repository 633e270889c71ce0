"""Does a map look at the object? Measured against boxes; the chance level of both is the area share of the box."""

import torch
from torch import Tensor

__all__ = ["energy_in_box", "pointing_game"]


def energy_in_box(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive attribution that falls inside the box, `(B,)` in [0, 1].

    The energy-based pointing game of Score-CAM (Wang et al., 2020, section 4.3). 0 for a map without a positive value.

    Args:
        maps: attributions `(B, H, W)`, signed; negative values count as zero.
        masks: bool `(B, H, W)`, true inside the box.

    Raises:
        ValueError: the shapes differ, or the masks are not bool.
    """
    _check(maps, masks)
    positive = maps.detach().double().relu().flatten(1)  # the sum over a large map in half precision would saturate
    total = positive.sum(1)
    inside = (positive * masks.flatten(1)).sum(1)
    share = inside / total.where(total > 0, torch.ones_like(total))
    return share.to(torch.promote_types(maps.dtype, torch.float32))


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the highest point of the map is inside the box, bool `(B,)` (Zhang et al., 2016).

    Where several points are equally high the first in reading order counts. A map without a positive value points
    nowhere: a miss.

    Args, Raises: as `energy_in_box`.
    """
    _check(maps, masks)
    peak, index = maps.detach().flatten(1).max(1)
    return masks.flatten(1).gather(1, index[:, None])[:, 0] & (peak > 0)


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have the same shape, expected (B, H, W)."
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks have dtype {masks.dtype}, expected torch.bool.")
