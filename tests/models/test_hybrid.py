"""Hybrids of ordinary networks: timm's contract, the same logits, maps that add up to them, clear refusals."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from tests.models.contract import ModelContract, images
from timm_interpretable.attr import ClassMap, Context, LayerClassMap, methods_for
from timm_interpretable.models import ClassMapModel, class_map_model

NAME = "facnn_hybrid_efficientnet_lite0"
CONVERTED = [
    "resnet18", "resnext26ts", "regnety_002", "densenet121", "efficientnet_b0", "tf_efficientnet_lite0", "xception41",
    "inception_v3", "mobilenetv2_035", "repvgg_a0", "dla34", "resnetv2_50", "nfnet_f0", "mnasnet_050", "dpn68",
]  # fmt: skip


def random_network(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=7, **kwargs).eval()


class TestContract(ModelContract):
    @pytest.fixture(params=[NAME])
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_attributes(self, model: nn.Module) -> None:
        assert model.num_classes == self.num_classes
        assert model.num_features == model.head_hidden_size == model.head.fc.in_features
        assert model.get_classifier() is model.head.fc

    def test_forward_intermediates(self, model: nn.Module, x: torch.Tensor) -> None:
        """Those of the backbone, with its last convolution behind them where timm's network has one."""
        final, intermediates = model.forward_intermediates(x)
        assert_close(final, model.forward_features(x))
        assert [f.shape[1] for f in intermediates] == [info["num_chs"] for info in model.feature_info]
        assert_close(model.forward_intermediates(x, indices=2)[1], intermediates[-2:])
        assert_close(model.forward_intermediates(x, intermediates_only=True), intermediates)

    def test_features_only_torchscript(self, name: str, x: torch.Tensor) -> None:
        pytest.skip("timm's FeatureGetterNet, which this needs, cannot be scripted")


@pytest.mark.parametrize("name", CONVERTED)
def test_the_same_logits_and_maps_that_add_up_to_them(name):
    model = random_network(name).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hybrid = class_map_model(model)
    side = 96 if name == "inception_v3" else 64
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        assert_close(hybrid(x), expected, rtol=1e-12, atol=1e-12)
        (maps,) = hybrid.class_maps(x)
        assert maps.dtype == torch.float64
        assert maps.shape[:2] == (2, 7)
        assert_close(maps.mean((2, 3)), expected, rtol=1e-12, atol=1e-12)
        hybrid.float()
        assert_close(hybrid(x.float()), copy.deepcopy(model).float()(x.float()), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.get_classifier().weight.dtype == torch.float64  # another type of the hybrid is not that of the model


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mobilenetv3_small_050", r"conv_head \(Conv2d\) stands between"),
        ("convnext_atto", r"head\.norm \(LayerNorm2d\) stands between"),
        ("vgg11", r"pre_logits\.fc1 \(Conv2d\) stands between"),
        ("ghostnet_050", r"conv_head \(Conv2d\) stands between"),
        ("hgnet_tiny", r"head\.last_conv\.0 \(Conv2d\) stands between"),
        ("vit_tiny_patch16_224", "its head does something else"),
    ],
)
def test_networks_that_have_no_exact_class_maps(name, reason):
    with pytest.raises(ValueError, match=reason):
        class_map_model(random_network(name))


def test_what_is_no_classifier_of_timm():
    with pytest.raises(ValueError, match=r"Sequential has no exact class maps: it has no get_classifier"):
        class_map_model(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(ValueError, match=r"its classifier .*a Identity, expected a Linear"):
        class_map_model(timm.create_model("resnet18", num_classes=0))
    with torch.device("meta"), pytest.raises(ValueError, match="ResNet is on the meta device"):
        class_map_model(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match=r"AdaptiveAvgMaxPool2d\) stands between"):
        class_map_model(timm.create_model("resnet18", global_pool="avgmax"))


def test_mode_dropout_and_requires_grad_are_kept():
    model = random_network("resnet18", drop_rate=0.5).train()
    model.conv1.requires_grad_(False)
    hybrid = class_map_model(model)
    assert hybrid.training
    assert model.training
    assert hybrid.head.drop.p == 0.5
    assert not hybrid.backbone.conv1.weight.requires_grad
    assert hybrid.head.fc.weight.requires_grad
    assert model.num_classes == 7  # the hybrid's backbone has lost its classifier, the model has not
    assert isinstance(model.get_classifier(), nn.Linear)


def test_weights_are_shared_until_one_of_both_is_moved():
    model = random_network("resnet18")
    hybrid = class_map_model(model)
    assert hybrid.backbone.conv1.weight.data_ptr() == model.conv1.weight.data_ptr()
    hybrid.double()
    assert model.conv1.weight.dtype == torch.float32
    assert class_map_model(copy.deepcopy(model)).backbone.conv1.weight.data_ptr() != model.conv1.weight.data_ptr()


def test_attribution_of_a_converted_network():
    hybrid = class_map_model(random_network("resnet18"))
    x = images(64)
    with torch.no_grad():
        logits = hybrid(x)
    attribution = ClassMap(hybrid).attribute(x, target=3)
    assert attribution.shape == x.shape
    assert_close(attribution.sum((1, 2, 3)), logits[:, 3] - logits.mean(1), rtol=1e-4, atol=1e-5)
    raw = ClassMap(hybrid).attribute(x, target=3, centred=False)
    assert_close(raw.sum((1, 2, 3)), logits[:, 3], rtol=1e-4, atol=1e-5)
    assert_close(LayerClassMap(hybrid, hybrid.backbone).attribute(x, 3).mean((1, 2, 3)), logits[:, 3])
    assert next(iter(methods_for(hybrid))) == "class_map"
    assert ClassMap(hybrid).evidence(x).explanation(torch.tensor([3, 3])).depth == []


def test_the_positive_part_of_the_map_is_grad_cam():
    """Grad-CAM differentiates the logit at the last feature map, where the bias has no part."""
    hybrid = class_map_model(random_network("resnet18"))
    hybrid.head.fc.bias.data.zero_()
    x, classes = images(64), torch.tensor([[2], [5]])
    context = Context.of(hybrid)
    methods = methods_for(hybrid)
    (maps,) = hybrid.class_maps(x)
    own = maps[torch.arange(2)[:, None], classes].detach().relu()
    own = nn.functional.interpolate(own, (64, 64), mode="bilinear")
    grad_cam = methods["grad_cam"].maps(context)(x, classes)
    assert_close(grad_cam / grad_cam.max(), own / own.max(), rtol=1e-4, atol=1e-5)


def test_plain_weights_load_into_the_entrypoint(tmp_path):
    plain = timm.create_model("tf_efficientnet_lite0").eval()
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    overlay = dict(file=str(tmp_path / "plain.safetensors"))
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert isinstance(model, ClassMapModel)
    x = images(64)
    with torch.no_grad():
        assert_close(model(x), plain(x))
    few = timm.create_model(NAME, pretrained=True, num_classes=5, in_chans=1, pretrained_cfg_overlay=overlay)
    assert few(images(64, channels=1)).shape == (2, 5)
