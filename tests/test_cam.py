"""The models' own maps as a CAM of pytorch-grad-cam, without its defects, and where its methods belong in a model."""

import builtins
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from timm_interpretable.attr import (
    METHODS,
    ClassMap,
    Cost,
    InputContribution,
    Method,
    MethodSettings,
    explained_by,
    smoothed,
)
from timm_interpretable.cam import IntrinsicCAM, target_layers
from timm_interpretable.models import FeatureAlignedCNN

CLASSES = [0, 4, 2]
TARGETS = [ClassifierOutputTarget(c) for c in CLASSES]


@pytest.fixture
def coda_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "coda_net_s", num_classes=5, channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(5, 7, 8),
            temperature=0.1,
        ).eval()  # fmt: skip


@pytest.fixture(params=["facnn", "coda_net"])
def model(request):
    return request.getfixturevalue(request.param)


def own_map(model, images, classes=CLASSES, **options):
    method = ClassMap if isinstance(model, FeatureAlignedCNN) else InputContribution
    return method(model).attribute(images, classes, **options).sum(1)


def stretched(maps):
    """The positive part, per image from 0 to 1."""
    maps = maps.relu()
    maps = maps - maps.amin((1, 2), keepdim=True)
    return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)).numpy()


def test_is_the_models_own_map(model, images):
    cam = IntrinsicCAM(model)
    assert isinstance(cam, BaseCAM)
    result, own = cam(images, TARGETS), own_map(model, images)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, stretched(own), rtol=0, atol=1e-5)
    np.testing.assert_allclose(cam.signed(images, TARGETS), own.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(result, cam(images, [ClassifierOutputTarget(1)] * 3), atol=0.01)


def test_scale_of_the_map_does_not_matter(coda_net, images):
    """Contributions of single pixels may be far below the 1e-7 that the library adds to a maximum."""
    expected = IntrinsicCAM(coda_net)(images, TARGETS)
    coda_net.temperature *= 1e13
    np.testing.assert_allclose(IntrinsicCAM(coda_net)(images, TARGETS), expected, rtol=0, atol=1e-5)


def test_other_rows_of_the_catalogue_and_the_sign(facnn, coda_net, images):
    cam = IntrinsicCAM(facnn, method="class_map_average")
    own = own_map(facnn, images, layers="average")
    np.testing.assert_allclose(cam(images, TARGETS), stretched(own), rtol=0, atol=1e-5)
    np.testing.assert_allclose(cam.signed(images, TARGETS), own.numpy(), rtol=1e-4, atol=1e-6)
    assert own.min() < 0 < own.max()
    settings = MethodSettings(smooth=0.5)
    smooth = IntrinsicCAM(coda_net, "contributions_smoothed", settings=settings).signed(images, TARGETS)
    np.testing.assert_allclose(smooth, smoothed(own_map(coda_net, images), 9).numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="method='contributions' does not apply to FeatureAlignedCNN"):
        IntrinsicCAM(facnn, "contributions")
    with pytest.raises(ValueError, match="no explanation method 'own', expected one of: "):
        IntrinsicCAM(facnn, "own")


class Halves(nn.Module):
    """A family that knows nothing of this package's: its own explanation is what its two classes see."""

    explanation, num_classes = "halves", 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def seen(self, x):
        right = torch.arange(x.shape[-1]) >= x.shape[-1] // 2
        return self.weight * torch.stack([x.sum(1) * ~right, x.sum(1) * right], 1)

    def forward(self, x):
        return self.seen(x).sum((2, 3))


def test_a_family_is_asked_for_its_explanation(images, monkeypatch):
    row = Method(
        "halves", "halves", Cost.FORWARD, applies=explained_by("halves"),
        build=lambda context: lambda x, classes: context.model.seen(x)[torch.arange(len(x))[:, None], classes],
    )  # fmt: skip
    monkeypatch.setitem(METHODS, "halves", row)
    model = Halves()
    found = IntrinsicCAM(model).signed(images, [ClassifierOutputTarget(1)] * 3)
    np.testing.assert_array_equal(found, model.seen(images)[:, 1].detach().numpy())


def test_a_map_that_is_not_finite_is_refused(facnn, images):
    images[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"class map: the maps of images 1 of the batch are not finite: the inputs"):
        IntrinsicCAM(facnn)(images, TARGETS)


def test_near_grad_cam_of_the_library(facnn, images):
    """The same map but for the order of upsampling and cutting; the exact identity is tested at the map's own size."""
    theirs = GradCAM(facnn, **target_layers(facnn))(images, TARGETS)
    ours = IntrinsicCAM(facnn, "class_map_raw")(images, TARGETS)
    for a, b in zip(theirs, ours, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.95


def test_without_targets_the_predicted_classes(model, images):
    predicted = model(images).argmax(1).tolist()
    expected = IntrinsicCAM(model)(images, [ClassifierOutputTarget(c) for c in predicted])
    np.testing.assert_array_equal(IntrinsicCAM(model)(images, None), expected)
    np.testing.assert_array_equal(IntrinsicCAM(model)(images), expected)


def test_leaves_the_model_alone(model, images):
    expected = IntrinsicCAM(model)(images, TARGETS)
    model.train()
    model.requires_grad_(False)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cam = IntrinsicCAM(model)
    assert cam.model is model
    np.testing.assert_array_equal(cam(images, TARGETS), expected)
    predicted = cam(images)
    assert all(module.training for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), tensors, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())
    np.testing.assert_array_equal(predicted, IntrinsicCAM(model.eval())(images))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradient_mode_does_not_matter(model, images, context):
    expected = IntrinsicCAM(model)(images, TARGETS)
    with context():
        np.testing.assert_array_equal(IntrinsicCAM(model)(images, TARGETS), expected)


def test_half_precision_and_compiled_models(facnn, images):
    expected = IntrinsicCAM(facnn)(images, TARGETS)
    np.testing.assert_array_equal(IntrinsicCAM(torch.compile(facnn, backend="eager"))(images, TARGETS), expected)
    with torch.autocast("cpu", torch.bfloat16):
        near = IntrinsicCAM(facnn)(images, TARGETS)
    half = IntrinsicCAM(facnn.bfloat16())(images.bfloat16(), TARGETS)
    for result in (near, half):
        assert result.dtype == np.float32
        assert np.corrcoef(result.flatten(), expected.flatten())[0, 1] > 0.98


def test_threads_equal_serial(model, images):
    model.train()
    cam = IntrinsicCAM(model)
    jobs = [[ClassifierOutputTarget((i + j) % 5) for j in range(3)] for i in range(10)]
    serial = [cam(images, targets) for targets in jobs]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda targets: cam(images, targets), jobs))
    np.testing.assert_array_equal(parallel, serial)


