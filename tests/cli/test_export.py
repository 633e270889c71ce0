"""`export`: files that give the logits and the maps of the model, also where there is no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from timm_interpretable.attr import ClassMap
from timm_interpretable.cli import app
from timm_interpretable.data.classes import class_names
from timm_interpretable.models import class_map_model, export as export_module
from timm_interpretable.models.export import LogitsAndMaps, export_program, has_fixed_size

ROOT = Path(__file__).resolve().parents[2]
FACNN = "facnn_resnet18.cifar10"


def run(*args: object):
    return CliRunner().invoke(app, ["export", *map(str, args)])


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    result = run(FACNN, "--out", file)
    assert result.exit_code == 0, result.output
    assert "takes batches of any number of images of any size" in result.stdout
    assert "checked: its outputs differ from the model's by at most" in result.stdout
    return file


@pytest.mark.parametrize("shape", [(1, 32, 32), (5, 48, 64)])
def test_onnx_gives_logits_and_maps_of_any_batch_and_size(onnx_file, shape):
    batch, height, width = shape
    model = timm.create_model(FACNN, pretrained=True).eval()
    images = torch.rand(batch, 3, height, width)
    logits, maps = onnxruntime.InferenceSession(str(onnx_file)).run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-4, atol=1e-4)
    for target in (0, 7):
        wanted = ClassMap(model).attribute(images, target).sum((1, 2, 3))  # the map adds up to the same
        np.testing.assert_allclose(maps[:, target].mean((1, 2)), wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_head_maps_of_a_bcos_network(tmp_path):
    file = tmp_path / "bcos.onnx"
    result = run("bcos_resnet18_050", "--out", file)
    assert result.exit_code == 0, result.output
    model, images = timm.create_model("bcos_resnet18_050", pretrained=True).eval(), torch.rand(2, 3, 96, 128)
    logits, maps = onnxruntime.InferenceSession(str(file)).run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(torch.from_numpy(maps), model.head_maps(images), rtol=1e-3, atol=1e-2)


def test_the_file_says_how_to_prepare_images(onnx_file):
    about = onnxruntime.InferenceSession(str(onnx_file)).get_modelmeta().custom_metadata_map
    model = timm.create_model(FACNN)
    assert json.loads(about["class_names"]) == class_names(model)
    for key in ("input_size", "mean", "std"):
        assert json.loads(about[key]) == list(model.pretrained_cfg[key])


def test_the_example_needs_no_torch(onnx_file, tmp_path):
    script = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None  # importing it fails\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    picture = ROOT / "timm_interpretable" / "samples" / "cat.jpg"
    command = [sys.executable, "-c", script, ROOT / "examples" / "onnx_maps.py", onnx_file, picture]
    done = subprocess.run([*command, "--out", tmp_path / "explained.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cat: logit ")
    assert (tmp_path / "explained.png").stat().st_size > 1000


@pytest.fixture
def softmax_file(tmp_path):
    """Weights of a small network of timm, which `export` turns into a hybrid."""
    net = timm.create_model("test_resnet", num_classes=3)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(dict(architecture="test_resnet", num_classes=3, label_names=["a", "b", "c"]))
    )
    return tmp_path / "model.safetensors"


def test_a_network_of_timm_as_a_program(softmax_file, tmp_path):
    result = run("test_resnet", "--weights", softmax_file, "--out", tmp_path / "model.pt2")
    assert result.exit_code == 0, result.output
    net = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(softmax_file)).eval()
    images = torch.rand(3, 3, 64, 96)
    logits, maps = torch.export.load(tmp_path / "model.pt2").module()(images)
    with torch.no_grad():
        wanted = net(images)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.mean((2, 3)), wanted - wanted.mean(1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_padding_that_depends_on_the_size_fixes_it():
    assert has_fixed_size(class_map_model(timm.create_model("tf_efficientnet_lite0")))
    assert not has_fixed_size(class_map_model(timm.create_model("efficientnet_lite0")))


@pytest.mark.slow
def test_the_default_model_of_explain(tmp_path):
    result = run("facnn_hybrid_efficientnet_lite0", "--out", tmp_path / "model.onnx")
    assert result.exit_code == 0, result.output
    assert "images of 224 x 224 pixels" in result.stdout


def test_a_file_that_computes_something_else_is_refused(facnn, tmp_path, monkeypatch):
    def other(self, images):
        logits, maps = LogitsAndMaps.forward(self, images)
        return logits + 1, maps

    facnn.pretrained_cfg = {**facnn.pretrained_cfg, "input_size": (3, 16, 16)}
    assert export_program(facnn, tmp_path / "model.pt2") < 1e-5
    program = export_module._program
    monkeypatch.setattr(
        export_module, "_program", lambda pair: program(type("Other", (LogitsAndMaps,), dict(forward=other))(facnn))
    )
    with pytest.raises(RuntimeError, match=r"model\.pt2 is off by .* expected at most 0\.001"):
        export_program(facnn, tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("coda_net_s.cifar10", "--out", "model.onnx"), "coda_net_s.cifar10 has no class maps; expected an FA-CNN"),
        ((FACNN, "--out", "model.txt"), "--out model.txt ends in '.txt', expected .onnx or .pt2"),
        ((FACNN, "--out", "nowhere/model.onnx"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_exported(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(FACNN, "--out", tmp_path / "model.onnx")
    assert result.exit_code == 2
    assert "ONNX needs onnxruntime; install it by `pip install 'timm-interpretable[export]'`" in result.stderr
