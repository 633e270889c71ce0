"""Tables, CSV and figures from made-up results: nothing blank, directions right, the best in bold."""

import csv
import io

import numpy as np
import pytest
from made_up_benchmark import made_up_results, report_of, unit_of

from timm_interpretable.benchmark.plots import (
    _apart,
    localisation_figure,
    method_colors,
    removal_figure,
    scatter_figure,
)
from timm_interpretable.benchmark.report import write_report
from timm_interpretable.benchmark.summary import described_methods, summarised
from timm_interpretable.benchmark.tables import (
    conditions,
    cost_table,
    failures,
    model_table,
    short_table,
    terminal_table,
)


@pytest.fixture
def results():
    return made_up_results()


def cells(table):
    """By the first column."""
    return {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in table.splitlines()}


def test_a_failed_cell_is_reported_and_never_blank(results):
    rows = {(row["method"], row["number"]): row for row in results["rows"]}
    assert rows["rise", "energy"]["error"] == "RuntimeError: out of memory (1 part(s) failed)"
    assert "net, RISE, energy in box: RuntimeError: out of memory (1 part(s) failed)" in failures(results)
    assert cells(model_table(results, "net", ["energy"]))["RISE"] == ["failed", "-"]
    # a metric that was measured of others but not wanted of this one is no failure
    assert ("rise", "removal_least") not in rows
    assert all(all(row) for row in cells(short_table(results, "net")).values())


def test_one_failed_part_spoils_the_mean_of_its_cell_and_of_no_other():
    unit, other = (unit_of("grad_cam", part, ("boxes",)) for part in ((0, 1), (2, 3)))
    found = summarised([unit, other], [report_of(unit, 0.4, 0.5, 1), dict(error="no")], "grad_cam")
    assert {row["number"]: "error" in row for row in found["rows"]}["energy"]
    assert not [row for row in found["values"] if row["number"] == "energy"]


def test_results_have_keys_and_titles(results):
    assert results["reference"] == "grad_cam"
    assert results["methods"]["grad_cam"] == dict(title="Grad-CAM", cost="gradient", own=False)
    assert results["methods"]["class_map"]["own"]
    assert {row["method"] for row in results["rows"]} == set(results["methods"])


def test_differences_are_marked_in_their_direction(results):
    energy, most, _ = cells(model_table(results, "net", ["energy", "removal_most"]))["class map"]
    assert energy.endswith("+")  # more energy is better
    assert most.endswith("-")  # a probability that stays high without the most important pixels is not
    assert "+" not in model_table(results, "net", ["energy"], marked=False)


def test_the_best_is_bold_and_headings_say_how_many_images(results):
    table = short_table(results, "net")
    found = cells(table)
    assert found["class map"][0] == "**0.609**"
    assert found["Grad-CAM"][3:] == ["**0.509**", "1.5"]  # the lowest
    assert found["method"] == [
        "energy in box ↑, 20 images", "pointing ↑, 20 images", "least important removed (black) ↑, 20 images",
        "most important removed (black) ↓, 20 images", "forward passes",
    ]  # fmt: skip
    assert set(cells(short_table(results, "net", ["random"]))) == {"method", "---", "random"}


def test_a_number_of_fewer_images_says_so_and_is_never_the_best():
    units = [unit_of("random", tuple(range(10)), ("boxes",)), unit_of("rise", (0, 1), ("boxes",))]
    reports = [report_of(units[0], 0.3, 0.5, 1), report_of(units[1], 0.9, 0.5, 1)]
    found = summarised(units, reports, "random")
    found |= dict(models=dict(net=dict(fill="absent", start="absent", input_size=[3, 8, 8])))
    table = cells(short_table(found, "net"))
    assert table["method"][0] == "energy in box ↑, 10 images"
    assert table["RISE"][0] == "0.905 (2)"
    assert table["random"][0] == "**0.309**"


def test_the_terminal_shows_the_same_in_columns(results):
    lines = terminal_table(results, "net").splitlines()
    assert len({len(line) for line in lines}) == 1
    assert next(line for line in lines if line.startswith("class map")).split()[2] == "0.609*"


def test_every_table_and_figure_says_what_removed_pixels_are(results):
    results["models"]["net"] |= dict(fill="absent", start="absent")
    assert conditions(results, "net") == (
        "All maps, boxes and removals are in the frame of the model's own input, 8 x 16 pixels. Removed pixels are "
        "absent: zero in every channel that the network sees."
    )
    assert "least important removed (absent) ↑" in short_table(results, "net")
    assert "least important removed (absent) ↑" in model_table(results, "net", ["removal_least"])
    assert removal_figure(results, "net", "").axes[0].get_xlabel() == "pixels removed (absent), %"
    assert scatter_figure(results, "removal_least", "").axes[0].get_ylabel() == "least important removed (absent)"
    assert localisation_figure(results, "energy", "").axes[0].get_title() == "net\n8 x 16 pixels"


def test_cost_is_relative_to_the_forward_passes_of_the_same_images(results):
    assert "| Grad-CAM | 0.3000 | 0.1500 | 1.5 | 2.0 (1.0) |" in cost_table(results, "net")


def test_accuracy_is_that_of_whole_images(results):
    assert results["models"]["net"]["accuracy"] == pytest.approx(0.75)


def test_every_file_says_what_made_it(results, tmp_path):
    files = write_report(tmp_path, results)
    assert {file.name for file in files} == {
        "results.json", "results.csv", "results.md", "localisation_energy.png", "removal_net.png", "cost_energy.png",
        "cost_removal_least.png",
    }  # fmt: skip
    for file in files:
        assert b"timm-interpretable benchmark --models net" in file.read_bytes(), file.name
    text = (tmp_path / "results.csv").read_text()
    rows = list(csv.DictReader(io.StringIO("".join(line for line in text.splitlines(True) if line[0] != "#"))))
    by_number = {row["number"]: row for row in rows if row["method"] == "class_map"}
    energy = by_number["energy"]
    assert (float(energy["mean"]), energy["images"], energy["more_is_better"]) == (pytest.approx(0.6095), "20", "True")
    assert (energy["title"], energy["pixels"]) == ("class map", "")
    assert by_number["removal_least"]["pixels"] == "black"
    assert all(row["mean"] or row["error"] for row in rows)


def test_figures_without_numbers_are_left_out(results):
    results["models"]["another"] = results["models"]["net"]
    assert removal_figure(results, "another", "") is None
    assert scatter_figure(results, "grids", "") is None
    fig = localisation_figure(results, "energy", "")
    labels = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert labels == ["random  (20)", "class map  (20)", "Grad-CAM  (20)"]


def test_every_method_has_its_name_and_colour_in_the_scatter(results):
    fig = scatter_figure(results, "energy", "")
    named = {text.get_text() for text in fig.axes[0].texts}
    assert named == {"class map", "Grad-CAM"}  # RISE failed, random costs nothing
    colors = method_colors(results["methods"])
    assert len({tuple(colors[key]) for key in ("class_map", "grad_cam", "rise", "random")}) == 4
    # the same whatever else a figure shows
    assert np.array_equal(colors["rise"], method_colors(described_methods(["grad_cam", "rise"]))["rise"])


@pytest.mark.parametrize("seed", range(5))
def test_names_keep_their_distance_and_their_order(seed):
    values = np.random.default_rng(seed).random(8)
    found = _apart(values, 0.1)
    assert (np.diff(np.sort(found)) > 0.1 - 1e-9).all()
    assert np.array_equal(np.argsort(found), np.argsort(values))
    assert found.mean() == pytest.approx(values.mean())
    assert np.allclose(_apart(values, 0.0), values)
