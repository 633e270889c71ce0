"""The face embedding network inside timm, and the grey pictures it sees."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.data.images import eval_transform, to_picture


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("face_resnet10").eval()


@pytest.fixture
def faces():
    return torch.rand(2, 1, 112, 92, generator=torch.Generator().manual_seed(0))


def test_the_features_are_the_embedding(model, faces):
    maps = model.forward_features(faces)
    assert maps.shape == (2, model.num_features, *model.pretrained_cfg["pool_size"])
    assert model(faces).shape == (2, model.num_features)
    assert_close(model.forward_head(maps), model(faces))
    assert model.num_classes == 0


def test_every_parameter_gets_a_gradient(model, faces):
    model.train()(faces).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_configured_names_exist(model):
    assert isinstance(model.get_submodule(model.pretrained_cfg["first_conv"]), torch.nn.Conv2d)
    assert isinstance(model.get_submodule(model.pretrained_cfg["classifier"]), torch.nn.Identity)


def test_colour_weights_see_the_mean_of_the_channels(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    overlay = dict(file=str(tmp_path / "model.safetensors"))
    options = dict(pretrained=True, pretrained_cfg_overlay=overlay)
    colour = timm.create_model("face_resnet10", in_chans=3, **options).eval()
    grey = timm.create_model("face_resnet10", **options).eval()
    x = torch.rand(2, 3, 112, 92, generator=torch.Generator().manual_seed(0))
    assert_close(colour(x), grey(x.mean(1, keepdim=True)))


def test_a_classifier_can_be_put_on(model, faces):
    model.reset_classifier(7)
    assert model(faces).shape == (2, 7)


@pytest.mark.parametrize("size", [(92, 112), (300, 300), (60, 200)])
def test_pictures_of_any_size_become_grey_and_keep_their_proportions(model, size):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    x = eval_transform(model)(picture)
    assert x.shape == (1, 112, 92)
    assert x.min() >= 0
    assert x.max() <= 1
    if size == (92, 112):
        assert_close(x[0], torch.from_numpy(np.asarray(picture.convert("L")) / 255).float())
        assert (to_picture(x, model) == np.asarray(picture.convert("L"))[..., None]).all()
