"""Where pretrained weights come from: the local card, else the Hub; never a wrong file."""

import hashlib
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import timm_interpretable
from timm_interpretable.models import weights

NAME = "facnn_resnet18.imagenette"


def random_state(seed: int) -> dict[str, torch.Tensor]:
    """A state dict in fp16, as released."""
    torch.manual_seed(seed)
    model = timm.create_model("facnn_resnet18")
    return {key: t.half() if t.is_floating_point() else t for key, t in model.state_dict().items()}


def assert_has_weights(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key
        assert value.dtype == torch.float32 or not value.is_floating_point()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the variable itself is read at import


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What counts as released, in place of the package's own list."""
    released: dict[str, str] = {}
    monkeypatch.setattr(weights, "released", lambda: released)
    return released


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub_cards"
    folder.mkdir()
    monkeypatch.setattr(weights, "CARD_FOLDERS", (tmp_path / "nowhere", folder))
    return folder


@pytest.fixture
def card(cards: Path, hashes: dict[str, str]) -> dict[str, torch.Tensor]:
    """A released model in the card folder; its weights."""
    state = random_state(seed=1)
    file = cards / NAME / "model.safetensors"
    file.parent.mkdir()
    save_file(state, file)
    hashes[NAME] = hashlib.sha256(file.read_bytes()).hexdigest()
    return state


def test_missing_card(cards: Path, hashes: dict[str, str]) -> None:
    assert weights.local_weights(NAME) is None
    hashes[NAME] = "0" * 64
    assert weights.local_weights(NAME) is None  # released, but not here


def test_card_without_a_release(card: dict[str, torch.Tensor], hashes: dict[str, str]) -> None:
    hashes.clear()
    assert weights.local_weights(NAME) is None


def test_card_is_found(cards: Path, card: dict[str, torch.Tensor]) -> None:
    assert weights.card_folder(NAME) == cards / NAME
    assert weights.local_weights(NAME) == cards / NAME / "model.safetensors"


def test_broken_file_is_refused(cards: Path, card: dict[str, torch.Tensor]) -> None:
    (cards / NAME / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RuntimeError, match=f"is not the released weight file of {NAME}"):
        weights.local_weights(NAME)
    with pytest.raises(RuntimeError, match="is not the released weight file"):
        timm.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("name", [NAME, "facnn_resnet18"])
def test_pretrained_without_network(card: dict[str, torch.Tensor], name: str) -> None:
    assert_has_weights(timm.create_model(name, pretrained=True), card)


def test_other_number_of_classes_and_channels_keep_every_weight(card: dict[str, torch.Tensor]) -> None:
    model = timm.create_model(NAME, pretrained=True, num_classes=3, in_chans=1)
    assert_has_weights(model, card)
    assert model(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_features_only(card: dict[str, torch.Tensor]) -> None:
    model = timm.create_model(NAME, pretrained=True, features_only=True)
    whole = timm.create_model(NAME, pretrained=True).eval()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model.eval()(x)[-1], whole.forward_features(x))


def test_explicit_file_wins(card: dict[str, torch.Tensor], tmp_path: Path) -> None:
    mine = random_state(seed=2)
    save_file(mine, tmp_path / "mine.safetensors")
    overlay = dict(file=str(tmp_path / "mine.safetensors"))
    assert_has_weights(timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay), mine)


def test_without_pretrained_the_card_is_not_read(cards: Path, card: dict[str, torch.Tensor]) -> None:
    (cards / NAME / "model.safetensors").write_text("broken")
    timm.create_model(NAME)


def test_other_tag_does_not_take_this_card(card: dict[str, torch.Tensor]) -> None:
    with pytest.raises(Exception, match=r"(?i)offline|cache|locate"):  # it asks the Hub, which is out of reach
        timm.create_model("facnn_resnet18.cifar10", pretrained=True)


def test_bundled_only(cards: Path, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMM_INTERPRETABLE_WEIGHTS", "bundled")
    hashes[NAME] = "0" * 64
    with pytest.raises(weights.WeightsError, match=f"this installation has no weights of {NAME} .*hub_cards"):
        timm.create_model(NAME, pretrained=True)
    assert timm_interpretable.weights_source(NAME) == ("missing", "")


def test_source_of_all_and_of_one(cards: Path, card: dict[str, torch.Tensor], hashes: dict[str, str]) -> None:
    bundled = ("bundled", str(cards / NAME / "model.safetensors"))
    assert timm_interpretable.weights_source() == {NAME: bundled}
    assert timm_interpretable.weights_source("facnn_resnet18") == bundled
    with pytest.raises(ValueError, match=f"'facnn_resnet34' has no released weights; expected one of {NAME}"):
        timm_interpretable.weights_source("facnn_resnet34")
