"""A card is written from a finished run, the evaluation of its weights and the results of a benchmark."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from timm_interpretable.models.weights import RELEASED_FILE, sha256
from timm_interpretable.train.engine import released_state
from timm_interpretable.train.recipes import RECIPES
from tools.release.commands import app
from tools.release.regression import REGRESSION_FILE, assert_unchanged
from tools.release.texts import dataset_of
from tools.release.training import TRAINING_FILE

NAME = "facnn_resnet18.cifar10"


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Drawing takes longer than everything else here; one test draws."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("tools.release.commands._draw", lambda name, folder: None)


def finished_run(folder: Path, name: str, accuracy: float, previous=None, **evaluation) -> list[str]:
    """A run's folder with its evaluation, as two command line arguments."""
    folder.mkdir()
    recipe = RECIPES[name]
    torch.manual_seed(0)
    model = timm.create_model(recipe.model, num_classes=10)
    save_file(released_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    result = dict(recipe=asdict(recipe), minutes=2.0, cpu_minutes=3.0, hardware="a computer", torch="2", timm="1")
    result |= dict(previous=previous)
    (folder / "result.json").write_text(json.dumps(result))
    report = dict(split="test", images=100, accuracy=accuracy, input_size=[3, 32, 32], parameters=2_000_000)
    report |= dict(sha256=sha256(folder / "model.safetensors")) | evaluation
    (folder / "evaluation.json").write_text(json.dumps(report))
    return [str(folder), str(folder / "evaluation.json")]


def write(tmp_path: Path, run: list[str], baseline: list[str] | None = None):
    args = ["card", NAME, "--run", run[0], "--evaluation", run[1], "--out", str(tmp_path / "cards")]
    if baseline:
        args += ["--baseline-run", baseline[0], "--baseline-evaluation", baseline[1]]
    return CliRunner().invoke(app, args)


def test_card_has_the_numbers_and_the_folder_loads(tmp_path):
    before = RELEASED_FILE.read_text()
    run, baseline = finished_run(tmp_path / "a", NAME, 0.5), finished_run(tmp_path / "b", "resnet18.cifar10", 0.625)
    assert write(tmp_path, run, baseline).exit_code == 0
    folder = tmp_path / "cards" / NAME
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.eval_results[0].metric_value == 50.0
    for text in ("**50.00 %**", "62.50 %", "-12.50 points", "reconstruction from the abstract", RECIPES[NAME].name):
        assert text in card.text
    assert "## Benchmark" not in card.text  # nobody has measured these weights
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.stem.stride == 2
    assert list(model.pretrained_cfg["label_names"])[3] == "cat"
    assert RELEASED_FILE.read_text() == before  # only the package's own folder is released


def test_picture_and_outputs_of_the_release_are_in_the_folder(tmp_path):
    assert write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5)).exit_code == 0
    folder = tmp_path / "cards" / NAME
    with Image.open(folder / "maps.jpg") as picture:
        assert picture.format == "JPEG"
    card = (folder / "README.md").read_text()
    assert "](maps.jpg)" in card
    assert "`cat.jpg`: Chelsea" in card
    assert_unchanged(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), folder / REGRESSION_FILE)


def test_a_card_is_rendered_again_from_its_folder(tmp_path):
    run, baseline = finished_run(tmp_path / "a", NAME, 0.5), finished_run(tmp_path / "b", "resnet18.cifar10", 0.625)
    assert write(tmp_path, run, baseline).exit_code == 0
    folder = tmp_path / "cards" / NAME
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "README.md").write_text("As it was.")
    args = ["card", NAME, "--out", str(tmp_path / "cards")]
    assert CliRunner().invoke(app, args).exit_code == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / TRAINING_FILE).unlink()
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert "training.json" in result.output


@pytest.mark.parametrize("args", [["--run", "a"], ["--evaluation", "a"], ["--baseline-run", "a"]])
def test_options_that_go_together(args):
    result = CliRunner().invoke(app, ["card", NAME, *args])
    assert result.exit_code == 2
    assert "error: --run and --evaluation go together" in result.output


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match="origin and terms of the data set 'elsewhere' are not known"):
        dataset_of("facnn_resnet18.elsewhere")


def test_card_without_a_baseline(tmp_path):
    assert write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5)).exit_code == 0
    text = (tmp_path / "cards" / NAME / "README.md").read_text()
    assert "| baseline" not in text
    assert "difference" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sha256="0" * 64), "is not of the weights"),
        (dict(input_size=[3, 64, 64]), "was evaluated at [3, 64, 64], expected its (3, 32, 32)"),
    ],
)
def test_numbers_of_something_else_are_refused(tmp_path, change, message):
    result = write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5, **change))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "cards").exists()


