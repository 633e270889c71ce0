"""Attributions by region: what the parts of a picture contribute"""

import torch
from torch import Tensor

__all__ = ["by_region"]


def by_region(attribution: Tensor, regions: Tensor) -> Tensor:
    """The sums of an attribution over regions, such as superpixels, segments or boxes.

    The regions divide the picture among themselves, so the sums add up to whatever the attribution adds up to: for an
    exact attribution to the score of the class.

    Args:
        attribution: `(B, C, H, W)` or `(B, H, W)`.
        regions: the number of the region of every pixel, from 0, integers `(H, W)` or `(B, H, W)`.

    Returns:
        `(B, R)` for R regions, in at least fp32.

    Raises:
        ValueError: shapes that do not belong together, negative numbers, or numbers that are not integers.
    """
    values = attribution.sum(1) if attribution.ndim == 4 else attribution
    if values.ndim != 3:
        raise ValueError(f"attribution has shape {tuple(attribution.shape)}, expected (B, C, H, W) or (B, H, W).")
    if regions.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            f"regions has shape {tuple(regions.shape)}, expected {tuple(values.shape[1:])} or {tuple(values.shape)}."
        )
    if regions.is_floating_point() or regions.is_complex() or (regions.numel() and int(regions.min()) < 0):
        raise ValueError(f"regions is {regions.dtype} from {regions.min()}, expected integers from 0.")
    numbers = regions.to(values.device, torch.int64).expand(values.shape).flatten(1)
    count = int(numbers.max()) + 1 if numbers.numel() else 0
    values = values.to(torch.promote_types(values.dtype, torch.float32)).flatten(1)
    return values.new_zeros(len(values), count).scatter_add(1, numbers, values)
