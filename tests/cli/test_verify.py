"""`verify` end to end on drawn faces and a small random network: what it writes, what it says, how it fails."""

import re

import pytest
import timm
import torch
from drawn_faces import draw_face
from PIL import Image
from typer.testing import CliRunner

from timm_interpretable.cli import app, common, verify
from timm_interpretable.models import VERIFICATION_THRESHOLDS

runner = CliRunner()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("face_resnet10").eval()


@pytest.fixture(autouse=True)
def no_weights_needed(monkeypatch, network):
    monkeypatch.setattr(verify, "load_model", lambda name, device: network.to(device))
    monkeypatch.setitem(VERIFICATION_THRESHOLDS, "face_resnet10.orl", 0.5)


@pytest.fixture
def faces(tmp_path):
    paths = []
    for person, size in ((1, (92, 112)), (2, (200, 150))):
        paths.append(tmp_path / f"p{person}.png")
        draw_face(person, 0, size).save(paths[-1])
    return paths


def run(*args):
    return runner.invoke(app, ["verify", "--device", "cpu", "--steps", "2", "--masks", "8", *map(str, args)])


def test_draws_the_pair_and_says_what_it_takes_it_for(faces, tmp_path, network):
    result = run(*faces, "--out", tmp_path / "new" / "folder", "--threshold", "-1")
    assert result.exit_code == 0, result.output
    file = tmp_path / "new" / "folder" / "p1-p2.png"
    found = re.fullmatch(
        r"p1\.png, p2\.png: cosine (-?[\d.]+), same person \(threshold -1\.000\) -> (.*)\n", result.stdout
    )
    assert found[2] == str(file)
    x = torch.stack([verify_input(network, path) for path in faces])
    similarity = torch.cosine_similarity(*network(x).detach(), dim=0)
    assert float(found[1]) == pytest.approx(similarity.item(), abs=6e-4)
    assert "no face detection is done" in result.stderr
    assert Image.open(file).width == 1400


def verify_input(network, path):
    from timm_interpretable.data.images import eval_transform, load_image

    return eval_transform(network)(load_image(path))


def test_the_threshold_decides(faces, tmp_path):
    assert "different people (threshold 1.000)" in run(*faces, "--out", tmp_path, "--threshold", "1").stdout
    assert "(threshold 0.500)" in run(*faces, "--out", tmp_path).stdout  # the model's own


def test_a_face_is_itself(faces, tmp_path):
    result = run(faces[0], faces[0], "--out", tmp_path / "o", "--threshold", "0.999")
    assert "cosine 1.000, same person" in result.stdout


def test_colour_and_grey_pictures_are_the_same_to_it(faces, tmp_path):
    Image.open(faces[0]).convert("RGB").save(tmp_path / "colour.png")
    result = run(faces[0], tmp_path / "colour.png", "--out", tmp_path, "--threshold", "0.9")
    assert "cosine 1.000" in result.stdout


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "folder"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_picture_is_named_before_any_work(faces, tmp_path, kind, place):
    bad = tmp_path / "bad.png"
    if kind == "text":
        bad.write_text("hello")
    elif kind == "truncated":
        Image.effect_noise((200, 200), 80).save(bad)
        bad.write_bytes(bad.read_bytes()[:2000])
    elif kind == "folder":
        bad.mkdir()
    pair = [faces[0], faces[1]]
    pair[place] = bad
    result = run(*pair, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert str(bad) in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_bad_options(faces, tmp_path, monkeypatch):
    assert "--threshold is 2.0" in run(*faces, "--threshold", "2").stderr
    assert run(*faces, "--out", faces[0]).stderr.startswith("error: cannot make the folder")
    monkeypatch.delitem(VERIFICATION_THRESHOLDS, "face_resnet10.orl")
    result = run(*faces, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "has no threshold of its own; give --threshold" in result.stderr
    assert not (tmp_path / "o").exists()


def test_a_classifier_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "load_model", common.load_model)
    result = run(*faces, "--model", "facnn_resnet18.cifar10", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "'facnn_resnet18.cifar10' is a classifier, expected one of faces" in result.stderr
    assert not (tmp_path / "o").exists()
