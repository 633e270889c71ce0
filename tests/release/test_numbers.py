"""Every number about maps in the cards and in the README is that of `results.json`; nobody else's number is there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from timm_interpretable.models.weights import released

ROOT = Path(__file__).resolve().parents[2]
RESULTS = {
    file.parent.name: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((ROOT / "docs" / "results").glob("benchmark_*/results.json"))
}
LABELS = {
    "energy in box": "energy", "pointing": "pointing", "grid localisation": "grids",
    "least important removed": "removal_least", "most important removed": "removal_most",
    "ROAD, least important": "road_least", "ROAD, most important": "road_most",
}  # fmt: skip
CARDS = sorted((ROOT / "hub_cards").glob("*/README.md"))
CLASSIFIERS = [card for card in CARDS if not card.parent.name.startswith("face_")]

each_card = pytest.mark.parametrize("card", CLASSIFIERS, ids=lambda card: card.parent.name)


def results_of(model: str) -> dict[str, Any]:
    (found,) = (results for results in RESULTS.values() if model in results["models"])
    return found


def table(text: str) -> list[list[str]]:
    """The cells of the first Markdown table, without the line below its heading."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert lines, text[:200]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()]
    return [rows[0], *rows[2:]]


def check(text: str, model: str) -> None:
    """The first table of the text has all numbers of the model that it has columns for, and they are right."""
    results = results_of(model)
    (_, *columns, passes), *body = table(text)
    assert passes == "forward passes"
    keys = {about["title"]: key for key, about in results["methods"].items()}
    measured = {
        (row["method"], row["number"]): row for row in results["rows"]
        if row["model"] == model and row["number"] in LABELS.values()
    }  # fmt: skip
    cost = {row["method"]: row["forward_passes"] for row in results["cost"] if row["model"] == model}
    seen = set()
    for title, *cells, times in body:
        key = keys[title]
        assert times == (f"{cost[key]:.1f}" if key in cost else "-")
        for column, cell in zip(columns, cells, strict=True):
            label, most = re.fullmatch(r"(.+?)(?: \(.+\))? [↑↓], (\d+) (?:images|grids)", column).groups()
            row = measured.get((key, LABELS[label]))
            seen.add((key, LABELS[label]))
            if row is None or "error" in row:
                assert cell in ("-", "failed")
                continue
            number, count = re.fullmatch(r"\**(-?[\d.]+)\**(?: \((\d+)\))?", cell).groups()
            assert number == f"{row['mean']:.3f}", (model, title, column)
            assert int(count or most) == row["images"], (model, title, column)
    assert measured.keys() <= seen


@each_card
def test_the_table_of_a_card(card: Path) -> None:
    name, text = card.parent.name, card.read_text(encoding="utf-8")
    results = results_of(name)
    assert results["models"][name]["sha256"] == released()[name]
    section = text[text.index("\n## Benchmark\n") :]
    assert f"\n    {results['provenance']['command']}\n" in section
    check(section, name)
    for label, value in results["chance"].items():
        if label in LABELS.values():
            assert f"{value:.3f}" in section


@each_card
def test_the_model_index_of_a_card(card: Path) -> None:
    name = card.parent.name
    results = results_of(name)
    means = {
        (row["number"], results["methods"][row["method"]]["title"]): row["mean"]
        for row in results["rows"] if row["model"] == name and "mean" in row
    }  # fmt: skip
    accuracy, *entries = ModelCard.load(card).data.eval_results
    training = json.loads((card.parent / "training.json").read_text(encoding="utf-8"))["model"]
    assert accuracy.metric_value == pytest.approx(100 * training["evaluation"]["accuracy"], abs=5e-3)
    assert entries
    for entry in entries:
        title = next(title for _, title in means if entry.metric_name.endswith(f", {title}"))
        assert entry.metric_value == pytest.approx(means[entry.metric_type, title], abs=5e-5), entry.metric_name


def test_the_tables_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = text[text.index("<!-- benchmark -->") : text.index("<!-- /benchmark -->")]
    models = [model for results in RESULTS.values() for model in results["models"]]
    assert sorted(re.findall(r"^`([\w.]+)`$", inside, re.M)) == sorted(models)
    for model in models:
        check(inside[inside.index(f"\n`{model}`\n") :], model)


def test_the_face_card() -> None:
    folder = ROOT / "hub_cards" / "face_resnet10.orl"
    text = (folder / "README.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "docs" / "results" / f"faces_{folder.name}.json").read_text(encoding="utf-8"))
    assert report["sha256"] == released()[folder.name]
    section = text[text.index("\n## Maps\n") :]
    assert f"\n    {report['command']}\n" in section
    _, *rows = table(section)
    assert [row[0] for row in rows] == list(report["maps"])
    for name, *cells in rows:
        found = report["maps"][name]
        areas = [found[rule][kind] for rule in ("ties", "strict") for kind in ("deletion", "insertion")]
        assert [float(cell) for cell in cells[:4]] == pytest.approx(areas, abs=5e-3)
        changes = [
            found["change"][part][kind] for part in ("similar", "dissimilar") for kind in ("genuine", "impostor")
        ]
        assert [float(part) for cell in cells[4:6] for part in cell.split(", ")] == pytest.approx(changes, abs=5e-4)
        assert [int(part) for part in cells[6].split(", ")] == list(found["empty"]["similar"].values())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_no_other_measurer(card: Path) -> None:
    """Tables with the benchmark's columns are those of the benchmark, published ones, or variants of a model."""
    text = card.read_text(encoding="utf-8")
    assert not re.search(r"evaluate-faces|study (attribution|locality)|evaluate .*--(boxes|grids|removal)", text)
    for section in re.split(r"^(?=## )", text, flags=re.M):
        for heading in re.findall(r"^(\|.*\|)\n\|[-| ]+\|$", section, re.M):
            if not section.startswith(("## Benchmark", "## Design space")) and "published" not in heading:
                assert not [label for label in LABELS if label in heading], heading
    assert not list((ROOT / "docs" / "results").glob("attribution_*"))
