"""B-cos networks inside timm (the contract), and against the code of the papers' authors, where it is installed."""

import copy
import json
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.testing import assert_close

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import InputContribution
from timm_interpretable.models import BcosConv2d, BcosConvNeXt, BcosDenseNet, BcosResNet, bcosify
from timm_interpretable.models.bcos import BatchNormUncentred2d, PositionNorm2d, checkpoint_filter_fn, padded_average

from .contract import ModelContract, create, images

NAMES = timm.list_models(module="bcos")
ONE_OF_EACH = ["bcos_resnet18_050", "bcos_densenet121", "bcos_convnext_tiny"]


def tiny(**kwargs: Any) -> BcosResNet:
    """Two blocks a stage of few channels, with norms as after some training, so that the logits differ."""
    torch.manual_seed(0)
    args: dict[str, Any] = dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=5)
    return with_statistics(BcosResNet(**{**args, **kwargs})).eval()


def with_statistics(model: Any) -> Any:
    """Running variances and weights of norms as if the activations had been seen, so that none vanishes."""
    size = 64
    model.train()
    for _ in range(60):
        with torch.no_grad():
            model(torch.rand(8, model.in_chans, size, size, dtype=next(model.parameters()).dtype))
    return model.eval()


class TestContract(ModelContract):
    size: ClassVar[int] = 64
    early_stop_ends_at_the_feature: ClassVar[bool] = False

    @pytest.fixture(params=ONE_OF_EACH)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.mark.slow
    def test_compile_inductor(self) -> None:
        self.check_compiles(tiny(), images(64), backend="inductor")


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ONE_OF_EACH)))
def test_default_cfgs_of_the_others(name: str) -> None:
    TestContract().test_default_cfg(name)
    TestContract().test_default_cfg_names_exist(name)


# --- layers, against their equations


LAYERS = [
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=1),
    dict(in_channels=6, out_channels=4, kernel_size=7, stride=2, padding=3),
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=1, groups=2),
    dict(in_channels=6, out_channels=6, kernel_size=7, padding=3, groups=6),
    dict(in_channels=6, out_channels=4, kernel_size=1, stride=2),
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=2, dilation=2),
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=1, b=1.5),
]


