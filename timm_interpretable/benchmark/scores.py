"""The metrics of the benchmark: what each is measured on, the numbers that it gives per image, and how to read them"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timm_interpretable.attr.catalogue import Context, Method
from timm_interpretable.benchmark.images import Batch
from timm_interpretable.metrics import (
    DECILES,
    PAPER_REMOVAL,
    QUARTER,
    TENTHS,
    Removal,
    box_iou,
    completeness,
    energy_in_box,
    insertion_deletion,
    logit_deletion,
    pointing_game,
    removal_curves,
    road,
    unit_range,
)
from timm_interpretable.metrics.fills import NamedFill
from timm_interpretable.metrics.localisation import THRESHOLDS
from timm_interpretable.models import has_encoding

__all__ = ["METRICS", "NUMBERS", "Metric", "Number", "Scored", "Scores", "Scoring", "pixels_of"]


@dataclass(frozen=True)
class Scoring:
    """How maps are scored.

    Args:
        fill: what a removed pixel becomes, see `metrics.fills`. None: 'absent' for a network that encodes its images,
            and 'black' for any other.
        paper: remove pixels in the 128 steps of the CoDA-Net paper, instead of 20 and 10.
        bf16: bfloat16 autocast where altered images are classified.
    """

    fill: NamedFill | None = None
    paper: bool = False
    bf16: bool = False

    @property
    def least_first(self) -> Sequence[float]:
        """Shares of the pixels that are gone, the least important first."""
        return PAPER_REMOVAL if self.paper else QUARTER

    @property
    def most_first(self) -> Sequence[float]:
        """The same for the most important first."""
        return PAPER_REMOVAL if self.paper else QUARTER[::2]

    def start(self, model: Any) -> NamedFill:
        """What insertion starts from."""
        return "absent" if has_encoding(model) else "blur"


def pixels_of(model: Any, scoring: Scoring) -> dict[str, str]:
    """By the names of `Number.pixels`, what removed pixels are to this model.

    Raises:
        ValueError: a fill that the model cannot have.
    """
    return dict(fill=Removal(model, scoring.fill).name, start=scoring.start(model))


class Number(NamedTuple):
    """How to read one number.

    label: its heading.
    metric: that it belongs to.
    pixels: 'fill' where it depends on what removed pixels become, 'start' where on what they are before they appear.
    """

    label: str
    more_is_better: bool
    metric: str
    pixels: str | None = None


class Scores(NamedTuple):
    """Numbers `(B,)` and curves `(B, points)` by name, and the fractions of the pixels at which curves have points."""

    numbers: dict[str, Tensor]
    curves: dict[str, Tensor] = {}  # noqa: RUF012  # never changed
    fractions: dict[str, Sequence[float]] = {}  # noqa: RUF012


@dataclass(frozen=True)
class Scored:
    """Signed maps `(B, H, W)` with the images that they explain and everything that a metric asks for."""

    maps: Tensor
    batch: Batch
    method: Method
    context: Context
    scoring: Scoring

    def part(self, kept: Sequence[int]) -> "Scored":
        """Some of the images."""
        return replace(self, maps=self.maps[list(kept)], batch=self.batch.part(kept))

    @property
    def seed(self) -> int:
        return self.context.settings.seed

    def classifying(self) -> torch.autocast:
        return torch.autocast(self.maps.device.type, torch.bfloat16, enabled=self.scoring.bf16)


@dataclass(frozen=True)
class Metric:
    """Numbers that are measured together.

    Args:
        images: the set that they are measured on: 'boxed', 'split' or 'grids'.
        score: None for grids, where a method is asked for maps of several classes of every image.
        slow: takes the images of costly methods only.
        applies: whether the maps of a method can be measured so.
    """

    images: str
    score: Callable[[Scored], Scores] | None
    slow: bool = False
    applies: Callable[[Method], bool] = lambda method: True

    def scores(self, given: Scored) -> Scores:
        assert self.score is not None
        return self.score(given)


def _boxes(given: Scored) -> Scores:
    """Energy and pointing of signed maps, and the overlap of their positive part, stretched to [0, 1]."""
    boxes = given.batch.boxes
    assert boxes is not None
    overlaps = box_iou(unit_range(given.maps), boxes)
    found = {_iou(threshold): overlaps[:, i] for i, threshold in enumerate(THRESHOLDS)}
    energy, pointing = energy_in_box(given.maps, boxes), pointing_game(given.maps, boxes).float()
    return Scores({"energy": energy, "pointing": pointing, **found})


def _removal(given: Scored) -> Scores:
    """Up to a quarter of the pixels go: the probability of the class, and whether it stays the prediction."""
    (images, labels, _), scoring = given.batch, given.scoring
    orders = {"removal_least": (False, scoring.least_first), "removal_most": (True, scoring.most_first)}
    curves: dict[str, Tensor] = {}
    fractions: dict[str, Sequence[float]] = {}
    for name, (most, points) in orders.items():
        with given.classifying():
            found = removal_curves(
                given.context.model, images, given.maps, labels, points, most, scoring.fill, seed=given.seed
            )
        curves |= {name: found.probability, f"{name}_accuracy": found.correct.float()}
        fractions |= {name: points, f"{name}_accuracy": points}
    return Scores({name: curve.mean(1) for name, curve in curves.items()}, curves, fractions)


def _insertion(given: Scored) -> Scores:
    """All pixels, in tenths, the most important first: they appear (RISE), or go (RISE, and the logit as in FAME)."""
    (images, labels, _), scoring, model = given.batch, given.scoring, given.context.model
    with given.classifying():
        found = insertion_deletion(
            model, images, given.maps, labels, 10, scoring.fill, scoring.start(model), seed=given.seed
        )
        lost = logit_deletion(model, images, given.maps, labels, TENTHS, scoring.fill, seed=given.seed)
    areas = {"insertion": found.insertion_area, "deletion": found.deletion_area, "logit_deletion": lost.mean(1)}
    curves = {"insertion": found.insertion, "deletion": found.deletion, "logit_deletion": lost}
    return Scores(areas, curves, dict.fromkeys(curves, TENTHS))


def _road(given: Scored) -> Scores:
    """ROAD in tenths, both orders: the mean probability of the class."""
    (images, labels, _), curves = given.batch, {}
    for name, most in (("road_least", False), ("road_most", True)):
        with given.classifying():
            curves[name] = road(given.context.model, images, given.maps, labels, DECILES, most, seed=given.seed)
    return Scores({name: curve.mean(1) for name, curve in curves.items()}, curves, dict.fromkeys(curves, DECILES))


def _completeness(given: Scored) -> Scores:
    """How much of what the maps claim to add up to is missing."""
    claim = given.method.sums_to
    assert claim is not None
    images, labels = given.batch[:2]
    with torch.no_grad():
        logits = given.context.model(images).float()
    return Scores({"completeness": completeness(given.maps, claim.score(given.context, images, logits, labels))})


def _iou(threshold: float) -> str:
    return f"iou_{threshold:g}".replace("0.", ".")


METRICS: dict[str, Metric] = {
    "boxes": Metric("boxed", _boxes),
    "removal": Metric("split", _removal),
    "insertion": Metric("split", _insertion, slow=True),
    "road": Metric("split", _road, slow=True),
    "completeness": Metric("split", _completeness, applies=lambda method: method.sums_to is not None),
    "grids": Metric("grids", None),
}

NUMBERS: dict[str, Number] = {
    "energy": Number("energy in box", True, "boxes"),
    "pointing": Number("pointing", True, "boxes"),
    **{_iou(t): Number(f"IoU at {t:g}".replace("0.", "."), True, "boxes") for t in THRESHOLDS},
    "grids": Number("grid localisation", True, "grids"),
    "removal_least": Number("least important removed", True, "removal", "fill"),
    "removal_least_accuracy": Number("its accuracy", True, "removal"),
    "removal_most": Number("most important removed", False, "removal", "fill"),
    "removal_most_accuracy": Number("its accuracy", False, "removal"),
    "insertion": Number("insertion", True, "insertion", "start"),
    "deletion": Number("deletion", False, "insertion", "fill"),
    "logit_deletion": Number("logit lost by deletion", True, "insertion", "fill"),
    "road_least": Number("ROAD, least important", True, "road"),
    "road_most": Number("ROAD, most important", False, "road"),
    "completeness": Number("missing from the sum", False, "completeness"),
}
