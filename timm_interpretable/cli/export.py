"""`timm-interpretable export`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_any, pick_device
from timm_interpretable.cli.explainer import with_class_maps


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An FA-CNN, a hybrid or a B-cos network, a timm name, or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="The file: .onnx, or .pt2 for torch.export.")],
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file for MODEL, instead of its released weights.")
    ] = None,
) -> None:
    """Write a network with its class maps as one file, and check that the file computes the same.

    The file takes images, prepared as the model expects them, and gives logits and class maps. A network of timm that
    ends in global average pooling and one linear layer becomes a hybrid first. An .onnx file names its classes, its
    input size, mean and standard deviation in its properties.
    """
    if out.suffix not in (".onnx", ".pt2"):
        fail(f"--out {out} ends in {out.suffix!r}, expected .onnx or .pt2")
    if not out.parent.is_dir():
        fail(f"--out {out}: there is no folder {out.parent}")

    from timm_interpretable.models.export import export_onnx, export_program, has_fixed_size, has_maps

    plain = load_any(model, weights, pick_device("cpu"))
    net, _ = with_class_maps(plain)
    if not has_maps(net):
        fail(
            f"{model} has no class maps; expected an FA-CNN, a hybrid, a B-cos network, or a network that "
            "`class_map_model` converts"
        )
    try:
        off = export_onnx(net, out, _properties(net)) if out.suffix == ".onnx" else export_program(net, out)
    except ImportError as error:
        fail(f"ONNX needs {error.name}; install it by `pip install 'timm-interpretable[export]'`")
    size = " x ".join(str(side) for side in net.pretrained_cfg["input_size"][1:])
    taken = f"images of {size} pixels" if has_fixed_size(net) else "images of any size"
    typer.echo(f"{out}: takes batches of any number of {taken}; gives logits and maps")
    typer.echo(f"checked: its outputs differ from the model's by at most {off:.1e} of the largest value")


def _properties(net: Any) -> dict[str, str]:
    from timm_interpretable.data.classes import class_names

    cfg = net.pretrained_cfg
    told = {key: list(cfg[key]) for key in ("input_size", "mean", "std")}
    return {key: json.dumps(value) for key, value in (told | {"class_names": class_names(net)}).items()}