@pytest.mark.parametrize("kwargs", LAYERS)
def test_layer_is_the_cosine_times_the_product(kwargs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = BcosConv2d(**kwargs, dtype=torch.float64), torch.randn(2, 6, 9, 8, dtype=torch.float64)
    groups, exponent = kwargs.get("groups", 1), kwargs.get("b", 2.0) - 1
    parts = []
    for some, filters in zip(x.chunk(groups, 1), layer.weight.chunk(groups), strict=True):
        patches = F.unfold(some, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # (2, D, L)
        units = F.normalize(filters.flatten(1), dim=1)
        lengths = (patches.square().sum(1, keepdim=True) + 1e-6).sqrt()
        response = units @ patches
        cosines = (response / lengths).abs() + (0 if exponent == 1 else 1e-6)
        parts.append(cosines**exponent * response)
    assert_close(layer(x).flatten(2), torch.cat(parts, 1), rtol=1e-10, atol=1e-12)


def test_layer_without_exponent_is_a_convolution_with_filters_of_length_one() -> None:
    layer, x = BcosConv2d(3, 4, 3, b=1.0), torch.rand(1, 3, 5, 5)
    unit = layer.weight / layer.weight.flatten(1).norm(dim=1)[:, None, None, None]
    assert_close(layer(x), F.conv2d(x, unit))


@pytest.mark.parametrize("norm", [BatchNormUncentred2d(3, dtype=torch.float64), PositionNorm2d(3, dtype=torch.float64)])
def test_norms_subtract_no_mean_of_the_batch_and_add_nothing(norm: nn.Module) -> None:
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64) + 3
    nn.init.uniform_(norm.weight)
    if isinstance(norm, BatchNormUncentred2d):
        variance = x.var((0, 2, 3), correction=0)
        assert_close(norm.train()(x), x * (norm.weight / (variance + 1e-5).sqrt())[:, None, None])
        assert_close(norm.running_var, 0.9 + 0.1 * variance)
        assert norm.num_batches_tracked == 1
        assert_close(norm.eval()(x), x * (norm.weight / (norm.running_var + 1e-5).sqrt())[:, None, None])
        assert not norm.running_mean.any()
    else:
        wanted = F.layer_norm(x.movedim(1, -1), (3,), norm.weight, None, 1e-6).movedim(-1, 1)
        assert_close(norm(x), wanted)


# --- the network


def test_image_and_encoding_give_the_same_logits() -> None:
    model, x = tiny(), images(64)
    assert_close(model.forward_encoded(model.encoding(x)), model(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="Input has 4 channels, expected in_chans=3"):
        model(torch.rand(1, 4, 64, 64))


def test_head_maps_average_to_the_logits() -> None:
    model, x = tiny().double(), images(64).double()
    assert_close(model.head_maps(x).mean((2, 3)) + model.logit_bias, model(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("classes", "bias"), [(1, 0.0), (2, 0.0), (10, -2.1972245773362196)])
def test_logit_bias(classes: int, bias: float) -> None:
    model = tiny()
    model.reset_classifier(classes)
    assert model.logit_bias == pytest.approx(bias)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match=r"num_classes=0 has no logits to explain; call reset_classifier"):
        model.dynamic_weights(images(64))


def test_the_pass_of_an_explanation_leaves_the_network_alone() -> None:
    model, x = tiny(), images(64)
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_modules()]
    model.dynamic_weights(x)
    assert [name for name, _ in model.named_modules()] == names
    assert not any(module.constant for module in model.modules() if isinstance(module, BcosConv2d))
    assert_close(model.state_dict(), before)


@pytest.mark.parametrize("depth", range(7))
def test_rows_add_up_to_the_logits_at_every_depth(depth: int) -> None:
    model, x = tiny().double(), images(64).double()
    weights = model.dynamic_weights(x)
    assert len(weights.inputs) == len(model.dynamic_layers()) + 1 == 7
    combination = torch.tensor([[0.0, 1, 0, 0, -2], [0, 0, 0.5, 0, 0]], dtype=torch.float64)
    total = (weights.rows(combination, depth) * weights.inputs[depth]).flatten(1).sum(1)
    assert_close(total, (weights.logits() * combination).sum(1), rtol=1e-10, atol=1e-14)
    assert_close(weights.logits() + model.logit_bias, model(x), rtol=1e-12, atol=1e-14)


def test_a_pass_is_freed_with_its_last_reference() -> None:
    """By counting alone: the garbage collector does not see through the graph."""
    weights = tiny().dynamic_weights(images(64))
    assert weights.nbytes > weights.inputs[0].nbytes
    output = weakref.ref(weights.inputs[3])
    del weights
    assert output() is None


class TestBcosify:
    def test_is_the_network_of_the_entrypoint(self) -> None:
        plain = timm.create_model("resnet18", num_classes=10)
        model = bcosify(plain)
        assert isinstance(model, BcosResNet)
        assert model.state_dict().keys() == create("bcos_resnet18", num_classes=10).state_dict().keys()
        assert_close(model.conv1.weight, torch.cat([plain.conv1.weight, -plain.conv1.weight], 1) / 2)
        assert isinstance(plain.act1, nn.ReLU)
        assert model(images(64)).shape == (2, 10)

    def test_has_the_layers_of_the_entrypoint(self) -> None:
        for name, kwargs in (("convnext_tiny", dict(conv_mlp=True)), ("densenet121", {}), ("resnext50_32x4d", {})):
            made, registered = bcosify(timm.create_model(name, **kwargs)), create(f"bcos_{name}", device="meta")
            assert made.state_dict().keys() == registered.state_dict().keys()

    @pytest.mark.parametrize("name", ["densenet121", "convnext_atto", "resnext50_32x4d", "resnet18d"])
    def test_explains_itself(self, name: str) -> None:
        model = bcosify(timm.create_model(name, num_classes=3)).double().eval()
        _, delta = InputContribution(model).attribute(images(64).double(), 1, return_convergence_delta=True)
        assert delta.abs().max() < 1e-12

    def test_grey_images(self) -> None:
        model = bcosify(timm.create_model("resnet18", in_chans=1, num_classes=3)).eval()
        assert InputContribution(model).attribute(images(64, channels=1), 1).shape == (2, 1, 64, 64)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("vgg11", "VGG has no B-cos form, expected one of timm's ResNet, DenseNet, ConvNeXt"),
            ("seresnet18", r"layer1\.0\.se is a SEModule, which has no B-cos form"),
            ("resnetblur18", r"maxpool\.1 is a BlurPool2d, which has no B-cos form"),
            ("convnext_tiny", r"stages\.0\.blocks\.0\.mlp\.fc1 is a Linear, which has no B-cos form"),
            ("convnextv2_atto", r"mlp is a GlobalResponseNormMlp, which has no B-cos form"),
        ],
    )
    def test_names_what_stands_in_the_way(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            bcosify(timm.create_model(name, num_classes=3, device="meta"))


# --- the papers' authors' own code


def theirs(name: str, **kwargs: Any) -> Any:
    """A network of PyPI's `bcos`, float64, with random weights and norms as after some training."""
    models = pytest.importorskip("bcos.models.pretrained", reason="the authors' code, pip install bcos, is not here")
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=11, **kwargs).double()
    for entry, buffer in model.named_buffers():
        if entry.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.shape[1:] == (1, 1):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def ours(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, num_classes=11, **kwargs).double()


