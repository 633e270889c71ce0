"""From the files of the units to the results of a benchmark: means with intervals, differences, curves, cost"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from timm_interpretable.attr.catalogue import method_named
from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.benchmark.statistics import curve_band, mean_interval, paired_difference
from timm_interpretable.benchmark.units import Unit

__all__ = ["SPREAD", "accuracy_of", "described_methods", "summarised"]

SPREAD = ("energy", "grids")
"""Numbers whose distribution over the images is shown."""

_Cell = tuple[str, str]  # model, key of the method
_PerImage = dict[int, Any]


class _Found:
    """What the units of one cell found, by name and by the index of the image."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.numbers: dict[str, _PerImage] = defaultdict(dict)
        self.curves: dict[str, _PerImage] = defaultdict(dict)
        self.fractions: dict[str, list[float]] = {}
        self.errors: dict[str, list[str]] = defaultdict(list)  # by metric
        self.costs: list[tuple[int, Mapping[str, Any]]] = []

    def add(self, unit: Unit, report: Mapping[str, Any]) -> None:
        self.wanted |= {name for name, number in NUMBERS.items() if number.metric in unit.metrics}
        if "error" in report:
            for metric in unit.metrics:
                self.errors[metric].append(report["error"])
            return
        for into, found in ((self.numbers, report["numbers"]), (self.curves, report["curves"])):
            for name, values in found.items():
                into[name] |= {int(index): value for index, value in values.items()}
        self.fractions |= report["fractions"]
        if "forward_cpu_seconds" in report["cost"]:
            self.costs.append((len(unit.indices), report["cost"]))

    def drop_incomplete(self) -> None:
        """A mean over the parts that did not fail would not be comparable."""
        for found in (self.numbers, self.curves):
            for name in [name for name in found if NUMBERS[name].metric in self.errors]:
                del found[name]


def summarised(
    units: Sequence[Unit], reports: Sequence[Mapping[str, Any]], reference: str, seed: int = 0
) -> dict[str, Any]:
    """The results of a benchmark. Methods go by their key.

    Args:
        units: planned.
        reports: theirs, from `read_unit`.
        reference: the method that the others are compared with, image by image.
        seed: of the bootstrap.

    Returns:
        methods: by key, see `described_methods`.
        reference: the argument.
        rows: per model, method and number of `NUMBERS` `mean`, `low`, `high` and `images`, or `error`.
        paired: the same of the differences to the reference, where both are there.
        curves: per model, method and curve the `fractions`, `low`, `mean` and `high`.
        values: per model and method the value of every image, in their order, of the numbers in `SPREAD`.
        cost: per model and method seconds of one image, relative to a forward pass, and memory.
    """
    cells: dict[_Cell, _Found] = defaultdict(_Found)
    for unit, report in zip(units, reports, strict=True):
        cells[unit.model, unit.method].add(unit, report)
    for found in cells.values():
        found.drop_incomplete()
    return dict(
        methods=described_methods([key for _, key in cells]),
        reference=reference,
        rows=[
            _row(cell, name, found, seed)
            for cell, found in cells.items() for name in NUMBERS if name in found.wanted
        ],
        paired=_paired(cells, reference, seed),
        curves=[_curve(cell, name, found, seed) for cell, found in cells.items() for name in found.curves],
        values=[
            dict(model=model, method=method, number=name, values=_rounded(found.numbers[name]))
            for (model, method), found in cells.items() for name in SPREAD if found.numbers.get(name)
        ],
        cost=[_cost(cell, found.costs) for cell, found in cells.items() if found.costs],
    )  # fmt: skip


def described_methods(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By key the `title` and `cost` in the catalogue, and `own`: whether a model's forward pass gives the maps."""
    rows = {key: method_named(key) for key in keys}
    return {
        key: dict(title=row.title, cost=row.cost.value, own=row.is_read) for key, row in rows.items()
    }  # fmt: skip


def accuracy_of(results: Mapping[str, Any], model: str) -> float | None:
    """Share of the images of pixel removal that the model gets right before a pixel is gone; None without them."""
    found = [row for row in results["curves"] if row["model"] == model and row["curve"] == "removal_least_accuracy"]
    return max(found, key=lambda row: row["images"])["mean"][0] if found else None


def _row(cell: _Cell, name: str, found: _Found, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = dict(model=cell[0], method=cell[1], number=name)
    failed = found.errors.get(NUMBERS[name].metric)
    if failed:
        return row | dict(error=f"{failed[0]} ({len(failed)} part(s) failed)")
    if not found.numbers.get(name):
        return row | dict(error="no image")
    return row | mean_interval(list(found.numbers[name].values()), seed)._asdict()


def _paired(cells: Mapping[_Cell, _Found], reference: str, seed: int) -> list[dict[str, Any]]:
    rows = []
    for (model, method), found in cells.items():
        if method == reference or (model, reference) not in cells:
            continue
        values, other = found.numbers, cells[model, reference].numbers
        for name in values.keys() & other.keys() - {"completeness"}:
            if values[name].keys() & other[name].keys():
                difference = paired_difference(values[name], other[name], seed)
                rows.append(dict(model=model, method=method, reference=reference, number=name, **difference._asdict()))
    return sorted(rows, key=lambda row: (row["model"], row["method"], list(NUMBERS).index(row["number"])))


def _curve(cell: _Cell, name: str, found: _Found, seed: int) -> dict[str, Any]:
    values = found.curves[name]
    low, mean, high = curve_band(torch.tensor([values[i] for i in sorted(values)]), seed).tolist()
    return dict(
        model=cell[0], method=cell[1], curve=name, images=len(values), fractions=found.fractions[name],
        low=low, mean=mean, high=high,
    )  # fmt: skip


def _cost(cell: _Cell, found: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    images = sum(count for count, _ in found)
    sums = {key: sum(cost[key] for _, cost in found) for key in ("seconds", "cpu_seconds", "forward_cpu_seconds")}
    peaks = [cost for _, cost in found if cost.get("peak_bytes") is not None]
    return dict(
        model=cell[0], method=cell[1], images=images,
        seconds=sums["seconds"] / images, cpu_seconds=sums["cpu_seconds"] / images,
        forward_passes=sums["cpu_seconds"] / sums["forward_cpu_seconds"],
        peak_mib=max(cost["peak_bytes"] for cost in peaks) / 2**20 if peaks else None,
        forward_peak_mib=max(cost["forward_peak_bytes"] for cost in peaks) / 2**20 if peaks else None,
    )  # fmt: skip


def _rounded(values: _PerImage) -> list[float]:
    return [round(values[index], 4) for index in sorted(values)]
