"""`explain` end to end, on a small random model: what it writes, what it says, how it fails."""

import json
import os

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from timm_interpretable.cli import app, explain

runner = CliRunner()
NAMES = timm.get_pretrained_cfg("facnn_resnet18.imagenette").label_names


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    model = timm.create_model(
        "facnn_resnet18", trunk_width=192, branch_widths=(16, 16, 16, 16),
        output="softmax", centred=False, signed_blocks=0,  # so that its raw map is not its class map
        pretrained_cfg_overlay=dict(input_size=(3, 64, 64)),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # one black and one white image should not look alike to a random model
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
    return model.eval()


@pytest.fixture(autouse=True)
def no_weights_needed(monkeypatch, small_model):
    monkeypatch.setattr(explain, "load_any", lambda name, weights, device: small_model.to(device))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(64, 64, 3), (80, 120, 3), (130, 70, 3)]):
        paths.append(tmp_path / f"photo{i}.png")
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(paths[-1])
    return paths


def run(*args):
    return runner.invoke(app, ["explain", "--device", "cpu", *map(str, args)])


def test_writes_one_figure_per_image_and_says_so(photos, tmp_path):
    out = tmp_path / "new" / "folder"
    result = run(*photos, "--out", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert result.stderr.splitlines()[-1] == "3 explained, 0 failed, 0 skipped"
    for path, line in zip(photos, lines, strict=True):
        assert line.startswith(f"{path.name}: ")
        assert line.endswith(f" % -> {out / path.stem}.png")
        assert any(name in line for name in NAMES)
        assert Image.open(out / f"{path.stem}.png").width == 1400
    assert len(list(out.iterdir())) == 3


def test_raw_maps_add_up_to_the_score(photos, tmp_path, small_model):
    assert run(photos[0], "--raw", "--out", tmp_path / "o", "--target", "church").exit_code == 0
    file = tmp_path / "o" / "photo0.safetensors"
    raw = load_file(file)
    assert int(raw["target"]) == NAMES.index("church")
    assert raw["attribution"].shape == (3, 64, 64)
    assert raw["logits"].shape == (10,)
    score = raw["logits"][raw["target"]] - raw["logits"].mean()
    torch.testing.assert_close(raw["attribution"].sum(), score, rtol=1e-4, atol=1e-4)
    depth = [key for key in raw if key.startswith("depth.")]
    assert len(depth) == 8
    torch.testing.assert_close(raw["depth.8"].sum(), score, rtol=1e-4, atol=1e-4)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert (metadata["model"], metadata["method"]) == ("facnn_hybrid_efficientnet_lite0", "class_map")
    assert json.loads(metadata["class_names"]) == list(NAMES)


def test_the_network_runs_once(photos, tmp_path, small_model, monkeypatch):
    """One forward pass for all pictures of a batch: prediction, map and maps through depth."""
    passes = []
    forward = type(small_model.stem).forward
    monkeypatch.setattr(type(small_model.stem), "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    assert run(*photos, "--out", tmp_path / "o").exit_code == 0
    assert passes == [3]


def test_a_batch_gives_what_single_images_give(photos, tmp_path):
    run(*photos, "--raw", "--out", tmp_path / "batch", "--batch-size", 16)
    run(*photos, "--raw", "--out", tmp_path / "single", "--batch-size", 1)
    for path in photos:
        batch, single = (load_file(tmp_path / kind / f"{path.stem}.safetensors") for kind in ("batch", "single"))
        assert batch.keys() == single.keys()
        for key in batch:
            torch.testing.assert_close(batch[key], single[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["golf ball", "Golf Ball", "8"])
def test_a_class_by_name_or_index(photos, tmp_path, target):
    assert run(photos[0], "--raw", "--target", target, "--out", tmp_path / "o").exit_code == 0
    assert int(load_file(tmp_path / "o" / "photo0.safetensors")["target"]) == 8


@pytest.mark.parametrize("method", ["class_map_average", "class_map_top_half", "class_map_raw", "grad_cam", "random"])
def test_another_method_of_the_catalogue(photos, tmp_path, method):
    run(photos[0], "--raw", "--out", tmp_path / "plain")
    result = run(photos[0], "--raw", "--out", tmp_path / "other", "--method", method)
    assert result.exit_code == 0, result.output
    plain, other = (load_file(tmp_path / kind / "photo0.safetensors")["attribution"] for kind in ("plain", "other"))
    assert other.shape == (1, 64, 64)
    assert not torch.allclose(plain.sum(0), other[0])
    assert Image.open(tmp_path / "other" / "photo0.png").width == 1400


def test_a_folder_stands_for_its_images_and_keeps_its_tree(photos, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deep").mkdir()
    photos[2].rename(tmp_path / "deep" / photos[2].name)
    result = run(tmp_path, "--out", tmp_path.parent / "o")
    assert result.exit_code == 0, result.output
    assert sorted(line.split(":")[0] for line in result.stdout.splitlines()) == [path.name for path in photos]
    assert f"skipped: {tmp_path / 'notes.txt'}: files that end in .txt are not images" in result.stderr
    assert "3 explained, 0 failed, 1 skipped" in result.stderr
    assert (tmp_path.parent / "o" / "deep" / "photo2.png").is_file()


def test_equal_stems_overwrite_nothing(photos, tmp_path):
    inputs = []
    for i, name in enumerate(["a/x.png", "b/x.png", "c/X.png", "a/x-2.png", "a/x.v2.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (50 * i, 0, 0)).save(path)
        inputs.append(path)
    for _ in range(2):  # a second run replaces what the first wrote of the same file
        result = run(*inputs, "--out", tmp_path / "o", "--raw")
        assert result.exit_code == 0, result.output
        written = {path.name.casefold() for path in (tmp_path / "o").glob("*.png")}
        assert written == {"x.png", "x-2.png", "x-3.png", "x-2-2.png", "x.v2.png"}
        assert len(list((tmp_path / "o").glob("*.safetensors"))) == 5


def test_separate_runs_overwrite_nothing(tmp_path):
    for i, name in enumerate(["a/x.png", "b/x.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (50 * i, 0, 0)).save(path)
        assert run(path, "--out", tmp_path / "o").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["x-2.png", "x.png"]


def test_names_that_are_not_utf8_or_too_long(photos, tmp_path):
    strange = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(strange, "wb") as file:
        file.write(photos[0].read_bytes())
    long = tmp_path / ("n" * 245 + ".png")
    photos[1].rename(long)
    result = run(os.fsdecode(strange), long, photos[2], "--raw", "--out", tmp_path / "o")
    assert "Traceback" not in result.output
    assert result.exit_code == 2
    assert "caf\ufffd.png: " in result.stdout
    assert result.stderr.count("error: cannot write") == 1
    assert "2 explained, 1 failed, 0 skipped" in result.stderr
    assert (tmp_path / "o" / "photo2.png").is_file()


def bad_file(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        Image.effect_noise((200, 200), 80).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "bomb":
        Image.new("RGB", (300, 300)).save(path)
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "truncated", "bomb"])
def test_a_bad_image_is_named_and_the_others_are_done(photos, tmp_path, kind, monkeypatch):
    bad = bad_file(tmp_path, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    result = run(photos[0], bad, photos[1], "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "2 explained, 1 failed, 0 skipped" in result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert str(bad) in errors[0]
    assert "Traceback" not in result.output
    assert sorted(path.stem for path in (tmp_path / "o").iterdir()) == ["photo0", "photo1"]


def test_only_bad_images(tmp_path):
    result = run(tmp_path / "nothing.jpg", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[1:] == [f"error: {tmp_path / 'nothing.jpg'}: no such file"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "golfball"], "unknown class 'golfball'; did you mean golf ball?"),
        (["--versus", "golfball"], "unknown class 'golfball'; did you mean golf ball?"),
        (["--versus", "tench", "--method", "class_map,grad_cam"], "those of grad_cam have no negative values"),
        (["--target", "10"], "expected an index from 0 to 9, or a name of: tench"),
        (["--target", "-1"], "unknown class '-1'"),
        (["--method", "gradcam"], "has no method 'gradcam'; expected one of: class_map, "),
        (["--method", "contributions"], "has no method 'contributions'"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--device", "warp"], "unknown device 'warp'"),
    ],
)
def test_a_bad_option_fails_before_any_work(photos, tmp_path, options, message):
    result = run(photos[0], "--out", tmp_path / "o", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_cuda_without_cuda(photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = run(photos[0], "--device", "cuda")
    assert result.exit_code == 2
    assert "PyTorch sees 0 CUDA devices" in result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("facnn_resnet81", "did you mean facnn_resnet18"),
        ("zzz", "see `timm-interpretable list`"),
        ("resnet18", "cannot load the pretrained weights of resnet18: "),
        ("facnn_resnet34", "has no pretrained weights"),
    ],
)
def test_a_bad_model(photos, tmp_path, monkeypatch, name, message):
    from timm_interpretable.cli.common import load_any

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(explain, "load_any", load_any)
    result = run(photos[0], "--model", name, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "said", "key"),
    [
        ("resnet10t", "explained by: class map of other (exact for this network", "class_map"),
        ("mobilenetv3_small_050", "Grad-CAM of other (MobileNetV3 has no exact class maps: conv_head", "grad_cam"),
    ],
)  # fmt: skip
def test_a_network_without_an_explanation_of_its_own(photos, tmp_path, monkeypatch, name, said, key):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, pretrained_cfg_overlay=dict(input_size=(3, 64, 64))).eval()
    monkeypatch.setattr(explain, "load_any", lambda name, weights, device: model)
    result = run(photos[0], "--model", "other", "--out", tmp_path / "o", "--raw")
    assert result.exit_code == 0, result.output
    assert said in result.stderr
    with safe_open(tmp_path / "o" / "photo0.safetensors", "pt") as opened:
        assert opened.metadata()["method"] == key
    result = run(photos[0], "--model", "other", "--method", "hires_cam", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", ["run", "timm", "weights"])
def test_models_of_ones_own(photos, tmp_path, monkeypatch, kind):
    """A folder that `train` wrote, one in timm's layout, and a file of weights give the same maps."""
    from safetensors.torch import save_file
    from timm.models._hub import save_for_hf

    from timm_interpretable.cli.common import load_any

    torch.manual_seed(0)
    args = dict(trunk_width=192, branch_widths=(8, 8, 8, 8))
    net = timm.create_model("facnn_resnet18", num_classes=3, **args).eval()
    folder, names = tmp_path / "mine", ["ant", "bee", "cat"]
    folder.mkdir()
    if kind == "timm":
        net.pretrained_cfg |= dict(input_size=(3, 32, 32))
        save_for_hf(net, folder, model_config=dict(label_names=names), model_args=args, safe_serialization=True)
    else:
        save_file(net.state_dict(), folder / "model.safetensors")
        recipe = dict(model="facnn_resnet18", num_classes=3, model_args=args, eval_size=32)
        (folder / "result.json").write_text(json.dumps(dict(recipe=recipe, classes=names)))
    options = ["--model", folder]
    if kind == "weights":
        options = ["--model", "facnn_resnet18", "--weights", folder / "model.safetensors"]
    monkeypatch.setattr(explain, "load_any", load_any)
    result = run(photos[1], *options, "--target", "bee", "--raw", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    raw = load_file(tmp_path / "o" / "photo1.safetensors")
    assert raw["attribution"].shape == (3, 32, 32)
    x = explain_input(net, photos[1], 32)
    with torch.no_grad():
        torch.testing.assert_close(raw["logits"], net(x)[0], rtol=1e-4, atol=1e-5)


def explain_input(net, path, side):
    from timm_interpretable.data.images import load_image, squash_transform

    return squash_transform((side, side), (0.0,) * 3, (1.0,) * 3)(load_image(path))[None]


def test_several_methods_in_one_figure_from_one_forward_pass(photos, tmp_path, small_model, monkeypatch):
    passes = []
    forward = type(small_model.stem).forward
    monkeypatch.setattr(type(small_model.stem), "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    methods = "class_map,class_map_raw,class_map_average"
    assert run(photos[0], "--method", methods, "--raw", "--out", tmp_path / "o").exit_code == 0
    assert passes == [1]
    raw = load_file(tmp_path / "o" / "photo0.safetensors")
    assert {f"attribution.{key}" for key in methods.split(",")} <= raw.keys()
    assert run(photos[0], "--raw", "--out", tmp_path / "s").exit_code == 0
    alone = load_file(tmp_path / "s" / "photo0.safetensors")
    torch.testing.assert_close(raw["attribution.class_map"], alone["attribution"])


def test_one_class_rather_than_another(photos, tmp_path):
    options = ["--target", "church", "--versus", "golf ball"]
    for method in ("class_map", "hires_cam"):
        result = run(photos[0], *options, "--method", method, "--raw", "--out", tmp_path / method)
        assert result.exit_code == 0, result.output
    raw = load_file(tmp_path / "class_map" / "photo0.safetensors")
    church, ball = NAMES.index("church"), NAMES.index("golf ball")
    assert (int(raw["target"]), int(raw["versus"])) == (church, ball)
    wanted = raw["logits"][church] - raw["logits"][ball]
    torch.testing.assert_close(raw["attribution"].sum(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad", "native"])
def test_every_fit(photos, tmp_path, fit):
    result = run(*photos, "--fit", fit, "--raw", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    wide = load_file(tmp_path / "o" / "photo1.safetensors")["attribution"].shape
    assert wide == ((3, 48, 80) if fit == "native" else (3, 64, 64))  # 80 x 120 pixels in 64 x 64 of them


def test_contributions_of_a_coda_net(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("coda_net_s", channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(5, 7, 8))
    monkeypatch.setattr(explain, "load_any", lambda name, weights, device: model.eval())
    passes, weights = [], type(model).dynamic_weights
    monkeypatch.setattr(type(model), "dynamic_weights", lambda self, x: passes.append(len(x)) or weights(self, x))
    monkeypatch.setattr(type(model), "forward", lambda self, x: passes.append(len(x)))
    result = run(*photos, "--raw", "--out", tmp_path / "o", "--target", "3")
    assert result.exit_code == 0, result.output
    assert passes == [3]  # one forward pass
    raw = load_file(tmp_path / "o" / "photo1.safetensors")
    assert raw["attribution"].shape == (3, 32, 32)
    assert raw["weights"].shape == (6, 32, 32)
    wanted = raw["logits"][3] - model.logit_bias
    torch.testing.assert_close(raw["attribution"].sum(), wanted, rtol=1e-3, atol=1e-6)
    assert raw["depth.3"].shape == (16, 16)
    assert Image.open(tmp_path / "o" / "photo1.png").width == 1400
    smoothed = run(photos[0], "--method", "contributions_smoothed", "--out", tmp_path / "s")
    assert smoothed.exit_code == 0, smoothed.output


def test_no_images_gives_a_hint():
    result = run()
    assert result.exit_code == 2
    assert "--sample" in result.stderr


def test_an_empty_folder_is_named(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: no images in this folder" in result.stderr


def test_out_that_is_a_file(photos):
    result = run(photos[0], "--out", photos[1])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot make the folder")


def test_samples(tmp_path):
    from timm_interpretable.data.images import sample_images

    result = run("--sample", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert {path.stem for path in (tmp_path / "o").iterdir()} == {entry.path.stem for entry in sample_images()}


@pytest.mark.parametrize("more", [(), ("--versus", "tench"), ("--method", "class_map,grad_cam")])
def test_sums_of_regions_add_up_as_the_map_does(photos, tmp_path, more):
    pytest.importorskip("skimage", reason="no scikit-image: pip install 'timm-interpretable[test]'")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(photos[0])
    result = run(photos[0], "--raw", "--regions", 12, "--out", tmp_path / "o", *more)
    assert result.exit_code == 0, result.output
    tensors = load_file(tmp_path / "o" / "photo0.safetensors")
    assert tensors["regions"].shape == (64, 64)
    maps = {key: value for key, value in tensors.items() if key.startswith("attribution")}
    sums = {key: value for key, value in tensors.items() if key.startswith("region_sums.")}
    assert len(sums) == len(maps)
    for map_, total in zip(maps.values(), sums.values(), strict=True):
        assert len(total) == int(tensors["regions"].max()) + 1
        assert len(total) > 1
        torch.testing.assert_close(total.sum(), map_.sum(), rtol=1e-4, atol=1e-6)


def test_regions_need_scikit_image(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run(photos[0], "--regions", 12, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "--regions needs scikit-image: pip install 'timm-interpretable[regions]'" in result.stderr
