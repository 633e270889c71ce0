"""The smallest pieces of a benchmark: one method of one model on a few images, with every number about their maps

A unit depends on nothing but its own description, so that units may run in any order, in any process, and once.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from timm_interpretable import __version__
from timm_interpretable.attr.catalogue import Context, Cost, Method, MethodSettings, method_named
from timm_interpretable.benchmark.cost import measured, peak_bytes
from timm_interpretable.benchmark.images import Batch, BenchmarkModel, Grids, Photographs
from timm_interpretable.benchmark.progress import Progress
from timm_interpretable.benchmark.scores import METRICS, Scored, Scores, Scoring
from timm_interpretable.metrics import grid_localisation
from timm_interpretable.metrics.grid import tiled

__all__ = ["CHUNK", "COSTLY_CHUNK", "Unit", "compute", "planned_units"]

CHUNK, COSTLY_CHUNK = 20, 5
"""Images per unit."""

_GRID_CHUNK = 4
_REFERENCES = 16
_AT_ONCE = 4  # images between two signs of life, where maps are scored


@dataclass(frozen=True)
class Unit:
    """One method of one model on a few images.

    Args:
        method: key of the catalogue.
        images: name of the set.
        indices: which of the set.
        metrics: those that are measured.
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

    @property
    def steps(self) -> int:
        """For a bar: every image is explained once, and scored by every metric."""
        return len(self.indices) * (1 + len(self.metrics))

    def __str__(self) -> str:
        return f"{self.model}, {method_named(self.method).title}, {self.images}"


def planned_units(
    model: BenchmarkModel, methods: Sequence[str], metrics: Sequence[str], settings: MethodSettings, scoring: Scoring
) -> list[Unit]:
    """Every unit of a model, those of methods of many passes last.

    Args:
        methods: keys of the catalogue.
        metrics: names of `METRICS`.
    """
    units = []
    rows = [method_named(key) for key in methods]
    prints = {name: _fingerprint(model, images, settings, scoring) for name, images in model.sets.items()}
    for method in sorted(rows, key=_is_costly):
        for name, images in model.sets.items():
            wanted = tuple(m for m in metrics if METRICS[m].images == name and METRICS[m].applies(method))
            units += [
                Unit(model.name, method.key, name, indices, wanted, prints[name])
                for indices in _chunks(images, _is_costly(method))
                if wanted
            ]
    return units


def _is_costly(method: Method) -> bool:
    return method.cost is Cost.MANY_PASSES


def _chunks(images: Photographs | Grids, costly: bool) -> Iterator[tuple[int, ...]]:
    chosen = images.costly if costly else images.chosen
    cheap_size, costly_size = (_GRID_CHUNK, 1) if isinstance(images, Grids) else (CHUNK, COSTLY_CHUNK)
    size = costly_size if costly else cheap_size
    for start in range(0, len(chosen), size):
        yield tuple(chosen[start : start + size])


