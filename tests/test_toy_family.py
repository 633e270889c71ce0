"""Adding a family of models is one model that names its explanation, and its row in the catalogue: nothing else.

Twenty lines add a toy family; `explain` and `benchmark` then know it. The page's part of this test is in tests/app.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from timm_interpretable.attr import METHODS, Context, Cost, Explanation, Method, explained_by, register_method
from timm_interpretable.cli import app, benchmark as benchmark_command, explain as explain_command

NAMES = ("red", "green", "blue")


class Toy(nn.Module):
    """The logit of a class is the mean of its colour, times a weight."""

    explanation = "toy_map"
    num_classes = num_features = 3

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = dict(
            input_size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, label_names=NAMES, crop_pct=1.0
        )
        self.weight = nn.Parameter(torch.tensor(5.0))

    def forward_features(self, x):
        return self.weight * x

    def forward_head(self, features):
        return features.mean((2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class ToyEvidence:
    def __init__(self, features):
        self.features, self.nbytes, self.logits = features, features.nbytes, features.mean((2, 3))

    def maps(self, classes):
        return self.features[torch.arange(len(classes))[:, None], classes] / self.features[0, 0].numel()

    def explanation(self, classes):
        return Explanation(self.maps(classes[:, None]), [])


@pytest.fixture
def toy():
    def evidence(context: Context, images):
        with torch.no_grad():
            return ToyEvidence(context.model.forward_features(images))

    register_method(Method("toy_map", "toy map", Cost.FORWARD, applies=explained_by("toy_map"), evidence=evidence))
    yield Toy().eval()
    del METHODS["toy_map"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "data" / "val"
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
            pixels[..., i] += 120
            Image.fromarray(pixels).save(folder / name / f"{j}.png")
    return folder


def test_explain_knows_a_family_that_was_added(toy, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(explain_command, "load_any", lambda name, weights, device: toy)
    args = ["explain", str(photos), "--model", "toy", "--device", "cpu", "--raw", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("0.png: ") == 3
    raw = load_file(tmp_path / "out" / "green" / "1.safetensors")
    assert NAMES[int(raw["target"])] == "green"
    torch.testing.assert_close(raw["attribution"].sum(), raw["logits"][1])
    assert (tmp_path / "out" / "green" / "1.png").is_file()


def test_benchmark_knows_a_family_that_was_added(toy, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_command, "load_any", lambda *args, **kwargs: toy)
    args = ["benchmark", "--data-dir", str(photos.parent), "--models", "toy", "--methods", "toy_map,random"]
    args += ["--metrics", "removal", "--images", "6", "--device", "cpu", "--out", str(tmp_path / "bench")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "bench" / "results.json").read_text())
    found = {row["method"]: row["mean"] for row in results["rows"] if row["number"] == "removal_least"}
    assert set(found) == {"toy_map", "random"}
    assert found["toy_map"] > found["random"]
