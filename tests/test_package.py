"""The package as a user gets it: an sdist, the wheel built from it, and that wheel in an empty folder, offline."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

import timm_interpretable
from timm_interpretable.models.weights import released

ROOT = Path(__file__).parent.parent
SMALL = sorted(name for name in released() if not name.startswith("baseline_"))  # these the wheel carries


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    call("hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from what the sdist holds, and from nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    (source,) = folder.iterdir()
    call("hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel, unpacked into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    call("pip", "install", str(wheel), "--no-deps", "-q", "--target", str(target), cwd=target)
    return target


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "empty")}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)


def test_released_models_load_offline_from_the_wheel(installed, tmp_path):
    code = """
import timm, timm_interpretable as t
print(t.__file__)
for name in ("facnn_resnet18", *t.weights_source()):
    if not name.startswith("baseline_"):
        timm.create_model(name, pretrained=True)
        print(name, *t.weights_source(name))
"""
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    file, *models = done.stdout.splitlines()
    assert file.startswith(str(installed))
    assert len(models) == 1 + len(SMALL)
    assert all(f" bundled {installed}" in line for line in models)


def test_a_model_that_the_wheel_does_not_carry_says_where_it_is(installed, tmp_path):
    code = "import timm, timm_interpretable; timm.create_model('baseline_resnet18', pretrained=True)"
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "WeightsError: " in message
    assert "baseline_resnet18.imagenette" in message


def test_the_wheel_explains_its_samples(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "timm_interpretable.cli", "explain", "--sample")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "explanations").glob("*.png"))) == len(done.stdout.splitlines()) > 0


def test_contents_and_size(sdist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    root = "timm_interpretable"
    for file in ("py.typed", "models/released.json", "samples/cat.jpg"):
        assert f"{root}/{file}" in inside
    for name in SMALL:
        for file in ("README.md", "config.json", "model.safetensors", "regression.safetensors", "training.json"):
            assert f"{root}/hub_cards/{name}/{file}" in inside
    assert {file.split("/")[2] for file in inside if file.startswith(f"{root}/hub_cards/")} == set(SMALL)
    assert any(re.fullmatch(r"timm_interpretable-[^/]+\.dist-info/licenses/LICENSE", file) for file in inside)
    assert {file.split("/")[0] for file in inside} == {root, f"{root}-{version('timm-interpretable')}.dist-info"}
    kinds = {Path(file).suffix for file in inside if not file.split("/")[0].endswith(".dist-info")}
    known = {".py", ".md", ".json", ".jpg", ".png", ".css", ".js", ".html", ".safetensors", ".typed"}
    assert kinds <= known  # no pickles, no leftovers
    assert {f"{root}/app/style.css", f"{root}/app/page.js", f"{root}/samples/faces/a1.png"} <= set(inside)

    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "examples/finetune.py"} <= packed
    assert {"tests/test_package.py", "tools/render_samples.py", "tools/release/card_template.md"} <= packed
    assert not [name for name in packed if name.startswith(("hub_cards/baseline_", "runs/", ".ci/"))]
    assert wheel.stat().st_size < 35e6
    assert sdist.stat().st_size < 35e6


HEAVY = ("torch", "timm", "captum", "matplotlib", "numpy", "PIL", "rich", "gradio", "pandas", "torchvision")


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["explain", "--help"], ["benchmark", "--help"], ["evaluate"]]
)
@pytest.mark.parametrize("start", ["script", "module"])
def test_a_help_text_imports_nothing_heavy(start, command, tmp_path):
    """What torch and timm need is seconds; a help text, or a line about a missing option, needs none of them."""
    script = Path(sys.executable).with_name("timm-interpretable")
    begin = [str(script)] if start == "script" else ["-m", "timm_interpretable.cli"]
    if start == "script" and not script.is_file():
        pytest.skip("the package is not installed: pip install -e .")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *begin, *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert ("Usage" in done.stdout + done.stderr) or command == ["--version"]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & set(HEAVY)


def test_the_package_registers_its_models_and_shows_its_parts(tmp_path):
    code = """
import timm_interpretable as t
import timm
assert "facnn_resnet18" in timm.list_models()
assert t.attr.ClassMap and t.metrics.energy_in_box and t.models.FeatureAlignedCNN and t.weights_source
assert {"attr", "metrics", "models", "weights_source"} <= set(dir(t))
try:
    t.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "module 'timm_interpretable' has no attribute 'nothing'"


def test_twine_finds_nothing_wrong(sdist, wheel):
    assert call("twine", "check", "--strict", str(sdist), str(wheel), cwd=ROOT).count("PASSED") == 2


def test_one_version(sdist, wheel):
    number = timm_interpretable.__version__
    assert sdist.name == f"timm_interpretable-{number}.tar.gz"
    assert wheel.name == f"timm_interpretable-{number}-py3-none-any.whl"
    places = [*ROOT.glob("*.toml"), *ROOT.glob("timm_interpretable/**/*.py")]
    lines = [(path, line) for path in places for line in path.read_text().splitlines()]
    stated = [path for path, line in lines if "version" in line and f'"{number}"' in line]
    assert stated == [ROOT / "timm_interpretable" / "__init__.py"]
    assert f"## {number}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_stated_floors_are_those_that_are_tested():
    lines = (ROOT / ".ci" / "floors.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    text = (ROOT / "pyproject.toml").read_text()
    stated = dict(re.findall(r'"(\w[\w-]*)>=([\d.]+)"', text[text.index("\ndependencies") : text.index("\nspace")]))
    assert {name: Version(floor) for name, floor in stated.items()} == {
        name: Version(number) for name, number in tested.items() if name not in ("accelerate", "quantus")
    }
