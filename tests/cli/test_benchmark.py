"""`benchmark` on generated images: resumes, survives a failing cell, and is the same from one process and from two."""

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from timm_interpretable.attr import METHODS, Cost, Method, methods_for
from timm_interpretable.benchmark.plots import contact_sheet
from timm_interpretable.cli import app
from timm_interpretable.cli.common import load_any
from timm_interpretable.models.weights import card_folder

SIZES = ("--images", "6", "--costly", "2", "--masks", "8", "--fame-steps", "2", "--ig-steps", "2")
CHEAP = "class_map,grad_cam,hires_cam,input_x_gradient,random"
ARGS = ("--metrics", "boxes", "--methods", CHEAP)


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


@pytest.fixture
def wide_model(weights: Path) -> str:
    """The same for images of 32 x 64 pixels."""
    result = json.loads(weights.with_name("result.json").read_text())
    recipe = result["recipe"]
    config = {key: recipe[key] for key in ("mean", "std", "num_classes")} | dict(input_size=[3, 32, 64])
    weights.with_name("config.json").write_text(
        json.dumps(dict(num_classes=2, model_args=recipe["model_args"], pretrained_cfg=config))
    )
    return f"facnn_resnet18={weights}"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *SIZES, *map(str, args), "--device", "cpu"])


def table(out: Path) -> dict[tuple[str, str], dict]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {(row["method"], row["number"]): row for row in rows}


def test_every_method_and_every_metric(data_dir: Path, model: str) -> None:
    out = data_dir / "out"
    result = run("--data-dir", data_dir, "--models", model, "--out", out)
    assert result.exit_code == 0, result.output
    rows = table(out)
    assert {method for method, _ in rows} == set(methods_for(timm.create_model("facnn_resnet18")))
    assert not [row for row in rows.values() if "error" in row]
    assert (rows["random", "energy"]["images"], rows["rise", "energy"]["images"]) == (6, 2)
    assert rows["random", "road_most"]["images"] == 2
    for method in ("class_map", "class_map_raw"):
        assert rows[method, "completeness"]["mean"] < 1e-4, method
    # by the theorem, and since bilinear enlargement is the same
    for number in ("energy", "removal_least", "deletion", "logit_deletion"):
        mine, theirs = rows["class_map_raw", number]["mean"], rows["hires_cam", number]["mean"]
        assert theirs == pytest.approx(mine, abs=0.02), number
    text = (out / "results.md").read_text()
    assert str(data_dir) not in text
    assert "Chance: energy in box 0.500, pointing 0.500." in text
    assert "in the frame of the model's own input, 32 x 32 pixels. Removed pixels are black." in text
    assert (out / "maps_facnn_resnet18.png").is_file()
    assert "class map, average of all blocks" in result.output


def test_images_need_not_be_square(data_dir: Path, wide_model: str) -> None:
    out, metrics = data_dir / "out", "boxes,removal,insertion,road,completeness"
    few = ("--images", "2", "--costly", "1")
    result = run("--data-dir", data_dir, "--models", wide_model, "--metrics", metrics, "--out", out, *few)
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    assert results["models"]["facnn_resnet18"]["input_size"] == [3, 32, 64]
    assert results["chance"]["energy"] == pytest.approx(0.5)  # the left half, whatever the shape
    assert not [row for row in results["rows"] if "error" in row]


def test_pictures_are_named_by_the_model_that_is_shown(data_dir: Path, model: str, monkeypatch) -> None:
    """Its classes are blue and red; those of the released weights of the same architecture are others."""
    shown = []

    def sheet(name, pictures, maps, titles, footer):
        shown.append((list(maps), set(titles)))
        return contact_sheet(name, pictures, maps, titles, footer)

    monkeypatch.setattr("timm_interpretable.benchmark.report.contact_sheet", sheet)
    args = ("--data-dir", data_dir, "--models", model, "--metrics", "boxes", "--methods", "class_map_raw,random")
    assert run(*args, "--out", data_dir / "out").exit_code == 0
    assert shown == [(["class map, not centred", "random"], {"blue", "red"})]


@pytest.mark.parametrize(("fill", "words"), [("mean", "of the mean colour"), ("blur", "those of the blurred image")])
def test_what_removed_pixels_become_can_be_chosen(data_dir: Path, model: str, fill: str, words: str) -> None:
    out = data_dir / "out"
    args = ("--data-dir", data_dir, "--models", model, "--metrics", "removal", "--methods", "random", "--out", out)
    assert run(*args, "--fill", fill).exit_code == 0
    assert json.loads((out / "results.json").read_text())["models"]["facnn_resnet18"]["fill"] == fill
    assert words in (out / "results.md").read_text()


