"""FA-CNN inside timm (the contract), and the properties of its own layers."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.models import ClassMapHead, DampenedSkip, FeatureAlignedCNN, Lift

from .contract import ModelContract, create, images

NAMES = timm.list_models(module="facnn")
PURE = [name for name in NAMES if "hybrid" not in name]


def tiny(**kwargs) -> FeatureAlignedCNN:
    """A trunk of 48 channels over 4-pixel blocks, pooled once: it takes sizes that 8 divides."""
    torch.manual_seed(0)
    args = dict(num_classes=5, trunk_width=48, stem_stride=4, layers=(1, 1), branch_widths=(8, 8), pools=(1,))
    return FeatureAlignedCNN(**{**args, **kwargs}).eval()


class TestContract(ModelContract):
    @pytest.fixture(params=NAMES)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_compile_inductor(self) -> None:
        self.check_compiles(tiny(), images(16), backend="inductor")

    def test_compiled_class_maps(self) -> None:
        model = tiny()
        compiled = torch.compile(model.class_maps, fullgraph=True, backend="aot_eager")
        assert_close(compiled(images(16)), model.class_maps(images(16)))


def test_registered_names() -> None:
    assert {"facnn_resnet18", "facnn_resnet34", "facnn_resnet50", "facnn_hybrid_resnet18"} == set(NAMES)
    assert set(timm.list_models("facnn*")) == {*NAMES, "facnn_hybrid_efficientnet_lite0"}  # a file of its own
    released = {"facnn_resnet18.cifar10", "facnn_resnet18.imagenette"}
    assert set(timm.list_models("facnn*", pretrained=True)) == {*released, "facnn_hybrid_efficientnet_lite0.in1k"}


def test_import_order_does_not_matter() -> None:
    """Here timm came first; with timm last the same models are known."""
    code = "import timm_interpretable, timm; print(*timm.list_models())"
    other_way = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(other_way.stdout.split()) <= set(timm.list_models())
    assert set(NAMES) <= set(other_way.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_classifier_weight(name: str) -> None:
    model = create(name, device="meta")
    assert model.pretrained_cfg["classifier"] == ()
    assert not [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert set(model.head.state_dict()) <= {"log_tau", "logit_bias"}  # one number each


def test_the_bias_of_the_logits_belongs_to_sigmoids() -> None:
    """All logits share it, so the softmax would not see it; pretrained weights are taken without it, too."""
    sigmoid, softmax = (create("facnn_resnet18", pretrained=True, output=output) for output in ("sigmoid", "softmax"))
    assert softmax.head.logit_bias is None
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(sigmoid(x) - sigmoid.logit_bias, softmax(x), rtol=1e-4, atol=1e-4)
    assert create("facnn_resnet18", output="softmax", logit_bias=0.5).logit_bias == 0.5


class TestLift:
    def test_mean_over_one_copy_is_the_pooled_mean_colour(self) -> None:
        x = torch.randint(0, 256, (2, 3, 32, 32)).float()  # integers: sums are exact in fp32
        lifted = Lift(width=3 * 4**2, stride=4, reduction=4)(x)
        assert torch.equal(lifted.sum(1), F.avg_pool2d(x, 4, divisor_override=1).sum(1))

    def test_channels_are_colours_of_sub_pixels(self) -> None:
        x = images(8)
        lifted = Lift(width=30, stride=2, reduction=2)(x)
        for k in range(30):
            colour, row, column = (k % 12) // 4, (k % 4) // 2, k % 2
            assert torch.equal(lifted[:, k], x[:, colour, row::2, column::2])

    @pytest.mark.parametrize(("h", "w", "nearest"), [(20, 32, "16x32|24x32"), (32, 33, "32x32"), (3, 3, "8x8")])
    def test_bad_size_names_a_good_one(self, h: int, w: int, nearest: str) -> None:
        with pytest.raises(ValueError, match=rf"{h}x{w}.*multiples of 8.*({nearest})"):
            tiny()(torch.rand(1, 3, h, w))

    def test_bad_channels(self) -> None:
        with pytest.raises(ValueError, match="1 channels, expected in_chans=3"):
            tiny()(torch.rand(1, 1, 16, 16))
        with pytest.raises(
            ValueError, match="in_chans=4 with stem_stride=4 lifts to 64 channels, more than trunk_width=48"
        ):
            tiny(in_chans=4)


@pytest.mark.parametrize("name", PURE)
def test_grey_model_is_the_colour_model_on_a_replicated_image(name: str) -> None:
    colour, grey = create(name), create(name, in_chans=1)
    grey.load_state_dict(colour.state_dict())
    x = images(32, channels=1)
    with torch.no_grad():
        assert torch.equal(grey(x), colour(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (224, 96)])
def test_sizes_that_the_stride_divides(size: tuple[int, int]) -> None:
    model = create("facnn_resnet18", num_classes=4)
    with torch.no_grad():
        assert model.forward_features(torch.rand(1, 3, *size)).shape[-2:] == (size[0] // 16, size[1] // 16)


@pytest.mark.parametrize("mode", ["convex", "additive", "literal"])
@pytest.mark.parametrize("learnable", [False, True])
class TestDampenedSkip:
    def test_formula(self, mode: str, learnable: bool) -> None:
        a, f = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64).unbind()
        wanted = {"convex": 0.7 * a + 0.3 * f, "additive": a + 0.3 * f, "literal": 0.3 * a + f}[mode]
        skip = DampenedSkip(0.3, mode, learnable, dtype=torch.float64)
        assert_close(skip(a, f), wanted)
        assert len(list(skip.parameters())) == learnable

    def test_commutes_with_a_permutation_of_channels(self, mode: str, learnable: bool) -> None:
        a, f = torch.randn(2, 2, 6, 4, 4).unbind()
        order = torch.randperm(6)
        skip = DampenedSkip(0.3, mode, learnable)
        assert torch.equal(skip(a, f)[:, order], skip(a[:, order], f[:, order]))

    def test_trains_in_a_model(self, mode: str, learnable: bool) -> None:
        model = tiny(skip=mode, learn_alpha=learnable, drop_path_rate=0.1, drop_rate=0.1).train()
        model(images(16)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("learnable", [False, True])
def test_torchscript_and_export(learnable: bool) -> None:
    model, x = tiny(learn_alpha=learnable, drop_path_rate=0.1, drop_rate=0.1), images(16)
    with torch.no_grad():
        assert_close(torch.jit.script(model)(x), model(x))
        assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_a_pruned_trunk_takes_the_sizes_it_can() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="multiples of 8"):
        model(images(12))
    model.prune_intermediate_layers([0, 1])
    assert model(images(12)).shape == (2, 48, 3, 3)


class TestHead:
    def test_logits_are_tau_times_the_mean_of_the_last_class_map(self) -> None:
        model = tiny()
        maps = model.class_maps(images(16))
        assert [tuple(m.shape) for m in maps] == [(2, 5, 4, 4), (2, 5, 2, 2)]
        assert_close(model(images(16)), 10 * maps[-1].mean((2, 3)))

    def test_groups_are_contiguous_and_left_over_channels_idle(self) -> None:
        head = ClassMapHead(width=11, num_classes=3)  # groups of 3, two channels left over
        trunk = torch.randn(2, 11, 4, 4)
        wanted = torch.stack([trunk[:, 3 * c : 3 * c + 3].mean(1) for c in range(3)], dim=1)
        assert_close(head.class_maps(trunk), wanted)
        noisy = torch.cat([trunk[:, :9], trunk[:, 9:] + 100], dim=1)
        assert torch.equal(head(noisy), head(trunk))

    def test_unpooled(self) -> None:
        model = tiny(global_pool="")
        assert model(images(16)).shape == (2, 5, 2, 2)
        assert_close(model(images(16)), 10 * model.class_maps(images(16))[-1])

    def test_half_precision_model_rounds_its_logits_last(self) -> None:
        model = tiny(dtype=torch.bfloat16)
        x = images(16).bfloat16()
        maps = model.class_maps(x)[-1]
        assert maps.dtype == torch.float32
        exact = maps.mean((2, 3)) * model.head.log_tau.float().exp()
        torch.testing.assert_close(model(x), exact.bfloat16(), rtol=2**-8, atol=0)

    @pytest.mark.parametrize("classes", [1, 7, 48])
    def test_reset_classifier_changes_no_parameter(self, classes: int) -> None:
        model = tiny()
        before = copy.deepcopy(model.state_dict())
        model.reset_classifier(classes)
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert model(images(16)).shape == (2, model.num_classes) == (2, classes)
        model.reset_classifier(5)
        assert_close(model(images(16)), tiny()(images(16)))

    @pytest.mark.parametrize("classes", [49, -1])
    def test_too_many_classes(self, classes: int) -> None:
        model = tiny()
        with pytest.raises(ValueError, match=f"num_classes={classes} does not fit trunk_width=48"):
            model.reset_classifier(classes)
        assert model.num_classes == 5  # a refused reset leaves the model as it was
        assert model(images(16)).shape == (2, 5)
        with pytest.raises(ValueError, match="does not fit"):
            tiny(num_classes=classes)

    def test_refused_pooling_leaves_the_model_as_it_was(self) -> None:
        model = tiny()
        with pytest.raises(ValueError, match="global_pool='max' is not supported"):
            model.reset_classifier(7, "max")
        assert model(images(16)).shape == (2, 5)

    def test_no_classes_no_maps(self) -> None:
        with pytest.raises(ValueError, match="num_classes=0"):
            tiny(num_classes=0).class_maps(images(16))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(skip="concave"), "skip='concave' is unknown, expected 'convex'"),
        (dict(branch="wide"), "branch='wide' is unknown, expected 'basic'"),
        (dict(alpha=0.0), "alpha=0.0 is out of range"),
        (dict(alpha=1.5), "alpha=1.5 is out of range"),
        (dict(alpha=1.0, learn_alpha=True), "below 1 when learnable"),
        (dict(global_pool="max"), "global_pool='max' is not supported"),
        (dict(pools=(2,)), r"pools=\(2,\) names a stage that does not exist, expected 0 to 1"),
        (dict(branch_widths=(8,)), "must name the same number of stages"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


@pytest.mark.parametrize("branch", ["basic", "bottleneck"])
def test_branches(branch: str) -> None:
    model = tiny(branch=branch)
    kernels = [m.kernel_size[0] for m in model.stages[0].modules() if isinstance(m, nn.Conv2d)]
    assert kernels == {"basic": [3, 3], "bottleneck": [1, 3, 1]}[branch]


class TestHybrid:
    @pytest.mark.parametrize(("backbone", "stride"), [("test_resnet", 16), ("mobilenetv3_small_050", 16)])
    def test_takes_the_deepest_map_of_reduction_16(self, backbone: str, stride: int) -> None:
        model = create("facnn_hybrid_resnet18", backbone=backbone, num_classes=7)
        assert model.stem.stride == stride == model.feature_info[0]["reduction"]
        assert model(images(64)).shape == (2, 7)
        assert model.forward_features(images(64)).shape[-1] == 64 // stride

    def test_backbone_sees_the_image_as_it_would_alone(self) -> None:
        model = create("facnn_hybrid_resnet18", backbone="test_resnet")
        alone = create("test_resnet", features_only=True)
        alone.load_state_dict(model.stem.backbone.state_dict(), strict=False)
        reductions = alone.feature_info.reduction()
        assert_close(model.stem.backbone(images(64))[0], alone(images(64))[reductions.index(16)])

    def test_no_fitting_map(self) -> None:
        from timm_interpretable.models.facnn import BackboneStem

        with pytest.raises(ValueError, match="no feature map of reduction <= 1"):
            BackboneStem("test_resnet", 64, max_reduction=1)

    def test_class_maps(self) -> None:
        model = create("facnn_hybrid_resnet18", backbone="test_resnet", num_classes=7)
        maps = model.class_maps(images(64))
        assert len(maps) == 4
        assert_close(model(images(64)), 10 * maps[-1].mean((2, 3)))


def test_variants_have_the_depth_of_their_names() -> None:
    blocks = {name: sum(len(stage.blocks) for stage in create(name, device="meta").stages) for name in NAMES}
    assert blocks == {"facnn_resnet18": 8, "facnn_resnet34": 16, "facnn_resnet50": 16, "facnn_hybrid_resnet18": 4}


def test_a_tag_brings_the_arguments_it_was_trained_with() -> None:
    model = create("facnn_resnet18.cifar10", device="meta")
    assert model.stem.stride == 2
    assert model.pretrained_cfg["tag"] == "cifar10"
    assert create("facnn_resnet18", pretrained_cfg="cifar10", device="meta").stem.stride == 2
    assert create("facnn_resnet18.cifar10", stem_stride=4, device="meta").stem.stride == 4  # an explicit argument wins
    assert create("facnn_resnet18", device="meta").pretrained_cfg["tag"] == "imagenette"


@pytest.mark.parametrize("name", PURE)
def test_stride_and_pooling_change_no_shape_of_a_weight(name: str) -> None:
    shapes = [
        {key: value.shape for key, value in create(name, device="meta", **kwargs).state_dict().items()}
        for kwargs in ({}, dict(stem_stride=2, pools=()))
    ]
    assert shapes[0] == shapes[1]
