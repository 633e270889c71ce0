"""From the files of the units to the results of a benchmark: means with intervals, differences, curves, cost"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from timm_interpretable.benchmark.scores import MOST, NUMBERS
from timm_interpretable.benchmark.statistics import curve_band, mean_interval, paired_difference
from timm_interpretable.benchmark.units import Unit
from timm_interpretable.metrics import DECILES
from timm_interpretable.metrics.removal import QUARTER, TENTHS

__all__ = ["SPREAD", "accuracy_of", "summarised"]

FRACTIONS = {
    "removal_least": QUARTER, "removal_most": MOST, "removal_least_accuracy": QUARTER, "removal_most_accuracy": MOST,
    "insertion": TENTHS, "deletion": TENTHS, "road_least": DECILES, "road_most": DECILES,
}  # fmt: skip
"""At which shares of the pixels each curve has its points."""

SPREAD = ("energy", "grids")
"""Numbers whose distribution over the images is shown."""

_Cell = tuple[str, str]  # model, method
_PerImage = dict[int, Any]


def summarised(
    units: Sequence[Unit], reports: Sequence[Mapping[str, Any]], reference: str, seed: int = 0
) -> dict[str, Any]:
    """The results of a benchmark.

    Args:
        units: planned.
        reports: theirs, from `read_unit`.
        reference: the method that the others are compared with, image by image.
        seed: of the bootstrap.

    Returns:
        rows: per model, method and number of `NUMBERS` `mean`, `low`, `high` and `images`, or `error`.
        paired: the same of the differences to the reference, where both are there.
        curves: per model, method and curve the `fractions`, `low`, `mean` and `high`.
        values: per model and method the value of every image, in their order, of the numbers in `SPREAD`.
        cost: per model and method seconds of one image, relative to a forward pass, and memory.
    """
    numbers: dict[_Cell, dict[str, _PerImage]] = defaultdict(lambda: defaultdict(dict))
    curves: dict[_Cell, dict[str, _PerImage]] = defaultdict(lambda: defaultdict(dict))
    errors: dict[_Cell, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    costs: dict[_Cell, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    wanted: dict[_Cell, set[str]] = defaultdict(set)
    for unit, report in zip(units, reports, strict=True):
        cell = (unit.model, unit.method)
        wanted[cell] |= {name for name, number in NUMBERS.items() if number.metric in unit.metrics}
        if "error" in report:
            for metric in unit.metrics:
                errors[cell][metric].append(report["error"])
            continue
        for into, found in ((numbers, report["numbers"]), (curves, report["curves"])):
            for name, values in found.items():
                into[cell][name] |= {int(index): value for index, value in values.items()}
        if "forward_cpu_seconds" in report["cost"]:
            costs[cell].append((len(unit.indices), report["cost"]))
    for cell, failed in errors.items():  # a mean over what is left would not be comparable
        for found in (numbers[cell], curves[cell]):
            for name in [name for name in found if NUMBERS[name].metric in failed]:
                del found[name]
    return dict(
        rows=[
            _row(cell, name, numbers[cell], errors[cell], seed)
            for cell, names in wanted.items() for name in NUMBERS if name in names
        ],
        paired=_paired(numbers, reference, seed),
        curves=[_curve(cell, name, values, seed) for cell, found in curves.items() for name, values in found.items()],
        values=[
            dict(model=model, method=method, number=name, values=_rounded(found[name]))
            for (model, method), found in numbers.items() for name in SPREAD if found.get(name)
        ],
        cost=[_cost(cell, found) for cell, found in costs.items()],
    )  # fmt: skip


def _row(
    cell: _Cell, name: str, numbers: Mapping[str, _PerImage], errors: Mapping[str, list[str]], seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = dict(model=cell[0], method=cell[1], number=name)
    failed = errors.get(NUMBERS[name].metric)
    if failed:
        return row | dict(error=f"{failed[0]} ({len(failed)} part(s) failed)")
    if not numbers.get(name):
        return row | dict(error="no image")
    return row | mean_interval(list(numbers[name].values()), seed)._asdict()


def _paired(numbers: Mapping[_Cell, Mapping[str, _PerImage]], reference: str, seed: int) -> list[dict[str, Any]]:
    found = []
    for (model, method), values in numbers.items():
        other = numbers.get((model, reference), {})
        if method == reference:
            continue
        for name in values.keys() & other.keys() - {"completeness"}:
            if values[name].keys() & other[name].keys():
                difference = paired_difference(values[name], other[name], seed)
                found.append(dict(model=model, method=method, reference=reference, number=name, **difference._asdict()))
    return sorted(found, key=lambda row: (row["model"], row["method"], list(NUMBERS).index(row["number"])))


def _curve(cell: _Cell, name: str, values: _PerImage, seed: int) -> dict[str, Any]:
    low, mean, high = curve_band(torch.tensor([values[i] for i in sorted(values)]), seed).tolist()
    return dict(
        model=cell[0], method=cell[1], curve=name, images=len(values), fractions=list(FRACTIONS[name]),
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


def accuracy_of(results: Mapping[str, Any], model: str) -> float | None:
    """Share of the images of pixel removal that the model gets right before a pixel is gone; None without them."""
    found = [row for row in results["curves"] if row["model"] == model and row["curve"] == "removal_least_accuracy"]
    return max(found, key=lambda row: row["images"])["mean"][0] if found else None


def _rounded(values: _PerImage) -> list[float]:
    return [round(values[index], 4) for index in sorted(values)]
