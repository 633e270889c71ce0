"""Averages over neighbourhoods. At the border they are over the pixels that exist: nothing is made up outside."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["blurred", "odd_share", "smoothed"]

_SIGMA_AT_224 = 10.0
_REACH = 4  # standard deviations


def smoothed(maps: Tensor, size: int) -> Tensor:
    """The mean over the `size x size` pixels around every pixel, in the shape of `maps`; at least fp32.

    Args:
        maps: `(..., H, W)`, signed.
        size: odd, in pixels; 1 changes nothing.

    Raises:
        ValueError: a size that is even or not positive.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}, expected an odd number of pixels: 1, 3, 5 and so on.")
    return _averaged(maps, lambda distance: (distance <= size // 2).to(distance.dtype))


def odd_share(side: int, share: float) -> int:
    """An odd number of pixels, about this share of a side: a size for `smoothed`."""
    return 2 * int(side * share // 2) + 1


def blurred(images: Tensor, sigma: float | None = None) -> Tensor:
    """Images under a Gaussian blur, in the shape and dtype of `images`.

    What pixels are replaced by where black would be too unlike an image, as in `Interpretable Explanations of Black
    Boxes by Meaningful Perturbation` (Fong and Vedaldi, ICCV 2017), and what insertion starts from.

    Args:
        images: `(..., H, W)`.
        sigma: standard deviation in pixels; None for Fong and Vedaldi's 10 at 224 pixels, in proportion to the shorter
            side at other sizes.

    Raises:
        ValueError: a sigma that is not positive.
    """
    width = _SIGMA_AT_224 * min(images.shape[-2:]) / 224 if sigma is None else sigma
    if not width > 0:
        raise ValueError(f"sigma={sigma}, expected a positive number of pixels.")

    def weights(distance: Tensor) -> Tensor:
        return torch.exp(-(distance**2) / (2 * width**2)) * (distance <= _REACH * width)

    return _averaged(images, weights).to(images.dtype)


def _averaged(x: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
    """Weighted means, separable, by distance in rows and columns."""
    with torch.autocast(x.device.type, enabled=False):
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        rows, columns = (_matrix(side, weights).to(values.dtype).to(values.device) for side in x.shape[-2:])
        return rows @ values @ columns.mT


def _matrix(side: int, weights: Callable[[Tensor], Tensor]) -> Tensor:
    place = torch.arange(side, dtype=torch.float64)
    matrix = weights((place[:, None] - place).abs())
    return matrix / matrix.sum(1, keepdim=True)
