"""Does a map look at the object? Measured against boxes, by energy, pointing and overlap

The chance level of energy and pointing is the area share of the box; it is also the overlap of the whole image with it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["THRESHOLDS", "box_iou", "energy_in_box", "pointing_game", "unit_range"]

THRESHOLDS = (0.3, 0.5, 0.7)
"""Thresholds of `box_iou`, as in the FAME paper."""


def energy_in_box(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of the positive attribution that lies inside the box, `(B,)` in [0, 1], at least fp32.

    It is 0 for a map without a positive value, and NaN for a map with a value that is not finite. Source: the
    energy-based pointing game of `Score-CAM` (Wang et al., CVPR Workshops 2020), section 4.3 -
    https://arxiv.org/abs/1910.01279.

    Args:
        maps: attributions `(B, H, W)`, signed; negative values count as zero.
        masks: bool `(B, H, W)`, true inside the box.

    Raises:
        ValueError: the shapes differ, or the masks are not bool.
    """
    _check(maps, masks)
    positive = _positive_part(maps)
    peak = positive.amax((1, 2), keepdim=True)
    positive = positive / peak.where(peak != 0, 1)  # a sum over large values would overflow
    total = positive.sum((1, 2))
    inside = positive.where(masks, 0).sum((1, 2))
    return inside / total.where(total != 0, 1)


def pointing_game(maps: Tensor, masks: Tensor, seed: int = 0) -> Tensor:
    """Whether the highest point of the map is inside the box, bool `(B,)`.

    Among several equally high points the first counts, in a random order drawn from `seed` and the same for all maps. A
    map without a positive value, or with a NaN, points nowhere and misses. Source: `Top-down Neural Attention by
    Excitation Backprop` (Zhang et al., ECCV 2016) - https://arxiv.org/abs/1608.00507.

    Args:
        maps: attributions `(B, H, W)`, signed.
        masks: bool `(B, H, W)`, true inside the box.
        seed: of the order of equally high points.

    Raises:
        ValueError: the shapes differ, or the masks are not bool.
    """
    _check(maps, masks)
    values = maps.detach().flatten(1)
    order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    peak, index = values[:, order].max(1)
    return masks.flatten(1).gather(1, order[index][:, None])[:, 0] & (peak > 0)


def box_iou(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Intersection over union of `{map >= t}` and the box for every threshold, `(B, len(thresholds))` in [0, 1].

    It is 0 where neither covers a pixel. Source: the FAME paper (https://arxiv.org/abs/2605.12017).

    Args:
        maps: `(B, H, W)` in [0, 1]; `unit_range` brings signed maps there.
        masks: bool `(B, H, W)`, true inside the box.
        thresholds: values t in [0, 1].

    Raises:
        ValueError: the shapes differ, the masks are not bool, or a map leaves [0, 1].
    """
    _check(maps, masks)
    low, high = maps.min().item(), maps.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"maps reach from {low:.4g} to {high:.4g}, expected 0 to 1; see unit_range.")
    overlaps = []
    for threshold in thresholds:
        above = maps.detach() >= threshold
        both, either = (above & masks).sum((1, 2)), (above | masks).sum((1, 2))
        overlaps.append(both / either.clamp(min=1))
    return torch.stack(overlaps, dim=1)


def unit_range(maps: Tensor) -> Tensor:
    """The positive part of every map, stretched to [0, 1], `(B, H, W)`: what pytorch-grad-cam does to a CAM.

    A map without a positive value, or constant where it is positive everywhere, becomes zero.

    Args:
        maps: `(B, H, W)`, signed.
    """
    positive = _positive_part(maps)
    positive = positive - positive.amin((1, 2), keepdim=True)
    peak = positive.amax((1, 2), keepdim=True)
    return positive / peak.where(peak != 0, 1)


def _positive_part(maps: Tensor) -> Tensor:
    """Detached and at least fp32, since sums over a large map in half precision would saturate."""
    return maps.detach().to(torch.promote_types(maps.dtype, torch.float32)).relu()


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have the same shape, expected (B, H, W)."
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks have dtype {masks.dtype}, expected torch.bool.")