def _fingerprint(model: BenchmarkModel, images: Photographs | Grids, settings: MethodSettings, scoring: Scoring) -> str:
    context = Context.of(model.net)
    what: list[Any] = [model.sha256, model.input_size, asdict(settings), asdict(scoring), __version__]
    what += [list(images.chosen), list(images.costly), len(images.data), context.black.tolist(), context.white.tolist()]
    what += [_digest(images.data[i][0]) for i in (0, len(images.data) // 2, len(images.data) - 1)]  # other data
    if isinstance(images, Grids):
        what += [images.side, images.min_confidence]
    elif images.boxes is not None:
        what += [_digest(images.boxes)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def compute(
    unit: Unit, model: BenchmarkModel, settings: MethodSettings, scoring: Scoring, progress: Progress
) -> tuple[dict[str, Any], Tensor | None]:
    """Every number of a unit, ready for JSON, and the maps `(B, H, W)` of photographs.

    Returns:
        per image `numbers` and `curves` by name, the `fractions` of the curves, and `cost`: seconds of the maps and of
        one forward pass of the same images, with peak memory. Numbers of slow metrics are those of fewer images.
    """
    images, method = model.sets[unit.images], method_named(unit.method)
    settings = replace(settings, seed=settings.seed + 1000 * unit.indices[0])
    reference = partial(_reference, images)
    context = Context.of(model.net, settings, reference=reference, tick=progress.passes)
    if isinstance(images, Grids):
        return _on_grids(unit, images, method, context, progress), None
    return _on_photographs(unit, images, method, context, scoring, progress)


def _on_grids(unit: Unit, images: Grids, method: Method, context: Context, progress: Progress) -> dict[str, Any]:
    images.choose(progress.within)
    batch, maps_of = images.load(unit.indices), method.maps(context)
    numbers, costs = {}, []
    for i, index in enumerate(unit.indices):
        call = partial(grid_localisation, maps_of, batch.images[i : i + 1], batch.labels[i : i + 1])
        shares, spent = measured(call, images.device)
        numbers[index] = shares.mean().item()
        costs.append(spent)
        progress.advance(2)
    cost = dict(seconds=sum(one.seconds for one in costs), cpu_seconds=sum(one.cpu_seconds for one in costs))
    return dict(unit=asdict(unit), numbers={"grids": numbers}, curves={}, fractions={}, cost=cost)


def _on_photographs(
    unit: Unit, images: Photographs, method: Method, context: Context, scoring: Scoring, progress: Progress
) -> tuple[dict[str, Any], Tensor]:
    batch = images.load(unit.indices)
    # of one unit of every method, since measuring memory explains an image once more
    maps, cost = _explained(batch, method, context, images.device, unit.indices[0] == images.costly[0])
    progress.advance(len(maps))
    report: dict[str, Any] = dict(unit=asdict(unit), numbers={}, curves={}, fractions={}, cost=cost)
    given, costly = Scored(maps, batch, method, context, scoring), set(images.costly)
    for metric in unit.metrics:
        kept = [i for i, index in enumerate(unit.indices) if index in costly or not METRICS[metric].slow]
        for start in range(0, len(kept), _AT_ONCE):
            some = kept[start : start + _AT_ONCE]
            progress.within(f"{metric}, image {start + 1} of {len(kept)}")
            _add(report, [unit.indices[i] for i in some], METRICS[metric].scores(given.part(some)))
            progress.advance(len(some))
        progress.advance(len(maps) - len(kept))
    return report, maps


def _explained(
    batch: Batch, method: Method, context: Context, device: torch.device, memory: bool
) -> tuple[Tensor, dict[str, Any]]:
    """Maps `(B, H, W)` of the true classes, and what they cost beside a forward pass of the same images.

    memory: also the most memory that one image takes.
    """
    (images, labels, _), maps_of = batch, method.maps(context)
    _, once = measured(partial(_forward, context.model, images), device)
    maps, spent = measured(partial(maps_of, images, labels[:, None]), device)
    cost: dict[str, Any] = {**spent._asdict(), "forward_seconds": once.seconds, "forward_cpu_seconds": once.cpu_seconds}
    if memory:
        cost["peak_bytes"] = peak_bytes(partial(maps_of, images[:1], labels[:1, None]), device)
        cost["forward_peak_bytes"] = peak_bytes(partial(_forward, context.model, images[:1]), device)
    return maps[:, 0].float(), cost


def _add(report: dict[str, Any], indices: Sequence[int], scores: Scores) -> None:
    """What was found about a few images, by their indices."""
    for name, values in scores.numbers.items():
        report["numbers"].setdefault(name, {}).update(zip(indices, values.cpu().double().tolist(), strict=True))
    for name, lines in scores.curves.items():
        rounded = [[round(value, 5) for value in line] for line in lines.cpu().tolist()]
        report["curves"].setdefault(name, {}).update(zip(indices, rounded, strict=True))
        report["fractions"][name] = list(scores.fractions[name])


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
