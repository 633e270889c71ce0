"""Pixel removal: does the prediction hold while pixels that an attribution calls unimportant disappear?

Source: `Full-Gradient Representation for Neural Network Visualization` (Srinivas and Fleuret, NeurIPS 2019), as used in
section 4.2 of the CoDA-Net paper (https://arxiv.org/abs/2104.00032).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["QUARTER", "TENTHS", "logit_deletion", "pixel_removal"]

QUARTER = tuple(i / 80 for i in range(21))
"""0 to 25 % of the pixels in 20 steps, as in the CoDA-Net paper."""

TENTHS = tuple(i / 10 for i in range(11))
"""0 to 100 % of the pixels in tenths, as in the FAME paper."""


def pixel_removal(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    fractions: Sequence[float] = QUARTER,
    most_important_first: bool = False,
    fill: float | Tensor = 0.0,
) -> Tensor:
    """The probability of a class while more and more pixels are replaced, `(B, len(fractions))`.

    Equal values of a map are removed in reading order.

    Args:
        predict: images to probabilities `(B, K)`.
        images: `(B, C, H, W)`.
        maps: one importance per pixel, `(B, H, W)`.
        target: classes `(B,)`.
        fractions: of the pixels, each in [0, 1].
        most_important_first: else the least important go first.
        fill: replaces a removed pixel; a number, or anything that broadcasts to the images.

    Raises:
        ValueError: shapes that do not match, or a fraction outside [0, 1].
    """
    check_removal(images, maps, target, fractions)
    rank = removal_rank(maps, most_important_first)
    replacement = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    curve = []
    with torch.no_grad():
        for fraction in fractions:
            removed = rank < round(fraction * rank[0].numel())
            altered = torch.where(removed[:, None], replacement, images)
            curve.append(predict(altered).float().gather(1, target[:, None])[:, 0])
    return torch.stack(curve, dim=1)


def removal_rank(maps: Tensor, most_important_first: bool) -> Tensor:
    """When each pixel of maps `(B, H, W)` goes, from 0 on; equal values in reading order."""
    order = maps.detach().flatten(1).argsort(dim=1, descending=most_important_first, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def check_removal(images: Tensor, maps: Tensor, target: Tensor, fractions: Sequence[float]) -> None:
    """Raises:
    ValueError: shapes that do not match, or a fraction outside [0, 1].
    """
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or target.shape != images.shape[:1]:
        raise ValueError(
            f"images {tuple(images.shape)}, maps {tuple(maps.shape)} and target {tuple(target.shape)}, expected "
            "(B, C, H, W), (B, H, W) and (B,)."
        )
    wrong = [fraction for fraction in fractions if not 0 <= fraction <= 1]
    if wrong:
        raise ValueError(f"fractions has {wrong[0]}, expected numbers from 0 to 1.")


def logit_deletion(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    fractions: Sequence[float] = TENTHS,
    fill: float | Tensor = 0.0,
) -> Tensor:
    """What the raw logit of a class has lost when the most important pixels are gone, `(B, len(fractions))`.

    Deletion as in the FAME paper (https://arxiv.org/abs/2605.12017): the more is lost, and the earlier, the better the
    map says what the model uses. Its mean over the fractions is the one number per image.

    Args:
        model: images to logits `(B, K)`.
        images, maps, target, fractions: as in `pixel_removal`.
        fill: what a deleted pixel shows, in the units of `images`: black, which of standardised images is
            `-mean / std`.

    Raises:
        ValueError: as `pixel_removal`.
    """
    curve = pixel_removal(model, images, maps, target, (0.0, *fractions), most_important_first=True, fill=fill)
    return curve[:, :1] - curve[:, 1:]
