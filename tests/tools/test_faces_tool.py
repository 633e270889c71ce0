"""`python -m tools.face_maps` on drawn faces."""

import json

import pytest
import timm
import torch
import typer
from drawn_faces import write_people
from safetensors.torch import save_file
from typer.testing import CliRunner

from timm_interpretable.models.weights import sha256
from tools.face_maps import face_maps

app = typer.Typer()
app.command()(face_maps)


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
    return CliRunner().invoke(app, [str(part) for part in ("--data-dir", data_dir, "--weights", weights, *args)])


def test_a_report_of_every_method_twice_the_same(data_dir, weights, tmp_path):
    reports = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        args = ("--pairs", 2, "--steps", 2, "--masks", 8, "--device", "cpu", "--out", tmp_path / folder)
        result = run(data_dir, weights, *args)
        assert result.exit_code == 0, result.output
        report = json.loads((tmp_path / folder / "faces_face_resnet10.json").read_text())
        assert set(report["maps"]) == {"FAME", "CorrRISE", "Grad-CAM", "random"}
        for name, row in report["maps"].items():
            assert f"| {name} | {row['ties']['deletion']:.2f} | {row['ties']['insertion']:.2f} |" in result.stdout
            del row["seconds"]
        assert report["pairs"] == [2, 2]
        assert (report["sha256"], report["fame_steps"], report["corrrise_masks"]) == (sha256(weights), 2, 8)
        assert report.pop("command").startswith("python -m tools.face_maps ")
        assert {"seed", "hardware", "versions"} <= set(report)
        reports.append(report)
    assert reports[0] == reports[1]


def test_bad_input(data_dir, weights, tmp_path):
    for result, message in (
        (run(data_dir, weights, "--out", tmp_path / "no"), "there is no such folder"),
        (run(tmp_path, weights, "--out", tmp_path), "no faces.tar"),
        (run(data_dir, weights, "--model", "test_resnet", "--out", tmp_path), "does not load into test_resnet"),
    ):
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
