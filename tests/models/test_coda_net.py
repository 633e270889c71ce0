"""CoDA-Net inside timm (the contract), and its layer against the definition written down plainly."""

import copy
import math
from typing import Any, ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.data.images import load_image, sample_of, squash_transform
from timm_interpretable.models import CoDANet, DAUConv2d, dynamic_alignment, published_state_dict
from timm_interpretable.models.dau import squared_norms

from .contract import ModelContract, create, images

NAMES = timm.list_models(module="coda_net")


def tiny(**kwargs: Any) -> CoDANet:
    """Four layers and a head, with logits that differ: the default temperature would hide the units' answers."""
    torch.manual_seed(0)
    args: dict[str, Any] = dict(
        num_classes=5, channels=(4, 6, 6), strides=(1, 2, 1), kernel_sizes=(3, 3, 3), ranks=(5, 7, 8, 9),
        head_kernel_size=3, temperature=0.1,
    )  # fmt: skip
    return CoDANet(**{**args, **kwargs}).eval()


class TestContract(ModelContract):
    size: ClassVar[int] = 48  # strides of 2 and of 3 divide it
    min_levels: ClassVar[int] = 3

    @pytest.fixture(params=NAMES)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.mark.slow
    def test_compile_inductor(self) -> None:
        self.check_compiles(tiny(), images(16), backend="inductor")


def test_registered_names() -> None:
    assert {"coda_net_s", "coda_net_m", "coda_net_l"} == set(NAMES)


def test_published_s_configuration_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in create("coda_net_s", device="meta").parameters()) == pytest.approx(7.78e6, rel=1e-3)


def test_a_tag_brings_the_arguments_of_its_weights() -> None:
    default, tagged = (create(name, device="meta") for name in ("coda_net_s", "coda_net_s.cifar10"))
    assert [layer.rank for layer in default.dynamic_layers()] == [32, 32] + 7 * [64]
    assert [layer.rank for layer in tagged.dynamic_layers()] == [7, 7] + 7 * [15]
    assert {layer.norm for layer in tagged.dynamic_layers()} == {"l2"}
    assert tagged.pretrained_cfg["label_names"][3] == "cat"
    assert create("coda_net_s.cifar10", device="meta", norm="sq").head.norm == "sq"


def test_default_without_weights_says_so() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for coda_net_s"):
        timm.create_model("coda_net_s", pretrained=True)


def materialised(layer: DAUConv2d, x: Tensor, detach: bool = False) -> Tensor:
    """What the layer computes, by its definition."""
    return dynamic_alignment(x, layer.code.weight, layer.weight, layer.stride, layer.padding, layer.norm, detach)


LAYERS = [
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=1, rank=5),
    dict(in_channels=6, out_channels=3, kernel_size=7, stride=3, padding=3, rank=9),
    dict(in_channels=4, out_channels=5, kernel_size=3, stride=2, padding=1, rank=50),  # a code longer than the patch
    dict(in_channels=7, out_channels=2, kernel_size=1, rank=4),
]


