"""How pictures are brought to a model, and maps back: a mark in the picture is found again where it was."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_interpretable.data.fit import Fit, Region, fitted_transform, place_map
from timm_interpretable.data.images import eval_transform


@pytest.fixture(scope="module")
def model():
    return timm.create_model("facnn_resnet18", pretrained_cfg_overlay=dict(input_size=(3, 64, 64)))


def marked(width: int, height: int, x: float, y: float) -> Image.Image:
    """A black picture with a white square around a place that is given in shares of the sides."""
    pixels = np.zeros((height, width, 3), np.uint8)
    row, column, half = round(y * height), round(x * width), min(width, height) // 12
    pixels[row - half : row + half, column - half : column + half] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("size", [(120, 120), (240, 120), (90, 300)])
def test_a_map_comes_back_to_where_the_picture_is(model, fit, size):
    fitted = fitted_transform(model, fit)
    picture = marked(*size, 0.55, 0.45)
    x = fitted(picture)
    placed = place_map(x.mean(0).numpy(), fitted.region(*size), size)
    assert placed.shape == (size[1], size[0])
    weights = np.clip(placed, 0, None)
    centre = [(weights.sum(axis) @ np.arange(weights.shape[1 - axis])) / weights.sum() for axis in (0, 1)]
    wanted = np.asarray(picture)[..., 0].astype(float)
    expected = [(wanted.sum(axis) @ np.arange(wanted.shape[1 - axis])) / wanted.sum() for axis in (0, 1)]
    np.testing.assert_allclose(centre, expected, atol=0.02 * max(size))


def test_native_keeps_the_proportions_and_the_area(model):
    x = fitted_transform(model, Fit.NATIVE)(Image.new("RGB", (400, 100)))
    assert x.shape == (3, 32, 128)


def test_the_own_way_is_that_of_the_evaluation(model):
    picture = marked(150, 100, 0.3, 0.6)
    own = fitted_transform(model)
    assert own.fit is Fit.SQUASH
    assert torch.equal(own(picture), eval_transform(model)(picture))
    assert own.region(150, 100) == Region(0, 0, 1, 1)
    cropped = fitted_transform(timm.create_model("resnet10t"))
    assert cropped.fit is Fit.CROP
    assert cropped.region(300, 100).left > 0.3


def test_what_a_crop_leaves_out_has_no_map(model):
    fitted = fitted_transform(model, Fit.CROP)
    placed = place_map(np.ones((8, 8), np.float32), fitted.region(200, 100), (200, 100))
    assert placed[:, :40].max() == placed[:, 160:].max() == 0
    assert placed[:, 60:140].min() == 1
