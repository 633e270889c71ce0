"""`evaluate` on eight generated images: its numbers are recomputed here by other means."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from captum.attr import LayerGradCam
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from typer import Typer
from typer.testing import CliRunner, Result

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.cli.evaluate import evaluate
from timm_interpretable.metrics import grad_cam

CLASSES = ("blue", "red")
app = Typer()
app.command()(evaluate)


def picture(label: int, seed: int) -> Image.Image:
    """A 32x32 image of noise in one colour channel."""
    noise = torch.randint(0, 256, (32, 32), generator=torch.Generator().manual_seed(seed)).byte().numpy()
    bands = [Image.new("L", (32, 32))] * 3
    bands[2 if label == 0 else 0] = Image.fromarray(noise)
    return Image.merge("RGB", bands)


def write_tar(file: Path, per_class: int) -> None:
    with tarfile.open(file, "w") as tar:
        for label, name in enumerate(CLASSES):
            for i in range(per_class):
                data = io.BytesIO()
                picture(label, seed=i).save(data, "PNG")
                info = tarfile.TarInfo(f"{name}/{i}.png")
                info.size = len(data.getvalue())
                data.seek(0)
                tar.addfile(info, data)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """val.tar, and boxed.tar with the left half of every image as its box."""
    write_tar(tmp_path / "val.tar", 4)
    write_tar(tmp_path / "boxed.tar", 2)
    rows = [f"{name}/{i}.png,0,0,112,224" for name in CLASSES for i in range(2)]
    (tmp_path / "boxed_boxes.csv").write_text("\n".join(["path,xmin,ymin,xmax,ymax", *rows]))
    return tmp_path


@pytest.fixture
def facnn(tmp_path: Path) -> Path:
    """Weights of a tiny FA-CNN, with timm's config.json beside them."""
    args = dict(trunk_width=48, stem_stride=4, layers=[1, 1], branch_widths=[8, 8], pools=[1])
    torch.manual_seed(0)
    model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    file = tmp_path / "facnn" / "model.safetensors"
    file.parent.mkdir()
    save_file(model.state_dict(), file)
    cfg = dict(input_size=[3, 32, 32], mean=[0.0] * 3, std=[1.0] * 3)
    file.with_name("config.json").write_text(json.dumps(dict(num_classes=2, model_args=args, pretrained_cfg=cfg)))
    return file


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Weights of a tiny ordinary model that calls an image red where red outweighs blue; nothing beside them."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    file = tmp_path / "baseline.safetensors"
    save_file(model.state_dict(), file)
    return file


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args), "--workers", "0", "--device", "cpu", "--batch-size", "3"])


def reference_accuracy(model: torch.nn.Module, mean: float, std: float) -> float:
    right = 0
    for label in range(2):
        for i in range(4):
            pixels = torch.tensor(list(picture(label, i).tobytes())).view(1, 32, 32, 3).permute(0, 3, 1, 2) / 255
            right += int(model.eval()((pixels - mean) / std).argmax(1).item() == label)
    return right / 8


