"""Every number in the cards, the README and the page of results is that of `results.json` or `training.json`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from timm_interpretable.models.weights import released
from tools.release.benchmarks import write_results_page

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


PAGE = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_the_page_of_results(tmp_path: Path) -> None:
    inside = PAGE[PAGE.index("<!-- benchmark -->") : PAGE.index("<!-- /benchmark -->")]
    models = [model for results in RESULTS.values() for model in results["models"]]
    assert sorted(re.findall(r"^`([\w.]+)`$", inside, re.M)) == sorted(models)
    for model in models:
        check(inside[inside.index(f"\n`{model}`\n") :], model)
    copy = tmp_path / "README.md"
    copy.write_text(PAGE, encoding="utf-8")
    write_results_page(copy)
    assert copy.read_text(encoding="utf-8") == PAGE  # nobody has edited what is generated
    copy.write_text("No marks.", encoding="utf-8")
    with pytest.raises(ValueError, match="has no marks"):
        write_results_page(copy)


FACNN, CODA, RESNET = "facnn_resnet18.imagenette", "coda_net_m.imagenette", "baseline_resnet18.imagenette"
HYBRID, BCOS = "facnn_hybrid_efficientnet_lite0.in1k", "bcos_resnet18_050.imagenette"
FACNN_CIFAR, CODA_CIFAR, RESNET_CIFAR = "facnn_resnet18.cifar10", "coda_net_s.cifar10", "baseline_resnet18.cifar10"
MAP, OWN, SMOOTHED, CAM, HIRES = "class_map", "contributions", "contributions_smoothed", "grad_cam", "hires_cam"
PRODUCT = "input_x_gradient"


def mean(model: str, method: str, number: str) -> str:
    (row,) = (
        row for row in results_of(model)["rows"]
        if (row["model"], row["method"], row["number"]) == (model, method, number)
    )  # fmt: skip
    return f"{row['mean']:.3f}"


def paired(model: str, method: str, number: str) -> dict[str, Any]:
    """The difference to Grad-CAM on the same images."""
    results = results_of(model)
    assert results["reference"] == CAM
    (row,) = (
        row for row in results["paired"]
        if (row["model"], row["method"], row["number"]) == (model, method, number)
    )  # fmt: skip
    return row


def locality(name: str, weights: str, layer: str, key: str) -> str:
    report = json.loads((ROOT / "docs" / "results" / f"locality_{name}.json").read_text(encoding="utf-8"))
    (row,) = (row for row in report[weights] if row["layer"] == layer)
    assert row["maps"] == 16
    return f"{row[key]:.3f}"


def numbers(text: str, begin: str, end: str) -> list[str]:
    """Numbers with a decimal point, from one heading to another, without links."""
    section = text[text.index(f"\n## {begin}\n") : text.index(f"\n## {end}\n")]
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)", re.sub(r"\]\([^)]*\)", "]", section))


WIN = [
    mean(FACNN, MAP, "energy"), mean(FACNN, MAP, "pointing"),
    mean(RESNET, CAM, "energy"), mean(RESNET, CAM, "pointing"),
    mean(HYBRID, MAP, "energy"), mean(HYBRID, MAP, "pointing"),
    mean(HYBRID, PRODUCT, "energy"), mean(HYBRID, PRODUCT, "pointing"),
    mean(BCOS, OWN, "energy"), mean(CODA, OWN, "energy"), mean(BCOS, CAM, "energy"), mean(CODA, CAM, "energy"),
    mean(BCOS, OWN, "removal_most"), mean(BCOS, CAM, "removal_most"),
    mean(CODA, OWN, "removal_most"), mean(CODA, CAM, "removal_most"), mean(CODA, "random", "removal_most"),
    mean(FACNN_CIFAR, MAP, "grids"), mean(CODA_CIFAR, OWN, "grids"),
    mean(CODA_CIFAR, CAM, "grids"), mean(RESNET_CIFAR, CAM, "grids"), mean(FACNN_CIFAR, "random", "grids"),
]  # fmt: skip
TIE = [
    mean(FACNN, MAP, "energy"), mean(FACNN, MAP, "pointing"), mean(FACNN, CAM, "energy"),
    mean(HYBRID, CAM, "energy"),
    mean(BCOS, OWN, "pointing"), mean(BCOS, CAM, "pointing"), mean(CODA, CAM, "pointing"),
    mean(CODA, OWN, "removal_least"), mean(CODA, CAM, "removal_least"),
    mean(BCOS, OWN, "removal_least"), mean(BCOS, CAM, "removal_least"),
]  # fmt: skip
LOSE = [
    mean(BCOS, OWN, "iou_.5"), mean(CODA, OWN, "iou_.5"), mean(BCOS, CAM, "iou_.5"), mean(CODA, CAM, "iou_.5"),
    mean(CODA, PRODUCT, "removal_most"), mean(CODA_CIFAR, PRODUCT, "removal_most"), mean(BCOS, PRODUCT, "removal_most"),
    mean(CODA, OWN, "removal_most"), mean(CODA_CIFAR, OWN, "removal_most"), mean(BCOS, OWN, "removal_most"),
    mean(FACNN, MAP, "removal_most"), mean(FACNN, "random", "removal_most"),
]  # fmt: skip
LOCALITY = [
    locality(FACNN, "trained", "stages.3.blocks.1", "share"),
    locality(FACNN, "trained", "stages.3.blocks.1", "chance_share"),
    locality(FACNN, "trained", "stages.3.blocks.1", "distance_cells"),
    locality(FACNN, "random", "stages.3.blocks.1", "share"),
    locality(RESNET, "random", "layer3.1", "share"), locality(RESNET, "trained", "layer3.1", "share"),
    locality(FACNN, "trained", "stages.2.blocks.1", "share"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        ("Where a model's own maps win", "Where they tie", WIN),
        ("Where they tie", "Where they lose", TIE),
        ("Where they lose", "What a cell of the class map depends on", LOSE),
        ("What a cell of the class map depends on", "Tables", LOCALITY),
    ],
)
def test_the_prose_of_the_page_of_results(begin: str, end: str, expected: list[str]) -> None:
    assert numbers(PAGE, begin, end) == expected


def test_the_findings_of_the_readme() -> None:
    assert numbers(README, "Findings", "Sources and licence") == [
        mean(FACNN, MAP, "energy"), mean(RESNET, CAM, "energy"), mean(HYBRID, CAM, "energy"),
        mean(BCOS, OWN, "energy"), mean(BCOS, OWN, "iou_.5"), mean(BCOS, CAM, "iou_.5"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", ["energy", "pointing"])
def test_intervals_that_do_not_overlap(number: str) -> None:
    """FA-CNN's class map against Grad-CAM of another network, for which there is no paired difference."""
    rows = {(row["model"], row["method"], row["number"]): row for row in results_of(FACNN)["rows"]}
    assert rows[FACNN, MAP, number]["low"] > rows[RESNET, CAM, number]["high"]


