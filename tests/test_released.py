"""The released weights: complete folders, the published files, right about the pictures they are shown with."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch.utils.data import DataLoader, Subset

from timm_interpretable.cli.common import open_images
from timm_interpretable.data.images import eval_transform, load_image, sample_images
from timm_interpretable.models.weights import HUB_ORG, HUB_PUBLISHED, card_folder, local_weights, released
from tools.release.cards import write_card
from tools.release.regression import REGRESSION_FILE, assert_unchanged

DATA = os.environ.get("TIMM_INTERPRETABLE_DATA")
SPLITS = {"imagenette": ("imagenette224", "val"), "cifar10": ("cifar10", "test"), "in1k": ("imagenette224", "boxed")}

# the face embeddings have a test file of their own; the source distribution does not carry the baselines
HERE = sorted(name for name in released() if not name.startswith("face_") and card_folder(name))
each_released = pytest.mark.parametrize("name", HERE)


def published_accuracy(name: str) -> float:
    card = (card_folder(name) / "README.md").read_text()
    return float(re.search(r"\| \*\*" + re.escape(name) + r"\*\* \| \*\*([\d.]+) %", card).group(1)) / 100


def test_all_but_the_large_ones_are_here():
    assert {"facnn_resnet18.imagenette", "facnn_resnet18.cifar10", "coda_net_s.cifar10"} <= set(HERE)
    assert all(name.startswith(("baseline_", "face_")) for name in set(released()) - set(HERE))


@each_released
def test_the_folder_is_a_hub_repository(name):
    folder = card_folder(name)
    assert local_weights(name) == folder / "model.safetensors"
    files = ["README.md", "config.json", "model.safetensors", "regression.safetensors", "training.json"]
    files += [] if name.startswith("baseline_") else ["maps.jpg"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)
    assert (folder / "model.safetensors").stat().st_size < 40 * 2**20
    assert (folder / "regression.safetensors").stat().st_size < 400 * 2**10
    from_folder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    from_package = timm.create_model(name, pretrained=True).eval()
    x = torch.rand(1, *from_package.pretrained_cfg["input_size"])
    assert torch.equal(from_folder(x), from_package(x))
    assert json.loads((folder / "config.json").read_text())["label_names"] == list(
        from_package.pretrained_cfg["label_names"]
    )
    assert f'timm.create_model("{name}", pretrained=True)' in (folder / "README.md").read_text()


@each_released
def test_outputs_are_those_of_the_release(name):
    model = timm.create_model(name, pretrained=True).eval()
    assert_unchanged(model, card_folder(name) / REGRESSION_FILE)
    changed = next(p for p in model.parameters() if p.ndim > 1)
    with torch.no_grad():
        changed.copy_(changed.roll(1, 0))  # a CoDA-Net hardly notices another scale
    with pytest.raises(AssertionError, match=r"off by .* of its largest magnitude, allowed 0\.0001"):
        assert_unchanged(model, card_folder(name) / REGRESSION_FILE)


@each_released
def test_card_is_complete_and_its_snippets_run(name):
    text = (card_folder(name) / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.license) == ("timm", "apache-2.0")
    assert {"timm", "interpretability"} <= set(card.data.tags)
    assert card.data.datasets
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[:2] == ["Use", "Results"]
    assert headings[-3:] == ["Data and licence", "Limits", "Citation"]
    assert f"`{HUB_ORG}/{name}`" in text
    assert ("did not exist yet" in text) is not HUB_PUBLISHED
    assert all((card_folder(name) / picture).is_file() for picture in re.findall(r"!\[.*?\]\((.+?)\)", text))
    entries = re.search(r"```bibtex\n(.*?)```", text, re.S).group(1)
    assert len(re.findall(r"^@\w+\{\w+,$", entries, re.M)) >= 2
    assert entries.count("{") == entries.count("}")
    snippets = re.findall(r"```python\n(.*?)```", text, re.S)
    assert snippets
    for snippet in snippets:
        assert snippet.startswith("import timm_interpretable")
        exec(compile(snippet, f"the card of {name}", "exec"), {})


@each_released
def test_card_says_what_the_package_says_now(name, tmp_path):
    folder = shutil.copytree(card_folder(name), tmp_path / name)
    write_card(folder)
    assert (folder / "README.md").read_text() == (card_folder(name) / "README.md").read_text()


def test_readme_says_whether_the_repositories_exist():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert ("Its repositories are not published yet" in " ".join(text.split())) is not HUB_PUBLISHED


@pytest.mark.parametrize("sample", sample_images(), ids=lambda sample: sample.path.name)
def test_samples_are_classified_right(sample):
    model = timm.create_model(sample.model, pretrained=True).eval()
    with torch.no_grad():
        logits = model(eval_transform(model)(load_image(sample.path))[None])
    assert model.pretrained_cfg["label_names"][logits.argmax()] == sample.label


@each_released
def test_grey_model_is_the_rgb_model_on_grey_images(name):
    rgb = timm.create_model(name, pretrained=True).eval()
    grey = timm.create_model(name, pretrained=True, in_chans=1).eval()
    x = torch.rand(1, 1, *rgb.pretrained_cfg["input_size"][1:])
    # timm adds up the first layer's weights as they are stored, in fp16
    rounding = dict(atol=5e-3, rtol=0) if name.startswith(("baseline_", "facnn_hybrid_")) else {}
    torch.testing.assert_close(grey(x), rgb(x.expand(-1, 3, -1, -1)), **rounding)


@each_released
@pytest.mark.skipif(DATA is None, reason="TIMM_INTERPRETABLE_DATA names no folder of images")
@pytest.mark.parametrize("part", [pytest.param(10, id="tenth"), pytest.param(1, id="whole", marks=pytest.mark.slow)])
def test_accuracy_is_the_published_one(name, part):
    folder, split = SPLITS[name.split(".")[1]]
    model = timm.create_model(name, pretrained=True).eval()
    images = open_images(Path(DATA) / folder, split, eval_transform(model), model)
    images = Subset(images, range(0, len(images), part))
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(images, batch_size=50))
    expected = published_accuracy(name)
    # the card rounds to two digits; other kernels may tip an image or two that stand on the edge
    tolerance = 5e-5 + 3 / len(images) if part == 1 else 4 * (expected * (1 - expected) / len(images)) ** 0.5
    assert right / len(images) == pytest.approx(expected, abs=tolerance)
