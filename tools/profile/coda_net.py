"""`python -m tools.profile coda_net`: the factored form of CoDA-Net against writing every weight down."""

import multiprocessing
import sys
from functools import partial
from typing import Annotated, Any

import timm
import torch
import typer
from torch import Tensor, nn

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import InputContribution
from timm_interpretable.benchmark.cost import peak_bytes
from timm_interpretable.cli.common import fail
from timm_interpretable.models import CoDANet
from timm_interpretable.models.dau import dynamic_alignment
from tools.profile.rows import BatchSize, Device, Repeats, Row, Threads, heading, measure, prepared_device, table


def materialised_logits(model: CoDANet, x: Tensor) -> Tensor:
    """The logits less their bias, `(B, K)`, by the definition of the layers."""
    x = model.encoding(x)
    for layer in model.dynamic_layers():
        x = dynamic_alignment(x, layer.code.weight, layer.weight, layer.stride, layer.padding, layer.norm)
    return x.sum((2, 3)) / model.sum_divisor(x.shape[2], x.shape[3])


def coda_net(
    model: Annotated[str, typer.Option(help="coda_net_s, coda_net_m or coda_net_l.")] = "coda_net_s",
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images, instead of the model's own.")] = None,
    batch_size: BatchSize = 16,
    repeats: Repeats = 3,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """CoDA-Net, factored against materialised: time, peak memory of a training step, cost of contributions."""
    target = prepared_device(device, threads)
    if model not in timm.list_models(module="coda_net"):
        fail(f"unknown model {model!r}, expected one of: {', '.join(timm.list_models(module='coda_net'))}")
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


def _rows(net: CoDANet, x: Tensor) -> list[Row]:
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


def _step(net: nn.Module, logits: Tensor) -> None:
    torch.autograd.grad(logits.float().square().sum(), list(net.parameters()))


def _peak_cuda(net: CoDANet, x: Tensor, materialise: bool) -> int:
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
    net = timm.create_model(model)
    form = partial(materialised_logits, net) if materialise else net
    _step(net, form(torch.rand(1, 3, 8, 8)))  # what a first step loads is not the step's
    x = torch.rand(batch_size, 3, side, side)
    results.put(peak_bytes(lambda: _step(net, form(x)), x.device) or 0)
