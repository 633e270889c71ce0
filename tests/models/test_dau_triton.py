"""The fused dynamic alignment convolution without a GPU: its numbers in Triton's interpreter, and that it compiles."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from timm_interpretable.models import CoDANet, DAUConv2d, dau_triton

from .contract import create, images


def test_in_the_interpreter() -> None:
    """In a process of its own, since Triton must be imported for it."""
    pytest.importorskip("triton", reason="the fused layer needs Triton, which torch brings for CUDA on Linux")
    file = Path(__file__).with_name("dau_triton_interpreted.py")
    env = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(file)], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout


class TestChoice:
    @pytest.mark.parametrize("x", [torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3, dtype=torch.float64)])
    def test_torch_computes_what_is_not_supported(self, x: Tensor) -> None:
        assert not dau_triton.is_supported(x)
        torch.manual_seed(0)
        layer = DAUConv2d(2, 3, 3, rank=4, backend="triton", dtype=x.dtype)
        torch.manual_seed(0)
        assert torch.equal(layer(x), DAUConv2d(2, 3, 3, rank=4, dtype=x.dtype)(x))

    @pytest.mark.parametrize("layer", [lambda **kwargs: DAUConv2d(2, 3, 3, **kwargs), CoDANet])
    def test_unknown_backends(self, layer: Any) -> None:
        with pytest.raises(ValueError, match="backend='cuda' is unknown, expected 'torch' or 'triton'"):
            layer(backend="cuda")

    def test_every_layer_of_a_model_has_it_and_the_head_keeps_it(self) -> None:
        model, plain = create("coda_net_s", backend="triton"), create("coda_net_s")
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert torch.equal(model(images(16)), plain(images(16)))
        model.reset_classifier(3)
        assert {layer.backend for layer in model.dynamic_layers()} == {"triton"}
        assert {layer.backend for layer in plain.dynamic_layers()} == {"torch"}


LAUNCHES: list[dict[str, Any]] = [
    dict(in_channels=64, out_channels=64, kernel_size=3, padding=1, rank=64),
    dict(in_channels=6, out_channels=16, kernel_size=7, stride=3, padding=3, rank=256, norm="l2"),
    dict(in_channels=5, out_channels=3, kernel_size=3, stride=2, padding=1, rank=33),
    dict(in_channels=16, out_channels=16, kernel_size=3, padding=1, rank=32),
]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", LAUNCHES, ids=lambda s: f"k{s['kernel_size']}-r{s['rank']}")
def test_compiles(sizes: dict, dtype: torch.dtype, arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training step would launch compiles for GPUs, into the shared memory that the smallest of them have."""
    pytest.importorskip("triton", reason="the fused layer needs Triton, which torch brings for CUDA on Linux")
    torch.manual_seed(0)
    layer = DAUConv2d(**sizes, dtype=dtype)
    x = torch.rand(2, layer.in_channels, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    compiled = []
    monkeypatch.setattr(
        dau_triton, "_launch", lambda *args, **values: compiled.append(compile_for(arch, *args, **values))
    )
    y = dau_triton.dau_conv2d(x, layer.code.weight, layer.weight, layer.stride, layer.padding, layer.norm)
    torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    assert len(compiled) == 6  # forward, images, and codes and filters twice: of the products and of the norms
    assert max(kernel.metadata.shared for kernel in compiled) <= 99 * 1024


def compile_for(arch: int, kernel: Any, grid: tuple[int, ...], *tensors: Tensor, **values: Any) -> Any:
    """A launch compiled, as Triton specialises it: on arguments of 1 and on pointers and sizes that 16 divides."""
    import triton
    from triton.backends.compiler import GPUTarget

    types = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
    arguments = {**dict(zip(kernel.arg_names, tensors, strict=False)), **values}
    runtime = {kernel.arg_names[p.num] for p in kernel.params if not p.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if isinstance(value, Tensor):
            signature[name] = types[value.dtype]
        elif name in runtime and value != 1:
            signature[name] = "i32"
        else:
            signature[name], constants[name] = "constexpr", value
        if isinstance(value, Tensor) or (signature[name] == "i32" and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dau_triton._OPTIONS)
