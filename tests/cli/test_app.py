"""`timm-interpretable app`: refuses what cannot work before it loads anything."""

import json
import socket
import sys

import pytest
from typer.testing import CliRunner

from timm_interpretable.cli import app


def run(*args: str):
    return CliRunner().invoke(app, ["app", *args])


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = run()
    assert result.exit_code == 2
    assert "pip install 'timm-interpretable[space]'" in result.stderr


@pytest.mark.parametrize("args", [("--port", "70000"), ("--max-megabytes", "0"), ("--keep-minutes", "0")])
def test_values_out_of_range(args):
    result = run(*args)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


def test_a_port_that_is_taken():
    pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("--port", str(port))
    assert result.exit_code == 2
    assert str(port) in result.stderr


def test_settings_reach_the_page(monkeypatch):
    pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
    seen = {}
    monkeypatch.setattr(
        "timm_interpretable.app.page.serve", lambda settings, **options: seen.update(s=settings, **options)
    )
    assert run("--port", "0", "--max-megabytes", "3", "--keep-minutes", "2", "--host", "0.0.0.0").exit_code == 0
    assert (seen["s"].max_bytes, seen["s"].keep_seconds) == (3 * 2**20, 120)
    assert (seen["server_name"], seen["server_port"], seen["share"]) == ("0.0.0.0", None, False)
    assert seen["entries"] is None


def test_models_of_ones_own(monkeypatch, weights):
    """A run's folder and a network of timm, which becomes a hybrid, come before the released models."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
    from timm_interpretable.app.models import Models, released_entries

    seen = {}
    monkeypatch.setattr("timm_interpretable.app.page.serve", lambda settings, **options: seen.update(options))
    told = json.loads((weights.parent / "result.json").read_text())
    told["recipe"]["model"] = "facnn_resnet18"
    (weights.parent / "result.json").write_text(json.dumps(told))
    result = CliRunner().invoke(app, ["app", "--model", str(weights.parent)])
    assert result.exit_code == 0, result.output
    models = Models(seen["entries"])
    assert [entry.name for entry in models.entries] == ["run", *(entry.name for entry in released_entries())]
    assert models.class_names("run") == ("blue", "red")
    assert models.entry("run").title == "run, 2 classes"
    assert next(iter(models.methods("run"))) == "class_map"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere"], "unknown model 'nowhere'"),
        (["facnn_resnet18.cifar10"], "the page has a model 'facnn_resnet18.cifar10' already"),
        (["face_resnet10.orl"], "has no classes; the page compares classifiers"),
    ],
)
def test_models_that_the_page_cannot_take(names, message):
    pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
    result = run(*(part for name in names for part in ("--model", name)))
    assert result.exit_code == 2
    assert message in result.stderr
