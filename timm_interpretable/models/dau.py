"""The dynamic alignment unit (DAU) convolution: its definition, and the same layer without ever writing its weights

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Moritz Böhle, Mario Fritz,
Bernt Schiele, CVPR 2021) - https://arxiv.org/abs/2104.00032, equations 1 to 4.

A dynamic alignment unit answers a patch x of D numbers with `w(x)^T x`. Its weight has a bounded norm,

    a(x) = A x,    v(x) = B a(x) + b,    w(x) = g(v(x)),    g(v) = v ||v|| / (1 + ||v||^2)  (SQ)  or  v / ||v||  (L2),

so that the output can only be large where w(x) points in the direction of x. `dynamic_alignment` is this definition,
word for word; the units of a layer share A.

It writes `D * C_out` numbers for every position. `DAUConv2d` computes the same without them: with `a1 = [a, 1]` and
`B1 = [B, b]`

    v^T x = sum_r a1_r (B1_r^T x)    and    ||v||^2 = a1^T (B1^T B1) a1 :

one ordinary convolution with `C_out * (r + 1)` filters, and the Gram matrix of each unit.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from timm_interpretable.models.dau_triton import dau_conv2d, is_supported

__all__ = ["DAUConv2d", "dynamic_alignment", "squared_norms"]

_Device = torch.device | str | None
_Dtype = torch.dtype | None


def dynamic_alignment(
    x: Tensor,
    code_weight: Tensor,
    weight: Tensor,
    stride: int = 1,
    padding: int = 0,
    norm: str = "sq",
    detach: bool = False,
) -> Tensor:
    """The definition of the layer: the weight of every unit at every position is written down.

    `(N, C_in, H, W)` to `(N, C_out, h, w)`. It costs `C_out * D` numbers for each position and is here to be read, and
    to be compared with.

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
    h, width = ((n + 2 * padding - size) // stride + 1 for n in x.shape[2:])
    return (w * patches[:, None]).sum(2).unflatten(2, (h, width))


@register_notrace_module  # works in blocks whose number depends on the input's shape
class DAUConv2d(nn.Module):
    """A convolution of dynamic alignment units in the factored form: `dynamic_alignment`, without writing weights down.

    Shapes: `(N, in_channels, H, W)` to `(N, out_channels, h, w)`, as for `nn.Conv2d`. The parameters are `code.weight`
    (A, `(rank, in_channels, k, k)`) and `weight`, the filters of all units (`(out_channels * (rank + 1), in_channels,
    k, k)`; for each unit the `rank` columns of B, then b).

    Norms are computed in at least fp32, also under autocast; the output has the dtype of the input.

    Args:
        rank: dimension of the code that the units of a position share.
        norm: 'sq' or 'l2', the function g that bounds the norm of the weights.
        backend: 'torch', or 'triton' for one fused kernel where `dau_triton.is_supported` (CUDA, run eagerly, not
            fp64), and torch's operations elsewhere. The fused kernel has no second derivatives. It has been verified through
            Triton's interpreter only, and compiled, but not yet run on a GPU.
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
        return self.weight.reshape(self.out_channels, self.rank + 1, -1)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The code with a final 1, `(N, h, w, rank + 1)`, and the factor `g(v) / v` of the units, `(N, h, w, C)`."""
        codes = F.pad(self.code(x).permute(0, 2, 3, 1), (0, 1), value=1.0)
        # v = 0 has no direction; the bound keeps 1 / ||v|| and the derivatives finite, and rounding below 0 harmless
        squared = squared_norms(codes, self.units()).clamp_min(1e-12)
        return codes, (squared.sqrt() / (1 + squared) if self.norm == "sq" else squared.rsqrt())

    def align(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        """`w^T x` for weights given by their factors: linear in x."""
        if torch.jit.is_scripting():
            return self._align(x, codes, scale)
        return self._align_in_blocks(x, codes, scale)

    @torch.jit.ignore
    def _align_in_blocks(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_cuda:
            return self._align(x, codes, scale)
        per_image = codes.shape[1] * codes.shape[2] * self.weight.shape[0]
        count = max(2, _BLOCK // max(1, per_image))  # of a single image torch's convolutions are slow
        parts = zip(x.split(count), codes.split(count), scale.split(count), strict=True)
        return torch.cat([self._align(*part) for part in parts])

    def _align(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        products = F.conv2d(x, self.weight, None, self.stride, self.padding).permute(0, 2, 3, 1)
        products = products.unflatten(3, (self.out_channels, self.rank + 1))
        codes = codes.to(products.dtype)
        if products.dtype == torch.float32:  # here small matrix products are slower on a CPU than a sum of products
            aligned = (products * codes.unsqueeze(-2)).sum(-1)
        else:
            aligned = (products @ codes.unsqueeze(-1)).squeeze(-1)
        return (aligned.to(scale.dtype) * scale).to(x.dtype).permute(0, 3, 1, 2)

    def align_transposed(self, y: Tensor, codes: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """The transpose of `align`: `(N, out_channels, h, w)` to `(N, in_channels, *size)`."""
        weighted = (y.permute(0, 2, 3, 1) * scale).to(codes.dtype).unsqueeze(-1) * codes.unsqueeze(-2)
        weighted = weighted.flatten(-2).permute(0, 3, 1, 2)
        missing = [n - ((m - 1) * self.stride - 2 * self.padding + self.kernel_size)
                   for n, m in zip(size, y.shape[2:], strict=True)]  # fmt: skip
        return F.conv_transpose2d(weighted, self.weight, None, self.stride, self.padding, output_padding=missing)

    def align_transposed_all(self, y: Tensor, codes: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """`align_transposed` of K outputs per sample: `(N, K, out_channels, h, w)` to `(N, K, in_channels, *size)`.

        The outputs share the weights of their sample. Writing these down once costs as much as the transpose of a
        single output; every output then costs `1 / (rank + 1)` of it.
        """
        n, count, channels, h, w = y.shape
        weights = codes @ self.units().transpose(0, 1).flatten(1).to(codes.dtype)
        weights = weights.view(n, h * w, channels, -1)
        outputs = (y.permute(0, 3, 4, 1, 2) * scale.unsqueeze(3)).flatten(1, 2).to(codes.dtype)
        patches = (outputs @ weights).permute(0, 2, 3, 1).flatten(0, 1)
        folded = F.fold(patches, size, self.kernel_size, padding=self.padding, stride=self.stride)
        return folded.unflatten(0, (n, count))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and self.backend == "triton" and is_supported(x):
            return dau_conv2d(x, self.code.weight, self.weight, self.stride, self.padding, self.norm)
        codes, scale = self.factors(x)
        return self.align(x, codes, scale)

    def extra_repr(self) -> str:
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        backend = f", backend={self.backend!r}" if self.backend != "torch" else ""
        return f"{self.in_channels}, {self.out_channels}, {sizes}, rank={self.rank}, norm={self.norm!r}{backend}"


# --- squared norms

# elements of an intermediate result: on a CPU few enough that the allocator hands the same memory out again
_BLOCK = 2**22
_BLOCK_CUDA = 2**28
# positions whose products of two entries of the code (up to 2,369 for rank 64) stay in the cache of a CPU's core
_POSITIONS = 256
# rows of `a a^T` that are taken together: few, so that little is computed twice, but long operations
_ROWS = 8


class _SquaredNorms(torch.autograd.Function):
    """`n_c = a^T G_c a` for symmetric G: codes `(R, M)` and Gram matrices `(C, R, R)` to `(C, M)`.

    Keeps nothing larger than the codes for the backward pass. Second derivatives exist.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, codes: Tensor, gram: Tensor) -> Tensor:
        ctx.save_for_backward(codes, gram)
        packed = _packed(gram)
        if torch.compiler.is_compiling():
            return packed @ _products(codes)
        norms = codes.new_empty(len(gram), codes.shape[1])
        for positions, products in _position_blocks(codes, packed.shape[1]):
            _products(codes[:, positions], products)
            torch.mm(packed, products, out=norms[:, positions])
        return norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        codes, gram = ctx.saved_tensors
        flat, (for_codes, for_gram) = gram.flatten(0, 1), ctx.needs_input_grad
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # differentiable
            weighted = (grad.unsqueeze(1) * codes).flatten(0, 1)  # (C R, M)
            grad_codes, grad_gram = 2 * (flat.t() @ weighted), codes @ weighted.t()
        else:
            grad_codes, grad_gram = torch.empty_like(codes), codes.new_zeros(len(codes), len(flat))
            for positions, weighted in _position_blocks(codes, len(flat)):
                a, g = codes[:, positions], grad[:, positions]
                torch.mul(g.unsqueeze(1), a, out=weighted.unflatten(0, gram.shape[:2]))
                if for_codes:
                    torch.mm(flat.t(), weighted, out=grad_codes[:, positions])
                if for_gram:
                    grad_gram.addmm_(a, weighted.t())
            grad_codes *= 2
        return (
            grad_codes if for_codes else None,
            grad_gram.unflatten(1, gram.shape[:2]).transpose(0, 1) if for_gram else None,
        )


def _position_blocks(codes: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """A few positions of codes `(R, M)` at a time, and memory for `size` intermediate numbers of each."""
    total = codes.shape[1]
    count = min(total, max(1, _BLOCK_CUDA // size) if codes.is_cuda else _POSITIONS)
    memory = codes.new_empty(size * count)  # the same for all blocks, that it may stay in the cache
    for start in range(0, total, count):
        here = min(count, total - start)
        yield slice(start, start + here), memory[: size * here].view(size, here)


def _products(codes: Tensor, out: Tensor | None = None) -> Tensor:
    """Codes `(R, M)` to the products of two of their entries, `(P, M)`, nearly every pair once."""
    starts = range(0, len(codes), _ROWS)
    if out is None:
        return torch.cat([(codes[i : i + _ROWS].unsqueeze(1) * codes[i:]).flatten(0, 1) for i in starts])
    done = 0
    for i in starts:
        some, others = codes[i : i + _ROWS], codes[i:]
        count = len(some) * len(others)
        torch.mul(some.unsqueeze(1), others, out=out[done : done + count].view(len(some), *others.shape))
        done += count
    return out


def _packed(gram: Tensor) -> Tensor:
    """Symmetric matrices `(C, R, R)` to what their quadratic forms take of each product of `_products`, `(C, P)`."""
    rows = [gram[:, i : i + _ROWS, i:] for i in range(0, gram.shape[1], _ROWS)]
    return torch.cat([torch.cat([r[..., :_ROWS], 2 * r[..., _ROWS:]], dim=2).flatten(1) for r in rows], dim=1)


def _gram_norms(codes: Tensor, units: Tensor) -> Tensor:
    gram = units @ units.transpose(1, 2)
    positions = codes.flatten(0, 2)
    if torch.jit.is_scripting():  # knows no autograd.Function
        squared = ((positions @ gram) * positions).sum(-1)
    else:
        squared = _SquaredNorms.apply(positions.t().contiguous(), gram)
    return squared.t().reshape(codes.shape[0], codes.shape[1], codes.shape[2], -1)


def squared_norms(codes: Tensor, units: Tensor) -> Tensor:
    """`||v_c||^2`, `(N, h, w, C)`, of codes `(N, h, w, R)` (the last is 1) and units `(C, R, D)`; in at least fp32."""
    dtype = torch.float32 if units.dtype != torch.float64 else torch.float64
    codes, units = codes.to(dtype), units.to(dtype)
    if torch.jit.is_scripting() or codes.is_meta:  # the meta device knows no autocast
        return _gram_norms(codes, units)
    with torch.autocast(codes.device.type, enabled=False):
        return _gram_norms(codes, units)
