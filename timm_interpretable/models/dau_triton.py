"""The dynamic alignment convolution as Triton kernels: nothing of C_out * (rank + 1) channels is ever written

In `coda_net`'s notation, with one row per position of the output, the layer is

    y_c = q_c g(n_c),    q_c = sum_r a_r (B_{c,r}^T x) + b_c^T x,    n_c = a^T G_c a + 2 a^T (B_c^T b_c) + ||b_c||^2.

The codes a and all b_c^T x are one ordinary convolution. The kernels compute the sum over r, the norms, and the
gradients of both; sums that are split for want of parallel work are added up in a fixed order, without atomics.
Products have the dtype of the convolution, and TF32 where torch's convolutions have it; sums, and all that concerns the
norms, are fp32. fp64 and second derivatives are not here.

Verified in Triton's interpreter and compiled for compute capability 8.0 and 9.0, but not yet run on a GPU.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["dau_conv2d", "is_supported"]

# programs that keep the largest GPUs busy: sums that fewer programs would compute are split
_PROGRAMS = 512
_OPTIONS = dict(num_warps=8, num_stages=4, enable_fp_fusion=True)


def is_supported(x: Tensor) -> bool:
    """Whether `dau_conv2d` takes this input: non-empty, on CUDA from capability 8.0, of 16 or 32 bits, run eagerly."""
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    if not x.is_cuda or x.numel() == 0 or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(x.device) >= (8, 0) and _has_triton()


@functools.cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def dau_conv2d(
    x: Tensor, code_weight: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, norm: str = "sq"
) -> Tensor:
    """A convolution of dynamic alignment units: `(N, Cin, H, W)` to `(N, C, h, w)`, in the dtype of x.

    Args:
        x: best in the channels-last format.
        code_weight: A, `(R, Cin, k, k)`.
        weight: for each unit the R columns of B, then b: `(C * (R + 1), Cin, k, k)`.
        norm: 'sq' or 'l2', see `DAUConv2d`.
    """
    rank = code_weight.shape[0]
    units = weight.unflatten(0, (-1, rank + 1))
    linear = F.conv2d(x, torch.cat([code_weight, units[:, rank]]), None, stride, padding)
    with torch.autocast(x.device.type, enabled=False):
        flat = units.flatten(2).float()
        gram = flat @ flat.transpose(1, 2)
        return _DAUConv2d.apply(x, linear, units[:, :rank], gram, stride, padding, norm)


class _Shape(NamedTuple):
    """Sizes of a layer and of its input, as the kernels name them."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    units: int
    rank: int
    kernel: int
    stride: int
    padding: int

    @property
    def positions(self) -> int:
        return self.images * self.out_height * self.out_width

    @property
    def depth(self) -> int:
        return self.kernel**2 * self.channels

    def sizes(self) -> dict[str, int]:
        return dict(height=self.height, width=self.width, out_height=self.out_height, out_width=self.out_width)

    def constants(self) -> dict[str, int]:
        return dict(
            CIN=self.channels, KERNEL=self.kernel, STRIDE=self.stride, PADDING=self.padding, RANK=self.rank
        )  # fmt: skip

    def of_norms(self) -> "_Shape":
        """The layer whose units are `a^T G_c a`: the patches are codes, the filters Gram matrices."""
        return _Shape(1, 1, self.positions, self.rank, 1, self.positions, self.units, self.rank, 1, 1, 0)