def test_the_papers_preset(data_dir: Path, model: str) -> None:
    out = data_dir / "out"
    args = ["--data-dir", data_dir, "--models", model, "--metrics", "removal,grids", "--methods", "class_map,random"]
    args += ["--preset", "paper", "--grid-side", "2", "--grids", "1", "--out", out]
    result = run(*args)
    assert result.exit_code == 2  # two classes do not fill a grid of four
    rows = table(out)
    assert "grids of 2x2 are all" in rows["random", "grids"]["error"]
    assert rows["random", "removal_least"]["images"] == 6
    curves = json.loads((out / "results.json").read_text())["curves"]
    for curve in curves:
        fractions = curve["fractions"]
        assert (len(fractions), fractions[0], fractions[-1]) == (128, 0, 0.25), curve["curve"]


def test_a_stopped_run_goes_on_and_a_failing_cell_stops_nothing(data_dir: Path, model: str, monkeypatch) -> None:
    out = data_dir / "out"

    def broken(context):
        raise RuntimeError("no such\nluck")

    args = ("--data-dir", data_dir, "--models", model, *ARGS, "--out", out)
    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "grad_cam", Method("grad_cam", "Grad-CAM", Cost.GRADIENT, broken))
        result = run(*args)
    assert result.exit_code == 2
    assert "5 of 25 cells failed" in result.output
    rows = table(out)
    assert rows["grad_cam", "energy"]["error"] == "RuntimeError: no such luck (1 part(s) failed)"
    assert rows["random", "energy"]["images"] == 6
    assert "- facnn_resnet18, Grad-CAM, energy in box: RuntimeError: no such luck" in (out / "results.md").read_text()
    before = {file: file.stat().st_mtime_ns for file in (out / "units").glob("*.json")}
    assert run(*args).exit_code == 0
    written = [file.name for file, time in before.items() if file.stat().st_mtime_ns != time]
    assert len(written) == 1
    assert "grad_cam" in written[0]
    assert "error" not in table(out)["grad_cam", "energy"]
    # another setting is another result
    assert run(*args, "--seed", 1).exit_code == 0
    assert len(list((out / "units").glob("*.json"))) == 2 * len(before)


def test_ctrl_c_keeps_what_is_done_and_says_so(data_dir: Path, model: str, monkeypatch) -> None:
    out = data_dir / "out"

    def stopped(context):
        raise KeyboardInterrupt

    args = ("--data-dir", data_dir, "--models", model, *ARGS, "--out", out)
    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "hires_cam", Method("hires_cam", "HiResCAM", Cost.GRADIENT, stopped))
        result = run(*args)
    assert result.exit_code == 130
    assert result.output.splitlines()[-1] == (
        f"stopped: 2 of 5 parts are kept in {out}; the same command goes on from there"
    )
    kept = {file: file.stat().st_mtime_ns for file in (out / "units").glob("*.json")}
    assert len(kept) == 2
    assert run(*args).exit_code == 0
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_two_processes_give_the_numbers_of_one(data_dir: Path, model: str, in_two_processes) -> None:
    args = ["--data-dir", str(data_dir), "--models", model, "--metrics", "boxes,removal", "--methods", f"{CHEAP},rise"]
    assert run(*args, "--out", data_dir / "one").exit_code == 0
    said = in_two_processes("benchmark", *args, *SIZES, "--out", data_dir / "two")
    assert ["written to" in text for text in said] == [True, False]
    one, two = table(data_dir / "one"), table(data_dir / "two")
    assert one.keys() == two.keys()
    for cell, row in one.items():
        assert two[cell] == {key: pytest.approx(value, abs=1e-5) for key, value in row.items()}, cell


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--models", "facnn_resnet81"), "unknown model 'facnn_resnet81'; did you mean facnn_resnet"),
        (("--metrics", "boxes,beauty"), "--metrics has 'beauty', expected some of: boxes, removal"),
        (("--methods", "Grad-CAM"), "--methods has 'Grad-CAM', expected some of: class_map"),
        (("--reference", "Grad-Cam"), "--reference 'Grad-Cam': expected one of the methods that are measured"),
        (("--methods", "random", "--reference", "rise"), "--reference 'rise': expected one of the methods"),
        (("--methods", "contributions"), "facnn_resnet18 has none of the methods contributions"),
        (("--fill", "absent"), "fill='absent' is for modules that encode their images"),
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
