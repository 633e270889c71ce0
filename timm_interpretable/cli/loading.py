"""What the commands that measure load: any timm model with the settings beside its weights, images, and boxes."""

import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_interpretable.cli.common import fail, load_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader

BOX_FRAME = 224  # boxed_boxes.csv is in pixels of the image at this size


class MeanStd(str, Enum):
    imagenet = "imagenet"
    none = "none"


# --- the model


def load_any(name: str, weights: Path | None, device: "torch.device") -> tuple[Any, dict[str, Any]]:
    """The model in evaluation mode, and the settings found next to its weights."""
    if weights is None:
        return load_model(name, device).eval(), {}
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = settings_beside(weights)
    try:
        state = load_file(weights)
        num_classes = _num_classes(name, state, settings)
        net = timm.create_model(name, **{**settings.get("model_args", {}), "num_classes": num_classes})
        net.load_state_dict(state)
    # an unknown model, shapes or model_args of another one, a broken file
    except (RuntimeError, TypeError, SafetensorError) as error:
        fail(f"{weights} does not load into {name}: {error}")
    return net.to(device).eval(), settings


def settings_beside(weights: Path) -> dict[str, Any]:
    """num_classes, model_args, input_size, mean, std, as far as a file beside the weights tells; flat."""
    config, result = weights.with_name("config.json"), weights.with_name("result.json")
    if config.is_file():  # timm's layout
        found = json.loads(config.read_text(encoding="utf-8"))
        return {**found.get("pretrained_cfg", {}), **{k: v for k, v in found.items() if k != "pretrained_cfg"}}
    if result.is_file():  # a training run of this package
        recipe = json.loads(result.read_text(encoding="utf-8"))["recipe"]
        return {**recipe, "input_size": [3, recipe["eval_size"], recipe["eval_size"]]}
    return {}


def _num_classes(name: str, state: dict[str, "Tensor"], settings: dict[str, Any]) -> int:
    import timm

    if "num_classes" in settings:
        return int(settings["num_classes"])
    cfg = timm.get_pretrained_cfg(name)
    classifier = f"{cfg.classifier}.weight" if cfg is not None else ""
    if classifier in state:
        return int(state[classifier].shape[0])
    return cfg.num_classes if cfg is not None else 1000


def described_model(name: str, weights: Path | None, net: Any) -> dict[str, Any]:
    """For a results file: which model with which weights, and what a training run beside them says."""
    from timm_interpretable.models.weights import local_weights, sha256

    released = None
    if weights is None:
        cfg = net.pretrained_cfg
        name = f"{cfg['architecture']}.{cfg['tag']}"
        released = local_weights(name)
    file = weights or released
    described: dict[str, Any] = dict(name=name, sha256=sha256(file) if file else None)
    result = weights.with_name("result.json") if weights else None
    if result is not None and result.is_file():
        run = json.loads(result.read_text(encoding="utf-8"))
        described |= dict(epochs=run["recipe"].get("epochs"), eval_accuracy=run.get("eval_accuracy"))
    return described


# --- the images


def whole_image(
    net: Any, settings: dict[str, Any], input_size: int | None, mean_std: MeanStd | None
) -> Callable[[Any], "Tensor"]:
    from timm_interpretable.data.images import squash_transform

    height, width = (input_size, input_size) if input_size else {**net.pretrained_cfg, **settings}["input_size"][-2:]
    # the whole image, also where timm would crop: boxes are in its coordinates
    return squash_transform((height, width), *normalisation(net, settings, mean_std))


def normalisation(
    net: Any, settings: dict[str, Any], mean_std: MeanStd | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, that a model is given."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if mean_std is MeanStd.imagenet:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if mean_std is MeanStd.none:
        return (0.0,) * 3, (1.0,) * 3
    known = {**net.pretrained_cfg, **settings}
    return tuple(known["mean"]), tuple(known["std"])


def open_images(data_dir: Path, split: str, transform: Callable[[Any], "Tensor"], net: Any) -> tuple[Any, list[str]]:
    from timm_interpretable.data.datasets import open_split

    images, classes = open_split(data_dir, split, transform)
    if len(classes) != net.num_classes:
        raise ValueError(f"{split} in {data_dir} has {len(classes)} classes, but the model has {net.num_classes}.")
    return images, classes


def image_loader(images: Any, batch_size: int, workers: int) -> "DataLoader[Any]":
    from torch.utils.data import DataLoader

    return DataLoader(images, batch_size=batch_size, num_workers=workers)


def evenly_spaced(count: int, total: int) -> list[int]:
    """Indices of so many images out of all, so that every class of a sorted data set is among them."""
    if not 1 <= count <= total:
        raise ValueError(f"{count} images were asked for, expected 1 to {total}.")
    return [i * total // count for i in range(count)]


def box_masks(images: Any, file: Path, size: int = BOX_FRAME, first: bool = False) -> "Tensor":
    """The boxes of every image in the order of the data set, bool `(N, size, size)`.

    first: the first box of an image alone, instead of the union of its boxes.
    """
    import torch

    from timm_interpretable.data.boxes import box_mask, load_boxes

    boxes = load_boxes(file)
    shards = getattr(images, "datasets", [images])
    names = [name for shard in shards for name in shard.filenames()]
    without = [name for name in names if name not in boxes]
    if without:
        raise ValueError(f"{file} has no box for {len(without)} of {len(names)} images, e.g. {without[0]}.")
    chosen = (boxes[name][:1] if first else boxes[name] for name in names)
    return torch.stack([box_mask(some, size, size, size / BOX_FRAME) for some in chosen])
