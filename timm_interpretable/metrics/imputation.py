"""Pixels replaced by what their neighbourhood makes of them: noisy linear imputation, solved where the images are

Source: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann, Borisov, Kasneci,
Kasneci, ICML 2022), section 4.2 - https://arxiv.org/abs/2202.00449. Written from its equations.

A removed pixel is the weighted mean of its neighbours, 1/6 for the four beside it and 1/12 for the four diagonal ones;
many of these are removed too, which makes it a linear system: a discrete Laplace equation whose boundary values are the
pixels that stay. Without the noise the smoothness of what replaces them would give the removed pixels away.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from timm_interpretable.metrics.multigrid import Grid, fitting

__all__ = ["impute"]

_MAX_STEPS = 500
_SAFETY = 4  # how much of the error a cycle may overlook
_CACHED = 2**19  # elements


def impute(
    images: Tensor,
    removed: Tensor,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Images with the removed pixels imputed, `(B, C, H, W)`, in the dtype of `images`.

    Conjugate gradients on the device of the images, preconditioned by a multigrid cycle.
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
        solution = torch.cat([_solve(*part, tolerance) for part in _parts(x, removed[:, None])])
        if noise:
            solution += noise * torch.randn(images.shape[1:], generator=generator).to(solution)
        return torch.where(removed[:, None], solution.to(images.dtype), images)


def _parts(x: Tensor, removed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All at once on an accelerator; on a CPU as many images as its caches hold."""
    size = len(x) if x.device.type != "cpu" else _CACHED // max(1, x[:1].numel())
    return zip(x.split(max(1, size)), removed.split(max(1, size)), strict=True)


def _solve(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """The system `s_i u_i - sum_j w_ij u_j = sum_k w_ik x_k` over removed j and pixels k that stay, by their weights.

    `s_i` is the sum of the weights inside the image. It is symmetric and, where an image keeps a pixel, positive
    definite.
    """
    solution = torch.zeros_like(x)
    waiting = ~removed.flatten(1).all(1)
    mask = (removed & waiting[:, None, None, None]).to(x.dtype)
    grid = Grid(fitting(mask), fitting(torch.ones_like(x[:1, :1])), x.shape[1])
    residual, u, direction, applied = grid.right, grid.field(), grid.field(), grid.field()
    grid.inner(applied).copy_(fitting(x.masked_fill(removed, 0)))
    grid.binomial(applied, residual)
    before = x.new_ones(*x.shape[:2], 1, 1)
    enough = (tolerance / _SAFETY) ** 2 * mask.sum((2, 3), keepdim=True)
    inner = (slice(None), slice(None), slice(1, x.shape[2] + 1), slice(1, x.shape[3] + 1))
    for _ in range(_MAX_STEPS):
        if not waiting.any():
            break
        correction = grid.cycle()  # a part of the error
        done = waiting & (_dot(correction, correction, applied) <= enough).flatten(1).all(1)
        solution[done] = (u[done] + correction[done])[inner]
        waiting = waiting & ~done
        energy = _dot(residual, correction, applied)
        torch.addcmul(correction, direction, energy / before, out=direction)
        grid.binomial(direction, applied).neg_().addcmul_(grid.diagonal, direction)
        step = energy / _positive(_dot(direction, applied, grid.residual))
        u.addcmul_(direction, step)
        residual.addcmul_(applied, step, value=-1)
        before = _positive(energy)
    solution[waiting] = u[waiting][inner]
    return solution


def _dot(a: Tensor, b: Tensor, room: Tensor) -> Tensor:
    """Per image and channel, `(B, C, 1, 1)`."""
    return torch.mul(a, b, out=room).sum((2, 3), keepdim=True)


def _positive(x: Tensor) -> Tensor:
    """As a divisor; 0 where there is nothing left to do."""
    return x.where(x > 0, 1)