@pytest.mark.parametrize("norm", ["sq", "l2"])
@pytest.mark.parametrize("sizes", LAYERS, ids=lambda s: f"k{s['kernel_size']}")
class TestLayer:
    @pytest.fixture
    def layer(self, sizes: dict, norm: str) -> DAUConv2d:
        torch.manual_seed(0)
        return DAUConv2d(**sizes, norm=norm, dtype=torch.float64)

    @pytest.fixture
    def x(self, layer: DAUConv2d) -> Tensor:
        x = torch.rand(2, layer.in_channels, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def test_equals_the_definition_with_all_gradients(self, layer: DAUConv2d, x: Tensor) -> None:
        leaves = [x, *layer.parameters()]
        ours, theirs = layer(x), materialised(layer, x)
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        g = torch.randn_like(ours)
        for a, b in zip(torch.autograd.grad(ours, leaves, g), torch.autograd.grad(theirs, leaves, g), strict=True):
            assert_close(a, b, rtol=1e-9, atol=1e-9)

    def test_second_derivatives(self, layer: DAUConv2d, x: Tensor) -> None:
        results = []
        for y in (layer(x), materialised(layer, x)):
            (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            results.append(torch.autograd.grad(grad.square().sum(), [x, *layer.parameters()]))
        for a, b in zip(*results, strict=True):
            assert_close(a, b, rtol=1e-8, atol=1e-8)

    def test_transposes_equal_the_gradient_with_weights_held_constant(self, layer: DAUConv2d, x: Tensor) -> None:
        y = materialised(layer, x, detach=True)
        g = torch.randn(3, *y.shape, dtype=torch.float64)
        wanted = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in g])
        codes, scale = (factor.detach() for factor in layer.factors(x))
        assert_close(layer.align_transposed(g[0], codes, scale, x.shape[2:]), wanted[0], rtol=1e-9, atol=1e-9)
        every = layer.align_transposed_all(g.transpose(0, 1), codes, scale, x.shape[2:])
        assert_close(every.transpose(0, 1), wanted, rtol=1e-9, atol=1e-9)

    def test_the_norm_bounds_the_output(self, layer: DAUConv2d, x: Tensor) -> None:
        """`|w^T x| <= ||w|| ||x||`, where ||w|| is below one with SQ and one with L2."""
        patches = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        bound = patches.norm(dim=1).view(2, 1, *layer(x).shape[2:])
        assert (layer(100 * x).abs() <= 100 * bound).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, 1e4])
    def test_constant_patches_stay_finite(self, layer: DAUConv2d, x: Tensor, value: float, dtype: torch.dtype) -> None:
        layer = layer.to(dtype)
        for zero_units in (
            False,
            True,
        ):  # units without weight and bias: v = 0, the point where v / ||v|| is not defined
            if zero_units:
                nn.init.zeros_(layer.weight)
            constant = torch.full_like(x, value, dtype=dtype).detach().requires_grad_()
            y = layer(constant)
            grads = torch.autograd.grad(y.sum(), [constant, *layer.parameters()])
            assert all(t.isfinite().all() for t in (y, *grads))


