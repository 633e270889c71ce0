"""How a picture is brought to the size that a model takes, and how a map is brought back to the picture"""

import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torchvision.transforms import Compose, Grayscale

from timm_interpretable.data.images import eval_transform

__all__ = ["Fit", "FittedTransform", "Region", "fitted_transform", "place_map"]

Array = np.ndarray[Any, Any]


class Fit(str, Enum):
    """What becomes of a picture whose shape is not that of the model's input.

    squash: the whole picture, its proportions changed. crop: the middle, as timm crops it. pad: the whole picture, with
    margins in the mean colour. native: the whole picture in its own proportions, for models that take any size.
    """

    SQUASH = "squash"
    CROP = "crop"
    PAD = "pad"
    NATIVE = "native"


class Region(NamedTuple):
    """What a model saw of a picture, in shares of its width and height; beyond 0 and 1 where there are margins."""

    left: float
    top: float
    right: float
    bottom: float


class FittedTransform(NamedTuple):
    """An RGB picture to `(C, H, W)`, and the region that the result shows.

    Args:
        fit: how.
        transform: the picture to the tensor.
        region: width and height of the picture to the region.
    """

    fit: Fit
    transform: Callable[[Image.Image], Tensor]
    region: Callable[[int, int], Region]

    def __call__(self, picture: Image.Image) -> Tensor:
        return self.transform(picture)


def fitted_transform(model: nn.Module, fit: Fit | None = None) -> FittedTransform:
    """The preprocessing of a model, and what it shows of a picture.

    Args:
        fit: None for what its configuration says, as `eval_transform` does.
    """
    config: dict[str, Any] = resolve_data_config({}, model=model)
    own = {"squash": Fit.SQUASH, "border": Fit.PAD}.get(config["crop_mode"], Fit.CROP)
    if fit in (None, own):
        return FittedTransform(own, eval_transform(model), partial(_region, own, config))
    if fit is Fit.NATIVE:
        transform = _native(config, _stride(model))
    else:
        mode = {Fit.SQUASH: "squash", Fit.PAD: "border", Fit.CROP: "center"}[fit]
        config |= dict(crop_mode=mode, crop_pct=1.0)
        transform = create_transform(**config, is_training=False)
    if config["input_size"][0] == 1:  # timm leaves this to its caller
        transform = Compose([Grayscale(), transform])
    return FittedTransform(fit, transform, partial(_region, fit, config))


def place_map(values: Array, region: Region, size: tuple[int, int]) -> Array:
    """A map of what the model saw, brought to the picture: `(H, W)`; zero where the model saw nothing.

    Args:
        values: `(h, w)`.
        region: that `FittedTransform.region` gave for the picture.
        size: width and height of the result, in the proportions of the picture.
    """
    height, width = values.shape
    across, down = region.right - region.left, region.bottom - region.top
    box = (
        -region.left / across * width, -region.top / down * height,
        (1 - region.left) / across * width, (1 - region.top) / down * height,
    )  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    if box == (0, 0, width, height):
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return np.asarray(image.transform(size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))


def _region(fit: Fit, config: dict[str, Any], picture_width: int, picture_height: int) -> Region:
    (height, width), share = config["input_size"][1:], config["crop_pct"]
    if fit is Fit.NATIVE:
        return Region(0.0, 0.0, 1.0, 1.0)
    if fit is Fit.SQUASH:
        return _centred(share, share)
    ratios = (width / picture_width, height / picture_height)
    scale = (min(ratios) if fit is Fit.PAD else max(ratios)) / share
    return _centred(width / scale / picture_width, height / scale / picture_height)


def _centred(across: float, down: float) -> Region:
    return Region((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def _stride(model: Any) -> int:
    """Sides have to be multiples of it; 32 where the model does not say."""
    found = getattr(model, "feature_info", None)
    last = found[-1]["reduction"] if isinstance(found, list) and found else 32
    return int(last)


def _native(config: dict[str, Any], stride: int) -> Callable[[Image.Image], Tensor]:
    """The model's native area in the proportions of the picture."""
    height, width = config["input_size"][1:]

    def transform(picture: Image.Image) -> Tensor:
        scale = math.sqrt(height * width / (picture.width * picture.height))
        sides = [max(stride, round(side * scale / stride) * stride) for side in (picture.height, picture.width)]
        own = create_transform(
            **(config | dict(input_size=(config["input_size"][0], *sides), crop_mode="squash", crop_pct=1.0)),
            is_training=False,
        )
        made: Tensor = own(picture)
        return made

    return transform