class _Tiles(NamedTuple):
    """Most that a program takes at a time: positions, columns (pairs of unit and rank), and terms of their sums."""

    positions: int = 128
    columns: int = 128
    bytes: int = 64  # of the terms of one sum

    def depth(self, dtype: torch.dtype, size: int) -> int:
        return min(self.bytes // dtype.itemsize, _power_of_two(size))

    def columns_of(self, per_unit: int, units: int) -> tuple[int, int]:
        """Units, and columns of each: of two units at least, for a sum over units is then smaller than its terms."""
        width = min(self.columns // 2, _power_of_two(per_unit))
        return min(self.columns // width, 2 ** (units - 1).bit_length()), width


_TILES = _Tiles()


def _power_of_two(size: int) -> int:
    """Tensor cores multiply tiles of at least 16."""
    return max(16, 2 ** (size - 1).bit_length())


class _DAUConv2d(torch.autograd.Function):
    """Takes images, their `linear` responses `(N, R + C, h, w)`, B `(C, R, Cin, k, k)` and Gram matrices."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, linear: Tensor, filters: Tensor, gram: Tensor, stride: int, padding: int, norm: str
    ) -> Tensor:
        n, channels, height, width = x.shape
        units, rank, _, kernel, _ = filters.shape
        h, w = linear.shape[2:]
        shape = _Shape(n, height, width, channels, h, w, units, rank, kernel, stride, padding)
        images = x.to(linear.dtype).permute(0, 2, 3, 1).contiguous()
        rows = linear.permute(0, 2, 3, 1).contiguous().view(shape.positions, rank + units)
        ordered = filters.to(linear.dtype).permute(0, 1, 3, 4, 2).contiguous()
        save = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        out, scale, slope = _forward(images, rows, ordered, gram.contiguous(), shape, norm, x.dtype, save)
        if save:
            ctx.save_for_backward(images, rows, ordered, gram, scale, slope)
            ctx.shape, ctx.dtypes = shape, (x.dtype, linear.dtype, filters.dtype)  # type: ignore[attr-defined]
        return out.view(n, h, w, units).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, rows, filters, gram, scale, slope = ctx.saved_tensors
        shape, (x_dtype, linear_dtype, filters_dtype) = ctx.shape, ctx.dtypes
        wants_x, wants_linear, wants_filters, wants_gram = ctx.needs_input_grad[:4]
        grad_x = grad_linear = grad_filters = grad_gram = None
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.permute(0, 2, 3, 1).float().contiguous().view(shape.positions, shape.units)
            grad_aligned, grad_norms = grad * scale, grad * slope
            codes = rows[:, : shape.rank].float().contiguous()
            if wants_x:
                grad_x = _images_gradient(rows, filters, grad_aligned, shape).to(x_dtype).permute(0, 3, 1, 2)
            if wants_linear:
                grad_codes = _codes_gradient(images, filters, grad_aligned, shape)
                grad_codes += _norms_codes_gradient(codes, gram, grad_norms, shape)
                grad_linear = torch.cat([grad_codes.to(linear_dtype), grad_aligned.to(linear_dtype)], dim=1)
                grad_linear = grad_linear.view(shape.images, shape.out_height, shape.out_width, -1).permute(0, 3, 1, 2)
            if wants_filters:
                grad_filters = _filters_gradient(images, rows, grad_aligned, shape).to(filters_dtype)
                grad_filters = grad_filters.view_as(filters).permute(0, 1, 4, 2, 3)
            if wants_gram:
                grad_gram = _gram_gradient(codes, grad_norms, shape)
        return grad_x, grad_linear, grad_filters, grad_gram, None, None, None


def _norms_codes_gradient(codes: Tensor, gram: Tensor, grad: Tensor, shape: _Shape) -> Tensor:
    matrices, cross = gram[:, :-1, :-1].contiguous(), gram[:, :-1, -1]
    return 2 * _codes_gradient(codes, matrices, grad, shape.of_norms(), "ieee").addmm_(grad, cross)


def _gram_gradient(codes: Tensor, grad: Tensor, shape: _Shape) -> Tensor:
    """`sum_p grad_c a1 a1^T`, `(C, R + 1, R + 1)`."""
    matrices = _filters_gradient(codes, codes, grad, shape.of_norms(), "ieee")
    cross = (grad.t() @ codes).unsqueeze(2)
    below = torch.cat([cross.transpose(1, 2), grad.sum(0)[:, None, None]], dim=2)
    return torch.cat([torch.cat([matrices, cross], dim=2), below], dim=1)


# --- launches


def _forward(
    images: Tensor, linear: Tensor, filters: Tensor, gram: Tensor, shape: _Shape, norm: str, dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, g(n) and q g'(n), `(M, C)`; of the latter two only the first numbers where they are not to be saved."""
    from timm_interpretable.models.dau_kernels import forward_kernel

    out = images.new_empty(shape.positions, shape.units, dtype=dtype)
    scale, slope = (out.new_empty(out.shape if save else (1, 1), dtype=torch.float32) for _ in range(2))
    units, ranks = _TILES.columns_of(shape.rank, shape.units)
    blocks = dict(
        BLOCK_M=_TILES.positions, BLOCK_U=units, BLOCK_R=ranks, BLOCK_D=_TILES.depth(images.dtype, shape.depth),
        BLOCK_S=min(ranks, 32), BLOCK_T=16,
    )  # fmt: skip
    _launch(
        forward_kernel, (_ceil(shape.positions, _TILES.positions) * _ceil(shape.units, units),),
        images, linear, filters, gram, out, scale, slope, positions=shape.positions, units=shape.units,
        **shape.sizes(), **shape.constants(), SQ=norm == "sq", SAVE=save, PRECISION=_precision(images), **blocks,
    )  # fmt: skip
    return out, scale, slope


def _codes_gradient(
    images: Tensor, filters: Tensor, grad: Tensor, shape: _Shape, precision: str | None = None
) -> Tensor:
    """`sum_c grad_c B_{c,r}^T x`, `(M, R)`, in fp32."""
    from timm_interpretable.models.dau_kernels import codes_gradient_kernel

    units, ranks = _TILES.columns_of(shape.rank, shape.units)
    grid = _ceil(shape.positions, _TILES.positions), _ceil(shape.rank, ranks)
    splits, per_split = _splits(math.prod(grid), shape.units, units)
    out = grad.new_empty(splits, shape.positions, shape.rank)
    _launch(
        codes_gradient_kernel, (*grid, splits), images, filters, grad, out,
        positions=shape.positions, units=shape.units, units_per_split=per_split,
        **shape.sizes(), **shape.constants(), PRECISION=precision or _precision(images),
        BLOCK_M=_TILES.positions, BLOCK_U=units, BLOCK_R=ranks, BLOCK_D=_TILES.depth(images.dtype, shape.depth),
    )  # fmt: skip
    return _total(out)


def _images_gradient(linear: Tensor, filters: Tensor, grad: Tensor, shape: _Shape) -> Tensor:
    """`sum_c grad_c B_c a` at the pixels of the patches, `(N, H, W, Cin)`, in fp32."""
    from timm_interpretable.models.dau_kernels import images_gradient_kernel

    units, channels = _TILES.columns_of(shape.channels, shape.units)
    rows, columns = _ceil(shape.height, shape.stride), _ceil(shape.width, shape.stride)
    pixels = shape.images * rows * columns
    grid = _ceil(pixels, _TILES.positions), _ceil(shape.channels, channels) * shape.stride**2
    splits, per_split = _splits(math.prod(grid), shape.units, units)
    out = grad.new_empty(splits, shape.images, shape.height, shape.width, shape.channels)
    _launch(
        images_gradient_kernel, (*grid, splits), linear, filters, grad, out,
        pixels=pixels, units=shape.units, units_per_split=per_split, rows=rows, columns=columns,
        **shape.sizes(), **shape.constants(), PRECISION=_precision(linear),
        BLOCK_M=_TILES.positions, BLOCK_U=units, BLOCK_I=channels, BLOCK_D=_TILES.depth(linear.dtype, shape.rank),
    )  # fmt: skip
    return _total(out)


def _filters_gradient(
    images: Tensor, linear: Tensor, grad: Tensor, shape: _Shape, precision: str | None = None
) -> Tensor:
    """`sum_p grad_c a_r x`, `(C, R, D)`, in fp32; of `linear` only the codes matter."""
    from timm_interpretable.models.dau_kernels import filters_gradient_kernel

    units, ranks = _TILES.columns_of(shape.rank, shape.units)
    depth, positions = min(64, _power_of_two(shape.depth)), _TILES.depth(images.dtype, shape.positions)
    grid = _ceil(shape.units, units) * _ceil(shape.rank, ranks), _ceil(shape.depth, depth)
    splits, per_split = _splits(math.prod(grid), shape.positions, 8 * positions)
    out = grad.new_empty(splits, shape.units, shape.rank, shape.depth)
    _launch(
        filters_gradient_kernel, (*grid, splits), images, linear, grad, out,
        positions=shape.positions, units=shape.units, positions_per_split=per_split, stride=linear.shape[1],
        **shape.sizes(), **shape.constants(), PRECISION=precision or _precision(images),
        BLOCK_M=positions, BLOCK_U=units, BLOCK_R=ranks, BLOCK_D=depth,
    )  # fmt: skip
    return _total(out)


def _launch(kernel: Any, grid: tuple[int, ...], *tensors: Tensor, **values: Any) -> None:
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, **values, **_OPTIONS)


def _precision(x: Tensor) -> str:
    """As torch's convolutions of fp32; for other dtypes without effect."""
    if not hasattr(torch.backends.cudnn, "conv"):  # torch < 2.9
        return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"


def _splits(programs: int, terms: int, least: int) -> tuple[int, int]:
    """Into how many sums to split one of `terms`, and the terms of each: a multiple of `least`."""
    per_split = least * _ceil(_ceil(terms, least), _ceil(_PROGRAMS, programs))
    return _ceil(terms, per_split), per_split


def _total(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
