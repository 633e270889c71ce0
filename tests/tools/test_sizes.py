"""`python -m tools.sizes`: the calibration error, and a file with a row for every size."""

import json

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from timm_interpretable.models.weights import released
from tools.sizes import TIMES, calibration_error, sizes

app = typer.Typer()
app.command()(sizes)
MODEL = "facnn_resnet18.cifar10"


def test_calibration_error_of_known_cases():
    sure = torch.tensor([1.0, 1.0, 1.0, 1.0])
    assert calibration_error(sure, torch.tensor([True] * 4)) == 0
    assert calibration_error(sure, torch.tensor([True, False, True, False])) == pytest.approx(0.5)
    # two bins: .95 and right for 3 of 4, .25 and right for none of 2
    confidence = torch.tensor([0.95] * 4 + [0.25] * 2)
    right = torch.tensor([True, True, True, False, False, False])
    assert calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)


def test_a_row_for_every_size(tmp_path):
    rng, out = np.random.default_rng(0), tmp_path / "sizes.json"
    out.write_text('{"another": {}}')
    for name in ("cat", "ship"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"{i}.png")
    args = ["--data-dir", str(tmp_path), "--split", "test", "--images", "4", "--out", str(out)]
    result = CliRunner().invoke(app, [MODEL, *args])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert set(found) == {"another", MODEL}
    assert found[MODEL]["sha256"] == released()[MODEL]
    assert [(row["times"], row["size"]) for row in found[MODEL]["rows"]] == [(t, round(32 * t)) for t in TIMES]
    assert {row["accuracy"] for row in found[MODEL]["rows"]} <= {0, 0.25, 0.5, 0.75, 1}
    assert CliRunner().invoke(app, ["resnet18", *args]).exit_code == 2