def test_gradcheck() -> None:
    torch.manual_seed(0)
    layer = DAUConv2d(2, 2, 3, padding=1, rank=3, dtype=torch.float64)
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize("norm", ["sq", "l2"])
def test_norms_are_fp32_under_autocast(norm: str) -> None:
    """A code of length 1e4 has norms whose squares no bf16 could tell apart; the scales must still be right."""
    torch.manual_seed(0)
    layer = DAUConv2d(6, 8, 3, padding=1, rank=16, norm=norm)
    codes = torch.cat((1e4 * torch.randn(1, 16, 4, 4), torch.ones(1, 1, 4, 4)), 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        squared = squared_norms(codes, layer.units())
    v = torch.einsum("nrhw,crd->nchwd", codes.double(), layer.units().double())
    assert squared.dtype == torch.float32
    assert_close(squared.double(), v.square().sum(-1), rtol=1e-5, atol=0)


class TestModel:
    def test_logits_are_the_sum_over_positions(self) -> None:
        model, x = tiny(), images(16)
        maps = copy.deepcopy(model)
        maps.global_pool = ""
        assert_close(model(x), maps(x).sum((2, 3)) + math.log(0.1 / 0.9))
        assert model(x).std() > 1e-3  # or the comparisons of this file would compare biases

    def test_logits_of_other_sizes_count_per_native_area(self) -> None:
        plain, native = tiny(), tiny(native_positions=tiny(global_pool="")(images(16))[0, 0].numel())
        assert torch.equal(native(images(16)), plain(images(16)))
        large = images(32)
        torch.testing.assert_close(native(large) - native.logit_bias, (plain(large) - plain.logit_bias) / 4)
        native, large = native.double(), large.double()
        weights = native.dynamic_weights(large)
        sums = (weights.all_rows() * weights.inputs[0].unsqueeze(1)).sum((2, 3, 4))
        assert_close(sums, native(large) - native.logit_bias, rtol=1e-10, atol=1e-12)
        with pytest.raises(ValueError, match="native_positions=-1 is out of range"):
            tiny(native_positions=-1)

    def test_released_logits_do_not_grow_with_the_image(self) -> None:
        model = timm.create_model("coda_net_m.imagenette", pretrained=True).eval()
        assert model.native_positions == 64
        picture = load_image(sample_of(["golf ball"]).path)
        sides = (48, 96, 192, 288)
        x = [squash_transform((side, side), (0.0,) * 3, (1.0,) * 3)(picture)[None] for side in sides]
        with torch.no_grad():
            largest = [float(model(one).abs().max()) for one in x]
        assert largest == sorted(largest, reverse=True)  # a plain sum would give 36 times as much at the last size

    def test_is_linear_with_weights_held_constant(self) -> None:
        model, x = tiny().double(), images(16).double()
        weights = model.dynamic_weights(x)
        logits = model(x) - model.logit_bias
        assert_close(weights.logits(), logits, rtol=1e-12, atol=1e-12)
        assert_close(weights.apply(weights.inputs[0]), logits, rtol=1e-12, atol=1e-12)
        other = torch.rand_like(weights.inputs[0])
        doubled = weights.apply(2 * weights.inputs[0] + other)
        assert_close(doubled, 2 * logits + weights.apply(other), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("depth", [0, 2, 3])
    def test_rows_add_up_to_the_logits_at_every_depth(self, depth: int) -> None:
        model, x = tiny().double(), images(16).double()
        weights, classes = model.dynamic_weights(x), torch.tensor([1, 4])
        every = weights.all_rows(depth)
        sums = (every * weights.inputs[depth].unsqueeze(1)).sum((2, 3, 4))
        assert_close(sums, model(x) - model.logit_bias, rtol=1e-10, atol=1e-12)
        rows = weights.rows(F.one_hot(classes, every.shape[1]), depth)
        assert_close(rows, every[torch.arange(2), classes], rtol=1e-10, atol=1e-12)

    def test_encoding_shows_black_and_white_alike(self) -> None:
        encoding = tiny().encoding
        black, white = encoding(torch.zeros(1, 3, 2, 2)), encoding(torch.ones(1, 3, 2, 2))
        assert_close(black.sum(1), white.sum(1))
        assert_close(encoding.decode(encoding(images(4))), torch.ones(2, 3, 4, 4))  # x + (1 - x), colour by colour
        with pytest.raises(ValueError, match=r"Input has 4 channels, expected in_chans=3"):
            encoding(images(4, channels=4))

    def test_grey_images_are_replicated(self) -> None:
        grey, colour = tiny(in_chans=1), tiny()
        grey.load_state_dict(colour.state_dict())
        x = images(16, channels=1)
        assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)))

    @pytest.mark.parametrize("temperature", [1.0, 1e5])
    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_constant_images_in_bf16(self, temperature: float, value: float) -> None:
        model = tiny(temperature=temperature).bfloat16()
        y = model(torch.full((1, 3, 16, 16), value, dtype=torch.bfloat16))
        assert y.isfinite().all()
        grads = torch.autograd.grad(y.sum(), list(model.parameters()))
        assert all(g.isfinite().all() for g in grads)

    def test_autocast_is_near_and_temperature_divides(self) -> None:
        model, x = tiny(), images(16)
        exact = model(x) - model.logit_bias
        with torch.autocast("cpu", torch.bfloat16):
            near = model(x) - model.logit_bias
        assert near.dtype == torch.float32
        assert_close(near, exact, rtol=0, atol=0.03 * exact.abs().max().item())
        assert_close(tiny(temperature=10.0)(x) - model.logit_bias, exact / 100, rtol=1e-3, atol=1e-7)

    def test_reset_classifier_keeps_the_features(self) -> None:
        model, x = tiny(), images(16)
        features = model.forward_features(x)
        model.reset_classifier(7)
        assert_close(model.forward_features(x), features)
        assert model(x).shape == (2, 7)
        with pytest.raises(ValueError, match="num_classes=0 has no logits"):
            tiny(num_classes=0).dynamic_weights(x)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            (dict(norm="l1"), "norm='l1' is unknown, expected 'sq' or 'l2'"),
            (dict(global_pool="avg"), "global_pool='avg' is not supported, expected 'sum' or ''"),
            (dict(temperature=0.0), "temperature=0.0 is out of range"),
            (dict(drop_path_rate=0.1), "drop_path_rate=0.1 is not supported, expected 0"),
            (dict(num_classes=-1), "num_classes=-1 is out of range"),
            (dict(ranks=(4, 4, 4)), "one more, for the head"),
        ],
    )
    def test_bad_arguments(self, kwargs: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny(**kwargs)


class TestCheckpoints:
    def test_published_layout_there_and_back(self, tmp_path) -> None:
        model = create("coda_net_s", temperature=1.0)
        published = published_state_dict(model)
        # the layout as the design of the published S-CoDA gives it: layer 0 has D = 54, C = 16, r = 32
        assert published["0.weight_mod.weighting_f.0.weight"].shape == (32, 6, 3, 3)
        assert published["0.weight_mod.weighting_f.1.weight"].shape == (54 * 16, 32, 1, 1)
        assert published["8.weight_mod.weighting_f.1.bias"].shape == (64 * 10,)
        torch.save(published, tmp_path / "published.pt")
        cfg = dict(file=str(tmp_path / "published.pt"))
        other = timm.create_model("coda_net_s", pretrained=True, pretrained_cfg_overlay=cfg, temperature=1.0).eval()
        for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name

    def test_published_layer_computes_the_same(self) -> None:
        """The published form of a layer: B as a 1 x 1 convolution whose output is viewed `(D, C)` at each position."""
        torch.manual_seed(0)
        model, x = tiny(channels=(4, 6, 6), dtype=torch.float64), images(16).double()
        state, layer = published_state_dict(model), model.dynamic_layers()[1]
        h = model.stages[0](model.encoding(x))
        code = F.conv2d(h, state["1.weight_mod.weighting_f.0.weight"], stride=2, padding=1)
        v = F.conv2d(code, *(state[f"1.weight_mod.weighting_f.1.{key}"] for key in ("weight", "bias")))
        v = v.unflatten(1, (36, 6)).flatten(3)  # (N, D, C, L)
        patches = F.unfold(h, 3, padding=1, stride=2).unsqueeze(2)
        norm = v.norm(dim=1)
        wanted = (v * patches).sum(1) * norm / (1 + norm**2)
        assert_close(layer(h).flatten(2), wanted, rtol=1e-10, atol=1e-12)

    def test_other_numbers_of_colours(self, tmp_path) -> None:
        torch.save(create("coda_net_s").state_dict(), tmp_path / "s.pt")
        load = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "s.pt")))
        colour, grey, six = (timm.create_model("coda_net_s", in_chans=c, temperature=1.0, **load) for c in (3, 1, 6))
        x = images(16, channels=1)
        assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)))
        codes = [m.stages[0].layers[0].code(m.encoding(x.expand(-1, c, -1, -1))) for m, c in ((colour, 3), (six, 6))]
        assert_close(codes[0], codes[1])

    def test_fewer_classes_keep_the_body(self, tmp_path) -> None:
        model = create("coda_net_s")
        torch.save(model.state_dict(), tmp_path / "s.pt")
        overlay = dict(file=str(tmp_path / "s.pt"))
        two = timm.create_model("coda_net_s", pretrained=True, num_classes=2, pretrained_cfg_overlay=overlay)
        assert_close(two.forward_features(images(16)), model.forward_features(images(16)))
        assert two(images(16)).shape == (2, 2)
