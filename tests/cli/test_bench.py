import sys
from contextlib import nullcontext

import pytest
import torch
from typer.testing import CliRunner

from timm_interpretable.cli import app
from timm_interpretable.cli.bench import Row, bench_app, measure, table

TINY = ["facnn", "--size", "32", "--batch-size", "1", "--repeats", "1", "--device", "cpu"]


def test_facnn() -> None:
    result = CliRunner().invoke(bench_app, TINY)
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    for row in ("resnet18 forward", "facnn_resnet18 ClassMap", "facnn_resnet18 Grad-CAM, Captum"):
        assert "-" not in lines[row].removeprefix(row)
    assert lines["resnet18 forward"].count("1.00") >= 2  # its ratio to itself, in both precisions
    assert " - " in lines["resnet18 Grad-CAM, pytorch-grad-cam"]  # not measured in bf16


def test_coda() -> None:
    options = ["--size", "8", "--batch-size", "2", "--repeats", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["bench", "coda", *options])
    assert result.exit_code == 0, result.output
    for row in ("forward, materialised", "training step", "contributions to all classes"):
        assert any(line.startswith(f"{row} ") for line in result.output.splitlines())
    difference = float(result.output.split("fp32, relative: ")[1].split()[0])
    assert 0 < difference < 1e-4
    assert "MiB, ratio" in result.output or sys.platform != "linux"
    unknown = CliRunner().invoke(app, ["bench", "coda", "--model", "facnn_resnet18"])
    assert unknown.exit_code == 2
    assert "expected one of: coda_net_l, coda_net_m, coda_net_s" in unknown.output


def test_fame() -> None:
    options = ["--size", "32", "--batch-size", "2", "--n-steps", "2", "--repeats", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["bench", "fame", *options, "--cpu-time"])
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line.split() for line in result.output.splitlines()}
    assert lines["forward and input-backward"][4] == "1.00"
    assert float(lines["FAME"][1]) > 0
    for model, size, message in (("nosuchmodel", 32, "nosuchmodel"), ("facnn_resnet18", 30, "multiples of 16")):
        failed = CliRunner().invoke(app, ["bench", "fame", *options, "--model", model, "--size", str(size)])
        assert failed.exit_code == 2
        assert message in failed.output


def test_metrics(tmp_path) -> None:
    options = ["--size", "32", "--images", "2", "--repeats", "1", "--device", "cpu", "--model", "resnet18"]
    result = CliRunner().invoke(app, ["bench", "metrics", *options, "--cpu-time"])
    assert result.exit_code == 0, result.output
    for row in ("pixel removal, 20 points", "imputation, Grad-CAM", "imputation, random map, pytorch-grad-cam"):
        assert any(line.startswith(f"{row} ") for line in result.output.splitlines())
    failed = CliRunner().invoke(app, ["bench", "metrics", *options, "--data-dir", str(tmp_path)])
    assert failed.exit_code == 2
    assert "has no val.tar" in failed.output


def test_without_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    result = CliRunner().invoke(bench_app, TINY)
    assert result.exit_code == 0, result.output
    assert "pytorch-grad-cam is not measured: pip install 'timm-interpretable[cam]'" in result.output


def test_size_that_does_not_fit() -> None:
    result = CliRunner().invoke(bench_app, [*TINY, "--size", "30"])
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
