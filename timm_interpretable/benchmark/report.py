"""The folder of a benchmark: results.json, results.csv, results.md and the figures"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from timm_interpretable.benchmark.images import BenchmarkModel, Grids
from timm_interpretable.benchmark.plots import contact_sheet, localisation_figure, removal_figure, scatter_figure
from timm_interpretable.benchmark.runner import read_maps, read_unit
from timm_interpretable.benchmark.scores import Scoring, pixels_of
from timm_interpretable.benchmark.summary import SPREAD, accuracy_of, summarised
from timm_interpretable.benchmark.tables import (
    chance_levels,
    conditions,
    cost_table,
    csv_text,
    failures,
    model_tables,
    short_table,
)
from timm_interpretable.benchmark.units import Unit
from timm_interpretable.data.classes import class_names
from timm_interpretable.data.images import to_picture
from timm_interpretable.results import made_by

__all__ = ["made_with", "results_of", "write_report", "write_sheet"]

_SCATTER = ("energy", "grids", "removal_least")
_HOW_TO_READ = (
    "Means over the images with bootstrapped 95 % intervals. ↑: more is better, ↓: less is better. A + or - marks a "
    "difference to {reference} on the same images that is for the better or for the worse, where the 95 % interval of "
    "the difference excludes zero; with this many comparisons some are marked by chance. Methods of many passes, and "
    "the metrics insertion, deletion and ROAD, were measured on fewer images, which are among the others: a number in "
    "brackets says how many. The best number of those on the most images is bold. The true class is explained."
)


def results_of(
    units: Sequence[Unit], models: Mapping[str, BenchmarkModel], scoring: Scoring, folder: Path, reference: str,
    made: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything that is known of a run.

    Args:
        units: planned.
        models: by name.
        folder: of the units' files.
        reference: key of the method that the others are compared with.
        made: `provenance` and `settings`.
    """
    reports = [read_unit(folder, unit) for unit in units]
    found = summarised(units, reports, reference, made["provenance"]["seed"])
    results = dict(made) | dict(chance=_chance(models), models={}) | found
    for model in models.values():
        results["models"][model.name] = dict(
            sha256=model.sha256, input_size=list(model.input_size), accuracy=accuracy_of(results, model.name),
            parameters=sum(p.numel() for p in model.net.parameters()), **pixels_of(model.net, scoring),
        )  # fmt: skip
    return results


def write_report(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Everything but the contact sheets; every file says what made it.

    Args:
        results: of `results_of`; sentences in `notes`, where there are any, go to the top of results.md.

    Returns:
        the files.
    """
    made = made_with(results)
    files = [_written(folder / "results.json", json.dumps(results, indent=1))]
    files.append(_written(folder / "results.csv", csv_text(results, made)))
    figures = _figures(results, " ".join(made[1:]))
    files += [_saved(fig, folder / f"{name}.png", made) for name, fig in figures.items()]
    files.append(_written(folder / "results.md", _markdown(results, made, list(figures))))
    return files


def write_sheet(
    folder: Path, results: Mapping[str, Any], units: Sequence[Unit], model: BenchmarkModel, indices: Sequence[int]
) -> Path | None:
    """The contact sheet of a model: its maps of a few photographs by all methods; None where there are no photographs.

    Args:
        folder: of the report; the maps are in `units` below it.
        indices: of the photographs, among those whose maps were kept.
    """
    kind = next((name for name, images in model.sets.items() if not isinstance(images, Grids)), None)
    if kind is None:
        return None
    found: dict[str, dict[int, Any]] = {}
    for unit in units:
        if unit.model == model.name and unit.images == kind:
            found.setdefault(unit.method, {}).update(read_maps(folder / "units", unit))
    titles = {key: about["title"] for key, about in results["methods"].items()}
    maps = {titles[key]: [by[i] for i in indices] for key, by in found.items() if all(i in by for i in indices)}
    batch, names = model.sets[kind].load(indices), class_names(model.net)
    pictures = [to_picture(x, model.net) for x in batch.images]
    made = made_with(results)
    fig = contact_sheet(model.name, pictures, maps, [names[k] for k in batch.labels.tolist()], made[1])
    return _saved(fig, folder / f"maps_{model.name}.png", made)


def made_with(results: Mapping[str, Any]) -> list[str]:
    """Command; seed, hardware and versions; settings."""
    chosen = {name: value for name, value in results["settings"].items() if value is not None}  # None: see the tables
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in chosen.items())
    return [*made_by(results["provenance"]), f"Settings: {settings}."]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _chance(models: Mapping[str, BenchmarkModel]) -> dict[str, float]:
    """What a map that does not look at the image reaches."""
    sets = next(iter(models.values())).sets
    boxed, grids = sets.get("boxed"), sets.get("grids")
    found: dict[str, float] = {}
    if boxed is not None and not isinstance(boxed, Grids) and boxed.boxes is not None:
        found |= dict.fromkeys(("energy", "pointing"), boxed.boxes[list(boxed.chosen)].float().mean().item())
    return found | ({"grids": 1 / grids.side**2} if isinstance(grids, Grids) else {})


def _figures(results: Mapping[str, Any], footer: str) -> dict[str, Figure]:
    figures: dict[str, Figure | None] = {}
    for number in SPREAD:
        if any(row["number"] == number for row in results["values"]):
            figures[f"localisation_{number}"] = localisation_figure(results, number, footer)
    for model in results["models"]:
        figures[f"removal_{model}"] = removal_figure(results, model, footer)
    for number in _SCATTER:
        figures[f"cost_{number}"] = scatter_figure(results, number, footer)
    return {name: fig for name, fig in figures.items() if fig is not None}


def _markdown(results: Mapping[str, Any], made: Sequence[str], figures: Sequence[str]) -> str:
    parts = [f"# Benchmark: {', '.join(results['models'])}", f"    {made[0]}", *made[1:], *results.get("notes", [])]
    parts.append(_HOW_TO_READ.format(reference=results["methods"][results["reference"]]["title"]))
    failed = failures(results)
    if failed:
        parts += ["**Failed**", "\n".join(f"- {line}" for line in failed)]
    parts += [chance] if (chance := chance_levels(results)) else []
    for model, about in results["models"].items():
        accuracy = f" Accuracy on the images of pixel removal: {about['accuracy']:.1%}." if about["accuracy"] else ""
        below = conditions(results, model)
        parts += [f"## {model}", f"{about['parameters'] / 1e6:.2f} M parameters.{accuracy}"]
        parts += [short_table(results, model), below, "### With intervals", model_tables(results, model), below]
        cost = cost_table(results, model)
        parts += ["### Cost of the map of one image", cost] if cost else []
    parts += ["## Figures", *(f"![{name}]({name}.png)" for name in figures)] if figures else []
    return "\n\n".join(parts)


def _saved(fig: Figure, file: Path, made: Sequence[str]) -> Path:
    """As PNG with what made it in its metadata."""
    fig.savefig(file, metadata={"Software": "timm-interpretable", "Comment": "\n".join(made)})
    return file


def _written(file: Path, text: str) -> Path:
    file.write_text(text + "\n", encoding="utf-8")
    return file
