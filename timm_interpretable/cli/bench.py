"""`timm-interpretable bench`: what interpretability costs on this machine."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, pick_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

bench_app = typer.Typer(no_args_is_help=True, help="Measure the cost of the models and their attributions here.")


@bench_app.callback()
def _bench() -> None:
    """Measure the cost of the models and their attributions here."""


@dataclass(frozen=True)
class Row:
    """One thing to time. `versus` names the row that its ratio divides by."""

    name: str
    versus: str
    run: Callable[[], object]


@bench_app.command()
def facnn(
    size: Annotated[int, typer.Option(min=1, help="Side of the images.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Timings per row; the median counts.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, instead of torch's choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """FA-CNN against a ResNet-18: forward passes and attributions of one batch, with random weights."""
    import torch

    target = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        rows, notes = _facnn_rows(torch.rand(batch_size, 3, size, size, device=target))
        # pytorch-grad-cam turns activations into numpy arrays, which know no bfloat16
        half_rows = [row for row in rows if "pytorch-grad-cam" not in row.name]
        seconds = {
            "fp32": measure(rows, repeats, nullcontext, target),
            "bf16": measure(half_rows, repeats, partial(torch.autocast, target.type, torch.bfloat16), target),
        }
    except ValueError as error:  # a size that the model does not take
        fail(str(error))
    typer.echo(heading(batch_size, size, target, repeats))
    typer.echo(table(rows, seconds, batch_size))
    for note in notes:
        typer.echo(note)


def _facnn_rows(x: "Tensor") -> tuple[list[Row], list[str]]:
    """The rows, and a note for each that cannot be measured here."""
    import timm
    import torch
    from captum.attr import LayerGradCam

    from timm_interpretable.attr import ClassMap

    torch.manual_seed(0)
    ours, theirs = (
        timm.create_model(name, num_classes=10).to(x.device).eval() for name in ("facnn_resnet18", "resnet18")
    )
    layers = {"facnn_resnet18": (ours, ours.stages[-1]), "resnet18": (theirs, theirs.layer4)}
    target = torch.zeros(len(x), dtype=torch.long, device=x.device)
    no_grad = torch.no_grad()
    rows = [
        Row("resnet18 forward", "resnet18 forward", no_grad(lambda: theirs(x))),
        Row("facnn_resnet18 forward", "resnet18 forward", no_grad(lambda: ours(x))),
        Row("facnn_resnet18 class maps, all blocks", "facnn_resnet18 forward", no_grad(lambda: ours.class_maps(x))),
        Row("facnn_resnet18 ClassMap", "facnn_resnet18 forward", lambda: ClassMap(ours).attribute(x, target=target)),
    ]
    for name, (model, layer) in layers.items():
        run = partial(LayerGradCam(model, layer).attribute, x, target=target)
        rows.append(Row(f"{name} Grad-CAM, Captum", f"{name} forward", run))
    try:
        import pytorch_grad_cam as cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return rows, ["\npytorch-grad-cam is not measured: pip install 'timm-interpretable[cam]'"]

    def gradcam(model: Any, layer: Any) -> object:
        with cam.GradCAM(model, [layer]) as method:
            return method(x, [ClassifierOutputTarget(0)] * len(x))

    for name, (model, layer) in layers.items():
        rows.append(Row(f"{name} Grad-CAM, pytorch-grad-cam", f"{name} forward", partial(gradcam, model, layer)))
    return rows, []


def measure(
    rows: list[Row], repeats: int, context: Callable[[], AbstractContextManager[Any]], device: "torch.device",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:  # fmt: skip
    """Median seconds of every row; the repeats are interleaved, so that other load hits all rows alike."""
    import torch

    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for repeat in range(-1, repeats):  # the first round warms up
        for row in rows:
            start = clock()
            with context():
                row.run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[row.name].append(clock() - start)
    return {name: median(values) for name, values in seconds.items()}


def heading(batch_size: int, size: int, device: "torch.device", repeats: int) -> str:
    """On what, where and how often was measured, and an empty line."""
    import torch

    where = f"{device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    return f"{batch_size} images of {size}x{size}, {where}; median of {repeats} interleaved repeats\n"


def table(rows: list[Row], seconds: dict[str, dict[str, float]], batch_size: int) -> str:
    """Milliseconds per image and ratios, one column pair per precision; `-` where a row was not measured."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}" + "".join(f" {f'{p} ms/image':>14} {'ratio':>6}" for p in seconds) + "  ratio to"]
    for row in rows:
        cells = ""
        for values in seconds.values():
            if row.name in values:
                time_ms = 1000 * values[row.name] / batch_size
                cells += f" {time_ms:>14.2f} {values[row.name] / values[row.versus]:>6.2f}"
            else:
                cells += f" {'-':>14} {'-':>6}"
        lines.append(f"{row.name:<{width}}{cells}  {row.versus}")
    return "\n".join(lines)
