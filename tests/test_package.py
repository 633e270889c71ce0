"""The package as a user gets it: an installed wheel in an empty folder, without network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from this tree and unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", str(wheel), "--no-deps", "-q", "--target", str(target)],
        check=True,
        capture_output=True,
    )
    return target


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "empty")}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["facnn_resnet18", "facnn_resnet18.imagenette", "facnn_resnet18.cifar10"])
def test_pretrained_models_load_offline_from_the_wheel(installed, tmp_path, name):
    code = f"import timm, timm_interpretable as t; timm.create_model({name!r}, pretrained=True); print(t.__file__)"
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


def test_the_wheel_explains_its_samples(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "timm_interpretable.cli", "explain", "--sample")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "explanations").glob("*.png"))) == len(done.stdout.splitlines()) > 0


def test_the_wheel_is_typed_and_licensed(installed):
    assert (installed / "timm_interpretable" / "py.typed").is_file()
    assert list(installed.glob("timm_interpretable-*.dist-info/licenses/LICENSE"))
