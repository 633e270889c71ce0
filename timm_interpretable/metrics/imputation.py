"""Pixels replaced by what their neighbourhood suggests: noisy linear imputation, solved on the device of the images

Source: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann, Borisov, Kasneci,
Kasneci, ICML 2022), section 4.2 - https://arxiv.org/abs/2202.00449. Written from its equations.

A removed pixel is the weighted mean of its neighbours inside the image, with weight 1/6 for the four beside it and 1/12
for the four diagonal ones. Many of these are removed too, so the values solve a linear system: a discrete Laplace
equation whose boundary values are the pixels that stay. Noise is added because the smoothness of the solution alone
would give the removed pixels away.

The system is solved by conjugate gradients, preconditioned by a multigrid cycle: `Multigrid` (Trottenberg, Oosterlee,
Schüller, 2001), chapter 2, a V-cycle with one step of Jacobi before and after, bilinear interpolation, and its
transpose for restriction.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["impute"]

_MAX_STEPS = 500
_SAFETY = 4  # the error is at most this many times what a cycle estimates
_CACHED = 2**19  # elements
_COARSEST = 64  # pixels


def impute(
    images: Tensor,
    removed: Tensor,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Images with the removed pixels imputed, `(B, C, H, W)`, in the dtype of `images`.

    The result for an image does not depend on the other images of the batch. If no pixel of an image stays, all its
    pixels become 0, plus the noise. If a pixel that stays is not finite, the removed pixels of that channel become NaN,
    since the system then has no solution; what the removed pixels held does not matter.

    Args:
        images: `(B, C, H, W)`, of any height and width.
        removed: bool `(B, H, W)`.
        noise: standard deviation of the noise, in units of the images. All images get the same noise.
        generator: source of the noise, on the CPU: every device gets the same noise.
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
        solution = torch.cat([_imputed(*part, tolerance) for part in _parts(x, removed[:, None])])
        if noise:
            solution += noise * torch.randn(images.shape[1:], generator=generator).to(solution)
        return torch.where(removed[:, None], solution.to(images.dtype), images)


def _parts(x: Tensor, removed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All images at once on an accelerator; on a CPU as many as its caches hold."""
    size = len(x) if x.device.type != "cpu" else _CACHED // max(1, x[:1].numel())
    return zip(x.split(max(1, size)), removed.split(max(1, size)), strict=True)


