"""Numbers about maps, per image: what each metric of the benchmark is made of"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from timm_interpretable.benchmark.images import Batch
from timm_interpretable.metrics import (
    DECILES,
    box_iou,
    energy_in_box,
    insertion_deletion,
    pointing_game,
    removal_curves,
    road,
    unit_range,
)
from timm_interpretable.metrics.localisation import THRESHOLDS
from timm_interpretable.metrics.removal import QUARTER

__all__ = [
    "METRICS",
    "MOST",
    "NUMBERS",
    "Number",
    "Scores",
    "box_scores",
    "insertion_scores",
    "removal_scores",
    "road_scores",
]

MOST = QUARTER[::2]
"""Most important pixels first: the same quarter in ten steps."""


class Number(NamedTuple):
    """How to read one number: its heading, whether more of it is better, and which metric it belongs to."""

    label: str
    more_is_better: bool
    metric: str


NUMBERS: dict[str, Number] = {
    "energy": Number("energy in box", True, "boxes"),
    "pointing": Number("pointing", True, "boxes"),
    **{f"iou_{t:g}".replace("0.", "."): Number(f"IoU at {t:g}".replace("0.", "."), True, "boxes") for t in THRESHOLDS},
    "grids": Number("grid localisation", True, "grids"),
    "removal_least": Number("least important removed", True, "removal"),
    "removal_least_accuracy": Number("its accuracy", True, "removal"),
    "removal_most": Number("most important removed", False, "removal"),
    "removal_most_accuracy": Number("its accuracy", False, "removal"),
    "insertion": Number("insertion", True, "insertion"),
    "deletion": Number("deletion", False, "insertion"),
    "road_least": Number("ROAD, least important", True, "road"),
    "road_most": Number("ROAD, most important", False, "road"),
    "completeness": Number("missing from the sum", False, "completeness"),
}

METRICS: dict[str, str] = {
    "boxes": "boxed", "removal": "val", "insertion": "val", "road": "val", "completeness": "val", "grids": "grids",
}  # fmt: skip
"""The metrics, and the images they are measured on."""


class Scores(NamedTuple):
    """Numbers `(B,)` and curves `(B, points)`, by name."""

    numbers: dict[str, Tensor]
    curves: dict[str, Tensor]


def box_scores(maps: Tensor, boxes: Tensor) -> Scores:
    """Energy and pointing of signed maps `(B, H, W)`, overlap of their positive part stretched to [0, 1]."""
    overlaps = box_iou(unit_range(maps), boxes)
    names = [name for name in NUMBERS if name.startswith("iou")]
    found = {name: overlaps[:, i] for i, name in enumerate(names)}
    return Scores({"energy": energy_in_box(maps, boxes), "pointing": pointing_game(maps, boxes).float(), **found}, {})


def removal_scores(predict: Callable[[Tensor], Tensor], batch: Batch, maps: Tensor, black: Tensor, seed: int) -> Scores:
    """Pixel removal to a quarter of the image, pixels turning black: probability of the class, and whether it wins."""
    numbers: dict[str, Tensor] = {}
    curves: dict[str, Tensor] = {}
    for name, most, fractions in (("removal_least", False, QUARTER), ("removal_most", True, MOST)):
        found = removal_curves(predict, batch.images, maps, batch.labels, fractions, most, black, seed=seed)
        curves |= {name: found.probability, f"{name}_accuracy": found.correct.float()}
        numbers |= {name: found.probability.mean(1), f"{name}_accuracy": found.correct.float().mean(1)}
    return Scores(numbers, curves)


def insertion_scores(
    predict: Callable[[Tensor], Tensor], batch: Batch, maps: Tensor, black: Tensor, seed: int
) -> Scores:
    """RISE's protocol in tenths: pixels turn black, or appear on the blurred image, the most important first."""
    found = insertion_deletion(predict, batch.images, maps, batch.labels, n_steps=10, fill=black, seed=seed)
    return Scores(
        {"insertion": found.insertion_area, "deletion": found.deletion_area},
        {"insertion": found.insertion, "deletion": found.deletion},
    )


def road_scores(predict: Callable[[Tensor], Tensor], batch: Batch, maps: Tensor, seed: int) -> Scores:
    """ROAD in tenths, both orders: mean probability of the class."""
    curves = {
        name: road(predict, batch.images, maps, batch.labels, DECILES, most, seed=seed)
        for name, most in (("road_least", False), ("road_most", True))
    }
    return Scores({name: curve.mean(1) for name, curve in curves.items()}, curves)
