"""Folders and classes meet by WordNet id, label or description, and never silently by position."""

from types import SimpleNamespace

import pytest
import timm

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.data.classes import class_index, class_names, match_classes

IDS = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
)  # fmt: skip
NAMES = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
)  # fmt: skip


def model(count: int, **config: object) -> SimpleNamespace:
    return SimpleNamespace(num_classes=count, pretrained_cfg=config)


@pytest.mark.parametrize("name", ["facnn_resnet18.imagenette", "coda_net_m.imagenette", "baseline_resnet18.imagenette"])
@pytest.mark.parametrize("folders", [IDS, NAMES, [name.upper().replace(" ", "_") for name in NAMES]])
def test_released_models_know_their_folders_in_any_order(name: str, folders: list[str]) -> None:
    net = timm.create_model(name)
    shuffled = sorted(range(10), key=lambda k: folders[k][::-1])
    assert match_classes([folders[k] for k in shuffled], net) == (shuffled, None)


def test_labels_may_be_ids_and_descriptions_their_words() -> None:
    ids = model(10, label_names=IDS)
    assert match_classes(NAMES[::-1], ids).indices == list(range(10))[::-1]
    assert match_classes(["Tinca tinca", "gasoline pump"], ids).indices == [0, 7]
    own = model(2, label_names=["a1", "b2"], label_descriptions={"a1": "ferry, boat", "b2": "Ship"})
    assert match_classes(["boat", "ship"], own).indices == [0, 1]
    assert match_classes(["b2", "A1"], own).indices == [1, 0]


def test_a_model_of_all_of_imagenet_takes_a_subset_and_says_so() -> None:
    expected = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    for folders in (IDS, NAMES):
        indices, note = match_classes(folders, model(1000))
        assert indices == expected
        assert note == "10 of the model's 1000 classes are in the data"


@pytest.mark.parametrize("folders", [["tench", "goldfish"], ["n01443537"], ["0", "1", "2"], ["tenc"]])
def test_what_fits_nothing_is_refused_with_both_lists(folders: list[str]) -> None:
    with pytest.raises(ValueError, match="No class of the model fits") as error:
        match_classes(folders, model(10, label_names=NAMES))
    assert f"Folders: {', '.join(folders)}. Classes of the model: {', '.join(NAMES)}." in str(error.value)


def test_what_fits_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crane fits several classes: n02012849 \(crane\), n03126707 \(crane\)"):
        match_classes(["crane"], model(1000))
    with pytest.raises(ValueError, match="folders tench, n01440764 are all the class tench"):
        match_classes(["tench", "n01440764", "church"], model(10, label_names=NAMES))


def test_classes_without_names_are_taken_in_order_aloud() -> None:
    indices, note = match_classes(["blue", "red"], model(2))
    assert indices == [0, 1]
    assert note == "the model's classes have no names; the folders are taken for them in this order: blue, red"
    with pytest.raises(ValueError, match="3 classes have no names, and there are 2 class folders: blue, red; expected"):
        match_classes(["blue", "red"], model(3))
    # names of other classes, from before the last layer was replaced, are not this model's
    assert match_classes(["blue", "red"], model(2, label_names=NAMES)).note is not None


def test_names_to_show() -> None:
    assert class_names(model(10, label_names=NAMES)) == list(NAMES)
    assert class_names(model(10, label_names=IDS)) == list(NAMES)
    assert class_names(model(3, label_names=NAMES)) == ["class 0", "class 1", "class 2"]
    thousand = class_names(model(1000))
    assert thousand[:2] == ["tench", "goldfish"]
    assert len(set(thousand)) == 1000
    assert {"crane (n02012849)", "crane (n03126707)"} <= set(thousand)


@pytest.mark.parametrize("text", ["golf ball", "Golf_Ball", "n03445777", "574"])
def test_a_class_of_a_thousand_by_name_id_or_index(text):
    model = timm.create_model("facnn_hybrid_efficientnet_lite0", device="meta")
    assert class_index(text, model) == 574


def test_classes_that_are_not_clear_or_not_there():
    model = timm.create_model("facnn_hybrid_efficientnet_lite0", device="meta")
    with pytest.raises(ValueError, match=r"'crane' means several: n02012849 .*, n03126707 .*; give the id"):
        class_index("crane", model)
    with pytest.raises(ValueError, match=r"did you mean .*golf ball"):
        class_index("golf bal", model)
    with pytest.raises(ValueError, match=r"did you mean .*sports car"):
        class_index("sports cart", model)
    with pytest.raises(ValueError, match="expected an index from 0 to 999, or a name"):
        class_index("1000", model)
