"""The smallest pieces of a benchmark: one method of one model on a few images, with every number about their maps

A unit depends on nothing but its own description, so that units may run in any order, in any process, and once.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from timm_interpretable import __version__
from timm_interpretable.benchmark.cost import measured, peak_bytes
from timm_interpretable.benchmark.images import Batch, BenchmarkModel, Grids, Photographs
from timm_interpretable.benchmark.methods import METHODS, Context, MethodSettings, probabilities
from timm_interpretable.benchmark.scores import (
    METRICS,
    Scores,
    box_scores,
    insertion_scores,
    removal_scores,
    road_scores,
)
from timm_interpretable.metrics import completeness, grid_localisation
from timm_interpretable.metrics.grid import tiled

__all__ = ["CHUNK", "COSTLY_CHUNK", "Unit", "compute", "planned_units"]

CHUNK, COSTLY_CHUNK = 20, 5
"""Images per unit."""

_GRID_CHUNK = 4
_REFERENCES = 16
_SLOW = ("insertion", "road")
"""Metrics of many passes, for the images that costly methods take."""


@dataclass(frozen=True)
class Unit:
    """images: name of the set; indices: which of it; metrics: those that are measured on it.

    fingerprint: of everything else that the numbers depend on.
    """

    model: str
    method: str
    images: str
    indices: tuple[int, ...]
    metrics: tuple[str, ...]
    fingerprint: str

    @property
    def file_name(self) -> str:
        key = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]
        words = f"{self.model} {self.method} {self.images} {self.indices[0]:05d}"
        return "_".join("".join(c if c.isalnum() or c in "-." else " " for c in words).split()) + f"_{key}"


def planned_units(
    model: BenchmarkModel, methods: Sequence[str], metrics: Sequence[str], settings: MethodSettings
) -> list[Unit]:
    """Every unit of a model, costly methods last."""
    units = []
    for name in sorted(methods, key=lambda name: METHODS[name].costly):
        costly = METHODS[name].costly
        for set_name, images in model.sets.items():
            wanted = tuple(m for m in metrics if METRICS[m] == set_name and _measurable(m, name))
            if not wanted:
                continue
            chosen = images.costly if costly else images.chosen
            cheap_size, costly_size = (_GRID_CHUNK, 1) if isinstance(images, Grids) else (CHUNK, COSTLY_CHUNK)
            size = costly_size if costly else cheap_size
            print_ = _fingerprint(model, images, settings)
            units += [
                Unit(model.name, name, set_name, tuple(chosen[i : i + size]), wanted, print_)
                for i in range(0, len(chosen), size)
            ]
    return units


def _measurable(metric: str, method: str) -> bool:
    return metric != "completeness" or METHODS[method].complete is not None


def _fingerprint(model: BenchmarkModel, images: Photographs | Grids, settings: MethodSettings) -> str:
    what: list[Any] = [model.sha256, model.input_size, asdict(settings), list(images.chosen), list(images.costly)]
    what += [len(images.data), getattr(images, "side", None), model.black.tolist(), model.white.tolist(), __version__]
    what += [_digest(images.data[i][0]) for i in (0, len(images.data) // 2, len(images.data) - 1)]  # other data
    boxes = getattr(images, "boxes", None)
    what += [_digest(boxes)] if boxes is not None else []
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def compute(unit: Unit, model: BenchmarkModel, settings: MethodSettings) -> tuple[dict[str, Any], Tensor | None]:
    """Every number of a unit, ready for JSON, and the maps `(B, H, W)` of photographs.

    Returns:
        `images` (their indices), per image `numbers` and `curves` by name, and `cost`: seconds of the maps and of one
        forward pass of the same images, with peak memory. Numbers of slow metrics have indices of their own.
    """
    images = model.sets[unit.images]
    batch = images.load(unit.indices)
    seed = settings.seed + 1000 * unit.indices[0]
    reference = partial(_reference, images)
    context = Context(model.net, model.black, model.white, reference, replace(settings, seed=seed))
    maps_of = METHODS[unit.method].build(context)
    if isinstance(images, Grids):
        shares, spent = measured(partial(grid_localisation, maps_of, *batch[:2], batch_size=1), images.device)
        numbers = {"grids": shares.mean(1)}
        return _report(unit, {"grids": (unit.indices, numbers, {})}, spent._asdict()), None
    call = partial(maps_of, batch.images, batch.labels[:, None])
    _, once = measured(partial(_forward, model.net, batch.images), images.device)
    maps, spent = measured(call, images.device)
    maps = maps[:, 0].float()
    parts = {metric: _scored(metric, unit, images, batch, maps, context) for metric in unit.metrics}
    cost: dict[str, Any] = {**spent._asdict(), "forward_seconds": once.seconds, "forward_cpu_seconds": once.cpu_seconds}
    if unit.indices[0] == images.costly[0]:  # one unit of every method
        one = batch.images[:1]
        cost["peak_bytes"] = peak_bytes(partial(maps_of, one, batch.labels[:1, None]), images.device)
        cost["forward_peak_bytes"] = peak_bytes(partial(_forward, model.net, one), images.device)
    return _report(unit, parts, cost), maps


def _scored(
    metric: str, unit: Unit, images: Photographs, batch: Batch, maps: Tensor, context: Context
) -> tuple[Sequence[int], dict[str, Tensor], dict[str, Tensor]]:
    """The images that it was measured on, numbers and curves."""
    indices: Sequence[int] = unit.indices
    if metric in _SLOW:
        costly = set(images.costly)
        kept = [i for i, index in enumerate(indices) if index in costly]
        indices = [indices[i] for i in kept]
        batch, maps = Batch(batch.images[kept], batch.labels[kept]), maps[kept]
        if not kept:
            return (), {}, {}
    predict, seed = probabilities(context.model, context.settings.bf16), context.settings.seed
    found: Scores
    if metric == "boxes":
        assert batch.boxes is not None
        found = box_scores(maps, batch.boxes)
    elif metric == "removal":
        found = removal_scores(predict, batch, maps, context.black, seed)
    elif metric == "insertion":
        found = insertion_scores(predict, batch, maps, context.black, seed)
    elif metric == "road":
        found = road_scores(predict, batch, maps, seed)
    else:
        claimed = METHODS[unit.method].complete
        assert claimed is not None
        found = Scores({"completeness": completeness(maps, claimed(context, batch.images, batch.labels))}, {})
    return indices, found.numbers, found.curves


def _report(unit: Unit, parts: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, dict[int, float]] = {}
    curves: dict[str, dict[int, list[float]]] = {}
    for indices, found, lines in parts.values():
        for name, values in found.items():
            numbers[name] = dict(zip(indices, values.double().tolist(), strict=True))
        for name, values in lines.items():
            curves[name] = dict(zip(indices, [[round(v, 5) for v in c] for c in values.tolist()], strict=True))
    return dict(unit=asdict(unit), numbers=numbers, curves=curves, cost=cost)


def _reference(images: Photographs | Grids) -> Tensor:
    """The same images for every unit of a set; of grids, its first ones."""
    chosen = images.chosen
    count = min(_REFERENCES, len(chosen))
    if isinstance(images, Grids):
        return tiled(images.load(chosen[: min(2, count)]).images)
    return images.load([chosen[i * len(chosen) // count] for i in range(count)]).images


def _forward(net: Any, images: Tensor) -> None:
    with torch.inference_mode():
        net(images)