def test_a_map_without_positive_part_is_zero(facnn, images, monkeypatch):
    row = Method("nothing", "nothing", Cost.FORWARD, lambda context: lambda x, classes: -x.abs().sum(1, keepdim=True))
    monkeypatch.setitem(METHODS, "nothing", row)
    result = IntrinsicCAM(facnn, "nothing")(images, TARGETS)
    np.testing.assert_array_equal(result, np.zeros_like(result))


def test_aug_smooth_is_the_mean_over_flips_and_brightness(model, images):
    cam = IntrinsicCAM(model)
    expected = []
    for factor in (0.9, 1, 1.1):
        expected.append(cam(factor * images, TARGETS))
        expected.append(cam(factor * images.flip(3), TARGETS)[:, :, ::-1])
    result = cam(images, TARGETS, aug_smooth=True)
    np.testing.assert_allclose(result, np.mean(expected, axis=0), rtol=0, atol=1e-5)
    predicted = [ClassifierOutputTarget(c) for c in model(images).argmax(1).tolist()]
    np.testing.assert_array_equal(cam(images, aug_smooth=True), cam(images, predicted, aug_smooth=True))


def test_road_and_overlay(model, images):
    maps = IntrinsicCAM(model)(images, TARGETS)
    change = ROADMostRelevantFirst(percentile=75)(images, maps, TARGETS, model)
    assert change.shape == (3,)
    assert np.isfinite(change).all()
    assert np.abs(change).max() > 0
    picture = show_cam_on_image(images[0].permute(1, 2, 0).numpy(), maps[0], use_rgb=True)
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8


def test_errors(facnn, images):
    cam = IntrinsicCAM(facnn)
    with pytest.raises(ValueError, match="2 targets for 3 images, expected one for each"):
        cam(images, TARGETS[:2])
    with pytest.raises(TypeError, match=r"ClassifierOutputSoftmaxTarget.*expected ClassifierOutputTarget"):
        cam(images, [ClassifierOutputSoftmaxTarget(0)] * 3)
    with pytest.raises(ValueError, match="eigen_smooth=True is not supported, expected False"):
        cam(images, TARGETS, eigen_smooth=True)
    with pytest.raises(IndexError, match="target 9 is out of range, expected 0 to 4"), cam as inside:
        inside(images, [ClassifierOutputTarget(9)] * 3)
    with pytest.raises(TypeError, match="Conv2d cannot be explained"):
        IntrinsicCAM(nn.Conv2d(3, 4, 1))


