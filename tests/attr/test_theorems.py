"""Statements of the FA-CNN abstract (arXiv 2603.25798), as far as they can be checked, with controls that break them.

Each runs on small random models and on the released models. The identity with Grad-CAM holds for the class map as the
model computes it; a signed map equals HiResCAM as it is, and Grad-CAM after its ReLU.
"""

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from timm_interpretable.attr import LayerClassMap
from timm_interpretable.models import DampenedSkip, Lift


def smooth_picture(size):
    """Colour gradients and a disc: more like a photograph than noise is."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = torch.sigmoid(10 * (0.5 - (x - 0.2) ** 2 - y**2))
    return torch.stack([0.5 + 0.4 * x * (1 - disc), 0.5 - 0.4 * y, disc])


@pytest.fixture(params=["random", "random, signed", "facnn_resnet18.cifar10", "facnn_resnet18.imagenette"])
def subject(request, rng):
    """A model and three images: two of noise, one smooth."""
    if request.param.startswith("random"):
        signed = dict(signed_blocks=1, centred=True, logit_bias=-2.0, output="sigmoid")
        make, size = request.getfixturevalue("make_facnn"), 16
        model = make(**(signed if "signed" in request.param else {}))
    else:
        model, size = timm.create_model(request.param, pretrained=True).eval(), 64
    return model, torch.cat([torch.rand(2, 3, size, size, generator=rng), smooth_picture(size)[None]])


def trunk_states(model, x):
    """Per stage: the pooled trunk that enters it and the trunk after each block, and the outputs of its branches."""
    states, x = [], model.stem(x)
    for stage in model.stages:
        trunk, branch = [stage.pool(x)], []
        for block in stage.blocks:
            branch.append(block.branch(trunk[-1]))
            trunk.append(block(trunk[-1]))
        x = trunk[-1]
        states.append((trunk, branch))
    return states


def normalised(maps):
    """ReLU and division by the maximum, per image: `(B, h, w)`."""
    maps = torch.as_tensor(maps).relu()
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)


@torch.no_grad()
def likely(model, x):
    """Each image's most likely class: its mean map is the largest, so that its positive part is not empty."""
    return model(x).argmax(1).tolist()


def class_map(model, x):
    return LayerClassMap(model, model.stages[-1]).attribute(x, likely(model, x))[:, 0]


# (a) Order preserving


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_lift_commutes_with_a_permutation_of_colours(images, stride):
    n = 3 * stride**2
    lift, colours = Lift(4 * n, stride=stride), torch.tensor([2, 0, 1])
    sub_pixels = torch.arange(stride**2)
    lifted = (colours[:, None] * stride**2 + sub_pixels).flatten()
    channels = (torch.arange(4)[:, None] * n + lifted).flatten()
    assert torch.equal(lift(images[:, colours]), lift(images)[:, channels])


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("mode", ["convex", "additive", "literal"])
def test_skip_commutes_with_a_permutation_of_channels(rng, mode, learnable):
    skip, order = DampenedSkip(0.2, mode, learnable), torch.randperm(12, generator=rng)
    a, f = torch.randn(2, 2, 12, 4, 4, generator=rng)
    assert torch.equal(skip(a[:, order], f[:, order]), skip(a, f)[:, order])


def test_pooling_commutes_and_convolution_does_not(subject, rng):
    model, x = subject
    lifted = model.stem(x)
    order = torch.randperm(lifted.shape[1], generator=rng)
    pools = [stage.pool for stage in model.stages if isinstance(stage.pool, nn.AvgPool2d)]
    assert pools
    for pool in pools:
        assert torch.equal(pool(lifted[:, order]), pool(lifted)[:, order])
    branch = model.stages[0].blocks[0].branch
    assert (branch(lifted[:, order]) - branch(lifted)[:, order]).abs().max() > 0.01


# (b) The penultimate class map is the Grad-CAM of the logit


@pytest.mark.parametrize("method", [GradCAM, HiResCAM, XGradCAM, LayerCAM])
def test_class_map_equals_pytorch_grad_cam(subject, method):
    model, x = subject
    if method is LayerCAM and model.head.centred:
        pytest.skip("LayerCAM drops negative gradients, which are how a centred map takes the mean of all classes away")
    ours = class_map(model, x).relu()
    layer, targets = model.stages[-1], [ClassifierOutputTarget(c) for c in likely(model, x)]
    with method(model, [layer]) as cam:
        scaled = cam(x, targets)
        activations, grads = (
            t[0].numpy() for t in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
        )
        raw = cam.get_cam_image(x, layer, targets, activations, grads, eigen_smooth=False)
    assert ours.amax((1, 2)).min() > 0  # a zero map would equal anything that is zero
    torch.testing.assert_close(normalised(raw), normalised(ours), rtol=0, atol=1e-5)
    # through its own scaling, which stretches every map to [0, 1] with an epsilon that sees the factor, twice
    factor = model.head.log_tau.exp().item() / ours[0].numel()
    expected = scale_cam_image(scale_cam_image(factor * ours.numpy(), x.shape[:1:-1]))
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-5)


