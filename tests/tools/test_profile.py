"""The profiles on tiny inputs: they run, say what they measure, and refuse what they cannot measure."""

import sys
from contextlib import nullcontext

import pytest
import torch
from typer.testing import CliRunner, Result

from tools.profile.__main__ import app
from tools.profile.fame import step_correlations
from tools.profile.rows import Row, measure, table

TINY = ["--size", "32", "--batch-size", "1", "--repeats", "1", "--device", "cpu"]


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_facnn() -> None:
    result = run("facnn", *TINY)
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    for row in ("resnet18 forward", "facnn_resnet18 ClassMap", "facnn_resnet18 Grad-CAM, Captum"):
        assert "-" not in lines[row].removeprefix(row)
    assert lines["resnet18 forward"].count("1.00") >= 2  # its ratio to itself, in both precisions
    assert " - " in lines["resnet18 Grad-CAM, pytorch-grad-cam"]  # not measured in bf16


def test_bcos() -> None:
    result = run("bcos", "--architecture", "resnet18", *TINY)
    assert result.exit_code == 0, result.output
    for row in ("resnet18 forward", "bcos_resnet18 forward", "bcos_resnet18 contributions of a class"):
        assert any(line.startswith(f"{row} ") for line in result.output.splitlines())
    unknown = run("bcos", "--architecture", "vgg11", *TINY)
    assert unknown.exit_code == 2
    assert "bcos_vgg11" in unknown.output


@pytest.mark.slow
def test_coda_net() -> None:
    result = run("coda_net", "--size", 8, "--batch-size", 2, "--repeats", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    for row in ("forward, materialised", "training step", "contributions to all classes"):
        assert any(line.startswith(f"{row} ") for line in result.output.splitlines())
    difference = float(result.output.split("fp32, relative: ")[1].split()[0])
    assert 0 < difference < 1e-4
    assert "MiB, ratio" in result.output or sys.platform != "linux"
    unknown = run("coda_net", "--model", "facnn_resnet18")
    assert unknown.exit_code == 2
    assert "expected one of: coda_net_l, coda_net_m, coda_net_s" in unknown.output


def test_fame() -> None:
    options = [*TINY, "--n-steps", 2, "--cpu-time"]
    result = run("fame", *options)
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line.split() for line in result.output.splitlines()}
    assert lines["forward and input-backward"][4] == "1.00"
    assert float(lines["FAME"][1]) > 0
    for model, size, message in (("nosuchmodel", 32, "nosuchmodel"), ("facnn_resnet18", 30, "multiples of 16")):
        failed = run("fame", *options, "--model", model, "--size", size)
        assert failed.exit_code == 2
        assert message in failed.output


def test_how_soon_fame_settles(tmp_path, monkeypatch, facnn, images) -> None:
    """Maps after more steps are closer to the last; the command prints what the function finds."""
    target = torch.tensor([0, 1, 2])
    found = step_correlations(facnn, images, target, 2, (1, 3, 9, 10))
    assert list(found) == [1, 3, 9]
    assert found[1] < found[9] < 1
    assert found[9] > 0.9

    monkeypatch.setattr("tools.profile.fame.load_any", lambda *_: facnn)
    monkeypatch.setattr("tools.profile.fame.open_images", lambda *_: [(image, 0) for image in images])
    monkeypatch.setattr("tools.profile.fame.step_correlations", lambda net, x, *_: {25: 0.25, 50: len(x) / 10})
    result = run("fame", *TINY, "--data-dir", tmp_path, "--images", 2)
    assert result.exit_code == 0, result.output
    assert "2 images of boxed at 32x32: correlation with the map after 500 steps" in result.output
    assert "  25 steps  0.25\n  50 steps  0.20" in result.output


def test_metrics(tmp_path) -> None:
    options = ["--size", 32, "--images", 2, "--repeats", 1, "--device", "cpu", "--model", "resnet18"]
    result = run("metrics", *options, "--cpu-time")
    assert result.exit_code == 0, result.output
    for row in ("pixel removal, 20 points", "imputation, Grad-CAM", "imputation, random map, pytorch-grad-cam"):
        assert any(line.startswith(f"{row} ") for line in result.output.splitlines())
    failed = run("metrics", *options, "--data-dir", tmp_path)
    assert failed.exit_code == 2
    assert "has no val.tar" in failed.output


def test_without_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    result = run("facnn", *TINY)
    assert result.exit_code == 0, result.output
    assert "pytorch-grad-cam is not measured: pip install 'timm-interpretable[cam]'" in result.output


def test_size_that_does_not_fit() -> None:
    result = run("facnn", *TINY, "--size", "30")
    assert result.exit_code == 2
    assert "multiples of 16" in result.output


def test_rows_run_interleaved_once_more_to_warm_up() -> None:
    calls: list[str] = []
    rows = [Row(name, "a", lambda name=name: calls.append(name)) for name in "ab"]
    seconds = measure(rows, 2, nullcontext, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert seconds.keys() == {"a", "b"}


def test_table() -> None:
    rows = [Row("plain", "plain", int), Row("slow", "plain", int)]
    text = table(rows, {"fp32": {"plain": 0.1, "slow": 0.3}, "bf16": {"plain": 0.2}}, batch_size=10)
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["plain", "10.00", "1.00", "20.00", "1.00", "plain"],
        ["slow", "30.00", "3.00", "-", "-", "plain"],
    ]