PAIRS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("resnet18", "bcos_resnet18", {}, {}),
    ("resnet50", "bcos_resnet50", {}, {}),
    ("resnext50_32x4d", "bcos_resnext50_32x4d", {}, {}),
    ("densenet121", "bcos_densenet121", {}, {}),
    ("convnext_tiny", "bcos_convnext_tiny", dict(stochastic_depth_prob=0.0), {}),
    ("convnext_tiny_bnu", "bcos_convnext_tiny.bnu_in1k", dict(stochastic_depth_prob=0.0), {}),
]


@pytest.mark.parametrize(("their_name", "our_name", "their_args", "our_args"), PAIRS)
def test_parity_with_the_authors_code(
    their_name: str, our_name: str, their_args: dict[str, Any], our_args: dict[str, Any]
) -> None:
    """Logits, contribution maps, gradients of training and statistics, from their checkpoint's names."""
    reference, model = theirs(their_name, **their_args), ours(our_name, **our_args)
    reference.logit_layer.logit_bias = model.logit_bias  # theirs is that of a thousand classes
    model.load_state_dict(checkpoint_filter_fn(dict(reference.state_dict()), model), strict=True)
    x = images(64).double()
    encoded = torch.cat([x, 1 - x], 1).requires_grad_()

    reference.eval(), model.eval()
    assert_close(model(x), reference(encoded), rtol=1e-12, atol=0)
    with reference.explanation_mode():
        (wanted,) = torch.autograd.grad(reference(encoded)[:, 3].sum(), encoded)
    found = InputContribution(model).effective_weights(x, target=3)
    assert (found - wanted).abs().max() <= 1e-11 * wanted.abs().max()
    pairs = (wanted * encoded).detach()
    assert_close(InputContribution(model).attribute(x, target=3), pairs[:, :3] + pairs[:, 3:], rtol=1e-9, atol=1e-20)

    reference.train(), model.train()
    reference(encoded.detach()).square().sum().backward()
    model(x).square().sum().backward()
    grads = checkpoint_filter_fn({name: p.grad for name, p in reference.named_parameters()}, model)
    for name, parameter in model.named_parameters():
        scale = max(float(grads[name].abs().max()), 1e-300)
        assert float((parameter.grad - grads[name]).abs().max()) <= 1e-9 * scale, name
    statistics = checkpoint_filter_fn(dict(reference.state_dict()), model)
    for name, buffer in model.named_buffers():
        assert_close(buffer, statistics[name], rtol=1e-10, atol=1e-12, msg=name)


KEYS: dict[str, str] = json.loads(Path(__file__).with_name("bcos_keys.json").read_text(encoding="utf-8"))
"""By model, the entries `name:shape` of the authors' networks, from which the published checkpoints were saved."""


@pytest.mark.parametrize("name", KEYS)
def test_names_and_shapes_of_the_published_checkpoints(name: str) -> None:
    """Needs neither the files nor the authors' code."""
    model = create(name, device="meta")
    entries = (entry.split(":") for entry in KEYS[name].split())
    state = {key: torch.empty([int(side) for side in shape.split("x")], device="meta") for key, shape in entries}
    model.load_state_dict(checkpoint_filter_fn(state, model), strict=True, assign=True)


def test_networks_of_other_colours_take_the_published_filters(tmp_path: Any) -> None:
    source = tiny()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    grey = tiny(in_chans=1)
    grey.load_state_dict(checkpoint_filter_fn(dict(source.state_dict()), grey), strict=True)
    x = images(64, channels=1)
    assert_close(grey(x), source(x.expand(-1, 3, -1, -1)))
    four = tiny(in_chans=4)
    four.load_state_dict(checkpoint_filter_fn(dict(source.state_dict()), four), strict=True)
    assert four(images(64, channels=4)).isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny(global_pool="max"), "global_pool='max' is not supported, expected 'avg' or ''"),
        (lambda: tiny(num_classes=-1), "num_classes=-1 is out of range"),
        (lambda: BcosConvNeXt(norm_layer="rms"), "norm_layer='rms' is not supported, expected 'position' or 'batch'"),
        (lambda: BcosConv2d(3, 4, 3, padding="same"), "padding='same' is not supported, expected numbers"),
    ],
)
def test_bad_arguments(build: Any, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        build()


def test_pooling_is_that_of_torch() -> None:
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    for args in ((3, 3), (2, 2), (1, 1)), ((3, 2), (1, 2), (0, 1)):
        assert_close(padded_average(x, *args), F.avg_pool2d(x, *args))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("network", [tiny, lambda: with_statistics(BcosDenseNet(num_classes=5))])
def test_maps_on_a_gpu_are_those_of_the_cpu(network: Any) -> None:
    model, x = network(), images(64)
    expected: Tensor = InputContribution(model).attribute(x, 1)
    found = InputContribution(model.cuda()).attribute(x.cuda(), 1).cpu()
    assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
