"""The released face embeddings: a complete folder, the published file, and on the ORL faces the published rates."""

import json
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from typer.testing import CliRunner

from timm_interpretable.cli import app
from timm_interpretable.data.images import eval_transform, load_image
from timm_interpretable.models import VERIFICATION_THRESHOLDS
from timm_interpretable.models.weights import card_folder, local_weights, released
from tools.release.regression import REGRESSION_FILE, assert_unchanged

NAME = "face_resnet10.orl"
DATA = os.environ.get("TIMM_INTERPRETABLE_DATA")
FACES = Path(DATA or "") / "orl_faces"
needs_faces = pytest.mark.skipif(
    not (FACES / "faces.tar").is_file(), reason="TIMM_INTERPRETABLE_DATA names no folder with orl_faces/faces.tar"
)


def config() -> dict:
    return json.loads((card_folder(NAME) / "config.json").read_text())


def test_the_folder_is_a_hub_repository():
    folder = card_folder(NAME)
    assert NAME in released()
    assert local_weights(NAME) == folder / "model.safetensors"
    files = ["README.md", "config.json", "model.safetensors", "regression.safetensors", "training.json"]
    assert sorted(p.name for p in folder.iterdir()) == files
    assert (folder / "model.safetensors").stat().st_size < 12 * 2**20
    x = torch.rand(2, 1, 112, 92)
    models = [
        timm.create_model(name, pretrained=True).eval() for name in (f"local-dir:{folder}", NAME, "face_resnet10")
    ]
    outputs = [model(x) for model in models]
    assert outputs[0].shape == (2, 128)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_outputs_are_those_of_the_release():
    model = timm.create_model(NAME, pretrained=True).eval()
    assert_unchanged(model, card_folder(NAME) / REGRESSION_FILE)
    with torch.no_grad():
        next(p for p in model.parameters() if p.ndim > 1).mul_(2)  # the norm behind it hides a smaller change
    with pytest.raises(AssertionError, match="off by"):
        assert_unchanged(model, card_folder(NAME) / REGRESSION_FILE)


def test_matrices_are_half_precision_and_statistics_are_not():
    for name, value in load_file(local_weights(NAME)).items():
        if value.is_floating_point():
            assert value.dtype == (torch.float16 if value.ndim > 1 else torch.float32), name


def test_threshold_and_rate_stand_in_the_card():
    text = (card_folder(NAME) / "README.md").read_text()
    verification = config()["verification"]
    assert VERIFICATION_THRESHOLDS[NAME] == pytest.approx(verification["threshold"], abs=5e-5)
    assert f"**{NAME}** | **{100 * verification['equal_error_rate']:.2f} %**" in text
    assert ModelCard(text).data.pipeline_tag == "image-feature-extraction"
    for said in ("Samaria", "Olivetti Research Laboratory", "not for identifying people", "s31"):
        assert said in text
    for snippet in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(snippet, "the card", "exec"), {})


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_model_is_the_grey_model(channels):
    model = timm.create_model(NAME, pretrained=True, in_chans=channels).eval()
    x = torch.rand(2, 1, 112, 92)
    grey = timm.create_model(NAME, pretrained=True).eval()
    colour, expected = model(x.expand(-1, channels, -1, -1)), grey(x)
    # timm divides the weights of the first layer by the channels in fp16, as they are stored
    assert (colour - expected).abs().max() < 5e-3 * expected.abs().max()
    assert torch.cosine_similarity(colour, expected).min() > 0.9999


@needs_faces
def test_the_rate_is_the_published_one(tmp_path):
    args = ["evaluate", "--model", NAME, "--data-dir", str(FACES), "--device", "cpu"]
    result = CliRunner().invoke(app, [*args, "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    published = config()["verification"]
    assert report["sha256"] == released()[NAME]
    # other kernels may tip a pair or two that stand on the edge
    assert report["eer"]["model"] == pytest.approx(published["equal_error_rate"], abs=2 / 450)
    assert report["threshold"] == pytest.approx(published["threshold"], abs=0.01)
    assert report["eer"]["model"] < min(rate for name, rate in report["eer"].items() if name != "model")


@needs_faces
def test_verify_draws_two_real_faces(tmp_path):
    from timm_interpretable.data.faces import load_people

    pictures, _ = load_people(FACES, ("s31",))
    for i in range(2):
        pictures[i].save(tmp_path / f"{i}.png")
    args = ["verify", tmp_path / "0.png", tmp_path / "1.png", "--out", tmp_path, "--steps", 5, "--masks", 20]
    result = CliRunner().invoke(app, [str(part) for part in [*args, "--device", "cpu"]])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "0-1.png").is_file()
    model = timm.create_model(NAME, pretrained=True).eval()
    x = torch.stack([eval_transform(model)(load_image(tmp_path / f"{i}.png")) for i in range(2)])
    similarity = torch.cosine_similarity(*model(x).detach(), dim=0).item()
    assert f"cosine {similarity:.3f}" in result.stdout
