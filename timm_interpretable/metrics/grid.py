"""Grid localisation: is the evidence for a class where the image of that class is?

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Böhle, Fritz, Schiele, CVPR 2021),
section 4.2 - https://arxiv.org/abs/2104.00032.
"""

import torch
from torch import Tensor

from timm_interpretable.attr.maps import MapsOfClasses
from timm_interpretable.metrics.localisation import energy_in_box

__all__ = ["cell_masks", "confident_grids", "grid_localisation", "tiled"]


def confident_grids(
    labels: Tensor, probs: Tensor, side: int = 3, count: int = 500, seed: int = 0, min_confidence: float = 0.0
) -> Tensor:
    """Which image goes where in the grids, `(count, side * side)`, int64: indices of images.

    Every grid takes classes at random, each at most once. Of each class it takes the image that the model is most
    confident of among those that are correctly classified and not used yet.

    The paper takes 500 grids of 3 x 3 and images with a confidence of at least one half, the sigmoid of the logit of a
    CoDA-Net: `confident_grids(labels, class_probabilities(model, logits), min_confidence=0.5)`.

    Args:
        labels: true classes `(N,)`.
        probs: the model's probabilities `(N, K)`.
        side: images per row and column.
        count: number of grids.
        seed: of the choice of classes.
        min_confidence: the probability of its class that an image must reach.

    Raises:
        ValueError: shapes that do not match, probabilities that are not finite, or too few images or classes for so
            many grids.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} and probs {tuple(probs.shape)}, expected (N,) and (N, K).")
    labels, probs = labels.cpu(), probs.detach().float().cpu()
    if not probs.isfinite().all():
        raise ValueError("probs has entries that are not finite.")
    confidence, predicted = probs.max(1)
    by_class = []
    for k in range(probs.shape[1]):
        candidates = ((labels == k) & (predicted == k) & (confidence >= min_confidence)).nonzero()[:, 0]
        by_class.append(candidates[confidence[candidates].argsort(descending=True, stable=True)].tolist())
    cells, random = side * side, torch.Generator().manual_seed(seed)
    grids: list[list[int]] = []
    used = [0] * len(by_class)
    for _ in range(count):
        left = [k for k in range(len(by_class)) if used[k] < len(by_class[k])]
        if len(left) < cells:
            sure = f" of confidence {min_confidence:g} or more" if min_confidence > 0 else ""
            raise ValueError(
                f"{len(grids)} grids of {side}x{side} are all that {sum(map(len, by_class))} correctly classified "
                f"images{sure} of {sum(map(bool, by_class))} classes give, expected {count}."
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
    """The images of every grid in their cells, in reading order: `(G, n * n, C, h, w)` to `(G, C, n * h, n * w)`."""
    side = round(images.shape[1] ** 0.5)
    return images.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def grid_localisation(maps: MapsOfClasses, images: Tensor, classes: Tensor, batch_size: int = 16) -> Tensor:
    """The share of the positive attribution to each image's class that lies in its cell, `(G, n * n)` in [0, 1].

    Chance is `1 / n**2`. As in the paper, the channels of the raw attributions are added up and negative values count
    as zero; nothing is smoothed.

    Args:
        maps: gives the maps `(G, n * n, n * h, n * w)` of grids `(G, C, n * h, n * w)` and their classes `(G, n * n)`.
            Use `maps_by_class(attribution)` for an attribution of one class at a time, such as
            `lambda x, target: InputContribution(model).attribute(x, target)`.
        images: the images of every grid, `(G, n * n, C, h, w)`; they need not be square.
        classes: their classes, `(G, n * n)`.
        batch_size: grids per call of `maps`.

    Raises:
        ValueError: the number of images in a grid is not a square, `classes` or the maps have another shape, or a batch
            size below 1.
    """
    side = round(images.shape[1] ** 0.5) if images.ndim == 5 else 0
    if side < 1 or side**2 != images.shape[1] or classes.shape != images.shape[:2]:
        raise ValueError(
            f"images {tuple(images.shape)} and classes {tuple(classes.shape)}, expected (G, n * n, C, h, w) "
            "and (G, n * n)."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected at least 1.")
    masks = cell_masks(side, images.shape[3], images.shape[4], images.device)
    shares = []
    for some, theirs in zip(images.split(batch_size), classes.split(batch_size), strict=True):
        # attributions may need gradients, which tensors of inference mode do not take
        with torch.inference_mode(False), torch.enable_grad():
            found = maps(tiled(some).clone(), theirs.clone())
        inside = masks.expand(len(some), *masks.shape)
        if found.shape != inside.shape:
            raise ValueError(f"maps of grids are {tuple(found.shape)}, expected {tuple(inside.shape)}.")
        shares.append(energy_in_box(found.flatten(0, 1), inside.flatten(0, 1)).view(theirs.shape))
    return torch.cat(shares)
