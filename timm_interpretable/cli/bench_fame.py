"""`timm-interpretable bench fame`: an iteration of FAME against the passes that it cannot do without."""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from timm_interpretable.cli.bench import Row, heading, measure, table
from timm_interpretable.cli.common import fail, pick_device

if TYPE_CHECKING:
    from torch import Tensor, nn


def fame(
    model: Annotated[str, typer.Option(help="Any timm model or one of ours, with random weights.")] = "facnn_resnet18",
    size: Annotated[int, typer.Option(min=1, help="Side of the images.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    n_steps: Annotated[int, typer.Option(min=1, help="Iterations per timing; the map at the end counts too.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Timings per row; the median counts.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, instead of torch's choice.")] = None,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Seconds of the CPU, not of the clock: for a busy machine without a GPU.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """FAME against as many forward passes with the gradient of the input, the parameters frozen in both."""
    import timm
    import torch

    import timm_interpretable.models  # noqa: F401  registers them

    target = pick_device(device)
    if cpu_time and target.type != "cpu":
        fail(f"--cpu-time says nothing about {target}, expected --device cpu with it")
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        net = timm.create_model(model, num_classes=10).to(target).eval().requires_grad_(False)
        rows = _rows(net, torch.rand(batch_size, 3, size, size, device=target), n_steps)
        clock = time.process_time if cpu_time else time.perf_counter
        seconds = {"fp32": measure(rows, repeats, partial(torch.autocast, target.type, enabled=False), target, clock)}
    except (RuntimeError, ValueError) as error:  # an unknown model, a size that it does not take
        fail(str(error))
    what = "CPU time of " if cpu_time else ""
    typer.echo(f"{model}, {what}{n_steps} iterations of {heading(batch_size, size, target, repeats)}")
    typer.echo(table(rows, seconds, batch_size * n_steps))


def _rows(net: "nn.Module", x: "Tensor", n_steps: int) -> list[Row]:
    import torch

    from timm_interpretable.attr import FAME

    target = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def passes() -> None:
        for _ in range(n_steps):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)

    plain = "forward and input-backward"
    return [
        Row(plain, plain, passes),
        Row("FAME", plain, lambda: FAME(net).attribute(x, target, n_steps=n_steps)),
    ]