def test_class_map_equals_captum_up_to_tau_over_hw(subject):
    model, x = subject
    ours = class_map(model, x)
    theirs = LayerGradCam(model, model.stages[-1]).attribute(x, likely(model, x))[:, 0].detach()
    factor = model.head.log_tau.exp() / ours[0].numel()
    torch.testing.assert_close(theirs, factor * ours, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    torch.testing.assert_close(normalised(theirs), normalised(ours), rtol=0, atol=1e-5)


# (c) and is not, where a condition is dropped


def test_softmax_score_gives_another_map(subject):
    model, x = subject
    probability = nn.Sequential(model, nn.Softmax(1))
    theirs = LayerGradCam(probability, model.stages[-1]).attribute(x, likely(model, x))[:, 0].detach()

    maps, p = model.class_maps(x)[-1], model(x).softmax(1)
    chosen = torch.arange(3), torch.tensor(likely(model, x))
    weighted = maps[chosen] - (p[:, :, None, None] * maps).sum(1)
    p_c = p[chosen][:, None, None]
    expected = p_c * model.head.log_tau.exp() / weighted[0].numel() * weighted
    torch.testing.assert_close(theirs, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())

    assert (normalised(theirs) - normalised(class_map(model, x))).abs().max() > 0.1  # on one of the images at least


class LinearHead(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.body, self.linear = model.forward_features, nn.Linear(model.num_features, model.num_classes)

    def forward(self, x):
        return self.linear(self.body(x).mean((2, 3)))


def test_linear_head_breaks_the_identity(subject, rng):
    model, x = subject
    mixed = LinearHead(model)
    nn.init.normal_(mixed.linear.weight, std=0.1, generator=rng)
    theirs = LayerGradCam(mixed, model.stages[-1]).attribute(x, likely(model, x))[:, 0].detach()
    assert (normalised(theirs) - normalised(class_map(model, x))).abs().amax((1, 2)).min() > 0.1


def test_hook_on_the_branch_breaks_the_identity(subject):
    model, x = subject
    theirs = LayerGradCam(model, model.stages[-1].blocks[-1].branch).attribute(x, likely(model, x))[:, 0].detach()
    assert (normalised(theirs) - normalised(class_map(model, x))).abs().amax((1, 2)).min() > 0.1


# (d) Feature maps morph slowly


@torch.no_grad()
def test_one_block_moves_the_trunk_by_at_most_alpha(subject):
    model, x = subject
    for stage, (trunk, branch) in zip(model.stages, trunk_states(model, x), strict=True):
        for block, (before, after), f in zip(stage.blocks, pairwise(trunk), branch, strict=True):
            alpha, step = block.skip.alpha, after - before
            torch.testing.assert_close(step, alpha * (f - before), rtol=1e-4, atol=1e-5)
            for p in (2, torch.inf):
                assert step.norm(p) <= alpha * (f.norm(p) + before.norm(p)) * (1 + 1e-6)


@torch.no_grad()
def test_trunk_and_class_maps_stay_within_the_bound_across_blocks(subject):
    model, x = subject
    alpha, states = model.stages[0].blocks[0].skip.alpha, trunk_states(model, x)
    bound = max(t.abs().max() for trunk, branch in states for t in [trunk[0], *branch])
    pairs = 0
    for trunk, _ in states:
        maps = [model.head.class_maps(t) for t in trunk]
        for p in range(len(trunk)):
            for q in range(p + 1, len(trunk)):
                limit = 2 * bound * (1 - (1 - alpha) ** (q - p)) * (1 + 1e-6)
                assert (trunk[q] - trunk[p]).abs().max() <= limit
                assert (maps[q] - maps[p]).abs().max() <= limit
                pairs += q - p > 1
    assert pairs, "no stage with two blocks: the bound across blocks was not tested"


@torch.no_grad()
@pytest.mark.parametrize("skip", ["convex", "literal"])
def test_bound_is_one_of_the_convex_skip(make_facnn, images, skip):
    model = make_facnn(skip=skip, alpha=0.05)
    states = trunk_states(model, images)
    bound = max(t.abs().max() for trunk, branch in states for t in [trunk[0], *branch])
    steps = [(b - a).abs().max() for trunk, _ in states for a, b in pairwise(trunk)]
    assert (max(steps) <= 2 * 0.05 * bound) == (skip == "convex")
