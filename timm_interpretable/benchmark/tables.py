"""The results of a benchmark as text: Markdown tables, lines for a terminal, and CSV to compute with"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.results import markdown_table

__all__ = [
    "chance_levels",
    "conditions",
    "cost_table",
    "csv_text",
    "failures",
    "model_table",
    "model_tables",
    "number_label",
    "short_table",
    "terminal_table",
]

_FAILED = "failed"
_FEWEST = 20  # images from which on an interval is taken at its word
_VISIBLE = 0.0005  # what three digits show
_HEADING = 12  # characters of a heading on a line of the terminal
_SHORT = ("energy", "pointing", "grids", "removal_least", "removal_most", "road_least", "road_most")

Results = Mapping[str, Any]
Row = Mapping[str, Any]


# --- what a number is


def number_label(name: str, about: Row) -> str:
    """Its heading, with what pixels become where it depends on that.

    Args:
        name: one of `NUMBERS`.
        about: what the results say about the model.
    """
    number = NUMBERS[name]
    if number.pixels is None:
        return number.label
    return f"{number.label} ({'from ' if number.pixels == 'start' else ''}{about[number.pixels]})"


def conditions(results: Results, model: str) -> str:
    """What belongs under every table of a model: in which frame it was scored, and what a removed pixel is."""
    about = results["models"][model]
    pixels = {
        "absent": "absent: zero in every channel that the network sees",
        "black": "black",
        "mean": "of the mean colour of their image",
        "blur": "those of the blurred image",
    }
    return (
        f"All maps, boxes and removals are in the frame of the model's own input, {_frame(about)} pixels. Removed "
        f"pixels are {pixels[about['fill']]}."
    )


def chance_levels(results: Results) -> str:
    """What a map that does not look at the image reaches; empty where that is not known of any number."""
    levels = ", ".join(f"{NUMBERS[name].label} {value:.3f}" for name, value in results["chance"].items())
    return f"Chance: {levels}." if levels else ""


def failures(results: Results) -> list[str]:
    """One line for every cell that has no number."""
    return [
        f"{row['model']}, {_title(results, row['method'])}, {NUMBERS[row['number']].label}: {row['error']}"
        for row in results["rows"] if "error" in row
    ]  # fmt: skip


# --- tables


def model_tables(results: Results, model: str) -> str:
    """One table per metric of a model: means with intervals, and whether the difference to the reference is one."""
    parts = []
    for metric in dict.fromkeys(number.metric for number in NUMBERS.values()):
        names = [name for name, number in NUMBERS.items() if number.metric == metric]
        table = model_table(results, model, names)
        parts += [table] if table else []
    return "\n\n".join(parts)


def model_table(results: Results, model: str, names: Sequence[str], marked: bool = True) -> str:
    """Methods down, numbers across: `mean [low, high]`, with + or - where it is better or worse than the reference.

    Better or worse: the 95 % interval of the paired difference, of 20 images or more, excludes zero, and three digits
    show it. Empty for numbers that nobody measured.
    """
    rows = _rows_of(results, model)
    names = [name for name in names if any(number == name for _, number in rows)]
    if not names:
        return ""
    paired = {(r["method"], r["number"]): r for r in results["paired"] if r["model"] == model}
    body = []
    for method in dict.fromkeys(method for method, number in rows if number in names):
        found = [rows.get((method, name)) for name in names]
        marks = [_mark(paired.get((method, name)), name) if marked else "" for name in names]
        cells = [f"{_cell(row)}{mark}" for row, mark in zip(found, marks, strict=True)]
        body.append([_title(results, method), *cells, _images([row for row in found if row is not None])])
    about = results["models"][model]
    return markdown_table(["method", *(_heading(name, about) for name in names), "images"], body)


def short_table(results: Results, model: str, methods: Sequence[str] | None = None) -> str:
    """The means of the chief numbers and the cost, methods down, in Markdown.

    A heading says on how many images its column was measured; a number of fewer images has theirs in brackets. In bold
    the best of those with the most images.

    Args:
        methods: only these keys, as far as the model has them.
    """
    return markdown_table(*_short(results, model, methods, lambda text: f"**{text}**"))


def terminal_table(results: Results, model: str) -> str:
    """The short table in aligned columns, a star behind the best numbers."""
    names, body = _short(results, model, None, lambda text: f"{text}*")
    headings = [wrap(name, _HEADING) for name in names]
    height = max(map(len, headings))
    above = [[lines[i] if i < len(lines) else "" for lines in headings] for i in range(height)]
    lines = [*above, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def cost_table(results: Results, model: str) -> str:
    """Time and memory of one map: seconds, seconds of the CPU, forward passes that take as long, memory."""
    body = [
        [
            _title(results, row["method"]), f"{row['seconds']:.4f}", f"{row['cpu_seconds']:.4f}",
            f"{row['forward_passes']:.1f}", _mib(row),
        ]
        for row in results["cost"] if row["model"] == model
    ]  # fmt: skip
    columns = ["method", "seconds", "CPU seconds", "forward passes", "peak memory, MiB (forward pass)"]
    return markdown_table(columns, body) if body else ""


def csv_text(results: Results, made: Sequence[str]) -> str:
    """One line per model, method and number; above them lines that begin with #: what made them."""
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in made)
    columns = (
        "model", "method", "title", "number", "metric", "pixels", "more_is_better", "images", "mean", "low", "high",
        "error",
    )  # fmt: skip
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in results["rows"]:
        number = NUMBERS[row["number"]]
        pixels = results["models"][row["model"]][number.pixels] if number.pixels else ""
        about = dict(metric=number.metric, pixels=pixels, more_is_better=number.more_is_better)
        writer.writerow(row | about | dict(title=_title(results, row["method"])))
    for row in results["cost"]:
        for key in ("cpu_seconds", "forward_passes", "peak_mib"):
            value = dict(mean=row[key]) if row[key] is not None else dict(error="not measured")
            about = dict(number=key, metric="cost", more_is_better=False, title=_title(results, row["method"]))
            writer.writerow({k: row[k] for k in ("model", "method", "images")} | about | value)
    return text.getvalue()


