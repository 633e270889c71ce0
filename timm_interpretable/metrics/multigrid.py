"""A multigrid cycle for the system of `imputation`: an approximate inverse, symmetric, for the price of a few sweeps

Method: `Multigrid` (Trottenberg, Oosterlee, Schüller, 2001), chapter 2: a V-cycle with one step of Jacobi before and
after, bilinear interpolation, and its transpose for restriction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Grid"]

_COARSEST = 64  # pixels


class Grid:
    """The system on one grid, the coarser grids, and memory to work in.

    Making new tensors, and views of them, would take longer than filling them: all are made once. Every field has a
    frame of one pixel, so that neighbours lie at fixed distances in memory. Fields that `binomial` reads are zero
    wherever no pixel is removed, the frame included; right-hand sides and residuals mean nothing there.

    Args:
        mask: 1 where a pixel is removed, `(B, 1, h, w)`, of sides that fit (`fitting`).
        inside: 1 inside the image, `(1, 1, h, w)`.
        channels: of the fields.
    """

    def __init__(self, mask: Tensor, inside: Tensor, channels: int) -> None:
        height, width = mask.shape[2:]
        weights = _neighbours(inside).clamp_min(1)
        self.shape = (len(mask), channels, height + 2, width + 2)
        self.mask, self.diagonal, self.smoother = (_framed(x) for x in (mask, weights + 4, mask / weights))
        self.right, self.u, self.residual, first, second = (self.field() for _ in range(5))
        self._rows, self._columns = slice(1, height + 1), slice(1, width + 1)
        self._scratch = first.view(-1), second.view(-1)
        self.coarser: Grid | None = None
        if height * width <= _COARSEST:
            self._inverse = _inverse(mask, weights)[:, None]
        else:
            coarse_mask, coarse_inside = (1 - F.max_pool2d(1 - part, 2) for part in (mask, inside))
            self.coarser = Grid(coarse_mask, coarse_inside, channels)
            self._transfer = _framed(mask / _whole(coarse_inside))
            self._half = mask.new_zeros(2, len(mask), channels, height // 2 + 2, width + 2)

    def field(self) -> Tensor:
        """A new one of zeros, `(B, C, h + 2, w + 2)`."""
        return self.mask.new_zeros(self.shape)

    def inner(self, field: Tensor) -> Tensor:
        """Without the frame, `(B, C, h, w)`."""
        return field[..., self._rows, self._columns]

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
            solved = self.inner(self.right).flatten(2)[:, :, None] @ self._inverse
            self.inner(self.u).copy_(solved.view(*self.shape[:2], *self.inner(self.mask).shape[2:]))
            return self.u
        torch.mul(self.smoother, self.right, out=self.u)
        self._restrict(self._residual().mul_(self._transfer), self.coarser)
        self.coarser.cycle()
        self.u.addcmul_(self._prolonged(self.coarser), self._transfer)
        return self.u.addcmul_(self.smoother, self._residual())

    def _residual(self) -> Tensor:
        return self.binomial(self.u, self.residual).addcmul_(self.diagonal, self.u, value=-1).add_(self.right)

    def _restrict(self, x: Tensor, coarser: "Grid") -> None:
        """To half the side: the transpose of `_prolonged`, since the system does not know the size of its pixels."""
        height, width = self.shape[2] - 2, self.shape[3] - 2
        half, other = self._half[..., 1:-1, :]
        torch.lerp(x[..., 1:-1:2, :], x[..., 0:height:2, :], 0.25, out=half)
        torch.lerp(x[..., 2::2, :], x[..., 3::2, :], 0.25, out=other)
        half += other
        out = coarser.inner(coarser.right)
        torch.lerp(half[..., 1:-1:2], half[..., 0:width:2], 0.25, out=out)
        out += torch.lerp(half[..., 2::2], half[..., 3::2], 0.25, out=other[..., : width // 2])

    def _prolonged(self, coarser: "Grid") -> Tensor:
        """To twice the side: bilinear interpolation, zero outside."""
        u, half, out = coarser.u, self._half[0], self.residual
        torch.lerp(u[..., 1:-1], u[..., :-2], 0.25, out=half[..., 1:-1:2])
        torch.lerp(u[..., 1:-1], u[..., 2:], 0.25, out=half[..., 2::2])
        torch.lerp(half[..., 1:-1, :], half[..., :-2, :], 0.25, out=out[..., 1:-1:2, :])
        torch.lerp(half[..., 1:-1, :], half[..., 2:, :], 0.25, out=out[..., 2::2, :])
        return out


def fitting(x: Tensor) -> Tensor:
    """With zeros below and on the right, to sides that can be halved until little is left."""
    height, width = x.shape[2:]
    unit = 1
    while -(-height // unit) * -(-width // unit) > _COARSEST:
        unit *= 2
    return F.pad(x, (0, -width % unit, 0, -height % unit))


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
    """Of the system on a small grid as a matrix, `(B, h * w, h * w)`; zero where no pixel is removed."""
    pixels = weights.numel()
    units = torch.eye(pixels).to(weights).view(pixels, 1, *weights.shape[2:])
    removed = mask.flatten(1)
    both = removed[:, :, None] * removed[:, None]
    system = torch.diag(weights.flatten()) - _neighbours(units).flatten(1) * both
    return torch.linalg.inv(system) * both
