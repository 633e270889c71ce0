"""`python -m tools.profile facnn`: FA-CNN and its class maps against a ResNet-18 and Grad-CAM."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import timm
import torch
import typer
from captum.attr import LayerGradCam
from torch import Tensor

from timm_interpretable.attr import ClassMap
from timm_interpretable.cli.common import fail
from tools.profile.rows import BatchSize, Device, Repeats, Row, Size, Threads, heading, measure, prepared_device, table


def facnn(
    size: Size = 224, batch_size: BatchSize = 16, repeats: Repeats = 7, threads: Threads = None, device: Device = "auto"
) -> None:
    """FA-CNN against a ResNet-18: forward passes and attributions of one batch, with random weights."""
    target = prepared_device(device, threads)
    try:
        rows, notes = _rows(torch.rand(batch_size, 3, size, size, device=target))
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


def _rows(x: Tensor) -> tuple[list[Row], list[str]]:
    """The rows, and a note for each that cannot be measured here."""
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
