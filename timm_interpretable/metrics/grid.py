"""Grid localisation: is the evidence for a class where the image of that class is?

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Böhle, Fritz, Schiele, CVPR 2021),
section 4.2 - https://arxiv.org/abs/2104.00032.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from timm_interpretable.metrics.localisation import energy_in_box

__all__ = ["cell_masks", "confident_grids", "grid_localisation"]


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


def grid_localisation(
    attribute: Callable[[Tensor, Tensor], Tensor], images: Tensor, classes: Tensor, batch_size: int = 16
) -> Tensor:
    """Share of the positive attribution to each image's class that lies in its cell, `(G, side * side)` in [0, 1].

    Chance is `1 / side**2`. The attribution is added up over the channels before its positive part is taken.

    Args:
        attribute: `(B, C, H, W)` images and `(B,)` classes to attributions `(B, c, H, W)`, such as
            `lambda x, target: InputContribution(model).attribute(x, target)`.
        images: the images of every grid, `(G, side * side, C, h, w)`.
        classes: theirs, `(G, side * side)`.
        batch_size: grids per call of `attribute`.

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
        grids = some.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        per_cell = [
            energy_in_box(attribute(grids, theirs[:, cell]).sum(1), masks[cell].expand(len(grids), -1, -1))
            for cell in range(side * side)
        ]
        shares.append(torch.stack(per_cell, dim=1))
    return torch.cat(shares)