# --- their parts


def _short(
    results: Results, model: str, methods: Sequence[str] | None, emphasised: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows."""
    rows, about = _rows_of(results, model), results["models"][model]
    cost = {row["method"]: row["forward_passes"] for row in results["cost"] if row["model"] == model}
    names = [name for name in _SHORT if any(number == name for _, number in rows)]
    shown = [key for key in dict.fromkeys(key for key, _ in rows) if methods is None or key in methods]
    columns = {name: [row for (_, number), row in rows.items() if number == name] for name in names}
    most = {name: max((row.get("images", 0) for row in columns[name]), default=0) for name in names}
    best = {name: _best(name, columns[name], most[name]) for name in names}
    body = []
    for key in shown:
        found = [(rows.get((key, name)), most[name], best[name]) for name in names]
        cells = [_short_cell(*one, emphasised) for one in found]
        body.append([_title(results, key), *cells, f"{cost[key]:.1f}" if key in cost else "-"])
    headings = [f"{_heading(name, about)}, {most[name]} {_things(name)}" for name in names]
    return ["method", *headings, "forward passes"], body


def _short_cell(row: Row | None, most: int, best: str, emphasised: Callable[[str], str]) -> str:
    text = _mean(row)
    if row is None or "error" in row:
        return text
    if row["images"] < most:
        return f"{text} ({row['images']})"
    return emphasised(text) if text == best else text


def _rows_of(results: Results, model: str) -> dict[tuple[str, str], Row]:
    return {(row["method"], row["number"]): row for row in results["rows"] if row["model"] == model}


def _title(results: Results, key: str) -> str:
    title: str = results["methods"][key]["title"]
    return title


def _frame(about: Row) -> str:
    return " x ".join(str(side) for side in about["input_size"][1:])


def _things(name: str) -> str:
    return "grids" if name == "grids" else "images"


def _heading(name: str, about: Row) -> str:
    return f"{number_label(name, about)} {'↑' if NUMBERS[name].more_is_better else '↓'}"


def _cell(row: Row | None) -> str:
    if row is None or "error" in row:
        return _mean(row)
    if 0 < abs(row["mean"]) < _VISIBLE:
        return f"{row['mean']:.0e}"
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _mean(row: Row | None) -> str:
    if row is None:
        return "-"
    return _FAILED if "error" in row else f"{row['mean']:.3f}"


def _mark(paired: Row | None, name: str) -> str:
    if paired is None or paired["images"] < _FEWEST or abs(paired["mean"]) < _VISIBLE:
        return ""
    if paired["low"] <= 0 <= paired["high"]:
        return ""
    return " +" if (paired["low"] > 0) == NUMBERS[name].more_is_better else " -"


def _images(rows: Sequence[Row]) -> str:
    """How many there were for the numbers of a method, the most first."""
    counts = sorted({row["images"] for row in rows if "images" in row}, reverse=True)
    return " / ".join(map(str, counts)) or "-"


def _best(name: str, rows: Sequence[Row], most: int) -> str:
    """As it is shown, so that numbers that look the same are treated the same."""
    found = [row for row in rows if "mean" in row and row["images"] == most]
    return _mean((max if NUMBERS[name].more_is_better else min)(found, key=lambda row: row["mean"], default=None))


def _mib(row: Row) -> str:
    if row["peak_mib"] is None:
        return "not measured"
    return f"{row['peak_mib']:.1f} ({row['forward_peak_mib']:.1f})"