def _imputed(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """The solution in units of the images; NaN in channels where a pixel that stays is not finite."""
    kept = x.masked_fill(removed, 0)
    broken = ~kept.isfinite().flatten(2).all(2)[:, :, None, None]
    kept = kept.masked_fill(broken, 0)  # the images share one block of memory, in which NaN would spread
    scale = kept.abs().amax((2, 3), keepdim=True).clamp_min(1)  # sums of large numbers would overflow, and spread too
    kept = kept / scale
    # the solution moves with the mean; far from the pixels that stay, the error is a share of what is left without it
    mean = kept.sum((2, 3), keepdim=True) / (~removed).sum((2, 3), keepdim=True).clamp_min(1)
    solution = _solve((kept - mean).masked_fill_(removed, 0), removed, tolerance / scale) + mean
    return solution.mul_(scale).masked_fill_(broken, torch.nan)


def _solve(kept: Tensor, removed: Tensor, tolerance: Tensor) -> Tensor:
    """The system `s_i u_i - sum_j w_ij u_j = sum_k w_ik x_k` over removed j and pixels k that stay, by their weights.

    `s_i` is the sum of the weights inside the image. The system is symmetric and, where an image keeps a pixel,
    positive definite.

    Args:
        kept: the pixels that stay, `(B, C, h, w)`; the others are 0.
        removed: bool `(B, 1, h, w)`.
        tolerance: `(B, C, 1, 1)`, root mean square.
    """
    height, width = kept.shape[2:]
    solution = torch.zeros_like(kept)
    waiting = ~removed.flatten(1).all(1)
    mask = (removed & waiting[:, None, None, None]).to(kept.dtype)
    grid = _Grid(mask, torch.ones_like(kept[:1, :1]), kept.shape[1], (height, width))
    residual, u, direction, applied = grid.right, grid.field(), grid.field(), grid.field()
    inner = (..., slice(1, height + 1), slice(1, width + 1))
    applied[inner] = kept
    grid.binomial(applied, residual)
    before = kept.new_ones(*kept.shape[:2], 1, 1)
    enough = (tolerance / _SAFETY) ** 2 * mask.sum((2, 3), keepdim=True)
    for _ in range(_MAX_STEPS):
        if not waiting.any():
            break
        correction = grid.cycle()  # an estimate of the error
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
    """A divisor; 1 where there is nothing left to do."""
    return x.where(x > 0, 1)


class _Grid:
    """The system on one grid, the coarser grids, and memory to work in.

    Making new tensors, and views of them, would take longer than filling them: all are made once. Every field has a
    frame of one pixel, so that neighbours lie at fixed distances in memory. Fields that `binomial` reads are zero
    wherever no pixel is removed, the frame included; right-hand sides and residuals mean nothing there.

    A pixel of the coarser grid covers four of the finer one. It is inside the image where any of them is, and it stays
    where any of them stays: so every grid keeps a pixel if the finest does, and its system has one solution.

    Args:
        mask: 1 where a pixel is removed, `(B, 1, h, w)`.
        inside: 1 inside the image, `(1, 1, h, w)`.
        channels: number of channels of the fields.
        size: height and width of the image; what lies below and on the right of it is outside.
    """

    def __init__(self, mask: Tensor, inside: Tensor, channels: int, size: tuple[int, int]) -> None:
        coarsest = mask.shape[2:].numel() <= _COARSEST
        if not coarsest:
            padding = (0, mask.shape[3] % 2, 0, mask.shape[2] % 2)
            mask, inside = F.pad(mask, padding), F.pad(inside, padding)
        height, width = mask.shape[2:]
        weights = _neighbours(inside).clamp_min(1)
        thin = min(size) == 1
        # pixels in a single row alternate for ever under undamped steps
        smoother = mask / weights * (2 / 3 if thin else 1)
        self.shape = (len(mask), channels, height + 2, width + 2)
        self.mask, self.diagonal, self.smoother = (_framed(x) for x in (mask, weights + 4, smoother))
        self.right, self.u, self.residual, first, second = (self.field() for _ in range(5))
        self._scratch = first.view(-1), second.view(-1)
        self.coarser: _Grid | None = None
        if coarsest:
            self._inverse = _inverse(mask, weights)[:, None]
        else:
            coarse_inside, coarse_kept = F.max_pool2d(inside, 2), F.max_pool2d(inside - mask, 2)
            half = (size[0] + 1) // 2, (size[1] + 1) // 2
            self.coarser = _Grid(coarse_inside - coarse_kept, coarse_inside, channels, half)
            # the system does not know the size of its pixels, which is right in two dimensions but not in one
            self._transfer = _framed(mask / _whole(coarse_inside)) * (2**0.5 if thin else 1)
            self._half = mask.new_zeros(2, len(mask), channels, height // 2 + 2, width + 2)

    def field(self) -> Tensor:
        """A new field of zeros, `(B, C, h + 2, w + 2)`."""
        return self.mask.new_zeros(self.shape)

    def binomial(self, x: Tensor, out: Tensor) -> Tensor:
        """Sums weighted 1 2 1 in rows and columns: twelve times the mean of the neighbours, and four times the pixel.

        The system applied to x is `diagonal * x` less this.
        """
        stride = self.shape[3]
        x, (a, b) = x.view(-1), self._scratch
        torch.add(x[:-1], x[1:], out=a[:-1])
        torch.add(a[:-1], a[1:], out=b[1:])
        torch.add(b[:-stride], b[stride:], out=a[:-stride])
        torch.add(a[:-stride], a[stride:], out=out.view(-1)[stride:])
        return out

    def cycle(self) -> Tensor:
        """An approximate solution for the right-hand side `right`, in `u`.

        A step of Jacobi, undamped, takes two thirds or more of all that the coarser grid cannot see.
        """
        if self.coarser is None:
            inner = (..., slice(1, -1), slice(1, -1))
            solved = self.right[inner].flatten(2)[:, :, None] @ self._inverse
            self.u[inner] = solved.view(self.u[inner].shape)
            return self.u
        torch.mul(self.smoother, self.right, out=self.u)
        self._restrict(self._residual().mul_(self._transfer), self.coarser)
        self.coarser.cycle()
        self.u.addcmul_(self._prolonged(self.coarser), self._transfer)
        return self.u.addcmul_(self.smoother, self._residual())

    def _residual(self) -> Tensor:
        return self.binomial(self.u, self.residual).addcmul_(self.diagonal, self.u, value=-1).add_(self.right)

    def _restrict(self, x: Tensor, coarser: "_Grid") -> None:
        """To half the side: the transpose of `_prolonged`."""
        height, width = self.shape[2] - 2, self.shape[3] - 2
        half, other = self._half[..., 1:-1, :]
        torch.lerp(x[..., 1:-1:2, :], x[..., 0:height:2, :], 0.25, out=half)
        torch.lerp(x[..., 2::2, :], x[..., 3::2, :], 0.25, out=other)
        half += other
        out = coarser.right[..., 1 : height // 2 + 1, 1 : width // 2 + 1]
        torch.lerp(half[..., 1:-1:2], half[..., 0:width:2], 0.25, out=out)
        out += torch.lerp(half[..., 2::2], half[..., 3::2], 0.25, out=other[..., : width // 2])

    def _prolonged(self, coarser: "_Grid") -> Tensor:
        """To twice the side: bilinear interpolation, zero outside."""
        half, out = self._half[0], self.residual
        u = coarser.u[..., : half.shape[2], : self.shape[3] // 2 + 1]
        torch.lerp(u[..., 1:-1], u[..., :-2], 0.25, out=half[..., 1:-1:2])
        torch.lerp(u[..., 1:-1], u[..., 2:], 0.25, out=half[..., 2::2])
        torch.lerp(half[..., 1:-1, :], half[..., :-2, :], 0.25, out=out[..., 1:-1:2, :])
        torch.lerp(half[..., 1:-1, :], half[..., 2:, :], 0.25, out=out[..., 2::2, :])
        return out


def _framed(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1))


def _neighbours(x: Tensor) -> Tensor:
    """Twelve times the weighted mean of the eight neighbours; outside there are none."""
    kernel = x.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]])
    return F.conv2d(x, kernel[None, None], padding=1)


def _whole(coarse_inside: Tensor) -> Tensor:
    """What interpolation makes of 1 on the coarse grid; 1 where that is nothing."""
    taps = coarse_inside.new_tensor([0.25, 0.75, 0.75, 0.25])
    whole = F.conv_transpose2d(coarse_inside, torch.outer(taps, taps)[None, None], stride=2, padding=1)
    return whole.where(whole > 0, 1)


def _inverse(mask: Tensor, weights: Tensor) -> Tensor:
    """The inverse of the system on a small grid, `(B, h * w, h * w)`; zero where no pixel is removed."""
    pixels = weights.numel()
    units = torch.eye(pixels).to(weights).view(pixels, 1, *weights.shape[2:])
    removed = mask.flatten(1)
    both = removed[:, :, None] * removed[:, None]
    system = torch.diag(weights.flatten()) - _neighbours(units).flatten(1) * both
    return torch.linalg.inv(system) * both
