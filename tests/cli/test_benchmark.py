"""`benchmark` on generated images: resumes, survives a failing cell, and is the same from one process and from two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from timm_interpretable.benchmark import METHODS, Method
from timm_interpretable.cli import app
from timm_interpretable.cli.common import load_any
from timm_interpretable.models.weights import card_folder

SIZES = ("--images", "6", "--boxed", "6", "--costly", "2", "--masks", "8", "--fame-steps", "2", "--ig-steps", "2")
CHEAP = "class map,Grad-CAM,HiResCAM,input x gradient,random"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """boxed/ and val/ with three images of two classes each; the left half is the box."""
    generator = torch.Generator().manual_seed(0)
    rows = ["path,xmin,ymin,xmax,ymax"]
    for split in ("boxed", "val"):
        for name in ("blue", "red"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=generator).byte()
                Image.fromarray(pixels.numpy()).save(tmp_path / split / name / f"{i}.png")
                rows.append(f"{name}/{i}.png,0,0,112,224")
    (tmp_path / "boxed_boxes.csv").write_text("\n".join(rows[:7]))
    return tmp_path


@pytest.fixture
def model(weights: Path) -> str:
    """As the command line names it."""
    return f"facnn_resnet18={weights}"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *map(str, args), *SIZES, "--device", "cpu"])


def table(out: Path) -> dict[tuple[str, str], dict]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {(row["method"], row["number"]): row for row in rows}


def test_every_method_and_every_metric(data_dir: Path, model: str) -> None:
    out = data_dir / "out"
    result = run("--data-dir", data_dir, "--models", model, "--out", out)
    assert result.exit_code == 0, result.output
    rows = table(out)
    assert {method for method, _ in rows} == {name for name in METHODS if "contributions" not in name}
    assert not [row for row in rows.values() if "error" in row]
    assert (rows["random", "energy"]["images"], rows["RISE", "energy"]["images"]) == (6, 2)
    assert rows["random", "road_most"]["images"] == 2
    assert rows["class map", "completeness"]["mean"] < 1e-4
    # by the theorem, and since bilinear enlargement is the same
    for number in ("energy", "removal_least", "deletion"):
        assert rows["HiResCAM", number]["mean"] == pytest.approx(rows["class map", number]["mean"], abs=0.02), number
    text = (out / "results.md").read_text()
    assert str(data_dir) not in text
    assert "Chance: energy in box 0.500, pointing 0.500." in text
    assert (out / "maps_facnn_resnet18.png").is_file()


def test_a_stopped_run_goes_on_and_a_failing_cell_stops_nothing(data_dir: Path, model: str, monkeypatch) -> None:
    out, calls = data_dir / "out", []

    def broken(context):
        calls.append(context)
        raise RuntimeError("no such\nluck")

    args = ("--data-dir", data_dir, "--models", model, "--metrics", "boxes", "--methods", CHEAP, "--out", out)
    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "Grad-CAM", Method(broken))
        result = run(*args)
    assert result.exit_code == 2
    assert "5 of 25 cells failed" in result.output
    rows = table(out)
    assert rows["Grad-CAM", "energy"]["error"] == "RuntimeError: no such luck (1 part(s) failed)"
    assert rows["random", "energy"]["images"] == 6
    assert "- facnn_resnet18, Grad-CAM, energy in box: RuntimeError: no such luck" in (out / "results.md").read_text()
    before = {file: file.stat().st_mtime_ns for file in (out / "units").glob("*.json")}
    assert run(*args).exit_code == 0
    written = [file.name for file, time in before.items() if file.stat().st_mtime_ns != time]
    assert len(written) == 1
    assert "Grad-CAM" in written[0]
    assert "error" not in table(out)["Grad-CAM", "energy"]
    # another setting is another result
    assert run(*args, "--seed", 1).exit_code == 0
    assert len(list((out / "units").glob("*.json"))) == 2 * len(before)


def test_two_processes_give_the_numbers_of_one(data_dir: Path, model: str) -> None:
    args = ["--data-dir", str(data_dir), "--models", model, "--metrics", "boxes,removal", "--methods", f"{CHEAP},RISE"]
    assert run(*args, "--out", data_dir / "one").exit_code == 0
    # what `accelerate launch` does for several GPUs; on CPUs it starts one process whatever it is asked for
    launch = ["torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--redirects", "3", "--log_dir"]
    command = [sys.executable, "-m", *launch, str(data_dir / "logs"), "-m", "timm_interpretable.cli", "benchmark"]
    done = subprocess.run(
        [*command, *args, *SIZES, "--device", "cpu", "--out", str(data_dir / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = [file.read_text() for file in (data_dir / "logs").rglob("stdout.log")]
    assert sorted("written to" in text for text in said) == [False, True]
    one, two = table(data_dir / "one"), table(data_dir / "two")
    assert one.keys() == two.keys()
    for cell, row in one.items():
        assert two[cell] == {key: pytest.approx(value, abs=1e-5) for key, value in row.items()}, cell


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--models", "facnn_resnet81"), "unknown model 'facnn_resnet81'; did you mean facnn_resnet"),
        (("--metrics", "boxes,beauty"), "--metrics has 'beauty', expected some of: boxes, removal"),
        (("--methods", "GradCAM"), "--methods has 'GradCAM', expected some of: class map"),
        (("--reference", "Grad-Cam"), "--reference 'Grad-Cam': expected one of the methods that are measured"),
        (("--methods", "random", "--reference", "RISE"), "--reference 'RISE': expected one of the methods"),
        (("--methods", "contributions"), "facnn_resnet18 has none of the methods contributions"),
        (("--split", "train"), "has no train.tar, train-*.tar or train/"),
    ],
)
def test_bad_requests(data_dir: Path, model: str, args: tuple[str, ...], message: str) -> None:
    result = run(
        "--data-dir", data_dir, *(() if args[0] == "--models" else ("--models", model)), *args, "--out", data_dir
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(data_dir.glob("units/*"))


def test_a_model_twice(data_dir: Path, model: str) -> None:
    result = run("--data-dir", data_dir, "--models", f"{model},{model}", "--out", data_dir)
    assert result.exit_code == 2
    assert "--models has a model twice" in " ".join(result.output.split())


@pytest.mark.parametrize("name", ["facnn_resnet18.imagenette", "coda_net_s.cifar10"])
def test_a_released_file_loads_by_its_path(name: str) -> None:
    """Its config.json has the number of classes twice: as timm's and among the arguments of the model."""
    net = load_any(name.split(".")[0], card_folder(name) / "model.safetensors", torch.device("cpu"))
    assert net.num_classes == net.pretrained_cfg["num_classes"] == 10