def test_what_is_the_same_by_construction() -> None:
    for number in ("energy", "pointing"):
        assert mean(FACNN, MAP, number) == mean(FACNN, HIRES, number)
    assert mean(HYBRID, MAP, "energy") == mean(HYBRID, CAM, "energy")


@pytest.mark.parametrize(
    ("model", "method", "number", "sign"),
    [
        (HYBRID, PRODUCT, "energy", -1), (HYBRID, PRODUCT, "pointing", -1),
        (CODA, OWN, "energy", 1), (CODA, OWN, "pointing", 0), (CODA, OWN, "removal_most", -1),
        (CODA, "random", "removal_most", 1), (CODA, OWN, "removal_least", 0), (CODA, OWN, "iou_.5", -1),
        (BCOS, OWN, "energy", 1), (BCOS, OWN, "pointing", 0), (BCOS, OWN, "removal_most", -1),
        (BCOS, OWN, "removal_least", 0), (BCOS, OWN, "iou_.5", -1), (BCOS, PRODUCT, "removal_most", -1),
        (CODA_CIFAR, SMOOTHED, "grids", 1), (CODA_CIFAR, OWN, "grids", 1),
    ],
)  # fmt: skip
def test_what_wins_ties_and_loses(model: str, method: str, number: str, sign: int) -> None:
    """Whether the interval of the difference to Grad-CAM lies above zero, around it, or below."""
    row = paired(model, method, number)
    assert (row["low"] > 0) - (row["high"] < 0) == sign


def test_the_models_of_the_readme() -> None:
    _, *rows = table(README[README.index("\n## Models\n") :])
    evaluated = {
        card.parent.name: json.loads((card.parent / "training.json").read_text(encoding="utf-8"))["model"]["evaluation"]
        for card in CARDS
    }  # fmt: skip
    size = {name: " × ".join(map(str, one["input_size"][1:])) for name, one in evaluated.items()}
    millions = {name: f"{one['parameters'] / 1e6:.1f} M" for name, one in evaluated.items()}
    percent = {name: f"{100 * one['accuracy']:.2f} %" for name, one in evaluated.items() if "accuracy" in one}
    assert {row[0].strip("`") for row in rows} == {name for name in percent if not name.startswith("baseline_")}
    for model, _, *cells in rows:
        name = model.strip("`")
        baseline = f"baseline_resnet18.{name.split('.')[1]}"
        beside = f"{percent[baseline]} at {size[baseline]}" if baseline in percent else "-"
        assert cells == [size[name], millions[name], percent[name], beside]
    face = evaluated["face_resnet10.orl"]
    section = " ".join(README[README.index("\n## Models\n") : README.index("\n## Findings\n")].split())
    assert f"`resnet18` ({millions['baseline_resnet18.imagenette']} parameters)" in section
    assert f"`face_resnet10.orl` ({millions['face_resnet10.orl']})" in section
    assert f"an equal-error rate of {100 * face['eer']['model']:.2f} %" in section
    assert f"{evaluated[FACNN]['images']:,} validation images" in section


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
