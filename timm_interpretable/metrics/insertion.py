"""Insertion and deletion: how soon do the most important pixels alone make the prediction, or break it?

Source: `RISE: Randomized Input Sampling for Explanation of Black-box Models` (Petsiuk, Das, Saenko, BMVC 2018),
section 4.2 - https://arxiv.org/abs/1806.07421.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from timm_interpretable.metrics.maps import MapSource, maps_of
from timm_interpretable.metrics.removal import Fill, area, images_per_pass, removal_curves
from timm_interpretable.metrics.smoothing import blurred

__all__ = ["InsertionDeletion", "insertion_deletion"]


class InsertionDeletion(NamedTuple):
    """Probabilities of the class, fp32.

    insertion: with the most important pixels put into the start image, `(B, n_steps + 1)`, from none to all of them.
    deletion: with the most important pixels replaced, `(B, n_steps + 1)`, from none to all of them.
    fractions: of the pixels, 0 to 1, `(n_steps + 1,)`.
    """

    insertion: Tensor
    deletion: Tensor
    fractions: Tensor

    @property
    def insertion_area(self) -> Tensor:
        """Under the curve, `(B,)`; the higher, the better the map."""
        return area(self.insertion, self.fractions.tolist())

    @property
    def deletion_area(self) -> Tensor:
        """Under the curve, `(B,)`; the lower, the better the map."""
        return area(self.deletion, self.fractions.tolist())


def insertion_deletion(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    n_steps: int = 50,
    fill: Fill = 0.0,
    start: Fill | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> InsertionDeletion:
    """The probability of a class while the most important pixels come into a blurred image, and leave the whole one.

    Args:
        predict, images, maps, target, seed, batch_size: as in `removal_curves`.
        n_steps: of equally many pixels each; the paper takes as many as the image has rows. Costs two passes each.
        fill: what a deleted pixel shows; the paper's grey is that of standardised images, 0.
        start: what insertion starts from; None for `blurred(images)`, as in the paper.

    Raises:
        ValueError: fewer than one step; as `removal_curves`.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}, expected at least 1.")
    steps = [i / n_steps for i in range(n_steps + 1)]
    begin = blurred(images) if start is None else start
    if not isinstance(maps, Tensor):  # made once for both orders
        parts = zip(*(x.split(images_per_pass(images, batch_size)) for x in (images, target)), strict=True)
        maps = torch.cat([maps_of(maps, *part) for part in parts])
    deletion = removal_curves(predict, images, maps, target, steps, True, fill, seed, batch_size)
    # to show the most important share is to hide the least important rest
    insertion = removal_curves(predict, images, maps, target, steps[::-1], False, begin, seed, batch_size)
    return InsertionDeletion(insertion.probability, deletion.probability, torch.tensor(steps, dtype=torch.float64))
