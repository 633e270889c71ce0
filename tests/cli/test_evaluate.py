"""`evaluate` on eight generated images, and on drawn faces: its numbers are recomputed here by other means."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from drawn_faces import write_people
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.cli import app
from timm_interpretable.cli.common import evenly_spaced
from timm_interpretable.data.faces import ORL_VERIFICATION, load_people
from timm_interpretable.data.images import eval_transform
from timm_interpretable.metrics import all_pairs, equal_error_rate
from timm_interpretable.models.weights import card_folder, sha256

CLASSES = ("blue", "red")


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
    write_tar(tmp_path / "val.tar", 4)
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
    config = dict(num_classes=2, label_names=CLASSES, model_args=args, pretrained_cfg=cfg)
    file.with_name("config.json").write_text(json.dumps(config))
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
    options = ["--workers", "0", "--device", "cpu", "--batch-size", "3"]
    return CliRunner().invoke(app, ["evaluate", *map(str, args), *options])


def reference_accuracy(model: torch.nn.Module, mean: float, std: float) -> float:
    right = 0
    for label in range(2):
        for i in range(4):
            pixels = torch.tensor(list(picture(label, i).tobytes())).view(1, 32, 32, 3).permute(0, 3, 1, 2) / 255
            right += int(model.eval()((pixels - mean) / std).argmax(1).item() == label)
    return right / 8


def test_accuracy(data_dir: Path, facnn: Path, tmp_path: Path) -> None:
    result = run("--data-dir", data_dir, "--weights", facnn, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert not result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    args = json.loads(facnn.with_name("config.json").read_text())["model_args"]
    torch.manual_seed(0)
    model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    accuracy = reference_accuracy(model, 0, 1)
    assert report == dict(
        model="facnn_resnet18", sha256=sha256(facnn), split="val", images=8, accuracy=accuracy, input_size=[3, 32, 32],
        parameters=sum(p.numel() for p in model.parameters()),
    )  # fmt: skip
    assert f"facnn_resnet18: top-1 {100 * accuracy:.2f} % of the 8 images of val" in result.stdout


def test_an_ordinary_model_without_names(data_dir: Path, baseline: Path, tmp_path: Path) -> None:
    result = run(
        "--data-dir", data_dir, "--model", "test_resnet", "--weights", baseline, "--input-size", "32",
        "--mean-std", "none", "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    torch.manual_seed(0)
    accuracy = reference_accuracy(timm.create_model("test_resnet", num_classes=2), 0, 1)
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == accuracy
    assert "classes have no names; the folders are taken for them in this order: blue, red" in result.stderr


@pytest.mark.parametrize("names", [("z", "b"), ("BLUE", "red_", "-")])
def test_folders_that_are_not_the_models_classes(data_dir: Path, facnn: Path, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        (data_dir / "other" / name).mkdir(parents=True)
        picture(0, i).save(data_dir / "other" / name / "0.png")
    result = run("--data-dir", data_dir, "--weights", facnn, "--split", "other")
    assert result.exit_code == 2
    assert "No class of the model fits" in result.stderr
    assert "Classes of the model: blue, red." in result.stderr
    assert result.stderr.count("\n") == 1


def test_names_in_another_order_give_the_accuracy_of_the_ids(tmp_path: Path) -> None:
    """Twenty pictures under WordNet ids, and the same under names, whose alphabetical order is another one."""
    ids = {"n01440764": "tench", "n03445777": "golf ball", "n03888257": "parachute", "n02102040": "English springer"}
    rng = torch.Generator().manual_seed(1)
    for wordnet_id, name in ids.items():
        for split, folder in (("ids", wordnet_id), ("names", name.upper())):
            (tmp_path / split / folder).mkdir(parents=True)
        for i in range(5):
            colour = tuple(torch.randint(0, 256, (3,), generator=rng).tolist())
            for split, folder in (("ids", wordnet_id), ("names", name.upper())):
                Image.new("RGB", (32, 32), colour).save(tmp_path / split / folder / f"{i}.png")
    weights = card_folder("facnn_resnet18.imagenette") / "model.safetensors"
    outputs = []
    for split in ("ids", "names"):
        result = run("--data-dir", tmp_path, "--weights", weights, "--split", split, "--input-size", "32")
        assert result.exit_code == 0, result.output
        assert f"note: {split} in {tmp_path}: 4 of the model's 10 classes are in the data" in result.stderr
        outputs.append(result.stdout.replace(f"of {split}", ""))
    assert outputs[0] == outputs[1]
    assert " 0.00 %" not in outputs[0]


def test_settings_of_a_training_run(data_dir: Path, baseline: Path) -> None:
    recipe = dict(eval_size=32, mean=[0.5] * 3, std=[0.25] * 3, num_classes=2, model_args={})
    baseline.with_name("result.json").write_text(json.dumps(dict(recipe=recipe, classes=["blue", "red"])))
    result = run("--data-dir", data_dir, "--model", "test_resnet", "--weights", baseline)
    assert not result.stderr
    torch.manual_seed(0)
    accuracy = reference_accuracy(timm.create_model("test_resnet", num_classes=2), 0.5, 0.25)
    assert f"top-1 {100 * accuracy:.2f} %" in result.output


def test_folder_of_images(data_dir: Path, facnn: Path) -> None:
    with tarfile.open(data_dir / "val.tar") as tar:
        tar.extractall(data_dir / "test")
    outputs = [run("--data-dir", data_dir, "--weights", facnn, "--split", split).output for split in ("val", "test")]
    assert outputs[0].replace("of val", "of test") == outputs[1]


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


def test_other_number_of_classes(data_dir: Path, tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "three.safetensors")
    result = run("--data-dir", data_dir, "--model", "test_resnet", "--weights", tmp_path / "three.safetensors")
    assert result.exit_code == 2
    assert "The model's 3 classes have no names, and there are 2 class folders: blue, red" in result.output


def test_an_unknown_folder_for_the_report(data_dir: Path, facnn: Path) -> None:
    result = run("--data-dir", data_dir, "--weights", facnn, "--json", data_dir / "no" / "x.json")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


def test_evenly_spaced() -> None:
    assert evenly_spaced(4, 10) == [0, 2, 5, 7]
    assert evenly_spaced(10, 10) == list(range(10))
    with pytest.raises(ValueError, match="11 images were asked for, expected 1 to 10"):
        evenly_spaced(11, 10)


# --- faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), range(31, 41), pictures=2)


@pytest.fixture(scope="module")
def face_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("face_resnet10").state_dict(), file)
    return file


def run_faces(data_dir: Path, weights: Path, *args: str | Path) -> Result:
    return run("--model", "face_resnet10", "--data-dir", data_dir, "--weights", weights, *args)


def test_the_equal_error_rate_is_that_of_the_pairs(faces: Path, face_weights: Path, tmp_path: Path) -> None:
    result = run_faces(faces, face_weights, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    torch.manual_seed(3)
    net = timm.create_model("face_resnet10").eval()
    pictures, people = load_people(faces, ORL_VERIFICATION)
    with torch.no_grad():
        embeddings = net(torch.stack([eval_transform(net)(picture) for picture in pictures]))
    first, second, genuine = all_pairs(people)
    rate, threshold = equal_error_rate(torch.cosine_similarity(embeddings[first], embeddings[second]), genuine)
    assert report["eer"]["model"] == pytest.approx(rate)
    assert report["threshold"] == pytest.approx(threshold, abs=1e-5)
    assert (report["split"], report["images"], report["sha256"]) == ("s31-s40", 20, sha256(face_weights))
    assert (report["genuine_pairs"], report["impostor_pairs"]) == (10, 180)
    assert f"face_resnet10: equal-error rate {100 * rate:.2f} % at a cosine of {threshold:.3f}" in result.stdout
    assert set(report["eer"]) == {"model", "same network, untrained", "pixels", "pixels less their mean"}
    again = run_faces(faces, face_weights)
    assert again.stdout == result.stdout


def test_bad_faces(faces: Path, face_weights: Path, tmp_path: Path) -> None:
    assert "no faces.tar" in run_faces(tmp_path, face_weights).stderr
    (tmp_path / "broken.safetensors").write_text("hello")
    for wrong in ("broken.safetensors", "missing.safetensors"):
        result = run_faces(faces, tmp_path / wrong)
        assert result.exit_code == 2
        assert f"{wrong} does not load into face_resnet10" in result.stderr
        assert result.stderr.count("\n") == 1
    few = write_people(tmp_path / "few", range(31, 33), pictures=1)
    assert "no folder s33" in run_faces(few, face_weights).stderr
    result = run_faces(faces, face_weights, "--split", "test")
    assert result.exit_code == 2
    assert "is a face model; leave --split, --input-size and --mean-std out" in result.stderr
