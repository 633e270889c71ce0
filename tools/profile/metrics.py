"""`python -m tools.profile metrics`: pixel removal against its passes, imputation against pytorch-grad-cam's solver."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from torch import Tensor

from timm_interpretable.attr import GradCAM, maps_of
from timm_interpretable.attr.maps import images_per_pass
from timm_interpretable.cli.common import evenly_spaced, fail, open_images, our_models
from timm_interpretable.data.images import squash_transform
from timm_interpretable.metrics import DECILES, QUARTER, impute, pixel_removal
from timm_interpretable.metrics.removal import removal_counts, removal_rank
from tools.profile.rows import (
    CpuTime,
    Device,
    Repeats,
    Row,
    Size,
    Threads,
    heading,
    measure,
    prepared_device,
    table,
)


def metrics(
    model: Annotated[str, typer.Option(help="One of ours with its weights, or any timm model with random ones.")] = (
        "facnn_resnet18"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="Folder with val.tar, instead of random images.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Evenly spaced ones of val.tar.")] = 8,
    imputed: Annotated[int, typer.Option(min=0, help="How many of the images are imputed.")] = 4,
    size: Size = 224,
    repeats: Repeats = 3,
    threads: Threads = None,
    cpu_time: CpuTime = False,
    device: Device = "auto",
) -> None:
    """Pixel removal in 20 steps against 20 forward passes; ROAD's imputation against pytorch-grad-cam's, all deciles.

    Imputation is measured for the model's Grad-CAM and for random maps, without the passes of the model.
    """
    target = prepared_device(device, threads, cpu_time)
    try:
        net = timm.create_model(model, pretrained=model.split(".")[0] in our_models(), num_classes=10)
        net = net.to(target).eval().requires_grad_(False)
        x = _images(net, data_dir, images, size).to(target)
        clock = time.process_time if cpu_time else time.perf_counter
        tables = []
        for rows_of, some in ((_removal_rows, x), (_imputation_rows, x[:imputed])):
            if len(some):
                rows = rows_of(net, some)
                tables.append(table(rows, {"fp32": measure(rows, repeats, nullcontext, target, clock)}, len(some)))
    except (OSError, RuntimeError, ValueError) as error:  # no such data, an unknown model, a size that does not fit
        fail(str(error))
    typer.echo(f"{model}, {'CPU time of ' if cpu_time else ''}{heading(len(x), size, target, repeats)}")
    typer.echo("\n\n".join(tables))
    if imputed and find_spec("pytorch_grad_cam") is None:
        typer.echo("\npytorch-grad-cam is not measured: pip install 'timm-interpretable[cam]'")


def _images(net: Any, data_dir: Path | None, count: int, size: int) -> Tensor:
    if data_dir is None:
        return torch.rand(count, 3, size, size)
    data = open_images(data_dir, "val", squash_transform((size, size), (0.0,) * 3, (1.0,) * 3), net)
    return torch.stack([data[i][0] for i in evenly_spaced(min(count, len(data)), len(data))])


def _removal_rows(net: Any, x: Tensor) -> list[Row]:
    """Against the model alone, on as many images at once."""
    classes = torch.zeros(len(x), dtype=torch.long, device=x.device)
    predict = lambda images: net(images).softmax(1)  # noqa: E731
    random = torch.rand(len(x), *x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x)

    @torch.no_grad()
    def passes() -> None:
        for _ in QUARTER[1:]:
            for some in x.split(images_per_pass(x, None)):
                predict(some)

    plain = "20 forward passes"
    removal = partial(pixel_removal, predict, x, random, classes, QUARTER[1:])
    return [Row(plain, plain, passes), Row("pixel removal, 20 points", plain, removal)]


def _imputation_rows(net: Any, x: Tensor) -> list[Row]:
    """For Grad-CAM's maps and for random ones, against pytorch-grad-cam where it is installed."""
    cam = maps_of(GradCAM(net), x, torch.zeros(len(x), dtype=torch.long, device=x.device))
    random = torch.rand(cam.shape, generator=torch.Generator().manual_seed(0)).to(x)
    rows = []
    for name, maps in (("Grad-CAM", cam), ("random map", random)):
        rank = removal_rank(maps, True)
        masks = [rank < count for count in removal_counts(x, DECILES)]
        ours = f"imputation, {name}"
        rows.append(Row(ours, ours, partial(_each, impute, x, masks)))
        if find_spec("pytorch_grad_cam") is not None:
            rows.append(Row(f"{ours}, pytorch-grad-cam", ours, partial(_each, _grad_cams_imputation, x, masks)))
    return rows


def _each(imputation: Callable[[Tensor, Tensor], object], x: Tensor, masks: list[Tensor]) -> None:
    for removed in masks:
        imputation(x, removed)


def _grad_cams_imputation(x: Tensor, removed: Tensor) -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    solve = NoisyLinearImputer()
    for image, kept in zip(x.cpu(), (~removed).float().cpu(), strict=True):
        solve(image, kept)
