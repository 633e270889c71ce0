"""`python -m tools.profile fame`: what an iteration of FAME costs, and how soon its maps settle."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from torch import Tensor
from tqdm import tqdm

from timm_interpretable.attr import FAME
from timm_interpretable.cli.common import evenly_spaced, fail, load_any, open_images, whole_image
from tools.profile.rows import (
    BatchSize,
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

STEPS = (25, 50, 100, 200, 500)
"""Numbers of steps whose maps are compared; the last is the paper's, and the others are compared with it."""


def fame(
    model: Annotated[str, typer.Option(help="Any timm model or one of ours, with random weights.")] = "facnn_resnet18",
    size: Size = 224,
    batch_size: BatchSize = 16,
    n_steps: Annotated[int, typer.Option(min=1, help="Iterations per timing; the map at the end counts too.")] = 5,
    repeats: Repeats = 3,
    threads: Threads = None,
    cpu_time: CpuTime = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with SPLIT: also how maps after few steps correlate with those of 500.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights for these maps, instead of the released ones.")] = None,
    split: Annotated[str, typer.Option(help="Images for these maps.")] = "boxed",
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced over the classes.")] = 25,
    device: Device = "auto",
) -> None:
    """FAME against as many forward passes with the gradient of the input, the parameters frozen in both.

    With --data-dir also how far the maps after 25, 50, 100 and 200 steps correlate with those after 500: Pearson's
    coefficient over the pixels of an image of its true class, as the mean over the images.
    """
    target = prepared_device(device, threads, cpu_time)
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
    if data_dir is None:
        return
    net = load_any(model, weights, target)
    try:
        data = open_images(data_dir, split, whole_image(net, size), net)
        some = [data[i] for i in evenly_spaced(min(images, len(data)), len(data))]
        x, labels = torch.stack([image for image, _ in some]), torch.tensor([label for _, label in some])
        found = step_correlations(net, x.to(target), labels.to(target), batch_size)
    except (OSError, ValueError) as error:
        fail(str(error))
    typer.echo(f"\n{len(x)} images of {split} at {size}x{size}: correlation with the map after {STEPS[-1]} steps")
    typer.echo("\n".join(f"{count:>4} steps  {value:.2f}" for count, value in found.items()))


def step_correlations(
    net: Any, x: Tensor, target: Tensor, batch_size: int = 16, steps: tuple[int, ...] = STEPS
) -> dict[int, float]:
    """Pearson's correlation of the map after each number of steps with that after the last of them, mean over images.

    An image whose map is constant counts as 0.
    """
    maps = {}
    for count in tqdm(steps, desc="steps", disable=None):
        parts = [
            FAME(net).attribute(some, classes, n_steps=count, show_progress=False)
            for some, classes in zip(x.split(batch_size), target.split(batch_size), strict=True)
        ]
        flat = torch.cat(parts).sum(1).flatten(1).double().cpu()
        centred = flat - flat.mean(1, keepdim=True)
        maps[count] = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return {count: (maps[count] * maps[steps[-1]]).sum(1).mean().item() for count in steps[:-1]}


def _rows(net: Any, x: Tensor, n_steps: int) -> list[Row]:
    target = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def passes() -> None:
        for _ in range(n_steps):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)

    plain = "forward and input-backward"
    return [
        Row(plain, plain, passes),
        Row("FAME", plain, lambda: FAME(net).attribute(x, target, n_steps=n_steps, show_progress=False)),
    ]
