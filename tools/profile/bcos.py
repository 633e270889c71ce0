"""`python -m tools.profile bcos`: a B-cos ResNet and its contributions against timm's and the papers' authors' code."""

from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import timm
import torch
import typer
from torch import Tensor

from timm_interpretable.attr import InputContribution
from timm_interpretable.cli.common import fail
from tools.profile.rows import BatchSize, Device, Repeats, Row, Size, Threads, heading, measure, prepared_device, table


def bcos(
    architecture: Annotated[str, typer.Option(help="One of timm's that has a B-cos form here.")] = "resnet50",
    size: Size = 224, batch_size: BatchSize = 8, repeats: Repeats = 5, threads: Threads = None, device: Device = "auto",
) -> None:  # fmt: skip
    """A B-cos network against timm's and the authors' code: forward pass and contributions, with random weights."""
    target = prepared_device(device, threads)
    try:
        rows = _rows(architecture, torch.rand(batch_size, 3, size, size, device=target))
    except (ValueError, RuntimeError) as error:  # an architecture that there is not, a size it does not take
        fail(str(error))
    typer.echo(heading(batch_size, size, target, repeats))
    typer.echo(table(rows, {"fp32": measure(rows, repeats, nullcontext, target)}, batch_size))


def _rows(architecture: str, x: Tensor) -> list[Row]:
    plain = timm.create_model(architecture).to(x.device).eval()
    ours: Any = timm.create_model(f"bcos_{architecture}").to(x.device).eval()
    no_grad, forward = torch.no_grad(), f"bcos_{architecture} forward"
    method = InputContribution(ours)
    rows = [
        Row(f"{architecture} forward", f"{architecture} forward", no_grad(lambda: plain(x))),
        Row(forward, f"{architecture} forward", no_grad(lambda: ours(x))),
        Row(f"bcos_{architecture} contributions of a class", forward, lambda: method.attribute(x, target=0)),
        Row(f"bcos_{architecture} head maps, all classes", forward, no_grad(lambda: ours.head_maps(x))),
    ]
    try:
        from bcos.models import pretrained
    except ImportError:
        typer.echo("the authors' code is not measured: pip install bcos")
        return rows
    theirs = getattr(pretrained, architecture)().to(x.device).eval()
    encoded = torch.cat([x, 1 - x], 1)
    return [
        *rows,
        Row("authors' code, forward", f"{architecture} forward", no_grad(lambda: theirs(encoded))),
        Row("authors' code, contributions", "authors' code, forward", partial(_their_contributions, theirs, encoded)),
    ]


def _their_contributions(model: Any, encoded: Tensor) -> Tensor:
    encoded = encoded.clone().requires_grad_()
    with model.explanation_mode():
        (rows,) = torch.autograd.grad(model(encoded)[:, 0].sum(), encoded)
    return rows * encoded.detach()
