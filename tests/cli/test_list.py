import re
from types import SimpleNamespace

import pytest
import timm
import torch
from typer.testing import CliRunner

from timm_interpretable import __version__
from timm_interpretable.cli import app, common
from timm_interpretable.models.weights import HUB_PUBLISHED

runner = CliRunner()


def test_version():
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"timm-interpretable {__version__}"


def test_no_arguments_print_the_help():
    result = runner.invoke(app, [])
    assert "explain" in result.output
    assert "list" in result.output


def test_list_has_our_models_and_no_others():
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["model", "params", "input", "classes", "weights"]
    names = [row.split()[0] for row in rows]
    assert {"facnn_resnet18.imagenette", "facnn_resnet18.cifar10", "facnn_resnet34"} <= set(names)
    assert not any(name.startswith("resnet") for name in names)


def test_list_states_size_input_and_weights():
    rows = {row.split()[0]: row for row in runner.invoke(app, ["list"]).stdout.splitlines()}
    row = rows["facnn_resnet18.cifar10"]
    model = timm.create_model("facnn_resnet18.cifar10")
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M" in row
    assert "32x32" in row
    assert rows["bcos_resnet50.in1k"].endswith("the authors' (github.com)")
    assert row.endswith("bundled, Hub" if HUB_PUBLISHED else "bundled, Hub (not published yet)")
    assert rows["facnn_resnet34"].endswith("none")


def test_list_marks_a_damaged_local_file(monkeypatch):
    def damaged(name):
        raise RuntimeError("sha256")

    monkeypatch.setattr("timm_interpretable.models.weights.local_weights", damaged)
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0
    assert "damaged file" in result.stdout


def test_load_model_uses_pretrained_weights_in_evaluation_mode(monkeypatch):
    asked = {}

    def create_model(name, pretrained):
        asked.update(name=name, pretrained=pretrained)
        return torch.nn.Linear(2, 2)

    monkeypatch.setattr(timm, "create_model", create_model)
    model = common.load_model("facnn_resnet18", torch.device("cpu"))
    assert asked == {"name": "facnn_resnet18.imagenette", "pretrained": True}
    monkeypatch.setattr(common, "weight_sources", lambda name: ["local"] * name.endswith(".cifar10"))
    common.load_model("coda_net_s", torch.device("cpu"))  # whose default configuration has no weights
    assert asked["name"] == "coda_net_s.cifar10"
    assert not model.training


def test_every_close_name_is_offered_once(capsys):
    with pytest.raises(common.typer.Exit):
        common.load_model("facnn_resnet5", torch.device("cpu"))
    offered = re.findall(r"[\w.]+\d[\w.]*", capsys.readouterr().err.split("did you mean ")[1])
    assert offered[0] == "facnn_resnet50"
    assert len(offered) == len(set(offered))


def test_pick_device_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert common.pick_device(None) == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    assert common.pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "meta", "tpu9000"])
def test_a_device_that_is_not_there_fails(monkeypatch, capsys, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(common.typer.Exit) as exit_:
        common.pick_device(name)
    assert exit_.value.exit_code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert repr(name) in error
