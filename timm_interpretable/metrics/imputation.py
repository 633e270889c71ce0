"""Pixels replaced by what their neighbourhood makes of them: noisy linear imputation, solved where the images are

Source: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann, Borisov, Kasneci,
Kasneci, ICML 2022), section 4.2 - https://arxiv.org/abs/2202.00449. Written from its equations.

A removed pixel is the weighted mean of its neighbours, 1/6 for the four beside it and 1/12 for the four diagonal ones;
many of these are removed too, which makes it a linear system: a discrete Laplace equation whose boundary values are the
pixels that stay. Without the noise the smoothness of what replaces them would give the removed pixels away.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["impute"]

_MAX_STEPS = 500
_DAMPING = 0.8
_COARSEST = 4


def impute(
    images: Tensor,
    removed: Tensor,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Images with the removed pixels imputed, `(B, C, H, W)`, in the dtype of `images`.

    Conjugate gradients over the whole batch, preconditioned by a multigrid cycle; images that are done leave the batch.
    Of an image of which nothing stays all pixels become 0 (and noise).

    Args:
        images: `(B, C, H, W)`.
        removed: bool `(B, H, W)`.
        noise: its standard deviation, in units of the images. All images get the same noise, so that no result depends
            on the other images of a batch.
        generator: of the noise, on the CPU: the same noise on every device.
        tolerance: how far a removed pixel may be from the solution (root mean square), in units of the images.

    Raises:
        ValueError: shapes that do not match, `removed` not bool, a negative noise, a tolerance that is not positive.
    """
    if images.ndim != 4 or removed.shape != (len(images), *images.shape[2:]) or removed.dtype != torch.bool:
        raise ValueError(
            f"images {tuple(images.shape)} and removed {tuple(removed.shape)} of {removed.dtype}, expected "
            "(B, C, H, W) and bool (B, H, W)."
        )
    if not noise >= 0 or not tolerance > 0:
        raise ValueError(f"noise={noise} and tolerance={tolerance}, expected at least 0 and more than 0.")
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        solution = _solve(x, removed[:, None], tolerance)
        if noise:
            solution += noise * torch.randn(images.shape[1:], generator=generator).to(solution)
        return torch.where(removed[:, None], solution.to(images.dtype), images)


def _solve(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """The system `s_i u_i - sum_j w_ij u_j = sum_k w_ik x_k` over removed j and pixels k that stay, by their weights.

    `s_i` is the sum of the weights inside the image. It is symmetric and, where an image keeps a pixel, positive
    definite.
    """
    size, solvable = x.shape[2:], ~removed.flatten(1).all(1)
    solution, samples = torch.zeros_like(x), solvable.nonzero()[:, 0]
    known = _padded(x.masked_fill(removed, 0))[samples]
    inside = _padded(torch.ones_like(x[:1, :1]))
    levels = _levels(_padded(removed.to(x.dtype))[samples], inside)
    u, residual = torch.zeros_like(known), levels[0].mask * _neighbours(known)
    direction = torch.zeros_like(known)
    before = residual.new_ones(*known.shape[:2], 1, 1)
    for _ in range(_MAX_STEPS):
        correction = _cycle(levels, residual)  # a part of the error, at worst about a quarter
        missing = 16 * _dot(correction, correction) > tolerance**2 * levels[0].mask.sum((2, 3), keepdim=True)
        going = missing.flatten(1).any(1)
        if not going.all():
            u = u + correction
            solution[samples[~going]] = u[~going, :, : size[0], : size[1]]
            samples, u, residual, direction = (
                samples[going],
                u[going] - correction[going],
                residual[going],
                direction[going],
            )
            correction, before = correction[going], before[going]
            levels = [level.select(going) for level in levels]
        if not len(samples):
            return solution
        energy = _dot(residual, correction)
        direction = correction + energy / before * direction
        applied = _applied(levels[0], direction)
        step = energy / _positive(_dot(direction, applied))
        u, residual, before = u + step * direction, residual - step * applied, _positive(energy)
    solution[samples] = u[:, :, : size[0], : size[1]]
    return solution


class _Level(NamedTuple):
    """The system on one grid.

    mask: 1 where a pixel is removed, `(B, 1, h, w)`.
    weights: the diagonal of the system, `(1, 1, h, w)`.
    """

    mask: Tensor
    weights: Tensor

    def select(self, samples: Tensor) -> "_Level":
        return _Level(self.mask[samples], self.weights)


def _levels(mask: Tensor, inside: Tensor) -> list[_Level]:
    """Grids of half the side each; a coarse pixel is removed where all the pixels in it are."""
    levels = []
    while True:
        levels.append(_Level(mask, _neighbours(inside).clamp_min(1)))
        if min(mask.shape[2:]) <= _COARSEST or mask.shape[2] % 2 or mask.shape[3] % 2:
            return levels
        mask, inside = (1 - F.max_pool2d(1 - part, 2) for part in (mask, inside))


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """An approximate solution for the residual: smoothed, corrected on the coarser grids, smoothed. Symmetric."""
    level = levels[0]
    smoother = level.mask * _DAMPING / level.weights
    u = smoother * residual
    if len(levels) == 1:
        for _ in range(2 * _COARSEST):
            u += smoother * (residual - _applied(level, u))
        return u
    coarse = _restricted(residual - _applied(level, u)) * levels[1].mask
    u += level.mask * _prolonged(_cycle(levels[1:], coarse))
    u += smoother * (residual - _applied(level, u))
    return u


def _applied(level: _Level, u: Tensor) -> Tensor:
    return (level.weights * u).sub_(_neighbours(u)).mul_(level.mask)


def _neighbours(x: Tensor) -> Tensor:
    """Twelve times the weighted sum of the eight neighbours; outside the image there are none."""
    across = 2 * x
    across[..., 1:] += x[..., :-1]
    across[..., :-1] += x[..., 1:]
    both = 2 * across
    both[..., 1:, :] += across[..., :-1, :]
    both[..., :-1, :] += across[..., 1:, :]
    return both.sub_(x, alpha=4)


def _restricted(x: Tensor) -> Tensor:
    """To half the side; times four, since the system does not know the size of its pixels."""
    return _filtered(F.conv2d, x) * 4


def _prolonged(x: Tensor) -> Tensor:
    """The transpose of `_restricted`, up to a factor: bilinear interpolation."""
    return _filtered(F.conv_transpose2d, x) * 4


def _filtered(convolution: Callable[..., Tensor], x: Tensor) -> Tensor:
    taps = x.new_tensor([1, 3, 3, 1]) / 8
    out = convolution(x.flatten(0, 1)[:, None], torch.outer(taps, taps)[None, None], stride=2, padding=1)
    return out.view(*x.shape[:2], *out.shape[2:])


def _padded(x: Tensor) -> Tensor:
    """To sides that can be halved until little is left, with zeros."""
    height, width = x.shape[2:]
    unit = 2 ** max(0, math.ceil(math.log2(min(height, width) / _COARSEST)))
    return F.pad(x, (0, -width % unit, 0, -height % unit))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per image and channel, `(B, C, 1, 1)`."""
    return (a * b).sum((2, 3), keepdim=True)


def _positive(x: Tensor) -> Tensor:
    """As a divisor; 0 where there is nothing left to do."""
    return x.where(x > 0, 1)
