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
        try:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as left:
            if left.code:
                raise
        return capsys.readouterr().out

    return run


@pytest.fixture
def fail(monkeypatch, capsys):
    """What a script that does not succeed says on stderr."""

    def fail(script: str, *args: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        assert left.value.code
        return capsys.readouterr().err.rstrip()

    return fail


def test_finetune_on_two_of_three_classes(run, fail, tmp_path):
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
    assert maps.startswith("maps of 12 images add up to the logit less ")
    assert float(maps.split()[-1]) < 1e-4
    result = fail("finetune.py", "--data-dir", tmp_path, "--classes", "foo", "dark", "bar")
    assert result.endswith("error: train has no folder foo, bar, expected some of: bright, dark, other")


@pytest.mark.parametrize("model", ["facnn_resnet18.cifar10", "coda_net_s.cifar10"])
def test_explain_folder_goes_on_behind_a_corrupt_file(run, fail, tmp_path, model):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / "broken.png").write_text("no picture")
    for name in ("lawn.png", "more/lawn.png"):
        Image.new("RGB", (40, 30), "green").save(folder / name)
    args = ("explain_folder.py", folder, "--model", model, "--out", tmp_path / "maps")
    assert fail(*args).endswith(
        "broken.png: not an image, of an unknown format, or without pixels\n2 explained, 1 failed"
    )
    for name in ("lawn.png", "more/lawn.png"):
        with Image.open(tmp_path / "maps" / name) as picture:
            assert picture.size == (32, 32)
    (folder / "broken.png").unlink()
    assert [line.split(":")[0] for line in run(*args).splitlines()] == ["lawn.png", "more/lawn.png"]


def test_explain_folder_says_what_it_cannot_do(fail, tmp_path):
    assert "no images in this folder" in fail("explain_folder.py", tmp_path)


def test_captum_tools(run):
    lines = run("captum_tools.py").splitlines()
    assert [line.split()[0] for line in lines] == ["golf_ball.jpg,", "infidelity", "sensitivity"]
    assert all(float(line.split()[-1]) >= 0 for line in lines)


def test_contributions_counts_the_images_that_there_are(run, tmp_path):
    """Sixteen of them, in folders whose order is not that of the model's classes."""
    rng = np.random.default_rng(0)
    for name in ("truck", "Automobile"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"{i}.png")
    first, ours, *_ = run("contributions.py", "--data-dir", tmp_path).splitlines()
    assert first.startswith("16 images, ")
    assert float(ours.split()[-2]) < 1e-4


@pytest.mark.skipif(DATA is None, reason="TIMM_INTERPRETABLE_DATA names no folder of images")
def test_contributions_add_up_and_input_x_gradient_does_not(run):
    args = ("--data-dir", Path(DATA or "") / "cifar10", "--images", 20)
    _, ours, theirs, correlation = run("contributions.py", *args).splitlines()
    assert float(ours.split()[-2]) < 1e-4
    assert float(theirs.split()[-4]) > 0.5
    assert abs(float(correlation.split()[-1])) < 0.5
