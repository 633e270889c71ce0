"""The scripts in `examples`, run as they are, on few or small images."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA = os.environ.get("TIMM_INTERPRETABLE_DATA")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(script: str, *args: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_finetune_on_two_of_three_classes(run, tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for name, low, high in (("bright", 160, 255), ("dark", 0, 90), ("other", 0, 255)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(low, high, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    args = ("--data-dir", tmp_path, "--classes", "dark", "bright", "--epochs", 4, "--batch-size", 8, "--lr", 3e-3)
    *epochs, maps = run("finetune.py", *args).splitlines()
    assert len(epochs) == 4
    assert epochs[-1].endswith(" on 12 images")
    assert float(epochs[-1].split()[-4]) > 0.9  # bright and dark are easily told apart
    assert maps.startswith("maps of 12 images add up to their logits: largest error ")
    assert float(maps.split()[-1]) < 1e-4


def test_explain_folder(run, tmp_path):
    Image.new("RGB", (40, 30), "green").save(tmp_path / "lawn.png")
    output = run("explain_folder.py", tmp_path, "--model", "facnn_resnet18.cifar10", "--out", tmp_path / "maps")
    assert output.startswith("lawn.png: ")
    with Image.open(tmp_path / "maps" / "lawn.png") as picture:
        assert picture.size == (32, 32)


def test_captum_tools(run):
    lines = run("captum_tools.py").splitlines()
    assert [line.split()[0] for line in lines] == ["golf_ball.jpg,", "infidelity", "sensitivity"]
    assert all(float(line.split()[-1]) >= 0 for line in lines)


@pytest.mark.skipif(DATA is None, reason="TIMM_INTERPRETABLE_DATA names no folder of images")
def test_contributions_add_up_and_input_x_gradient_does_not(run):
    args = ("--data-dir", Path(DATA or "") / "cifar10", "--images", 20)
    _, ours, theirs, correlation = run("contributions.py", *args).splitlines()
    assert float(ours.split()[-2]) < 1e-4
    assert float(theirs.split()[-4]) > 0.5
    assert abs(float(correlation.split()[-1])) < 0.5
