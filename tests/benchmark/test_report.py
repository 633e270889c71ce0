"""Tables, CSV and figures from made-up results: nothing blank, directions right, the best in bold."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard

from timm_interpretable.benchmark.plots import (
    _apart,
    localisation_figure,
    method_colors,
    removal_figure,
    scatter_figure,
)
from timm_interpretable.benchmark.report import write_report
from timm_interpretable.benchmark.summary import accuracy_of, summarised
from timm_interpretable.benchmark.tables import cost_table, failures, model_table, short_table
from timm_interpretable.benchmark.units import Unit
from tools.release.benchmark_cards import insert_into_card, insert_into_readme
from timm_interpretable.models.weights import card_folder

IMAGES = tuple(range(20))


def report_of(unit, energy, most, cost):
    curves = {
        "removal_least": {str(i): [0.9 - 0.01 * k for k in range(21)] for i in unit.indices},
        "removal_least_accuracy": {str(i): [float(i % 4 > 0)] * 21 for i in unit.indices},
        "removal_most": {str(i): [most] * 11 for i in unit.indices},
    }
    numbers = {
        "energy": {str(i): energy + 0.01 * (i % 3) for i in unit.indices},
        "removal_least": {str(i): 0.8 for i in unit.indices},
        "removal_most": {str(i): most + 0.001 * i for i in unit.indices},
    }
    spent = dict(seconds=2 * cost, cpu_seconds=cost, forward_seconds=1.0, forward_cpu_seconds=1.0)
    return dict(numbers=numbers, curves=curves, cost=spent | dict(peak_bytes=2**21, forward_peak_bytes=2**20))


@pytest.fixture
def results():
    units, reports = [], []
    for method, energy, most, cost in (
        ("Grad-CAM", 0.4, 0.5, 1.5),
        ("class map", 0.6, 0.7, 1.0),
        ("random", 0.3, 0.6, 0.0),
    ):
        for start in (0, 10):
            unit = Unit("net", method, "boxed", IMAGES[start : start + 10], ("boxes", "removal"), "f")
            units.append(unit)
            reports.append(report_of(unit, energy, most, cost))
    units.append(Unit("net", "RISE", "boxed", IMAGES[:5], ("boxes",), "f"))
    reports.append(dict(error="RuntimeError: out of memory"))
    found = summarised(units, reports, "Grad-CAM")
    made = dict(
        command="timm-interpretable benchmark --models net", seed=3, hardware="a CPU", versions=dict(torch="2.14")
    )
    found |= dict(provenance=made, settings=dict(images=20), chance=dict(energy=0.25))
    about = dict(accuracy=accuracy_of(found, "net"), input_size=[3, 8, 8], parameters=10, sha256=None)
    return found | dict(models=dict(net=about))


def test_a_failed_cell_is_reported_and_never_blank(results):
    rows = {(row["method"], row["number"]): row for row in results["rows"]}
    assert rows["RISE", "energy"]["error"] == "RuntimeError: out of memory (1 part(s) failed)"
    assert "net, RISE, energy in box: RuntimeError: out of memory (1 part(s) failed)" in failures(results)
    table = model_table(results, "net", ["energy"])
    assert "| RISE | failed | - |" in table
    # a metric that was measured of others but not wanted of this one is no failure
    assert ("RISE", "removal_least") not in rows
    assert all("|  |" not in line for line in short_table(results, "net").splitlines())


def test_one_failed_part_spoils_the_mean_of_its_cell_and_of_no_other():
    unit, other = (Unit("net", "Grad-CAM", "boxed", part, ("boxes",), "f") for part in ((0, 1), (2, 3)))
    found = summarised([unit, other], [report_of(unit, 0.4, 0.5, 1), dict(error="no")], "Grad-CAM")
    assert {row["number"]: "error" in row for row in found["rows"]}["energy"]
    assert not [row for row in found["values"] if row["number"] == "energy"]


def test_differences_are_marked_in_their_direction(results):
    line = next(
        line
        for line in model_table(results, "net", ["energy", "removal_most"], "Grad-CAM").splitlines()
        if "class map" in line
    )
    energy, most = line.split("|")[2:4]
    assert energy.strip().endswith("+")  # more energy is better
    assert most.strip().endswith("-")  # a probability that stays high without the most important pixels is not
    assert "+" not in model_table(results, "net", ["energy"])


def test_the_best_is_bold(results):
    lines = {line.split("|")[1].strip(): line for line in short_table(results, "net").splitlines()}
    assert "**0.609**" in lines["class map"]
    assert "**0.509**" in lines["Grad-CAM"]  # the lowest
    assert "| 1.5 | 20 |" in lines["Grad-CAM"]
    assert set(
        {line.split("|")[1].strip(): 1 for line in short_table(results, "net", ["random"]).splitlines()[2:]}
    ) == {"random"}


def test_cost_is_relative_to_the_forward_passes_of_the_same_images(results):
    assert "| Grad-CAM | 0.3000 | 0.1500 | 1.5 | 2.0 (1.0) |" in cost_table(results, "net")


def test_accuracy_is_that_of_whole_images(results):
    assert results["models"]["net"]["accuracy"] == pytest.approx(0.75)


def test_every_file_says_what_made_it(results, tmp_path):
    files = write_report(tmp_path, results, "Grad-CAM")
    assert {file.name for file in files} == {
        "results.json", "results.csv", "results.md", "localisation_energy.png", "removal_net.png", "cost_energy.png",
        "cost_removal_least.png",
    }  # fmt: skip
    for file in files:
        assert b"timm-interpretable benchmark --models net" in file.read_bytes(), file.name
    text = (tmp_path / "results.csv").read_text()
    rows = list(csv.DictReader(io.StringIO("".join(line for line in text.splitlines(True) if line[0] != "#"))))
    energy = next(row for row in rows if (row["method"], row["number"]) == ("class map", "energy"))
    assert (float(energy["mean"]), energy["images"], energy["more_is_better"]) == (pytest.approx(0.6095), "20", "True")
    assert all(row["mean"] or row["error"] for row in rows)


def test_figures_without_numbers_are_left_out(results):
    assert removal_figure(results, "another", "") is None
    assert scatter_figure(results, "grids", "") is None
    fig = localisation_figure(results, "energy", 0.25, "")
    labels = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert labels == ["random  (20)", "class map  (20)", "Grad-CAM  (20)"]


def test_readme_tables_replace_the_last_ones(results, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- benchmark -->\nstale\n<!-- /benchmark -->\nafter\n")
    for _ in range(2):
        insert_into_readme(file, [("Imagenette", results, "docs/results.md")])
    text = file.read_text()
    assert text.startswith("before\n<!-- benchmark -->\n\n### Imagenette\n")
    assert text.endswith("<!-- /benchmark -->\nafter\n")
    assert text.count("| class map |") == 1
    assert "stale" not in text
    assert "Failed: net, RISE" in text
    file.write_text("no marks")
    with pytest.raises(ValueError, match="has no marks"):
        insert_into_readme(file, [("Imagenette", results, "docs/results.md")])


def test_cards_get_a_section_and_entries_of_the_model_index(results, tmp_path):
    name = "facnn_resnet18.imagenette"
    folder = tmp_path / name
    shutil.copytree(card_folder(name), folder)
    found = json.loads(json.dumps(results).replace('"net"', f'"{name}"'))
    before = ModelCard.load(folder / "README.md")
    for _ in range(2):
        insert_into_card(folder, found, "results.md")
    card = ModelCard.load(folder / "README.md")
    assert card.text.count("\n## Benchmark\n") == 1
    section = card.text[card.text.find("\n## Benchmark\n") : card.text.find("\n## Training\n")]
    assert "| class map | **0.609** |" in section
    metrics = {(r.metric_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert metrics["energy", "energy in box, class map"] == 0.6095
    assert metrics["energy", "energy in box, Grad-CAM"] == 0.4095
    accuracy = [r for r in before.data.eval_results if r.metric_type == "accuracy"]
    assert accuracy == [r for r in card.data.eval_results if r.metric_type == "accuracy"]
    assert not any("random" in name for _, name in metrics)
    splits = {r.metric_type: (r.dataset_split, r.dataset_name) for r in card.data.eval_results}
    assert splits["energy"][0] == "20 images with boxes"
    assert splits["accuracy"][0] is None
    assert splits["accuracy"][1] == accuracy[0].dataset_name


def test_every_method_has_its_name_and_colour_in_the_scatter(results):
    fig = scatter_figure(results, "energy", "")
    named = {text.get_text() for text in fig.axes[0].texts}
    assert named == {"class map", "Grad-CAM"}  # RISE failed, random costs nothing
    colors = method_colors(["class map", "Grad-CAM", "RISE", "class map", "Grad-CAM", "RISE", "random"])
    assert len({tuple(colors[name]) for name in ("class map", "Grad-CAM", "RISE")}) == 3
    assert np.array_equal(colors["RISE"], method_colors(["class map", "Grad-CAM", "RISE", "random"])["RISE"])


@pytest.mark.parametrize("seed", range(5))
def test_names_keep_their_distance_and_their_order(seed):
    values = np.random.default_rng(seed).random(8)
    found = _apart(values, 0.1)
    assert (np.diff(np.sort(found)) > 0.1 - 1e-9).all()
    assert np.array_equal(np.argsort(found), np.argsort(values))
    assert found.mean() == pytest.approx(values.mean())
    assert np.allclose(_apart(values, 0.0), values)
