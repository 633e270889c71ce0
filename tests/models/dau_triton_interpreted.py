"""The fused layer in Triton's interpreter, on a CPU; `test_dau_triton` runs this file in a process of its own."""

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor, nn
from torch.testing import assert_close
from triton.runtime.interpreter import InterpreterBuilder

from timm_interpretable.models import CoDANet, DAUConv2d, dau, dau_triton, dynamic_alignment
from timm_interpretable.models.dau_triton import dau_conv2d

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"

LAYERS = [
    dict(in_channels=6, out_channels=3, kernel_size=3, padding=1, rank=16),
    dict(in_channels=3, out_channels=2, kernel_size=7, stride=3, padding=3, rank=4),
    dict(in_channels=5, out_channels=1, kernel_size=3, stride=2, padding=0, rank=33),
    dict(in_channels=40, out_channels=5, kernel_size=1, stride=3, rank=64),
    dict(in_channels=4, out_channels=9, kernel_size=3, stride=2, padding=2, rank=21),
]
SMALL = dau_triton._Tiles(positions=32, columns=64, bytes=128)


@pytest.fixture(scope="module", autouse=True)
def products_of_bfloat16() -> Iterator[None]:
    """The interpreter of Triton 3.9 multiplies their bits; tensor cores multiply exactly, and sum in fp32."""
    plain = InterpreterBuilder.create_dot

    def create_dot(self: InterpreterBuilder, a: Any, b: Any, *args: Any) -> Any:
        if a.dtype == b.dtype == tl.bfloat16:
            a, b = (self.cast_impl(operand, tl.float32) for operand in (a, b))
        return plain(self, a, b, *args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
        yield


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small tensors have several in every direction, and sums are split."""
    monkeypatch.setattr(dau_triton, "_TILES", SMALL)
    monkeypatch.setattr(dau_triton, "_PROGRAMS", 6)


def image(channels: int, dtype: torch.dtype = torch.float32, batch: int = 2) -> Tensor:
    x = torch.rand(batch, channels, 6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def make(dtype: torch.dtype = torch.float32, **kwargs: Any) -> DAUConv2d:
    torch.manual_seed(0)
    return DAUConv2d(**kwargs).to(dtype)


def fused(layer: DAUConv2d, x: Tensor) -> Tensor:
    return dau_conv2d(x, layer.code.weight, layer.weight, layer.stride, layer.padding, layer.norm)


def materialised(layer: DAUConv2d, x: Tensor) -> Tensor:
    return dynamic_alignment(x, layer.code.weight, layer.weight, layer.stride, layer.padding, layer.norm)


def with_gradients(f: Any, layer: DAUConv2d, x: Tensor) -> list[Tensor]:
    y = f(layer, x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], grad)]


def oracle(layer: DAUConv2d, x: Tensor) -> list[Tensor]:
    return with_gradients(materialised, copy.deepcopy(layer).double(), x.detach().double().requires_grad_())


def errors(ours: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Largest difference over the largest number."""
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
    return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, wanted, strict=True)]


@pytest.mark.parametrize("norm", ["sq", "l2"])
@pytest.mark.parametrize("sizes", LAYERS, ids=lambda s: f"k{s['kernel_size']}-r{s['rank']}")
def test_equals_the_definition_with_all_gradients(sizes: dict, norm: str) -> None:
    layer, x = make(**sizes, norm=norm), image(sizes["in_channels"])
    ours, wanted = with_gradients(fused, layer, x), oracle(layer, x)
    assert all(t.dtype == torch.float32 for t in ours)
    assert max(errors(ours, wanted)) < 1e-5
    assert max(errors(ours, [t.double() for t in with_gradients(DAUConv2d.__call__, layer, x)])) < 1e-5


