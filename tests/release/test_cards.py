"""A card is written from a finished run and the evaluation of its weights, and from nothing else."""

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

from timm_interpretable.cli import app
from tools.release.regression import REGRESSION_FILE, assert_unchanged
from tools.release.sections import closing_sections
from timm_interpretable.models.weights import RELEASED_FILE, sha256
from timm_interpretable.train.engine import released_state
from timm_interpretable.train.recipes import RECIPES

NAME = "facnn_resnet18.cifar10"


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Drawing takes longer than everything else here; one test draws."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("tools.release.card_command._draw", lambda name, folder: None)


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


def test_refreshing_renews_only_what_no_run_gave(tmp_path):
    assert write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5)).exit_code == 0
    file = tmp_path / "cards" / NAME / "README.md"
    regression = (file.parent / REGRESSION_FILE).read_bytes()
    card = file.read_text()
    start, results = card.index("## Use\n"), card.index("## Results\n")
    old = card[:start] + "## Use\n\nAs it was.\n\n" + card[results : card.index("## Data and licence")]
    file.write_text(old + "## Limits\n\nNone.\n")  # as a card of an earlier version
    args = ["card", NAME, "--refresh", "--out", str(tmp_path / "cards")]
    assert CliRunner().invoke(app, args).exit_code == 0
    assert file.read_text() == card
    assert (file.parent / REGRESSION_FILE).read_bytes() == regression
    file.write_text("no headings")
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert "has no headings Use, Results and Limits in this order" in result.output


@pytest.mark.parametrize("args", [[], ["--refresh", "--run", "a", "--evaluation", "b"], ["--run", "a"]])
def test_either_a_run_or_a_refresh(args):
    result = CliRunner().invoke(app, ["card", NAME, *args])
    assert result.exit_code == 2
    assert "error: " in result.output


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match="origin and terms of the data set 'elsewhere' are not known"):
        closing_sections("facnn_resnet18.elsewhere")


def test_card_without_a_baseline_says_so(tmp_path):
    assert write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5)).exit_code == 0
    assert "No baseline was trained" in (tmp_path / "cards" / NAME / "README.md").read_text()


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
    last = result | dict(recipe=result["recipe"] | dict(name="next", follows=NAME), previous=result, compile=True)
    (tmp_path / "a" / "result.json").write_text(json.dumps(last))
    assert write(tmp_path, run).exit_code == 0
    card = (tmp_path / "cards" / NAME / "README.md").read_text()
    assert "22 + 22 | 3 + 3" in card
    assert f"train {NAME} --data-dir DIR\n" in card
    assert f"train next --data-dir DIR --initial runs/{NAME}/model.safetensors --compile\n" in card


def test_card_has_the_two_tests_of_the_coda_net_paper(tmp_path):
    grids = {"class map": dict(mean=0.5, sem=0.01, median=0.6, grids=20)}
    removal = {"class map": dict(area=0.7, images=30, curve=[0.9, 0.2])}
    run = finished_run(tmp_path / "a", NAME, 0.5, grids=grids, removal=removal)
    assert write(tmp_path, run).exit_code == 0
    card = (tmp_path / "cards" / NAME / "README.md").read_text()
    assert "| class map | 0.500 | 0.010 | 0.600 | 20 |" in card
    assert "| class map | 0.700 | 0.200 | 30 |" in card
    assert "--grids 500 --removal 500" in card
