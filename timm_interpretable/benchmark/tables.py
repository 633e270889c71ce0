"""The results of a benchmark as text: Markdown tables, and CSV to compute with"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.results import markdown_table

__all__ = ["cost_table", "csv_text", "failures", "model_table", "model_tables", "short_table"]

_FAILED = "failed"
_FEWEST = 20  # images from which on an interval is taken at its word
_VISIBLE = 0.0005  # what three digits show
_SHORT = ("energy", "pointing", "grids", "removal_least", "removal_most", "road_least", "road_most")


def model_tables(results: Mapping[str, Any], model: str, reference: str) -> str:
    """One table per metric of a model: means with intervals, and whether the difference to the reference is one."""
    parts = []
    for metric in dict.fromkeys(number.metric for number in NUMBERS.values()):
        names = [name for name, number in NUMBERS.items() if number.metric == metric]
        table = model_table(results, model, names, reference)
        parts += [table] if table else []
    return "\n\n".join(parts)


def model_table(results: Mapping[str, Any], model: str, names: Sequence[str], reference: str | None = None) -> str:
    """Methods down, numbers across: `mean [low, high]`, with + or - where it is better or worse than the reference.

    Better or worse: the 95 % interval of the paired difference, of 20 images or more, excludes zero, and three digits
    show it. Empty for numbers that nobody measured.
    """
    rows = {(row["method"], row["number"]): row for row in results["rows"] if row["model"] == model}
    names = [name for name in names if any(number == name for _, number in rows)]
    if not names:
        return ""
    paired = {(r["method"], r["number"]): r for r in results["paired"] if r["model"] == model}
    methods = dict.fromkeys(method for method, number in rows if number in names)
    body = []
    for method in methods:
        found = [rows.get((method, name)) for name in names]
        marks = [_mark(paired.get((method, name)), name) if reference else "" for name in names]
        cells = [f"{_cell(row)}{mark}" for row, mark in zip(found, marks, strict=True)]
        body.append([method, *cells, _images([row for row in found if row is not None])])
    return markdown_table(["method", *(_heading(name) for name in names), "images"], body)


def short_table(results: Mapping[str, Any], model: str, methods: Sequence[str] | None = None) -> str:
    """The means of the chief numbers and the cost, methods down; in bold the best of those with the most images.

    methods: only these, as far as the model has them.
    """
    rows = {(row["method"], row["number"]): row for row in results["rows"] if row["model"] == model}
    cost = {row["method"]: row["forward_passes"] for row in results["cost"] if row["model"] == model}
    names = [name for name in _SHORT if any(number == name for _, number in rows)]
    shown = [name for name in dict.fromkeys(name for name, _ in rows) if methods is None or name in methods]
    best = {name: _best(name, [row for (_, number), row in rows.items() if number == name]) for name in names}
    body = []
    for method in shown:
        cells = []
        for name in names:
            row = rows.get((method, name))
            text = _mean(row)
            cells.append(f"**{text}**" if row is not None and row.get("mean") == best[name] else text)
        passes = f"{cost[method]:.1f}" if method in cost else "-"
        body.append([method, *cells, passes, _images([row for (m, _), row in rows.items() if m == method])])
    return markdown_table(["method", *(_heading(name) for name in names), "forward passes", "images"], body)


def cost_table(results: Mapping[str, Any], model: str) -> str:
    """Time and memory of one map: seconds, seconds of the CPU, forward passes that take as long, memory."""
    found = [row for row in results["cost"] if row["model"] == model]
    body = [
        [row["method"], f"{row['seconds']:.4f}", f"{row['cpu_seconds']:.4f}", f"{row['forward_passes']:.1f}", _mib(row)]
        for row in found
    ]
    return (
        markdown_table(["method", "seconds", "CPU seconds", "forward passes", "peak memory, MiB (forward pass)"], body)
        if found
        else ""
    )


def failures(results: Mapping[str, Any]) -> list[str]:
    """One line for every cell that has no number."""
    return [
        f"{row['model']}, {row['method']}, {NUMBERS[row['number']].label}: {row['error']}"
        for row in results["rows"] if "error" in row
    ]  # fmt: skip


def csv_text(results: Mapping[str, Any], made: Sequence[str]) -> str:
    """One line per model, method and number; above them lines that begin with #: what made them."""
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in made)
    columns = ("model", "method", "number", "metric", "more_is_better", "images", "mean", "low", "high", "error")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in results["rows"]:
        number = NUMBERS[row["number"]]
        writer.writerow(row | dict(metric=number.metric, more_is_better=number.more_is_better))
    for row in results["cost"]:
        for key in ("cpu_seconds", "forward_passes", "peak_mib"):
            value = dict(mean=row[key]) if row[key] is not None else dict(error="not measured")
            writer.writerow(
                {k: row[k] for k in ("model", "method", "images")}
                | dict(number=key, metric="cost", more_is_better=False) | value
            )  # fmt: skip
    return text.getvalue()


def _heading(name: str) -> str:
    number = NUMBERS[name]
    return f"{number.label} {'↑' if number.more_is_better else '↓'}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or "error" in row:
        return _mean(row)
    if 0 < abs(row["mean"]) < _VISIBLE:
        return f"{row['mean']:.0e}"
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _mean(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return _FAILED if "error" in row else f"{row['mean']:.3f}"


def _mark(paired: Mapping[str, Any] | None, name: str) -> str:
    if paired is None or paired["images"] < _FEWEST or abs(paired["mean"]) < _VISIBLE:
        return ""
    if paired["low"] <= 0 <= paired["high"]:
        return ""
    return " +" if (paired["low"] > 0) == NUMBERS[name].more_is_better else " -"


def _images(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many there were for the numbers of a method, the most first."""
    counts = sorted({row["images"] for row in rows if "images" in row}, reverse=True)
    return " / ".join(map(str, counts)) or "-"


def _best(name: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    found = [row for row in rows if "mean" in row]
    most = max((row["images"] for row in found), default=0)
    means = [row["mean"] for row in found if row["images"] == most]
    return (max if NUMBERS[name].more_is_better else min)(means, default=None)


def _mib(row: Mapping[str, Any]) -> str:
    if row["peak_mib"] is None:
        return "not measured"
    return f"{row['peak_mib']:.1f} ({row['forward_peak_mib']:.1f})"
