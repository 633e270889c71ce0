"""`python -m tools.locality` on four generated images: files that say what made them, and clear errors."""

import json
from pathlib import Path

import pytest
import timm
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from tools.locality import locality, random_like

app = typer.Typer()
app.command()(locality)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a tiny FA-CNN, beside them what a training run writes."""
    args = dict(trunk_width=48, stem_stride=4, layers=[1, 1], branch_widths=[8, 8], pools=[1])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    save_file(model.state_dict(), file)
    recipe = dict(eval_size=32, mean=[0.5] * 3, std=[0.25] * 3, num_classes=2, model_args=args, epochs=3)
    result = dict(recipe=recipe, classes=["blue", "red"], eval_accuracy=0.625)
    file.with_name("result.json").write_text(json.dumps(result))
    return file


@pytest.fixture
def data_dir(tmp_path: Path, rng: torch.Generator) -> Path:
    """boxed/ with two images of two classes each."""
    for name in ("blue", "red"):
        (tmp_path / "boxed" / name).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=rng).byte()
            Image.fromarray(pixels.numpy()).save(tmp_path / "boxed" / name / f"{i}.png")
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [*map(str, args), "--device", "cpu"])


def test_trained_and_random(data_dir: Path, weights: Path) -> None:
    out = data_dir / "out"
    args = ("--data-dir", data_dir, "--weights", weights, "--images", 2, "--out", out)
    result = run(*args, "--layers", "stem,stages.0.blocks.0,stages.1.blocks.0", "--n-steps", 2, "--locations", 3)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "locality.json").read_text())
    for state in ("trained", "random"):
        stem, first, last = report[state]
        assert (stem["share"], stem["grid"], first["maps"]) == (1, [8, 8], 6)
        assert first["share"] > last["chance_share"] == pytest.approx(1 / 16)
        assert Image.open(out / f"locality_{state}.png").size[0] > 300
    assert report["trained"] != report["random"]
    assert report["versions"].keys() >= {"python", "torch", "timm", "captum"}
    assert report["command"].startswith("python -m tools.locality ")
    text = (out / "locality.md").read_text()
    assert "(3 epochs, top-1 62.50 %)" in text
    assert "Seed 0" in text
    assert "| random | stages.1.blocks.0 | 4 x 4 | 6 |" in text


def test_pictures_alone(data_dir: Path, weights: Path) -> None:
    out = data_dir / "out"
    args = ("--data-dir", data_dir, "--weights", weights, "--images", 1, "--out", out)
    result = run(*args, "--locations", 0, "--n-steps", 1, "--no-random")
    assert result.exit_code == 0, result.output
    assert [file.name for file in out.iterdir()] == ["locality_trained.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--images", 5), "5 images were asked for, expected 1 to 4"),
        (("--layers", "layer9"), "no layer 'layer9', expected names such as stem"),
        (("--split", "val"), "has no val.tar"),
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
