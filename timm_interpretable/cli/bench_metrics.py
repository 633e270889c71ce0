"""`timm-interpretable bench metrics`: pixel removal against its forward passes, imputation against a sparse solver."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.bench import Row, heading, measure, table
from timm_interpretable.cli.common import fail, our_models, pick_device
from timm_interpretable.cli.loading import open_images

if TYPE_CHECKING:
    from torch import Tensor, nn


def metrics(
    model: Annotated[str, typer.Option(help="One of ours with its weights, or any timm model with random ones.")] = (
        "facnn_resnet18"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="Folder with boxed.tar, instead of random images.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Evenly spaced ones of boxed.tar.")] = 8,
    size: Annotated[int, typer.Option(min=1, help="Side of the images.")] = 224,
    repeats: Annotated[int, typer.Option(min=1, help="Timings per row; the median counts.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, instead of torch's choice.")] = None,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Seconds of the CPU, not of the clock: for a busy machine without a GPU.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Pixel removal in 20 steps against 20 forward passes; ROAD's imputation against pytorch-grad-cam's, all deciles.

    Imputation is measured for the model's Grad-CAM and for random maps, without the passes of the model.
    """
    import torch

    target = pick_device(device)
    if cpu_time and target.type != "cpu":
        fail(f"--cpu-time says nothing about {target}, expected --device cpu with it")
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        net = _model(model).to(target).eval().requires_grad_(False)
        x = _images(net, data_dir, images, size).to(target)
        rows, notes = _rows(net, x)
        clock = time.process_time if cpu_time else time.perf_counter
        seconds = {"fp32": measure(rows, repeats, nullcontext, target, clock)}
    except (OSError, RuntimeError, ValueError) as error:  # no such data, an unknown model, a size that does not fit
        fail(str(error))
    typer.echo(f"{model}, {'CPU time of ' if cpu_time else ''}{heading(len(x), size, target, repeats)}")
    typer.echo(table(rows, seconds, len(x)))
    for note in notes:
        typer.echo(note)


def _model(name: str) -> "nn.Module":
    import timm

    net: nn.Module = timm.create_model(name, pretrained=name.split(".")[0] in our_models(), num_classes=10)
    return net


def _images(net: Any, data_dir: Path | None, count: int, size: int) -> "Tensor":
    import torch

    from timm_interpretable.data.images import squash_transform

    if data_dir is None:
        return torch.rand(count, 3, size, size)
    boxed, _ = open_images(data_dir, "boxed", squash_transform((size, size), (0.0,) * 3, (1.0,) * 3), net)
    return torch.stack([boxed[i * len(boxed) // count][0] for i in range(min(count, len(boxed)))])


def _rows(net: Any, x: "Tensor") -> tuple[list[Row], list[str]]:
    """The rows, and a note for each that cannot be measured here."""
    import torch
    import torch.nn.functional as F

    from timm_interpretable.metrics import DECILES, QUARTER, grad_cam, impute, pixel_removal
    from timm_interpretable.metrics.removal import removal_counts, removal_rank

    classes = torch.zeros(len(x), dtype=torch.long, device=x.device)
    predict = lambda images: net(images).softmax(1)  # noqa: E731
    cam = F.interpolate(grad_cam(net, x, classes)[:, None], x.shape[2:], mode="bilinear")[:, 0]
    random = torch.rand(cam.shape, generator=torch.Generator().manual_seed(0)).to(x)

    @torch.no_grad()
    def passes() -> None:
        for _ in QUARTER[1:]:
            predict(x)

    plain = "20 forward passes"
    rows = [
        Row(plain, plain, passes),
        Row("pixel removal, 20 points", plain, lambda: pixel_removal(predict, x, random, classes, QUARTER[1:])),
    ]
    for name, maps in (("Grad-CAM", cam), ("random map", random)):
        rank = removal_rank(maps, True)
        masks = [rank < count for count in removal_counts(x, DECILES)]
        ours = f"imputation, {name}"
        rows.append(Row(ours, ours, partial(_each, impute, x, masks)))
        rows.append(Row(f"{ours}, pytorch-grad-cam", ours, partial(_each, _grad_cams_imputation, x, masks)))
    if find_spec("pytorch_grad_cam") is None:
        rows = [row for row in rows if "pytorch-grad-cam" not in row.name]
        return rows, ["\npytorch-grad-cam is not measured: pip install 'timm-interpretable[cam]'"]
    return rows, []


def _each(imputation: Callable[["Tensor", "Tensor"], object], x: "Tensor", masks: "list[Tensor]") -> None:
    for removed in masks:
        imputation(x, removed)


def _grad_cams_imputation(x: "Tensor", removed: "Tensor") -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    solve = NoisyLinearImputer()
    for image, kept in zip(x.cpu(), (~removed).float().cpu(), strict=True):
        solve(image, kept)
