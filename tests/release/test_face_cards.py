"""The card of a face model is written from a finished run and the evaluation of its weights."""

import json
from dataclasses import asdict

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from typer.testing import CliRunner

from timm_interpretable.models.weights import RELEASED_FILE, sha256
from timm_interpretable.train.engine import released_state
from timm_interpretable.train.face_recipes import FACE_RECIPES
from tools.release.commands import app

NAME = "face_resnet10.orl"
METHOD = dict(
    seconds=0.25,
    ties=dict(deletion=61.5, insertion=77.25),
    strict=dict(deletion=60.25, insertion=78.5),
    empty=dict(similar=dict(genuine=1, impostor=2), dissimilar=dict(genuine=0, impostor=0)),
    change=dict(similar=dict(genuine=-0.125, impostor=-0.0625), dissimilar=dict(genuine=0.5, impostor=0.25)),
)


def finished_run(folder, name, rate, **changes):
    folder.mkdir()
    torch.manual_seed(0)
    save_file(released_state(timm.create_model("face_resnet10")), folder / "model.safetensors")
    result = dict(recipe=asdict(FACE_RECIPES[name]), pictures=300, cpu_minutes=2.5, hardware="a computer")
    (folder / "result.json").write_text(json.dumps(result | dict(torch="2", timm="1")))
    eer = {"model": rate, "same network, untrained": 0.3, "pixels": 0.2, "pixels less their mean": 0.25}
    report = dict(split="s31-s40", images=100, input_size=[1, 112, 92], parameters=444_114, eer=eer, threshold=0.375)
    report |= dict(genuine_pairs=450, impostor_pairs=4500)
    report |= dict(sha256=sha256(folder / "model.safetensors")) | changes
    (folder / "evaluation.json").write_text(json.dumps(report))
    return [str(folder), str(folder / "evaluation.json")]


def write(tmp_path, run, baseline=None):
    args = ["card", NAME, "--run", run[0], "--evaluation", run[1], "--out", str(tmp_path / "cards")]
    if baseline:
        args += ["--baseline-run", baseline[0], "--baseline-evaluation", baseline[1]]
    return CliRunner().invoke(app, args)


def test_card_has_the_numbers_and_the_folder_loads(tmp_path, monkeypatch):
    before = RELEASED_FILE.read_text()
    run, baseline = (
        finished_run(tmp_path / "a", NAME, 0.0625),
        finished_run(tmp_path / "b", "face_resnet10_ce.orl", 0.125),
    )
    maps = dict(pairs=[5, 5], fame_steps=50, corrrise_masks=60, maps={"FAME": METHOD}, hardware="a chip", versions={})
    maps |= dict(command="python -m tools.face_maps", sha256=sha256(tmp_path / "a" / "model.safetensors"))
    (tmp_path / f"faces_{NAME}.json").write_text(json.dumps(maps))
    monkeypatch.setattr("tools.release.face_cards.RESULTS", tmp_path)
    result = write(tmp_path, run, baseline)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "cards" / NAME
    text = ModelCard.load(folder / "README.md").text
    for said in (
        "**6.25 %**", "plain cross-entropy | 12.50 %", "untrained | 30.00 %", "pixels | 20.00 %", "4,950 pairs",
        "| FAME | 61.50 | 77.25 | 60.25 | 78.50 | -0.125, -0.062 | +0.500, +0.250 | 1, 2 |",
        f"train {NAME} --data-dir DIR", "train face_resnet10_ce.orl", "FAME with 50 steps, CorrRISE with 60 masks",
        "    python -m tools.face_maps\n",
    ):  # fmt: skip
        assert said in text, said
    x = torch.rand(1, 1, 112, 92)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model(x).shape == (1, model.num_features)
    config = json.loads((folder / "config.json").read_text())
    assert config["verification"] == {"equal_error_rate": 0.0625, "threshold": 0.375}
    assert RELEASED_FILE.read_text() == before  # only the package's own folder is released


def test_card_without_maps_and_baseline(tmp_path):
    run = finished_run(tmp_path / "a", NAME, 0.5)  # docs/results has maps of the released weights only
    assert write(tmp_path, run).exit_code == 0
    text = (tmp_path / "cards" / NAME / "README.md").read_text()
    assert "## Maps" not in text
    assert "cross-entropy" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sha256="0" * 64), "is not of the weights"),
        (dict(input_size=[3, 64, 64]), "was evaluated at [3, 64, 64], expected its (1, 112, 92)"),
    ],
)
def test_numbers_of_something_else_are_refused(tmp_path, change, message):
    result = write(tmp_path, finished_run(tmp_path / "a", NAME, 0.5, **change))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "cards").exists()


def test_baseline_on_other_pictures_is_refused(tmp_path):
    run = finished_run(tmp_path / "a", NAME, 0.5)
    result = write(tmp_path, run, finished_run(tmp_path / "b", "face_resnet10_ce.orl", 0.6, images=99))
    assert result.exit_code == 2
    assert "different images" in result.output