def test_facnn_with_boxes(data_dir: Path, facnn: Path, tmp_path: Path) -> None:
    result = run("--data-dir", data_dir, "--weights", facnn, "--boxes", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    args = json.loads(facnn.with_name("config.json").read_text())["model_args"]
    torch.manual_seed(0)
    model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    assert report["images"] == 8
    assert report["accuracy"] == reference_accuracy(model, 0, 1)
    boxes = report["boxes"]
    assert (boxes["images"], boxes["chance"]) == (4, 0.5)
    assert boxes["maps"].keys() == {"gradcam", "penultimate", "average", "top_half", "contrast"}
    # the theorem of the architecture, end to end: both are the same map
    for metric in ("energy", "pointing"):
        assert boxes["maps"]["gradcam"][metric] == pytest.approx(boxes["maps"]["penultimate"][metric], abs=1e-3)
    assert boxes["gradcam_depth_correlation"][-1] == pytest.approx(1)
    assert len(boxes["gradcam_depth_correlation"]) == 2
    assert "top-1" in result.output
    assert "penultimate" in result.output


def test_baseline_with_boxes(data_dir: Path, baseline: Path, tmp_path: Path) -> None:
    result = run(
        "--data-dir", data_dir, "--model", "test_resnet", "--weights", baseline, "--boxes", "--input-size", "32",
        "--mean-std", "none", "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    torch.manual_seed(0)
    assert report["accuracy"] == reference_accuracy(timm.create_model("test_resnet", num_classes=2), 0, 1)
    assert report["boxes"]["maps"].keys() == {"gradcam"}
    assert "gradcam_depth_correlation" not in report["boxes"]


def test_settings_of_a_training_run(data_dir: Path, baseline: Path) -> None:
    recipe = dict(eval_size=32, mean=[0.5] * 3, std=[0.25] * 3, num_classes=2, model_args={})
    baseline.with_name("result.json").write_text(json.dumps(dict(recipe=recipe)))
    result = run("--data-dir", data_dir, "--model", "test_resnet", "--weights", baseline)
    torch.manual_seed(0)
    accuracy = reference_accuracy(timm.create_model("test_resnet", num_classes=2), 0.5, 0.25)
    assert f"top-1 {100 * accuracy:.2f} %" in result.output


def test_folder_of_images(data_dir: Path, facnn: Path) -> None:
    with tarfile.open(data_dir / "val.tar") as tar:
        tar.extractall(data_dir / "test")
    outputs = [run("--data-dir", data_dir, "--weights", facnn, "--split", split).output for split in ("val", "test")]
    assert outputs[0].replace("of val", "of test") == outputs[1]


@pytest.mark.parametrize("name", ["test_resnet", "facnn_resnet18"])
def test_grad_cam_is_captums(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    layer = model.stages[-1] if name.startswith("facnn") else model.layer4
    x, target = torch.rand(2, 3, 64, 64), torch.tensor([1, 3])
    wanted = LayerGradCam(model, layer).attribute(x, target=target, relu_attributions=True)
    assert_close(grad_cam(model, x, target), wanted[:, 0].detach())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--split", "dev"), "has no dev.tar"),
        (("--model", "nosuchmodel"), "does not load into nosuchmodel"),
        (("--model", "test_vit"), "does not load into test_vit"),
        (("--input-size", "20"), "multiples of 8"),
    ],
)
def test_clear_errors(data_dir: Path, facnn: Path, args: tuple[str, ...], message: str) -> None:
    result = run("--data-dir", data_dir, "--weights", facnn, *args)
    assert result.exit_code == 2
    assert message in result.output


def test_missing_weights(data_dir: Path) -> None:
    result = run("--data-dir", data_dir, "--weights", data_dir / "none.safetensors")
    assert result.exit_code == 2
    assert "none.safetensors" in result.output


def test_missing_boxes(data_dir: Path, facnn: Path) -> None:
    (data_dir / "boxed_boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nred/0.png,0,0,9,9\n")
    result = run("--data-dir", data_dir, "--weights", facnn, "--boxes")
    assert result.exit_code == 2
    assert "no box for 3 of 4 images, e.g. blue/0.png" in result.output


def test_other_number_of_classes(data_dir: Path, tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "three.safetensors")
    result = run("--data-dir", data_dir, "--model", "test_resnet", "--weights", tmp_path / "three.safetensors")
    assert result.exit_code == 2
    assert "has 2 classes, but the model has 3" in result.output


def test_grad_cam_needs_a_feature_map() -> None:
    with pytest.raises(ValueError, match="CAMs need a feature map"):
        grad_cam(timm.create_model("test_vit").eval(), torch.rand(1, 3, 160, 160), torch.tensor([0]))


def test_pixel_removal_of_every_method(data_dir, facnn):
    out = data_dir / "report.json"
    result = run("--data-dir", data_dir, "--weights", facnn, "--removal", 4, "--costly", 2, "--json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())["removal"]
    assert {name: row["images"] for name, row in report.items()} == {
        "class map": 4, "class map, contrast": 4, "Grad-CAM": 4, "input x gradient": 4,
        "integrated gradients": 2, "occlusion 5": 2, "occlusion 9": 2,
    }  # fmt: skip
    assert "integrated gradients" in result.output
    whole = {row["curve"][0] for row in report.values() if row["images"] == 4}
    assert len(whole) == 1  # nothing is removed yet: the same probability for every method
    assert len(report["class map"]["curve"]) == 21


def test_smooth_maps(data_dir, facnn):
    curves = {}
    for smooth in (1, 3):
        out = data_dir / "report.json"
        options = ("--removal", 4, "--costly", 1, "--smooth", smooth, "--json", out)
        result = run("--data-dir", data_dir, "--weights", facnn, *options)
        assert result.exit_code == 0, result.output
        report = json.loads(out.read_text())
        assert report["smooth"] == smooth
        curves[smooth] = report["removal"]["input x gradient"]["curve"]
    assert curves[1][0] == curves[3][0]
    assert curves[1] != curves[3]
    result = run("--data-dir", data_dir, "--weights", facnn, "--removal", 4, "--smooth", 2)
    assert result.exit_code == 2
    assert "--smooth 2: expected an odd number" in result.output


def test_grids_need_nine_classes(data_dir, facnn):
    result = run("--data-dir", data_dir, "--weights", facnn, "--grids", 1)
    assert result.exit_code == 2
    assert "0 grids of 3x3" in result.output
