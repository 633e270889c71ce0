"""What is particular to contributions: exact completeness, all classes at once, every depth, no autograd."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from captum.attr import InputXGradient, LayerAttribution
from test_captum_contract import AttributionContract, state_of
from timm.models.resnet import BasicBlock

from timm_interpretable.attr import InputContribution, LayerContribution
from timm_interpretable.models import BcosResNet

TARGETS = [0, 4, 2]


@pytest.fixture
def coda_net():
    """A random CoDA-Net with five classes and three strides, whose logits differ well beyond rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "coda_net_s", num_classes=5, channels=(4, 6, 6), strides=(1, 2, 1), kernel_sizes=(3, 3, 3),
            ranks=(5, 7, 8, 9), head_kernel_size=3, temperature=0.1,
        ).eval()  # fmt: skip


@pytest.fixture
def bcos():
    """A random B-cos ResNet with five classes, its norms as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BcosResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=5).train()
        with torch.no_grad():
            for _ in range(60):
                model(torch.rand(16, 3, 32, 32))
        model.head.fc.weight.data.abs_()  # so that the logits are well beyond rounding
        return model.eval()


@pytest.fixture(params=["coda_net", "bcos"])
def network(request):
    return request.getfixturevalue(request.param)


class TestInputContribution(AttributionContract):
    method = InputContribution

    @pytest.fixture
    def model(self, network):
        return network


def logits_without_bias(model, x):
    return model(x) - model.logit_bias


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_adds_up_to_the_logit_less_bias(coda_net, images, dtype, tolerance, in_chans):
    """Relative to the logit; the tolerance for bf16 models is the documented one."""
    model, x = coda_net.to(dtype), images.to(dtype)[:, :in_chans]
    if in_chans == 1:
        model.encoding = type(model.encoding)(1)
    result, delta = InputContribution(model).attribute(x, TARGETS, return_convergence_delta=True)
    assert result.shape == x.shape
    scale = logits_without_bias(model, x).abs().max()
    assert scale > 1e-3
    assert delta.abs().max() <= tolerance * scale
    wanted = logits_without_bias(model, x).float()[torch.arange(3), torch.tensor(TARGETS)]
    torch.testing.assert_close(result.sum((1, 2, 3)).float(), wanted, rtol=0, atol=max(1e-5, tolerance * scale.item()))


def test_equals_autograd_with_weights_detached(coda_net, images):
    """An independent route: the gradient of the linear map that `dynamic_weights` leaves behind."""
    model, x = coda_net.double(), images.double()
    with torch.no_grad():
        weights = model.dynamic_weights(x)
    encoded = weights.inputs[0].clone().requires_grad_()
    score = weights.apply(encoded)[torch.arange(3), torch.tensor(TARGETS)].sum()
    (row,) = torch.autograd.grad(score, encoded)
    terms = row * encoded.detach()
    wanted = terms[:, :3] + terms[:, 3:]
    torch.testing.assert_close(InputContribution(model).attribute(x, TARGETS), wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(InputContribution(model).effective_weights(x, TARGETS), row, rtol=1e-10, atol=1e-12)


def test_all_classes_at_once(network, images):
    method = InputContribution(network)
    every = method.contributions(images)
    assert every.shape == (3, 5, 3, 16, 16)
    for c in range(5):
        torch.testing.assert_close(every[:, c], method.attribute(images, c), rtol=1e-4, atol=1e-6)
    assert isinstance(method.contributions((images,)), tuple)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_internal_batch_size_changes_nothing(network, images, size):
    method = InputContribution(network)
    for run in (
        lambda **kwargs: method.attribute(images, TARGETS, **kwargs),
        lambda **kwargs: method.contributions(images, **kwargs),
        lambda **kwargs: method.effective_weights(images, TARGETS, **kwargs),
        lambda **kwargs: LayerContribution(network, network.dynamic_layers()[-1]).attribute(images, TARGETS, **kwargs),
    ):
        # the largest is about 1, and a convolution sums in another order at another batch size
        torch.testing.assert_close(run(internal_batch_size=size), run(), rtol=1e-4, atol=4e-6)
    with pytest.raises(ValueError, match="internal_batch_size=0 is out of range"):
        method.attribute(images, 0, internal_batch_size=0)


def test_every_layer_adds_up_to_the_logit(network, images):
    model, x = network.double(), images.double()
    wanted, weights = logits_without_bias(model, x)[torch.arange(3), torch.tensor(TARGETS)], model.dynamic_weights(x)
    for i, layer in enumerate(model.dynamic_layers()):
        method = LayerContribution(model, layer)
        assert isinstance(method, LayerAttribution)
        result, delta = method.attribute(x, TARGETS, return_convergence_delta=True)
        assert result.shape == weights.inputs[i + 1].shape
        torch.testing.assert_close(result.sum((1, 2, 3)), wanted, rtol=1e-10, atol=1e-12)
        assert delta.abs().max() < 1e-12
    at_input = LayerContribution(model, model.dynamic_layers()[1]).attribute(x, TARGETS, attribute_to_layer_input=True)
    before = LayerContribution(model, model.dynamic_layers()[0]).attribute(x, TARGETS)
    torch.testing.assert_close(at_input, before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_layer_contributions_leave_the_model_alone(network, images, context):
    model = network.train()
    method, before = LayerContribution(model, model.dynamic_layers()[-1]), state_of(model)
    expected = method.attribute(images, TARGETS)
    with context():
        result = method.attribute((images.clone().requires_grad_(),), TARGETS)
    assert isinstance(result, tuple)
    torch.testing.assert_close(result[0], expected, rtol=0, atol=0)
    assert not result[0].requires_grad
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda _: method.attribute(images, TARGETS), range(16)))
    torch.testing.assert_close(parallel, [expected] * 16, rtol=0, atol=0)


def test_through_depth_are_the_layers_in_one_pass(network, images):
    model, x = network.double(), images.double()
    maps = InputContribution(model).through_depth(x, TARGETS, internal_batch_size=2)
    assert len(maps) == len(model.dynamic_layers()) + 1
    torch.testing.assert_close(maps[0], InputContribution(model).attribute(x, TARGETS).sum(1, keepdim=True))
    for layer, one in zip(model.dynamic_layers(), maps[1:], strict=True):
        torch.testing.assert_close(one, LayerContribution(model, layer).attribute(x, TARGETS).sum(1, keepdim=True))


def test_layer_of_another_model_is_named(coda_net):
    with pytest.raises(
        ValueError, match=r"layer is a DAUConv2d that is not a layer of the model, expected one of its 4"
    ):
        LayerContribution(coda_net, copy.deepcopy(coda_net).head)


def test_is_not_input_x_gradient(network, images):
    """Neither on the image, where the half of `1 - x` is missing, nor in what it adds up to."""
    x = images.double()
    model = network.double()
    theirs = InputXGradient(model).attribute(x.requires_grad_(), target=TARGETS).detach()
    ours = InputContribution(model).attribute(x.detach(), TARGETS)
    wanted = logits_without_bias(model, x)[torch.arange(3), torch.tensor(TARGETS)].detach()
    assert ((ours.sum((1, 2, 3)) - wanted).abs() < 1e-10).all()
    assert ((theirs.sum((1, 2, 3)) - wanted).abs() > 0.1 * wanted.abs()).all()


def test_model_without_classes_says_so(network, images):
    network.reset_classifier(0)
    with pytest.raises(ValueError, match="num_classes=0"):
        InputContribution(network).attribute(images, 0)


def test_contrast_adds_up_to_the_difference_of_the_logits(network, images):
    model, x = network.double(), images.double()
    logits, rows = model(x).detach(), torch.arange(3)
    for contrast, other in (([1, 1, 3], logits[rows, [1, 1, 3]]), ("mean", logits.mean(1))):
        for method in (InputContribution(model), LayerContribution(model, model.dynamic_layers()[1])):
            found, delta = method.attribute(x, TARGETS, contrast=contrast, return_convergence_delta=True)
            torch.testing.assert_close(found.sum((1, 2, 3)), logits[rows, TARGETS] - other, rtol=1e-9, atol=1e-11)
            assert delta.abs().max() < 1e-11
    a, b = (InputContribution(model).attribute(x, c) for c in (TARGETS, 1))
    torch.testing.assert_close(InputContribution(model).attribute(x, TARGETS, contrast=1), a - b)
    with pytest.raises(ValueError, match="contrast='median' is unknown, expected a class or 'mean'"):
        InputContribution(model).attribute(x, 0, contrast="median")
    with pytest.raises(IndexError):
        InputContribution(model).attribute(x, 0, contrast=5)


def test_some_classes_or_the_most_likely_ones(network, images):
    method = InputContribution(network)
    every, logits = method.contributions(images), network(images)
    some = method.contributions(images, classes=[3, 0])
    torch.testing.assert_close(some, every[:, [3, 0]], rtol=1e-4, atol=1e-6)
    own = torch.tensor([[1], [4], [0]])
    torch.testing.assert_close(method.contributions(images, classes=own)[:, 0], every[range(3), own[:, 0]])
    best = logits.topk(2).indices
    wanted = torch.stack([every[i, best[i]] for i in range(3)])
    torch.testing.assert_close(method.contributions(images, 2, top_k=2), wanted, rtol=1e-4, atol=1e-6)
    for wrong in (dict(top_k=0), dict(top_k=6), dict(top_k=1, classes=[0])):
        with pytest.raises(ValueError, match=r"top_k=\d must be between 1 and 5, and given without classes"):
            method.contributions(images, **wrong)
    with pytest.raises(IndexError, match="class 5 is out of range, expected 0 to 4"):
        method.contributions(images, classes=[0, 5])
