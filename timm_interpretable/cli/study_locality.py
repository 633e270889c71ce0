"""`timm-interpretable study locality`: which pixels does a location of a feature map depend on, by depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, pick_device
from timm_interpretable.cli.loading import (
    MeanStd,
    described_model,
    evenly_spaced,
    load_any,
    open_images,
    whole_image,
)
from timm_interpretable.cli.results import make_folder, write_results
from timm_interpretable.results import markdown_table, provenance

if TYPE_CHECKING:
    from torch import Tensor, nn

_COLUMNS = (
    "share", "chance_share", "distance_cells", "chance_distance_cells", "distance_image", "chance_distance_image"
)  # fmt: skip


def locality(
    data_dir: Annotated[Path, typer.Option(help="Folder with the split.")],
    model: Annotated[str, typer.Option(help="A model of `list`; with --weights any timm model.")] = "facnn_resnet18",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    split: Annotated[str, typer.Option(help="Where the images come from.")] = "boxed",
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced over the classes.")] = 4,
    layers: Annotated[str | None, typer.Option(help="Names, with commas between; all blocks by default.")] = None,
    locations: Annotated[
        int, typer.Option(min=0, help="Locations per layer and image, drawn at random; 0 for the pictures alone.")
    ] = 4,
    n_steps: Annotated[int, typer.Option(min=1, help="Of FAME; the paper takes 500.")] = 50,
    random: Annotated[bool, typer.Option(help="Also the same model at random initialisation.")] = True,
    sheet: Annotated[bool, typer.Option(help="Also draw all locations of the last layer, for the first image.")] = True,
    input_size: Annotated[int | None, typer.Option(help="Side of the input, instead of the model's own.")] = None,
    mean_std: Annotated[MeanStd | None, typer.Option(help="Normalisation, instead of the model's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of the locations and of the random initialisation.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Maps per pass.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("study"),
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """One FAME map per location of a feature map: share inside the cell behind it, distance of its centre, by depth.

    Chance is a change spread evenly over the image. CAM assumes a share of 1 and a distance of 0.
    """
    import torch
    from tqdm import tqdm

    chosen_device = pick_device(device)
    make_folder(out)
    try:
        from timm_interpretable.metrics import depth_layers, locality_report

        net, settings = load_any(model, weights, chosen_device)
        names = layers.split(",") if layers else depth_layers(net)
        _check_layers(names, net)
        found, _ = open_images(data_dir, split, whole_image(net, settings, input_size, mean_std), net)
        x = torch.stack([found[i][0] for i in evenly_spaced(images, len(found))]).to(chosen_device)
        nets = {"trained": net} | ({"random": random_like(net, model, settings, seed)} if random else {})
        report = provenance(seed, chosen_device) | dict(
            model=described_model(model, weights, net), images=images, split=split, input_size=list(x.shape[1:]),
            locations=locations, n_steps=n_steps,
        )  # fmt: skip
        for state, one in nets.items():
            some = names if locations else []
            shown = tqdm(some, desc=state, unit="layer", disable=None)
            report[state] = [
                row for name in shown for row in locality_report(one, x, [name], locations, n_steps, batch_size, seed)
            ]
        if locations:
            table = _table({state: report[state] for state in nets})
            write_results(out / "locality", report, f"Locality of {report['model']['name']}", [_note(report), table])
            typer.echo(f"{_note(report)}\n\n{table}\n\nwritten to {out / 'locality'}.json and .md")
        for state, one in nets.items() if sheet else ():
            file = out / f"locality_{state}.png"
            _draw(one, x[:1], names[-1], n_steps, batch_size, f"{report['model']['name']}, {state}", file)
            typer.echo(f"drawn: {file}")
    except (OSError, ValueError) as error:
        fail(str(error))


def random_like(net: Any, name: str, settings: Mapping[str, Any], seed: int) -> "nn.Module":
    """The same architecture as timm initialises it, but with every branch on.

    A ResNet's last normalisations start at zero, so that its residual branches, and with them most of its receptive
    field, would be off.
    """
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh: nn.Module = timm.create_model(name, num_classes=net.num_classes, **settings.get("model_args", {}))
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    return fresh.eval().to(next(net.parameters()).device)


def _check_layers(names: Sequence[str], net: "nn.Module") -> None:
    known = dict(net.named_modules())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"the model has no layer {unknown[0]!r}, expected names such as {', '.join(list(known)[1:6])}."
        )


def _draw(net: "nn.Module", x: "Tensor", layer: str, n_steps: int, batch_size: int, name: str, file: Path) -> None:
    from timm_interpretable.attr import FAME
    from timm_interpretable.data.images import to_picture
    from timm_interpretable.sheet import location_sheet

    maps = (
        FAME(net)
        .feature_locations(x, layer, n_steps=n_steps, internal_batch_size=batch_size, show_progress=False)[0]
        .cpu()
    )
    title = f"{name}\nFAME, {n_steps} steps, of every location of {layer}"
    location_sheet(to_picture(x[0], net), maps, title).savefig(file)


def _note(report: Mapping[str, Any]) -> str:
    run, side = report["model"], report["input_size"][-1]
    trained = ""
    if "eval_accuracy" in run:
        trained = f" ({run['epochs']} epochs, top-1 {100 * run['eval_accuracy']:.2f} %)"
    return (
        f"{run['name']}{trained}: {report['images']} images of {report['split']} at {side} x {side} pixels, "
        f"{report['locations']} locations per layer and image, FAME with {report['n_steps']} steps. Share: of the "
        "change, inside the cell behind the location. Distance: of the centre of the change from that of the cell, in "
        "cells and in sides of the image. Chance: a change spread evenly. Maps: how many count; the others changed "
        "nothing, for want of a gradient."
    )


def _table(states: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    names = ["share", "chance", "distance, cells", "chance", "distance, image", "chance"]
    rows = [
        [state, row["layer"], f"{row['grid'][0]} x {row['grid'][1]}", row["maps"], *(row[key] for key in _COLUMNS)]
        for state, report in states.items()
        for row in report
    ]
    return markdown_table(["weights", "layer", "grid", "maps", *names], rows)
