"""The dynamic alignment unit (DAU) convolution: its definition, and the same layer without ever writing its weights

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Moritz Böhle, Mario Fritz,
Bernt Schiele, CVPR 2021) - https://arxiv.org/abs/2104.00032, equations 1 to 4.

A dynamic alignment unit answers a patch x of D numbers with `w(x)^T x`. Its weight has a bounded norm,

    a(x) = A x,    v(x) = B a(x) + b,    w(x) = g(v(x)),    g(v) = v ||v|| / (1 + ||v||^2)  (SQ)  or  v / ||v||  (L2),

so that the output can only be large where w(x) points in the direction of x. The units of a layer share A.
`dynamic_alignment` is this definition, word for word. It writes `D * C_out` numbers for every position.

`DAUConv2d` computes the same without them. With `a1 = [a, 1]` and `B1 = [B, b]`

    v^T x = sum_r a1_r (B1_r^T x)    and    ||v||^2 = a1^T (B1^T B1) a1 :

one ordinary convolution with `C_out * (r + 1)` filters, and the Gram matrix of each unit. On a CPU, in single or double
precision, the results of that convolution exist for a few positions at a time only, and the backward pass computes them
again.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from timm_interpretable.models.dau_triton import dau_conv2d as fused_conv2d, is_supported

__all__ = ["DAUConv2d", "dynamic_alignment", "squared_norms"]

_Device = torch.device | str | None
_Dtype = torch.dtype | None


# --- the definition


def dynamic_alignment(
    x: Tensor,
    code_weight: Tensor,
    weight: Tensor,
    stride: int = 1,
    padding: int = 0,
    norm: str = "sq",
    detach: bool = False,
) -> Tensor:
    """The definition of the layer, with the weight of every unit at every position written down.

    `(N, C_in, H, W)` to `(N, C_out, h, w)`. It is here to be read, and to be compared with.

    Args:
        code_weight: A, `(R, C_in, k, k)`.
        weight: for each unit the R columns of B, then b: `(C_out * (R + 1), C_in, k, k)`.
        norm: 'sq' or 'l2', the function g.
        detach: hold the weights w(x) constant in the backward pass.
    """
    rank, size = code_weight.shape[0], code_weight.shape[2]
    patches = F.unfold(x, size, padding=padding, stride=stride)  # (N, D, L)
    units = weight.reshape(-1, rank + 1, patches.shape[1])  # (C, R + 1, D)
    a = code_weight.flatten(1) @ patches
    v = torch.einsum("crd,nrl->ncdl", units[:, :-1], a) + units[:, -1][None, :, :, None]
    length = v.square().sum(2, keepdim=True).sqrt()
    w = v / length * (length**2 / (1 + length**2) if norm == "sq" else 1)
    w = w.detach() if detach else w
    height, width = _output_size(x, size, stride, padding)
    return (w * patches[:, None]).sum(2).unflatten(2, (height, width))


def _output_size(x: Tensor, size: int, stride: int, padding: int) -> tuple[int, int]:
    return (x.shape[2] + 2 * padding - size) // stride + 1, (x.shape[3] + 2 * padding - size) // stride + 1


# --- the layer


class DAUConv2d(nn.Module):
    """A convolution of dynamic alignment units: `dynamic_alignment`, in the factored form.

    Shapes: `(N, in_channels, H, W)` to `(N, out_channels, h, w)`, as for `nn.Conv2d`. The parameters are `code.weight`
    (A, `(rank, in_channels, k, k)`) and `weight`, the filters of all units (`(out_channels * (rank + 1), in_channels,
    k, k)`; for each unit the `rank` columns of B, then b).

    Products have the dtype of the weights, or that of autocast. Codes and norms are at least fp32, and the output has
    the dtype of the input. In fp16 everything that could overflow is divided by its largest magnitude first.

    Args:
        rank: dimension of the code that the units of a position share.
        norm: 'sq' or 'l2', the function g that bounds the norm of the weights.
        backend: 'torch', or 'triton' for one fused kernel where `dau_triton.is_supported` (CUDA, run eagerly, not
            fp64), and torch's operations elsewhere. The fused kernel has no second derivatives. It has been verified
            through Triton's interpreter only, and compiled, but not yet run on a GPU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, rank: int = 64,
        norm: str = "sq", backend: str = "torch", device: _Device = None, dtype: _Dtype = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if norm not in ("sq", "l2"):
            raise ValueError(f"norm={norm!r} is unknown, expected 'sq' or 'l2'.")
        if backend not in ("torch", "triton"):
            raise ValueError(f"backend={backend!r} is unknown, expected 'torch' or 'triton'.")
        self.backend = backend
        self.in_channels, self.out_channels, self.rank, self.norm = in_channels, out_channels, rank, norm
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.code = nn.Conv2d(in_channels, rank, kernel_size, stride, padding, bias=False, **dd)
        filters = out_channels * (rank + 1)
        self.weight = nn.Parameter(torch.empty(filters, in_channels, kernel_size, kernel_size, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch initialises the two convolutions of which the layer consists: k x k for A, 1 x 1 for B and b."""
        self.code.reset_parameters()
        nn.init.uniform_(self.weight, -1 / math.sqrt(self.rank), 1 / math.sqrt(self.rank))

    def units(self) -> Tensor:
        """The weight by unit, `(out_channels, rank + 1, D)`."""
        return _units(self.weight, self.rank)

    def forward(self, x: Tensor) -> Tensor:
        return _dau_conv2d(x, self.code.weight, self.weight, self.stride, self.padding, self.norm, self.backend)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights w(x) by their factors, `w_c = scale_c [B_c b_c] code`.

        Codes are `(N, rank + 1, h, w)`, and scales `(N, out_channels, h, w)`.
        """
        return _factors(x, self.code.weight, self.weight, self.stride, self.padding, self.norm)

    def align(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        """`w^T x` for weights given by their factors: linear in x."""
        return _align(x, self.weight, codes, scale, self.stride, self.padding)

    def align_transposed(self, y: Tensor, codes: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """The transpose of `align`: `(N, out_channels, h, w)` to `(N, in_channels, *size)`, in at least fp32."""
        outputs = y * scale
        limit = _limit(outputs, self.weight)
        outputs = (outputs if limit is None else outputs / limit).to(self.weight.dtype)
        weighted = (outputs.unsqueeze(2) * codes.to(self.weight.dtype).unsqueeze(1)).flatten(1, 2)
        missing = [n - ((m - 1) * self.stride - 2 * self.padding + self.kernel_size)
                   for n, m in zip(size, y.shape[2:], strict=True)]  # fmt: skip
        rows = F.conv_transpose2d(weighted, self.weight, None, self.stride, self.padding, output_padding=missing)
        return rows.to(scale.dtype) if limit is None else rows.to(scale.dtype) * limit

    def align_transposed_all(self, y: Tensor, codes: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """`align_transposed` of K outputs per sample: `(N, K, out_channels, h, w)` to `(N, K, in_channels, *size)`.

        The outputs share the weights of their sample. Writing these down once costs as much as the transpose of a
        single output; every output then costs `1 / (rank + 1)` of it.
        """
        n, count, channels, h, w = y.shape
        dtype = self.weight.dtype
        weights = codes.permute(0, 2, 3, 1).to(dtype) @ self.units().transpose(0, 1).flatten(1)
        weights = weights.view(n, h * w, channels, -1)
        outputs = y * scale.unsqueeze(1)
        limit = _limit(outputs.flatten(1, 2), self.weight)
        outputs = (outputs if limit is None else outputs / limit.unsqueeze(1)).to(dtype)
        patches = (outputs.permute(0, 3, 4, 1, 2).flatten(1, 2) @ weights).permute(0, 2, 3, 1).flatten(0, 1)
        folded = F.fold(patches.to(scale.dtype), size, self.kernel_size, padding=self.padding, stride=self.stride)
        rows = folded.unflatten(0, (n, count))
        return rows if limit is None else rows * limit.unsqueeze(1)

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        backend = f", backend={self.backend!r}" if self.backend != "torch" else ""
        return f"{self.in_channels}, {self.out_channels}, {sizes}, rank={self.rank}, norm={self.norm!r}{backend}"


def _dau_conv2d(
    x: Tensor, code_weight: Tensor, weight: Tensor, stride: int, padding: int, norm: str, backend: str
) -> Tensor:
    """The layer by whatever computes it best."""
    if torch.jit.is_scripting():
        return _factored(x, code_weight, weight, stride, padding, norm)
    else:  # an else, that TorchScript does not see
        if backend == "triton" and is_supported(x):
            return fused_conv2d(x, code_weight, weight, stride, padding, norm)
        if _works_in_blocks(x, weight):
            result: Tensor = _BlockwiseDAUConv2d.apply(x, code_weight, weight, stride, padding, norm)
            return result
        return _factored(x, code_weight, weight, stride, padding, norm)


torch.fx.wrap("_dau_conv2d")  # a symbolic trace keeps it as one call, for it depends on the device and the input's size


# --- the factored form, of torch's differentiable operations


def _factored(x: Tensor, code_weight: Tensor, weight: Tensor, stride: int, padding: int, norm: str) -> Tensor:
    codes, scale = _factors(x, code_weight, weight, stride, padding, norm)
    return _align(x, weight, codes, scale, stride, padding)


def _factors(
    x: Tensor, code_weight: Tensor, weight: Tensor, stride: int, padding: int, norm: str
) -> tuple[Tensor, Tensor]:
    """Codes with a final 1, `(N, R + 1, h, w)`, and `g(v) / v` of the units, `(N, C, h, w)`; both at least fp32."""
    codes = _codes(x, code_weight, stride, padding)
    scale = _bounding_factor(squared_norms(codes, _units(weight, code_weight.shape[0])), norm)
    if _is_float16(x, weight):  # the weights are the same, and products with these codes stay in its range
        largest = codes.abs().amax(1, keepdim=True)
        return codes / largest, scale * largest
    return codes, scale


def _codes(x: Tensor, code_weight: Tensor, stride: int, padding: int) -> Tensor:
    limit = _limit(x, code_weight)
    codes = _conv2d(x, code_weight, limit, stride, padding)
    codes = codes.to(torch.promote_types(codes.dtype, torch.float32))
    return F.pad(codes if limit is None else codes * limit, (0, 0, 0, 0, 0, 1), value=1.0)


def _bounding_factor(squared: Tensor, norm: str) -> Tensor:
    # v = 0 has no direction; the bound keeps 1 / ||v|| and the derivatives finite, and rounding below 0 harmless
    squared = squared.clamp_min(1e-12)
    return squared.sqrt() / (1 + squared) if norm == "sq" else squared.rsqrt()


def _align(x: Tensor, weight: Tensor, codes: Tensor, scale: Tensor, stride: int, padding: int) -> Tensor:
    """`w^T x` for weights given by their factors."""
    if torch.jit.is_scripting():
        return _align_at_once(x, weight, codes, scale, stride, padding)
    else:  # an else, that TorchScript does not see
        if torch.is_grad_enabled() or not _is_eager(x) or x.is_cuda or len(x) == 0:
            return _align_at_once(x, weight, codes, scale, stride, padding)
        if _works_in_blocks(x, weight):
            return _products_with_codes(x, weight, codes, stride, padding) * scale
        per_image = weight.shape[0] * codes.shape[2] * codes.shape[3]
        count = max(2, _BLOCK // per_image)  # torch's convolutions are slow for a single image
        parts = zip(x.split(count), codes.split(count), scale.split(count), strict=True)
        return torch.cat([_align_at_once(one, weight, a, g, stride, padding) for one, a, g in parts])


def _align_at_once(x: Tensor, weight: Tensor, codes: Tensor, scale: Tensor, stride: int, padding: int) -> Tensor:
    limit = _limit(x, weight)
    products = _conv2d(x, weight, limit, stride, padding)
    units = scale.shape[1]
    if products.dtype == torch.float32:  # here small matrix products are slower on a CPU than a sum of products
        aligned = (products.unflatten(1, (units, codes.shape[1])) * codes.unsqueeze(1)).sum(2)
    else:
        products = products.permute(0, 2, 3, 1).unflatten(3, (units, codes.shape[1]))
        aligned = (
            (products @ codes.permute(0, 2, 3, 1).to(products.dtype).unsqueeze(-1)).squeeze(-1).permute(0, 3, 1, 2)
        )
    aligned = aligned.to(scale.dtype) * scale
    return (aligned if limit is None else aligned * limit).to(x.dtype)


def _units(weight: Tensor, rank: int) -> Tensor:
    return weight.reshape(weight.shape[0] // (rank + 1), rank + 1, -1)


def _conv2d(x: Tensor, weight: Tensor, limit: Tensor | None, stride: int, padding: int) -> Tensor:
    x = x if limit is None else x / limit
    if weight.dtype == torch.float16 or weight.dtype == torch.bfloat16:
        x = x.to(weight.dtype)
    return F.conv2d(x, weight, None, stride, padding)


def _limit(x: Tensor, weight: Tensor) -> Tensor | None:
    """For fp16 the power of two up to which the numbers of an image reach, `(N, 1, 1, 1)` in fp32; else None.

    Divided by it, an image loses no digit, and sums of products with it stay in range.
    """
    if not _is_float16(x, weight):
        return None
    largest = x.detach().abs().amax((1, 2, 3), keepdim=True).to(torch.float32)
    return torch.where(largest > 0, largest.log2().ceil().exp2(), torch.ones_like(largest))


def _is_float16(x: Tensor, weight: Tensor) -> bool:
    """Whether convolutions are computed in fp16, whose numbers end at 65,504."""
    if torch.jit.is_scripting():
        return weight.dtype == torch.float16
    else:  # an else, that TorchScript does not see
        return _product_dtype(x, weight) == torch.float16


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    if x.is_meta or not torch.is_autocast_enabled(x.device.type) or weight.dtype == torch.float64:
        return weight.dtype
    return torch.get_autocast_dtype(x.device.type)


# --- squared norms


def squared_norms(codes: Tensor, units: Tensor) -> Tensor:
    """`||v_c||^2`, `(N, C, h, w)`, of codes `(N, R, h, w)` (the last is 1) and units `(C, R, D)`; in at least fp32."""
    dtype = torch.float32 if units.dtype != torch.float64 else torch.float64
    codes, units = codes.to(dtype), units.to(dtype)
    if torch.jit.is_scripting() or codes.is_meta:  # the meta device knows no autocast
        return _squared_norms(codes, units)
    with torch.autocast(codes.device.type, enabled=False):
        return _squared_norms(codes, units)


def _squared_norms(codes: Tensor, units: Tensor) -> Tensor:
    gram, positions = units @ units.transpose(1, 2), codes.transpose(0, 1).flatten(1)
    if torch.jit.is_scripting() or not _is_eager(codes):  # there is no autograd.Function there
        squared = _quadratic_forms(positions, gram)
    else:
        squared = _QuadraticForms.apply(positions, gram)
    return squared.unflatten(1, (codes.shape[0], codes.shape[2], codes.shape[3])).transpose(0, 1)


def _quadratic_forms(codes: Tensor, gram: Tensor) -> Tensor:
    return ((gram @ codes) * codes).sum(1)


class _QuadraticForms(torch.autograd.Function):
    """`n_c = a^T G_c a`: codes `(R, M)` and symmetric matrices `(C, R, R)` to `(C, M)`, in blocks of positions.

    Keeps nothing larger than the codes for the backward pass. All higher derivatives exist.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, codes: Tensor, gram: Tensor) -> Tensor:
        ctx.save_for_backward(codes, gram)
        return _sums_over_codes(gram.flatten(0, 1), codes, codes, codes.new_empty(len(gram), codes.shape[1]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        codes, gram = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates again
            y = _quadratic_forms(codes, gram)
            grad_codes, grad_gram = _gradients(y, ctx.saved_tensors, ctx.needs_input_grad, grad)
            return grad_codes, grad_gram
        return _quadratic_forms_backward(codes, gram, grad)


def _quadratic_forms_backward(codes: Tensor, gram: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    grad_codes, grad_gram = torch.empty_like(codes), torch.zeros_like(gram)
    _sums_over_codes_backward(gram.flatten(0, 1), codes, codes, grad, grad_gram.flatten(0, 1), grad_codes, None)
    return grad_codes.mul_(2), grad_gram  # the matrices are symmetric: both codes have the same gradient


# --- the layer in blocks, whose products with filters are never all there


# elements of an intermediate result: on a CPU few enough that the allocator hands the same memory out again
_BLOCK = 2**22
_BLOCK_CUDA = 2**28
# positions whose products with filters a CPU computes at a time: few, for its caches, but enough for fast products
_POSITIONS = 512


def _is_eager(x: Tensor) -> bool:
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling() or x.is_meta)


def _works_in_blocks(x: Tensor, weight: Tensor) -> bool:
    """On a CPU in single or double precision: matrix products of half precision are slow on many."""
    if not _is_eager(x) or x.device.type != "cpu" or x.numel() == 0 or x.dtype != weight.dtype:
        return False
    return _product_dtype(x, weight) in (torch.float32, torch.float64)


class _BlockwiseDAUConv2d(torch.autograd.Function):
    """The layer for images, A, and the units' filters, with a backward pass that computes their products again.

    It keeps the codes `(N, R + 1, h, w)`, and of each unit its squared norm and `v^T x`. All higher derivatives exist.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, code_weight: Tensor, weight: Tensor, stride: int, padding: int, norm: str
    ) -> Tensor:
        codes = _codes(x, code_weight, stride, padding)
        squared = squared_norms(codes, _units(weight, len(code_weight)))
        aligned = _products_with_codes(x, weight, codes, stride, padding)
        ctx.save_for_backward(x, code_weight, weight, codes, squared, aligned)
        ctx.options = (stride, padding, norm)  # type: ignore[attr-defined]
        return aligned * _bounding_factor(squared, norm)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, code_weight, weight, codes, squared, aligned = ctx.saved_tensors
        stride, padding, norm = ctx.options
        if torch.is_grad_enabled():  # somebody differentiates again
            y = _factored(x, code_weight, weight, stride, padding, norm)
            return *_gradients(y, (x, code_weight, weight), ctx.needs_input_grad[:3], grad), None, None, None

        for_x, for_code_weight, for_weight = ctx.needs_input_grad[:3]
        with torch.enable_grad():
            leaves = aligned.detach().requires_grad_(), squared.detach().requires_grad_()
            y = leaves[0] * _bounding_factor(leaves[1], norm)
        grad_aligned, grad_squared = (_positions_last(one) for one in torch.autograd.grad(y, leaves, grad))

        codes, filters = _positions_last(codes), weight.flatten(1)
        units = _units(weight, len(code_weight))
        grad_codes, grad_gram = _quadratic_forms_backward(codes, units @ units.transpose(1, 2), grad_squared)
        grad_filters = 2 * (grad_gram @ units).flatten(0, 1) if for_weight else None

        grad_x = torch.empty_like(x) if for_x else None
        grad_code_filters = torch.zeros_like(code_weight.flatten(1)) if for_code_weight else None
        for images, positions, columns in _patches(x, weight.shape[2], stride, padding):
            grad_columns = torch.empty_like(columns) if for_x else None
            here, grad_here = codes[:, positions], grad_codes[:, positions]
            _sums_over_codes_backward(
                filters, columns, here, grad_aligned[:, positions], grad_filters, grad_columns, grad_here
            )
            grad_code = grad_here[:-1]  # the last entry is 1
            if grad_code_filters is not None:
                grad_code_filters.addmm_(grad_code, columns.t())
            if grad_x is not None and grad_columns is not None:
                grad_columns.addmm_(code_weight.flatten(1).t(), grad_code)
                by_image = grad_columns.unflatten(1, (len(grad_x[images]), -1)).transpose(0, 1)
                size = grad_x.shape[2:]
                grad_x[images] = F.fold(by_image, size, weight.shape[2], padding=padding, stride=stride)
        return (
            grad_x,
            None if grad_code_filters is None else grad_code_filters.view(code_weight.shape),
            None if grad_filters is None else grad_filters.view(weight.shape),
            None, None, None,
        )  # fmt: skip


def _gradients(
    y: Tensor, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, None for inputs that need none."""
    wanted = [one for one, needs in zip(inputs, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return tuple(next(found) if needs else None for needs in needed)


def _products_with_codes(x: Tensor, weight: Tensor, codes: Tensor, stride: int, padding: int) -> Tensor:
    """`v^T x`, `(N, C, h, w)`, of images and codes `(N, R + 1, h, w)`."""
    filters, by_position = weight.flatten(1), _positions_last(codes)
    aligned = x.new_empty(len(weight) // codes.shape[1], by_position.shape[1])
    for _, positions, columns in _patches(x, weight.shape[2], stride, padding):
        _sums_over_codes(filters, columns, by_position[:, positions], aligned[:, positions])
    return aligned.unflatten(1, (len(x), *codes.shape[2:])).transpose(0, 1).contiguous()


def _sums_over_codes(filters: Tensor, columns: Tensor, codes: Tensor, out: Tensor) -> Tensor:
    """`sum_r a_r (F_{c,r}^T x)`, `(C, M)`, of filters `(C R, D)`, columns x `(D, M)` and codes a `(R, M)`."""
    for some, products in _position_blocks(columns, len(filters)):
        torch.mm(filters, columns[:, some], out=products)
        torch.sum(products.unflatten(0, (len(out), len(codes))).mul_(codes[:, some]), 1, out=out[:, some])
    return out


def _sums_over_codes_backward(
    filters: Tensor, columns: Tensor, codes: Tensor, grad: Tensor,
    grad_filters: Tensor | None, grad_columns: Tensor | None, grad_codes: Tensor | None,
) -> None:  # fmt: skip
    """Backward of `_sums_over_codes`: adds to the gradients of filters and codes, and writes that of columns."""
    for some, products in _position_blocks(columns, len(filters)):
        by_unit, g = products.unflatten(0, (len(grad), len(codes))), grad[:, some].unsqueeze(1)
        torch.mul(g, codes[:, some], out=by_unit)
        if grad_filters is not None:
            grad_filters.addmm_(products, columns[:, some].t())
        if grad_columns is not None:
            torch.mm(filters.t(), products, out=grad_columns[:, some])
        if grad_codes is not None:
            torch.mm(filters, columns[:, some], out=products)
            grad_codes[:, some] += by_unit.mul_(g).sum(0)


def _positions_last(x: Tensor) -> Tensor:
    """`(N, C, h, w)` to `(C, N h w)`."""
    return x.transpose(0, 1).flatten(1)


def _patches(x: Tensor, size: int, stride: int, padding: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Some images at a time, the positions of their outputs among all, and their patches, `(D, positions)`."""
    height, width = _output_size(x, size, stride, padding)
    count = max(1, _BLOCK // (x.shape[1] * size**2 * height * width))
    for start in range(0, len(x), count):
        images = slice(start, min(start + count, len(x)))
        padded = F.pad(x[images], (padding, padding, padding, padding))
        windows = padded.unfold(2, size, stride).unfold(3, size, stride)  # (n, C, h, w, k, k)
        columns = windows.permute(1, 4, 5, 0, 2, 3).reshape(-1, (images.stop - start) * height * width)
        yield images, slice(start * height * width, images.stop * height * width), columns


def _position_blocks(columns: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """A few positions of `(D, M)` at a time, and memory for `size` intermediate numbers of each."""
    total = columns.shape[1]
    most = _BLOCK_CUDA // size if columns.is_cuda else min(_POSITIONS, _BLOCK // size)
    count = max(1, min(total, most))
    memory = columns.new_empty(size * count)  # the same for all blocks, that it may stay in the cache
    for start in range(0, total, count):
        here = min(count, total - start)
        yield slice(start, start + here), memory[: size * here].view(size, here)
