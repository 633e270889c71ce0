"""Where does a location of a feature map get its value from? CAM assumes: from the cell of the image behind it

Source: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017, which shows the maps; the numbers are this package's own.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from timm_interpretable.attr.fame import FAME
from timm_interpretable.attr.losses import FeatureLocationLoss, Layer, check_feature_map, feature_function

__all__ = ["centroid_distance", "depth_layers", "locality_report", "sampled_locations", "share_in_cell"]

Grid = tuple[int, int]

_BLOCKS = re.compile(r"layer\d+\.\d+|stages\.\d+\.(blocks|layers)\.\d+")


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
    maps = maps.detach().double()
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
    maps = maps.detach().double()
    total = maps.sum((1, 2))
    offsets = []
    for index, side, cells, other in ((rows, maps.shape[1], grid[0], 2), (cols, maps.shape[2], grid[1], 1)):
        centres = torch.arange(side, device=maps.device) + 0.5
        centroid = (maps.sum(other) * centres).sum(1) / total / side
        offsets.append(centroid - (index.to(maps.device) + 0.5) / cells)
    down, across = offsets
    in_cells = torch.hypot(down * grid[0], across * grid[1])
    return in_cells.float(), torch.hypot(down, across).float()


def _overlap(index: Tensor, side: int, cells: int) -> Tensor:
    """How much of every pixel of an axis is in a cell, `(N, side)` in [0, 1]."""
    pixels = torch.arange(side, device=index.device, dtype=torch.double)
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
        per layer `layer`, `grid`, `maps` (how many changed anything, and count), `unchanged` (how many did not: nothing
        there, no gradient), and as means `share`, `distance_cells` and `distance_image`, each with `chance_...` for a
        change spread evenly over the image.
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
            maps = FAME(model).attribute(x, loss=loss, n_steps=n_steps, blur=None, normalization="max")
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
