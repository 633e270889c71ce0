"""`evaluate-faces` on drawn faces: the numbers it prints and writes, against those of the parts it is made of."""

import json

import pytest
import timm
import torch
from drawn_faces import write_people
from safetensors.torch import save_file
from typer.testing import CliRunner

from timm_interpretable.cli import app
from timm_interpretable.data.faces import ORL_VERIFICATION, load_people
from timm_interpretable.data.images import eval_transform
from timm_interpretable.metrics import all_pairs, equal_error_rate
from timm_interpretable.models.weights import sha256


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), range(31, 41), pictures=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("face_resnet10").state_dict(), file)
    return file


def run(data_dir, weights, *args):
    command = ["evaluate-faces", "--data-dir", data_dir, "--weights", weights, "--device", "cpu", *args]
    return CliRunner().invoke(app, [str(part) for part in command])


def test_errors_and_maps(data_dir, weights, tmp_path):
    file = tmp_path / "report.json"
    result = run(data_dir, weights, "--pairs", 2, "--steps", 2, "--masks", 8, "--json", file)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    assert report["images"] == 20
    assert (report["genuine_pairs"], report["impostor_pairs"]) == (10, 180)
    assert report["sha256"] == sha256(weights)
    assert report["pairs"] == [2, 2]
    assert set(report["maps"]) == {"FAME", "CorrRISE", "Grad-CAM", "random"}
    assert {"command", "seed", "hardware", "versions"} <= set(report)
    assert str(data_dir) not in file.read_text()
    for name, row in report["maps"].items():
        assert f"{name:<10} {row['ties']['deletion']:>9.2f} {row['ties']['insertion']:>9.2f}" in result.stdout


def test_the_equal_error_rate_is_that_of_the_pairs(data_dir, weights, tmp_path):
    result = run(data_dir, weights, "--pairs", 0, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert "maps" not in report
    torch.manual_seed(3)
    net = timm.create_model("face_resnet10").eval()
    pictures, people = load_people(data_dir, ORL_VERIFICATION)
    with torch.no_grad():
        embeddings = net(torch.stack([eval_transform(net)(picture) for picture in pictures]))
    first, second, genuine = all_pairs(people)
    rate, threshold = equal_error_rate(torch.cosine_similarity(embeddings[first], embeddings[second]), genuine)
    assert report["eer"]["model"] == pytest.approx(rate)
    assert report["threshold"] == pytest.approx(threshold, abs=1e-5)
    assert f"equal-error rate {100 * rate:.2f} %" in result.stdout
    assert set(report["eer"]) == {"model", "same network, untrained", "pixels", "pixels less their mean"}


def test_two_runs_give_the_same_numbers(data_dir, weights, tmp_path):
    reports = []
    for name in ("a", "b"):
        run(data_dir, weights, "--pairs", 1, "--steps", 1, "--masks", 8, "--json", tmp_path / name)
        report = json.loads((tmp_path / name).read_text())
        for row in report["maps"].values():
            del row["seconds"]
        reports.append(report)
    assert reports[0] == reports[1]


def test_bad_input(data_dir, weights, tmp_path):
    assert "there is no folder" in run(data_dir, weights, "--json", tmp_path / "no" / "x.json").stderr
    assert "no faces.tar" in run(tmp_path, weights).stderr
    (tmp_path / "broken.safetensors").write_text("hello")
    for wrong in ("broken.safetensors", "missing.safetensors"):
        result = run(data_dir, tmp_path / wrong)
        assert result.exit_code == 2
        assert f"{wrong} does not load into face_resnet10" in result.stderr
        assert result.stderr.count("\n") == 1
    few = write_people(tmp_path / "few", range(31, 33), pictures=1)
    assert "no folder s33" in run(few, weights).stderr
    unknown = run(data_dir, weights, "--model", "facnn_resnet18")
    assert unknown.exit_code == 2
    assert "is a classifier, expected one of faces" in unknown.stderr