def test_without_pytorch_grad_cam(monkeypatch):
    """One clear error, and the rest of the package does not need it."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pytorch_grad_cam"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "timm_interpretable.cam")
    with pytest.raises(ImportError, match=r"needs pytorch-grad-cam .*pip install 'timm-interpretable\[cam\]'"):
        importlib.import_module("timm_interpretable.cam")
    importlib.reload(importlib.import_module("timm_interpretable.attr"))


# Where the library's own methods belong


def resnet():
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(4, 6, 8, 10), zero_init_last=False)


def convnext():
    return ConvNeXt(num_classes=5, depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), patch_size=2, ls_init_value=1.0)


def vit(**kwargs):
    args = dict(img_size=(24, 32), patch_size=4, num_classes=5, embed_dim=12, depth=2, num_heads=2)
    return VisionTransformer(**{**args, "reg_tokens": 2, "dynamic_img_size": True, **kwargs})


def padded_vit():
    return vit(dynamic_img_pad=True)


def fixed_vit():
    return vit(dynamic_img_size=False)


@pytest.mark.parametrize(
    ("make", "size", "layer"),
    [
        (resnet, (64, 96), "layer4.0"),
        (convnext, (32, 48), "stages.3.blocks.0"),
        (vit, (24, 32), "blocks.1.norm1"),
        (vit, (20, 20), "blocks.1.norm1"),
        (vit, (48, 16), "blocks.1.norm1"),
        (padded_vit, (22, 19), "blocks.1.norm1"),
        (fixed_vit, (24, 32), "blocks.1.norm1"),
    ],
)
def test_library_runs_at_the_layers_of_the_table(rng, make, size, layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
    table = target_layers(torch.compile(model, backend="eager"), size)
    assert table["target_layers"] == [model.get_submodule(layer)]
    images = torch.rand(2, 3, *size, generator=rng)
    with HiResCAM(model, **table) as cam:
        maps = cam(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
        grads = cam.activations_and_grads.gradients[0]
    assert maps.shape == (2, *size)
    assert (grads.abs().sum(1) > 0).all(), "the gradient reaches every position of this layer"


def test_one_layer_later_only_the_class_token_counts(rng):
    model = vit().eval()
    table = target_layers(model, (24, 32)) | {"target_layers": [model.blocks[-1].norm2]}
    with HiResCAM(model, **table) as cam:
        cam(torch.rand(1, 3, 24, 32, generator=rng), [ClassifierOutputTarget(1)])
        assert (cam.activations_and_grads.gradients[0] == 0).all()


@pytest.mark.parametrize(
    ("make", "size"),
    [(vit, (24, 32)), (vit, (32, 24)), (vit, (12, 64)), (vit, (8, 40)), (padded_vit, (9, 33)), (fixed_vit, (24, 32))],
)
def test_tokens_keep_their_place(rng, make, size):
    """One patch changes: its token is where the patch is, also for as many tokens as the model's own size has."""
    model = make().eval()
    transform = target_layers(model, size)["reshape_transform"]
    images = torch.rand(2, 3, *size, generator=rng)
    images[1] = images[0]
    images[1, :, 4:8, 8:12] = 0

    def tokens(x):
        return torch.cat([torch.zeros(len(x), 3, 12), model.patch_embed(x).flatten(1, -2)], 1)

    maps = transform(tokens(images))
    assert maps.shape == (2, 12, -(-size[0] // 4), -(-size[1] // 4))
    assert (maps[0] != maps[1]).any(0).nonzero().tolist() == [[1, 2]]


def test_a_layout_is_never_guessed(rng):
    with pytest.raises(ValueError, match=r"VisionTransformer takes images of any size .* image_size=tuple"):
        target_layers(vit())
    table = target_layers(vit(), (24, 32))
    with pytest.raises(ValueError, match=r"28 tokens are not 6 x 8 after 3 others"):
        table["reshape_transform"](torch.rand(2, 28, 12, generator=rng))


def test_layers_of_our_models(model, images):
    table = target_layers(model)
    assert table == {"target_layers": [model.stages[-1]], "reshape_transform": None}
    assert GradCAM(model, **table)(images, TARGETS).std() > 0.01


def test_unknown_family():
    with pytest.raises(ValueError, match="Sequential is not in the table, expected an FA-CNN"):
        target_layers(nn.Sequential())