def test_baseline_on_other_images_is_refused(tmp_path):
    run = finished_run(tmp_path / "a", NAME, 0.5)
    result = write(tmp_path, run, finished_run(tmp_path / "b", "resnet18.cifar10", 0.6, images=99))
    assert result.exit_code == 2
    assert "different images" in result.output


def test_unfinished_run_is_refused(tmp_path):
    run = finished_run(tmp_path / "a", NAME, 0.5)
    (tmp_path / "a" / "result.json").unlink()
    result = write(tmp_path, run)
    assert result.exit_code == 2
    assert "no result.json" in result.output


def test_card_names_every_run_that_led_to_the_weights(tmp_path):
    run = finished_run(tmp_path / "a", NAME, 0.75)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    first = result | dict(recipe=result["recipe"] | dict(follows=None))
    last = result | dict(recipe=result["recipe"] | dict(name="next", follows=NAME), previous=first, compile=True)
    (tmp_path / "a" / "result.json").write_text(json.dumps(last))
    assert write(tmp_path, run).exit_code == 0
    card = (tmp_path / "cards" / NAME / "README.md").read_text()
    epochs = RECIPES[NAME].epochs
    assert f"{epochs} + {epochs} | 3 + 3" in card
    assert f"train {NAME} --data-dir DIR\n" in card
    assert f"train next --data-dir DIR --initial runs/{NAME}/model.safetensors --compile\n" in card


@pytest.mark.parametrize(
    ("precision", "said"), [(None, "bf16 autocast;"), ("bf16", "bf16 autocast;"), ("fp32", ", fp32;")]
)
def test_a_card_says_the_precision_of_the_run(tmp_path, precision, said):
    """A run that recorded none was trained in bf16."""
    run = finished_run(tmp_path / "a", NAME, 0.5)
    file = tmp_path / "a" / "result.json"
    recorded = {} if precision is None else dict(precision=precision)
    file.write_text(json.dumps(json.loads(file.read_text()) | recorded))
    assert write(tmp_path, run).exit_code == 0
    card = (tmp_path / "cards" / NAME / "README.md").read_text()
    assert said in card
    assert ("autocast" in card) == (said == "bf16 autocast;")


def test_the_benchmark_of_these_weights_and_no_other(tmp_path, monkeypatch):
    """Table, footnotes and model index come from the results; those of other weights do not."""
    rows = [
        dict(model=NAME, method=method, number=number, mean=mean, low=0.0, high=1.0, images=images)
        for method, number, mean, images in (
            ("class_map", "grids", 0.65432, 20), ("grad_cam", "grids", 0.25, 20), ("rise", "grids", 0.5, 5),
            ("class_map", "removal_least", 0.75, 30),
        )
    ]  # fmt: skip
    titles = {"class_map": ("class map", True), "grad_cam": ("Grad-CAM", False), "rise": ("RISE", False)}
    results = dict(
        provenance=dict(command="timm-interpretable benchmark --data-dir cifar10"),
        methods={key: dict(title=title, own=own) for key, (title, own) in titles.items()},
        models={NAME: dict(sha256="0" * 64, input_size=[3, 32, 32], fill="black", start="blur")},
        chance={"grids": 1 / 9}, rows=rows, cost=[], paired=[], notes=["Measured in the rain."],
    )  # fmt: skip
    folder = tmp_path / "docs" / "results"
    (folder / "benchmark_x").mkdir(parents=True)
    file = folder / "benchmark_x" / "results.json"
    monkeypatch.setattr("tools.release.benchmarks.RESULTS", folder)
    run = finished_run(tmp_path / "a", NAME, 0.5)
    for digest in ("0" * 64, sha256(tmp_path / "a" / "model.safetensors")):
        results["models"][NAME]["sha256"] = digest
        file.write_text(json.dumps(results))
        assert write(tmp_path, run).exit_code == 0
        card = ModelCard.load(tmp_path / "cards" / NAME / "README.md")
        assert ("## Benchmark" in card.text) == (digest != "0" * 64)
    for text in (
        "    timm-interpretable benchmark --data-dir cifar10\n", "| class map | **0.654** | **0.750** | - |",
        "| RISE | 0.500 (5) | - | - |", "- Grid localisation: ", "Chance: grid localisation 0.111", "32 x 32 pixels",
        "\n- Measured in the rain.\n", "`docs/results/benchmark_x/results.md`",
    ):  # fmt: skip
        assert text in card.text, text
    assert "- Energy in box: " not in card.text  # a footnote for every column, and for no other
    values = {(one.metric_type, one.metric_name): one.metric_value for one in card.data.eval_results[1:]}
    assert values == {
        ("grids", "grid localisation, class map"): 0.6543,
        ("grids", "grid localisation, Grad-CAM"): 0.25,
        ("removal_least", "least important removed (black), class map"): 0.75,
    }