@pytest.mark.parametrize("sizes", LAYERS[:4], ids=lambda s: f"k{s['kernel_size']}-r{s['rank']}")
def test_tiles_that_a_gpu_gets(sizes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dau_triton, "_TILES", dau_triton._Tiles())
    layer, x = make(**sizes), image(sizes["in_channels"])
    assert max(errors(with_gradients(fused, layer, x), oracle(layer, x))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("sizes", "norm"), [(LAYERS[0], "sq"), (LAYERS[0], "l2"), (LAYERS[2], "sq")])
def test_half_precision_is_as_near_as_torch(sizes: dict, dtype: torch.dtype, norm: str) -> None:
    layer, x = make(dtype, **sizes, norm=norm), image(sizes["in_channels"], dtype)
    ours, wanted = with_gradients(fused, layer, x), oracle(layer, x)
    assert all(t.dtype == dtype for t in ours)
    near = 4 * torch.finfo(dtype).eps
    for a, b in zip(errors(ours, wanted), errors(with_gradients(DAUConv2d.__call__, layer, x), wanted), strict=True):
        assert a < max(near, 1.5 * b)


def test_autocast() -> None:
    """Images, outputs and gradients stay fp32; norms are those of the fp32 weights."""
    layer, x = make(**LAYERS[0]), image(6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = with_gradients(fused, layer, x), with_gradients(DAUConv2d.__call__, layer, x)
    assert [t.dtype for t in ours] == [t.dtype for t in theirs] == 4 * [torch.float32]
    assert max(errors(ours, oracle(layer, x))) < 0.02


@pytest.mark.parametrize("batch", [1, 3])
def test_any_memory_format_and_batch(batch: int) -> None:
    """Of the input, and of the gradient of the output, which `with_gradients` makes contiguous."""
    layer, x = make(**LAYERS[0]), image(6, batch=batch)
    wanted = oracle(layer, x)
    for other in (x, x.detach().contiguous().requires_grad_(), torch.stack([x, x], -1)[..., 1]):
        assert max(errors(with_gradients(fused, layer, other), wanted)) < 1e-5


@pytest.mark.parametrize("norm", ["sq", "l2"])
@pytest.mark.parametrize(("value", "zero_units"), [(0.0, False), (1e4, False), (1.0, True)])
def test_constant_images(value: float, zero_units: bool, norm: str) -> None:
    """Also of units that are zero: v = 0 has no direction."""
    layer = make(**LAYERS[0], norm=norm)
    if zero_units:
        nn.init.zeros_(layer.weight)
    x = torch.full((1, 6, 4, 5), value, requires_grad=True)
    ours, theirs = with_gradients(fused, layer, x), with_gradients(DAUConv2d.__call__, layer, x)
    for a, b in zip(ours, theirs, strict=True):
        assert a.isfinite().all()
        assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_saves_only_for_a_backward_pass() -> None:
    layer, x = make(**LAYERS[0]), image(6)
    y = fused(layer, x)
    with torch.no_grad():
        assert torch.equal(fused(layer, x), y)
    y = dau_conv2d(x.detach(), layer.code.weight.detach(), layer.weight)
    (grad,) = torch.autograd.grad(y.sum(), layer.weight)
    assert grad.shape == layer.weight.shape


def test_second_derivatives_are_refused() -> None:
    layer, x = make(**LAYERS[0]), image(6)
    (grad,) = torch.autograd.grad(fused(layer, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_layer_and_model_use_it_where_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    args: dict[str, Any] = dict(
        num_classes=3, channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(5, 7, 8), temperature=0.1
    )
    plain, model = CoDANet(**args), CoDANet(**args, backend="triton")
    model.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 6, 6)
    calls = []
    monkeypatch.setattr(dau, "is_supported", lambda x: True)
    monkeypatch.setattr(dau, "fused_conv2d", lambda *args: calls.append(args) or dau_conv2d(*args))
    results = []
    for m in (plain, model):
        y = m(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(m.parameters()))])
    assert len(calls) == 3
    for a, b in zip(*results, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
