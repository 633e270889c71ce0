"""`timm-interpretable bench coda`: the factored form of CoDA-Net against writing every weight down."""

import multiprocessing
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.bench import Row, heading, measure, table
from timm_interpretable.cli.common import fail, pick_device

if TYPE_CHECKING:
    from torch import Tensor, nn

    from timm_interpretable.models import CoDANet, DAUConv2d


def materialised(layer: "DAUConv2d", x: "Tensor", detach: bool = False) -> "Tensor":
    """The definition of a dynamic alignment convolution, with the weight of every unit at every position written down.

    detach: hold these weights constant in the backward pass.
    """
    import torch
    import torch.nn.functional as F

    patches = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)  # (N, D, L)
    code, units = layer.code.weight.flatten(1) @ patches, layer.units()
    v = torch.einsum("crd,nrl->ncdl", units[:, :-1], code) + units[:, -1][None, :, :, None]
    norm = v.square().sum(2, keepdim=True).sqrt()
    w = v / norm * (norm**2 / (1 + norm**2) if layer.norm == "sq" else 1)
    w = w.detach() if detach else w
    h, width = ((n + 2 * layer.padding - layer.kernel_size) // layer.stride + 1 for n in x.shape[2:])
    return (w * patches[:, None]).sum(2).unflatten(2, (h, width))


def materialised_logits(model: "CoDANet", x: "Tensor") -> "Tensor":
    """The logits less their bias."""
    x = model.encoding(x)
    for layer in model.dynamic_layers():
        x = materialised(layer, x)
    return x.sum((2, 3)) / model.temperature


def coda(
    model: Annotated[str, typer.Option(help="coda_net_s, coda_net_m or coda_net_l.")] = "coda_net_s",
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images, instead of the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Timings per row; the median counts.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, instead of torch's choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """CoDA-Net, factored against materialised: time, peak memory of a training step, cost of contributions."""
    import timm
    import torch

    import timm_interpretable.models  # noqa: F401  registers them

    target = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    if model not in timm.list_models(module="coda_net"):
        fail(f"unknown model {model!r}, expected one of: {', '.join(timm.list_models(module='coda_net'))}")
    torch.manual_seed(0)
    net = timm.create_model(model).to(target)
    side = size or net.pretrained_cfg["input_size"][-1]
    x = torch.rand(batch_size, 3, side, side, device=target)
    with torch.no_grad():
        wanted = materialised_logits(net, x)
        difference = ((net.dynamic_weights(x).logits() - wanted).abs().max() / wanted.abs().max()).item()
    rows = _rows(net, x)
    seconds = {
        "fp32": measure(rows, repeats, partial(torch.autocast, target.type, enabled=False), target),
        "bf16": measure(rows, repeats, partial(torch.autocast, target.type, torch.bfloat16), target),
    }
    typer.echo(f"{model}, {heading(batch_size, side, target, repeats)}")
    typer.echo(table(rows, seconds, batch_size))
    typer.echo(f"\nlargest difference of the logits less their bias, fp32, relative: {difference:.1e}")
    if target.type == "cuda":
        peaks = [_peak_cuda(net, x, form) for form in (False, True)]
    elif sys.platform == "linux":
        peaks = [_peak_of_new_process(model, side, batch_size, form) for form in (False, True)]
    else:
        typer.echo("peak memory of a training step: not measured, needs CUDA or Linux")
        return
    typer.echo(
        f"peak memory of a training step, fp32: factored {peaks[0] / 2**20:.0f} MiB, materialised "
        f"{peaks[1] / 2**20:.0f} MiB, ratio {peaks[1] / peaks[0]:.1f}"
    )


def _rows(net: "CoDANet", x: "Tensor") -> list[Row]:
    import torch

    from timm_interpretable.attr import InputContribution

    no_grad = torch.no_grad()
    target = torch.zeros(len(x), dtype=torch.long, device=x.device)
    contribution = InputContribution(net.eval())
    plain = partial(materialised_logits, net)
    return [
        Row("forward, materialised", "forward, materialised", no_grad(lambda: plain(x))),
        Row("forward", "forward, materialised", no_grad(lambda: net(x))),
        Row("training step, materialised", "training step, materialised", lambda: _step(net, plain(x))),
        Row("training step", "training step, materialised", lambda: _step(net, net(x))),
        Row("contributions to one class", "forward", lambda: contribution.attribute(x, target)),
        Row("contributions to all classes", "forward", lambda: contribution.contributions(x)),
    ]


def _step(net: "nn.Module", logits: "Tensor") -> None:
    import torch

    torch.autograd.grad(logits.float().square().sum(), list(net.parameters()))


def _peak_cuda(net: "CoDANet", x: "Tensor", materialise: bool) -> int:
    from timm_interpretable.benchmark.cost import peak_bytes

    form = partial(materialised_logits, net) if materialise else net
    return peak_bytes(lambda: _step(net, form(x)), x.device) or 0


def _peak_of_new_process(model: str, side: int, batch_size: int, materialise: bool) -> int:
    """The highest memory of a process that does one training step, less what it had before the step."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_report_peak, args=(model, side, batch_size, materialise, results))
    process.start()
    process.join()
    if process.exitcode != 0:
        fail(f"the process that measures memory ended with {process.exitcode}: not enough memory?")
    return int(results.get())


def _report_peak(model: str, side: int, batch_size: int, materialise: bool, results: Any) -> None:
    import timm
    import torch

    import timm_interpretable.models  # noqa: F401
    from timm_interpretable.benchmark.cost import peak_bytes

    net = timm.create_model(model)
    form = partial(materialised_logits, net) if materialise else net
    _step(net, form(torch.rand(1, 3, 8, 8)))  # what a first step loads is not the step's
    x = torch.rand(batch_size, 3, side, side)
    results.put(peak_bytes(lambda: _step(net, form(x)), x.device) or 0)
