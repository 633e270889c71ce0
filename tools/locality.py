"""Where does a location of a feature map get its value from? CAM assumes: from the cell of the image behind it

    python -m tools.locality --data-dir DIR

Source: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017, which shows the maps; the numbers are this project's own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from tqdm import tqdm

from timm_interpretable.attr.fame import FAME
from timm_interpretable.attr.losses import FeatureLocationLoss, Layer, check_feature_map, feature_function
from timm_interpretable.cli.common import (
    MeanStd,
    described_model,
    evenly_spaced,
    fail,
    load_any,
    make_folder,
    open_images,
    pick_device,
    settings_beside,
    whole_image,
)
from timm_interpretable.data.images import to_picture
from timm_interpretable.results import made_by, markdown_table, provenance
from timm_interpretable.viz import overlay

Grid = tuple[int, int]

_BLOCKS = re.compile(r"layer\d+\.\d+|stages\.\d+\.(blocks|layers)\.\d+")
_COLUMNS = (
    "share", "chance_share", "distance_cells", "chance_distance_cells", "distance_image", "chance_distance_image"
)  # fmt: skip
_CELL = "#22d3ee"


def share_in_cell(maps: Tensor, rows: Tensor, cols: Tensor, grid: Grid) -> Tensor:
    """Share of the map inside the cell of a feature map, `(N,)` in [0, 1]; NaN for a zero map.

    The cell of row i out of h is `[i H / h, (i + 1) H / h)`; a pixel that its border cuts counts by the part inside.
    By chance: `1 / (h w)`, the area of the cell.

    Args:
        maps: `(N, H, W)`, not negative.
        rows, cols: the location of each, `(N,)`.
        grid: rows and columns `(h, w)` of the feature map.

    Raises:
        ValueError: other shapes, a negative map, or a location outside the grid.
    """
    _check(maps, rows, cols, grid)
    maps, rows, cols = maps.detach().cpu().double(), rows.cpu(), cols.cpu()
    down = _overlap(rows, maps.shape[1], grid[0])
    across = _overlap(cols, maps.shape[2], grid[1])
    inside = (maps * down[:, :, None] * across[:, None, :]).sum((1, 2))
    return (inside / maps.sum((1, 2))).float()


def centroid_distance(maps: Tensor, rows: Tensor, cols: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """How far the map's centre of mass is from the centre of the cell, in cells and in sides of the image, `(N,)` each.

    NaN for a zero map. A map that is spread evenly has its centre in the middle of the image; for the chance level give
    maps of ones.

    Args, Raises: as `share_in_cell`.
    """
    _check(maps, rows, cols, grid)
    maps, rows, cols = maps.detach().cpu().double(), rows.cpu(), cols.cpu()
    total = maps.sum((1, 2))
    offsets = []
    for index, side, cells, other in ((rows, maps.shape[1], grid[0], 2), (cols, maps.shape[2], grid[1], 1)):
        centres = torch.arange(side) + 0.5
        centroid = (maps.sum(other) * centres).sum(1) / total / side
        offsets.append(centroid - (index + 0.5) / cells)
    down, across = offsets
    in_cells = torch.hypot(down * grid[0], across * grid[1])
    return in_cells.float(), torch.hypot(down, across).float()


def _overlap(index: Tensor, side: int, cells: int) -> Tensor:
    """How much of every pixel of an axis is in a cell, `(N, side)` in [0, 1]."""
    pixels = torch.arange(side, dtype=torch.double)
    begin = index[:, None].double() * side / cells
    return (torch.minimum(pixels + 1, begin + side / cells) - torch.maximum(pixels, begin)).clamp(0, 1)


def _check(maps: Tensor, rows: Tensor, cols: Tensor, grid: Grid) -> None:
    if maps.ndim != 3 or rows.shape != maps.shape[:1] or cols.shape != maps.shape[:1]:
        raise ValueError(
            f"maps {tuple(maps.shape)}, rows {tuple(rows.shape)} and cols {tuple(cols.shape)}, expected (N, H, W), "
            "(N,) and (N,)."
        )
    if maps.numel() and maps.min() < 0:
        raise ValueError(f"maps reach down to {maps.min().item():.4g}, expected none below zero.")
    for name, index, cells in (("rows", rows, grid[0]), ("cols", cols, grid[1])):
        if index.numel() and (index.min() < 0 or index.max() >= cells):
            raise ValueError(f"{name} reach from {index.min()} to {index.max()}, expected 0 to {cells - 1}.")


def depth_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose outputs show the depth of a model: its blocks, of timm's CNNs and of ours.

    Raises:
        ValueError: there are none of these names; give the layers of such a model by hand.
    """
    names = [name for name, _ in model.named_modules() if _BLOCKS.fullmatch(name)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no blocks named as in timm's CNNs, expected layers by name.")
    return names


def sampled_locations(grid: Grid, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and columns of so many locations of a feature map at random, each once; all where there are fewer."""
    h, w = grid
    cells = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return cells // w, cells % w


def locality_report(
    model: nn.Module, images: Tensor, layers: Sequence[Layer], locations: int = 4, n_steps: int = 50,
    batch_size: int = 16, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """One FAME map per location of every layer: its share inside the cell, and how far its centre is from the cell's.

    The map is the change of the grey image as it is, without blur.

    Args:
        model: a module; it is left as it is.
        images: `(B, C, H, W)`.
        layers: as in `FeatureLocationLoss`; see `depth_layers`.
        locations: per layer, drawn at random, the same for all images.
        n_steps: of FAME.
        batch_size: maps per pass.
        seed: of the locations.

    Returns:
        per layer `layer`, `grid`, `maps` (how many changed anything; only they count), `unchanged` (how many did not,
        for want of a gradient), and as means `share`, `distance_cells` and `distance_image`, each with `chance_...` for
        a change spread evenly over the image.
    """
    rows = []
    for layer in layers:
        with torch.no_grad():
            features = check_feature_map(feature_function(model, layer)(images[:1]), layer)
        grid = (features.shape[2], features.shape[3])
        down, across = (index.repeat(len(images)) for index in sampled_locations(grid, locations, seed))
        repeated = images.repeat_interleave(len(down) // len(images), dim=0)
        changes = []
        for x, row, col in zip(*(t.split(batch_size) for t in (repeated, down, across)), strict=True):
            loss = FeatureLocationLoss(layer, row, col)
            maps = FAME(model).attribute(x, loss=loss, n_steps=n_steps, blur=None, show_progress=False)
            changes.append(maps[:, 0].cpu())
        rows.append({"layer": str(layer), "grid": list(grid)} | _locality(torch.cat(changes), down, across, grid))
    return rows


def _locality(maps: Tensor, rows: Tensor, cols: Tensor, grid: Grid) -> dict[str, Any]:
    changed = maps.sum((1, 2)) > 0
    numbers: dict[str, Any] = dict(maps=int(changed.sum()), unchanged=int((~changed).sum()))
    where = rows[changed], cols[changed], grid
    for prefix, these in (("", maps[changed]), ("chance_", torch.ones_like(maps[changed]))):
        in_cells, in_sides = centroid_distance(these, *where)
        values = dict(share=share_in_cell(these, *where), distance_cells=in_cells, distance_image=in_sides)
        # nothing has changed anywhere: there is no mean
        numbers |= {prefix + key: value.mean().item() if len(value) else None for key, value in values.items()}
    return numbers


# --- the command


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
    chosen_device = pick_device(device)
    make_folder(out)
    try:
        net = load_any(model, weights, chosen_device)
        names = layers.split(",") if layers else depth_layers(net)
        _check_layers(names, net)
        found = open_images(data_dir, split, whole_image(net, input_size, mean_std), net)
        x = torch.stack([found[i][0] for i in evenly_spaced(images, len(found))]).to(chosen_device)
        arguments = settings_beside(weights).get("model_args", {}) if weights else {}
        nets = {"trained": net} | ({"random": random_like(net, model, arguments, seed)} if random else {})
        report = provenance(seed, chosen_device, "python -m tools.locality") | dict(
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
            _write(out / "locality", report, f"Locality of {report['model']['name']}", [_note(report), table])
            typer.echo(f"{_note(report)}\n\n{table}\n\nwritten to {out / 'locality'}.json and .md")
        for state, one in nets.items() if sheet else ():
            file = out / f"locality_{state}.png"
            _draw(one, x[:1], names[-1], n_steps, batch_size, f"{report['model']['name']}, {state}", file)
            typer.echo(f"drawn: {file}")
    except (OSError, ValueError) as error:
        fail(str(error))


def random_like(net: Any, name: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """The same architecture as timm initialises it, but with every branch on.

    A ResNet's last normalisations start at zero, so that its residual branches, and with them most of its receptive
    field, would be off.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh: nn.Module = timm.create_model(name, **{**arguments, "num_classes": net.num_classes})
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    return fresh.eval().to(next(net.parameters()).device)


def _check_layers(names: Sequence[str], net: nn.Module) -> None:
    known = dict(net.named_modules())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"the model has no layer {unknown[0]!r}, expected names such as {', '.join(list(known)[1:6])}."
        )


def _draw(net: nn.Module, x: Tensor, layer: str, n_steps: int, batch_size: int, name: str, file: Path) -> None:
    maps = (
        FAME(net)
        .feature_locations(x, layer, n_steps=n_steps, internal_batch_size=batch_size, show_progress=False)[0]
        .cpu()
    )
    title = f"{name}\nFAME, {n_steps} steps, of every location of {layer}"
    location_sheet(to_picture(x[0], net), maps, title).savefig(file)


def location_sheet(image: np.ndarray[Any, Any], maps: Tensor, title: str) -> Figure:
    """All locations of a feature map in their places; in each panel the cell that CAM would assign is outlined.

    Args:
        image: 8-bit RGB picture `(H, W, 3)`.
        maps: one map per location, `(h, w, H', W')`, from `FAME.feature_locations`.
        title: above the sheet.

    Raises:
        ValueError: maps of another rank.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps of shape {tuple(maps.shape)}, expected (h, w, H, W).")
    h, w = maps.shape[:2]
    panel = min(1.5, 14 / max(h, w))  # inches
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    fig = Figure(figsize=(panel * w, panel * h + 0.6), dpi=110, layout=layout, facecolor="white")
    FigureCanvasAgg(fig)
    fig.suptitle(title, fontsize=12).set_parse_math(False)
    height, width = image.shape[:2]
    for (row, col), ax in np.ndenumerate(fig.subplots(h, w, squeeze=False)):
        ax.imshow(overlay(image, maps[row, col]), extent=(0, width, height, 0))
        corner = (col * width / w, row * height / h)
        ax.add_patch(Rectangle(corner, width / w, height / h, fill=False, edgecolor=_CELL, linewidth=1.4))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return fig


def _write(file: Path, report: Mapping[str, Any], title: str, text: Sequence[str]) -> None:
    """`file.json` with the report, and `file.md` with the title, what made it, and the paragraphs of `text`."""
    command, conditions = made_by(report)
    paragraphs = [f"# {title}", f"    {command}", conditions, *text]
    file.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


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


if __name__ == "__main__":
    typer.run(locality)
