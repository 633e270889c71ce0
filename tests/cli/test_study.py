"""`study` on four generated images: files that say what made them, numbers that follow from the metrics."""

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.cli import app
from timm_interpretable.cli.loading import evenly_spaced
from timm_interpretable.cli.study_locality import random_like


@pytest.fixture
def data_dir(tmp_path: Path, rng: torch.Generator) -> Path:
    """boxed/ with two images of two classes each; the left half is the box."""
    rows = ["path,xmin,ymin,xmax,ymax"]
    for name in ("blue", "red"):
        (tmp_path / "boxed" / name).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=rng).byte()
            Image.fromarray(pixels.numpy()).save(tmp_path / "boxed" / name / f"{i}.png")
            rows.append(f"{name}/{i}.png,0,0,112,224")
    (tmp_path / "boxed_boxes.csv").write_text("\n".join(rows))
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, args), "--device", "cpu"])


def test_attribution(data_dir: Path, weights: Path) -> None:
    out = data_dir / "out"
    args = ("attribution", "--data-dir", data_dir, "--weights", weights, "--images", 3, "--out", out)
    result = run(*args, "--steps", "1,2", "--masks", 4, "--ig-steps", 2, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "attribution.json").read_text())
    assert (report["images"], report["input_size"], report["area"]) == (3, [3, 32, 32], 0.5)
    assert report["model"]["eval_accuracy"] == 0.625
    assert report["versions"].keys() >= {"python", "torch", "timm", "captum"}
    assert "CPU" in report["hardware"] or "thread" in report["hardware"]
    maps = report["maps"]
    assert all(row["images"] == 3 and row["seconds"] > 0 for row in maps.values())
    assert maps["FAME, 2 steps"]["correlation"] == pytest.approx(1)
    assert maps["class map"]["iou_.5"] == maps["class map"]["iou_first_.5"]  # one box an image
    text = (out / "attribution.md").read_text()
    assert "Seed 0" in text
    assert f"| HiResCAM | {maps['HiResCAM']['iou_.3']:.3f} |" in text
    assert str(data_dir) not in text  # the command, not where it was typed
    again = run(*args, "--steps", "1,2", "--masks", 4, "--ig-steps", 2, "--batch-size", 3)
    assert again.exit_code == 0
    for name, row in json.loads((out / "attribution.json").read_text())["maps"].items():
        assert row["energy"] == pytest.approx(maps[name]["energy"], abs=0.02), name


def test_one_method(data_dir: Path, weights: Path) -> None:
    args = ("attribution", "--data-dir", data_dir, "--weights", weights, "--images", 2, "--out", data_dir)
    result = run(*args, "--method", "centre", "--method", "HiResCAM")
    assert result.exit_code == 0, result.output
    assert set(json.loads((data_dir / "attribution.json").read_text())["maps"]) == {"HiResCAM", "centre"}


def test_locality(data_dir: Path, weights: Path) -> None:
    out = data_dir / "out"
    args = ("locality", "--data-dir", data_dir, "--weights", weights, "--images", 2, "--out", out)
    result = run(*args, "--layers", "stem,stages.0.blocks.0,stages.1.blocks.0", "--n-steps", 2, "--locations", 3)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "locality.json").read_text())
    for state in ("trained", "random"):
        stem, first, last = report[state]
        assert (stem["share"], stem["grid"], first["maps"]) == (1, [8, 8], 6)
        assert first["share"] > last["chance_share"] == pytest.approx(1 / 16)
        assert Image.open(out / f"locality_{state}.png").size[0] > 300
    assert report["trained"] != report["random"]
    text = (out / "locality.md").read_text()
    assert "(3 epochs, top-1 62.50 %)" in text
    assert "| random | stages.1.blocks.0 | 4 x 4 | 6 |" in text


def test_pictures_alone(data_dir: Path, weights: Path) -> None:
    out = data_dir / "out"
    args = ("locality", "--data-dir", data_dir, "--weights", weights, "--images", 1, "--out", out)
    result = run(*args, "--locations", 0, "--n-steps", 1, "--no-random")
    assert result.exit_code == 0, result.output
    assert [file.name for file in out.iterdir()] == ["locality_trained.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("attribution", "--steps", "5,2"), "--steps is '5,2', expected ascending"),
        (("attribution", "--steps", "many"), "--steps is 'many', expected numbers"),
        (("attribution", "--images", 4, "--method", "CAM"), "unknown method 'CAM', expected one of: class map; "),
        (("attribution", "--images", 5), "5 images were asked for, expected 1 to 4"),
        (("locality", "--layers", "layer9"), "no layer 'layer9', expected names such as stem"),
        (("locality", "--split", "val"), "has no val.tar"),
    ],
)
def test_clear_errors(data_dir: Path, weights: Path, args: tuple[object, ...], message: str) -> None:
    result = run(*args, "--data-dir", data_dir, "--weights", weights, "--out", data_dir / "out")
    assert result.exit_code == 2
    assert message in result.output


def test_random_baseline_has_its_branches_on() -> None:
    net = timm.create_model("resnet10t", num_classes=2)
    fresh = random_like(net, "resnet10t", {}, seed=1)
    assert all(m.weight.any() for m in fresh.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert torch.equal(random_like(net, "resnet10t", {}, seed=1).fc.weight, fresh.fc.weight)
    assert not torch.equal(random_like(net, "resnet10t", {}, seed=2).fc.weight, fresh.fc.weight)


def test_evenly_spaced() -> None:
    assert evenly_spaced(4, 10) == [0, 2, 5, 7]
    assert evenly_spaced(10, 10) == list(range(10))
