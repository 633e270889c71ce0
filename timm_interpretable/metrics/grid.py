"""Grid localisation: is the evidence for a class where the image of that class is?

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Böhle, Fritz, Schiele, CVPR 2021),
section 4.2 - https://arxiv.org/abs/2104.00032.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from timm_interpretable.metrics.localisation import energy_in_box

__all__ = ["MapsOfClasses", "cell_masks", "confident_grids", "grid_localisation", "maps_by_class"]

MapsOfClasses = Callable[[Tensor, Tensor], Tensor]
"""Images `(B, C, H, W)` and n classes for each, `(B, n)`, to signed maps `(B, n, H, W)`."""


def maps_by_class(attribute: Callable[[Tensor, Tensor], Tensor]) -> MapsOfClasses:
    """Of an attribution `(images, target) -> (B, c, H, W)`, such as Captum's: one call per class, channels added up."""

    def maps(images: Tensor, classes: Tensor) -> Tensor:
        return torch.stack([attribute(images, column).sum(1) for column in classes.unbind(1)], dim=1)

    return maps


def confident_grids(labels: Tensor, probs: Tensor, side: int = 3, count: int = 500, seed: int = 0) -> Tensor:
    """Which image goes where, `(count, side * side)`: indices of correctly classified ones, the most confident first.

    Every grid takes classes at random, each at most once, and of each the most confident image not used yet.

    Args:
        labels: true classes `(N,)`.
        probs: the model's probabilities `(N, K)`.
        side: images per row and column.
        count: number of grids.

    Raises:
        ValueError: fewer classes than cells, or too few correctly classified images.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} and probs {tuple(probs.shape)}, expected (N,) and (N, K).")
    labels, probs = labels.cpu(), probs.detach().float().cpu()
    confidence, predicted = probs.max(1)
    by_class = []
    for k in range(probs.shape[1]):
        candidates = ((labels == k) & (predicted == k)).nonzero()[:, 0]
        by_class.append(candidates[confidence[candidates].argsort(descending=True, stable=True)].tolist())
    cells, random = side * side, torch.Generator().manual_seed(seed)
    grids: list[list[int]] = []
    used = [0] * len(by_class)
    for _ in range(count):
        left = [k for k in range(len(by_class)) if used[k] < len(by_class[k])]
        if len(left) < cells:
            raise ValueError(
                f"{len(grids)} grids of {side}x{side} are all that {sum(map(len, by_class))} correctly classified "
                f"images of {sum(map(bool, by_class))} classes give, expected {count}."
            )
        chosen = [left[i] for i in torch.randperm(len(left), generator=random)[:cells].tolist()]
        grids.append([by_class[k][used[k]] for k in chosen])
        for k in chosen:
            used[k] += 1
    return torch.tensor(grids)


def cell_masks(side: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Bool `(side * side, side * height, side * width)`: the pixels of each cell of a grid, in reading order."""
    rows = torch.arange(side * height, device=device) // height
    columns = torch.arange(side * width, device=device) // width
    cell = rows[:, None] * side + columns
    return torch.arange(side * side, device=device)[:, None, None] == cell


def tiled(images: Tensor) -> Tensor:
    """The images of every grid in their places, `(G, side * side, C, h, w)` to `(G, C, side * h, side * w)`."""
    side = round(images.shape[1] ** 0.5)
    return images.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def grid_localisation(maps: MapsOfClasses, images: Tensor, classes: Tensor, batch_size: int = 16) -> Tensor:
    """Share of the positive attribution to each image's class that lies in its cell, `(G, side * side)` in [0, 1].

    Chance is `1 / side**2`.

    Args:
        maps: what makes the maps; `maps_by_class(attribution)` for an attribution of one class at a time, such as
            `lambda x, target: InputContribution(model).attribute(x, target)`.
        images: the images of every grid, `(G, side * side, C, h, w)`.
        classes: theirs, `(G, side * side)`.
        batch_size: grids per call of `maps`.

    Raises:
        ValueError: the number of images is not a square, or `classes` has another shape.
    """
    side = round(images.shape[1] ** 0.5) if images.ndim == 5 else 0
    if side < 1 or side**2 != images.shape[1] or classes.shape != images.shape[:2]:
        raise ValueError(
            f"images {tuple(images.shape)} and classes {tuple(classes.shape)}, expected (G, n * n, C, h, w) "
            "and (G, n * n)."
        )
    masks = cell_masks(side, images.shape[3], images.shape[4], images.device)
    shares = []
    for some, theirs in zip(images.split(batch_size), classes.split(batch_size), strict=True):
        grids = tiled(some)
        inside = masks.expand(len(grids), *masks.shape)
        found = maps(grids, theirs)
        shares.append(energy_in_box(found.flatten(0, 1), inside.flatten(0, 1)).view(theirs.shape))
    return torch.cat(shares)
