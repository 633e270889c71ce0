"""The folder of a benchmark: results.json, results.csv, results.md and the figures"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from timm_interpretable.benchmark.plots import localisation_figure, removal_figure, scatter_figure
from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.benchmark.summary import SPREAD
from timm_interpretable.benchmark.tables import cost_table, csv_text, failures, model_tables, short_table
from timm_interpretable.results import made_by

__all__ = ["made_with", "save_figure", "write_report"]

_SCATTER = ("energy", "grids", "removal_least")
_HOW_TO_READ = (
    "Means over the images with bootstrapped 95 % intervals. ↑: more is better, ↓: less is better. + and - stand where "
    "the difference to {reference} on the same images is for the better or for the worse, its 95 % interval without "
    "zero; with this many comparisons some stand there by chance. Costly methods, and the metrics insertion, deletion "
    "and ROAD, were measured on fewer images, which are among the others."
)


def write_report(folder: Path, results: Mapping[str, Any], reference: str) -> list[Path]:
    """Everything but the contact sheets; every file says what made it.

    Args:
        results: `summarised`, with `provenance`, `settings`, `models`, `chance`.

    Returns:
        the files.
    """
    made = made_with(results)
    files = [_written(folder / "results.json", json.dumps(results, indent=1))]
    files.append(_written(folder / "results.csv", csv_text(results, made)))
    figures = _figures(results, " ".join(made[1:]))
    files += [save_figure(fig, folder / f"{name}.png", made) for name, fig in figures.items()]
    files.append(_written(folder / "results.md", _markdown(results, reference, made, list(figures))))
    return files


def made_with(results: Mapping[str, Any]) -> list[str]:
    """Command; seed, hardware and versions; settings."""
    settings = ", ".join(f"{name} {value:.3g}" for name, value in results["settings"].items())
    return [*made_by(results["provenance"]), f"Settings: {settings}."]


def save_figure(fig: Figure, file: Path, made: Sequence[str]) -> Path:
    """As PNG with what made it in its metadata."""
    fig.savefig(file, metadata={"Software": "timm-interpretable", "Comment": "\n".join(made)})
    return file


def _figures(results: Mapping[str, Any], footer: str) -> dict[str, Figure]:
    figures: dict[str, Figure | None] = {}
    for number in SPREAD:
        if any(row["number"] == number for row in results["values"]):
            figures[f"localisation_{number}"] = localisation_figure(
                results, number, results["chance"].get(number), footer
            )
    for model in results["models"]:
        figures[f"removal_{model}"] = removal_figure(results, model, footer)
    for number in _SCATTER:
        figures[f"cost_{number}"] = scatter_figure(results, number, footer)
    return {name: fig for name, fig in figures.items() if fig is not None}


def _markdown(results: Mapping[str, Any], reference: str, made: Sequence[str], figures: Sequence[str]) -> str:
    parts = [f"# Benchmark: {', '.join(results['models'])}", f"    {made[0]}", *made[1:]]
    parts.append(_HOW_TO_READ.format(reference=reference))
    failed = failures(results)
    if failed:
        parts += ["**Failed**", "\n".join(f"- {line}" for line in failed)]
    if results["chance"]:
        levels = ", ".join(f"{NUMBERS[name].label} {value:.3f}" for name, value in results["chance"].items())
        parts.append(f"Chance: {levels}.")
    for model, about in results["models"].items():
        accuracy = f", accuracy {about['accuracy']:.1%} of the images of pixel removal" if about["accuracy"] else ""
        size = " x ".join(str(side) for side in about["input_size"][1:])
        parts += [f"## {model}", f"{size} pixels, {about['parameters'] / 1e6:.2f} M parameters{accuracy}."]
        parts += [short_table(results, model), "### With intervals", model_tables(results, model, reference)]
        cost = cost_table(results, model)
        parts += ["### Cost of the map of one image", cost] if cost else []
    parts += ["## Figures", *(f"![{name}]({name}.png)" for name in figures)] if figures else []
    return "\n\n".join(parts)


def _written(file: Path, text: str) -> Path:
    file.write_text(text + "\n", encoding="utf-8")
    return file
