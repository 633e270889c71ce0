"""What is particular to class maps: completeness, centring, layers, contrast. Captum's contract is tested next door."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from captum.attr import LayerAttribution

from timm_interpretable.attr import ClassMap, LayerClassMap

TARGETS = [0, 4, 2]


def pick(values, targets):
    return values[torch.arange(len(values)), torch.tensor(targets)]


@pytest.fixture
def no_backward(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a class map needs no backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("global_pool", ["avg", ""])
@pytest.mark.parametrize("centred", [None, False])
def test_sums_to_the_score(facnn, images, dtype, tolerance, global_pool, centred):
    """By default the softmax model's logit less the mean of all; without centring the logit itself."""
    facnn, images = facnn.to(dtype), images.to(dtype)
    logits = facnn(images)
    facnn.reset_classifier(facnn.num_classes, global_pool)
    method = ClassMap(facnn)
    attributions, delta = method.attribute(images, TARGETS, centred=centred, return_convergence_delta=True)
    wanted = pick(logits, TARGETS) - (logits.mean(1) if centred is None else 0)
    torch.testing.assert_close(attributions.sum((1, 2, 3)), wanted, rtol=tolerance, atol=tolerance)
    assert delta.abs().max() < tolerance


def test_what_the_softmax_does_not_see_is_not_in_the_map(make_facnn, images):
    """A pedestal that all classes share changes no probability, and so it must not change the map."""
    model = make_facnn(signed_blocks=1)
    before, raw = (ClassMap(model).attribute(images, TARGETS, centred=centred) for centred in (None, False))
    probs = model(images).softmax(1)
    with torch.no_grad():
        model.stages[-1].blocks[-1].branch[-1].bn.bias += 30.0
    torch.testing.assert_close(model(images).softmax(1), probs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ClassMap(model).attribute(images, TARGETS), before, rtol=1e-2, atol=1e-4)
    assert (ClassMap(model).attribute(images, TARGETS, centred=False) - raw).min() > 10 * before.abs().max()


def test_sigmoid_model_sums_to_the_logit_less_its_bias(make_facnn, images):
    model = make_facnn(output="sigmoid", logit_bias=-2.0, signed_blocks=1)
    attributions, delta = ClassMap(model).attribute(images, TARGETS, return_convergence_delta=True)
    wanted = pick(model(images), TARGETS) + 2.0
    torch.testing.assert_close(attributions.sum((1, 2, 3)), wanted, rtol=1e-4, atol=1e-5)
    assert delta.abs().max() < 1e-5


def test_centred_head_leaves_nothing_to_centre(make_facnn, images):
    model = make_facnn(centred=True, output="sigmoid", logit_bias=-2.0, signed_blocks=1)
    torch.testing.assert_close(
        ClassMap(model).attribute(images, TARGETS), ClassMap(model).attribute(images, TARGETS, centred=True)
    )
    torch.testing.assert_close(model(images).mean(1), torch.full((3,), -2.0), rtol=0, atol=1e-5)


def test_sums_to_the_logit_where_sizes_do_not_divide(images):
    model = timm.create_model(
        "facnn_hybrid_resnet18", num_classes=5, trunk_width=10, layers=(1,), branch_widths=(4,), drop_path_rate=0.0
    ).eval()
    images = torch.nn.functional.interpolate(images, (41, 35)).double()
    _, delta = ClassMap(model.double()).attribute(images, TARGETS, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10


def test_bfloat16_model_gives_fp32_maps_of_its_own_logit(facnn, images):
    facnn, images = facnn.bfloat16(), images.bfloat16()
    attributions, delta = ClassMap(facnn).attribute(images, TARGETS, return_convergence_delta=True)
    assert attributions.dtype == torch.float32
    assert delta.abs().max() < 1e-4


def test_single_class_needs_no_target(make_facnn, images):
    model = make_facnn(num_classes=1)
    torch.testing.assert_close(ClassMap(model).attribute(images).sum((1, 2, 3)), model(images)[:, 0])  # not centred


def test_no_classes(make_facnn, images):
    with pytest.raises(ValueError, match="reset_classifier"):
        ClassMap(make_facnn(num_classes=0)).attribute(images, 0)


def test_penultimate_map_is_the_upsampled_class_map(facnn, images):
    attributions = ClassMap(facnn).attribute(images, TARGETS, centred=False)
    class_map = pick(facnn.class_maps(images)[-1], TARGETS)[:, None]
    large = torch.nn.functional.interpolate(class_map, (16, 16), mode="bilinear")
    expected = facnn.head.log_tau.exp() * large / images[0].numel()
    torch.testing.assert_close(attributions, expected.expand_as(images))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("layers", "depth"), [("average", 5), ("top_half", 3)])
def test_averages_are_means_over_blocks_and_the_delta_says_so(facnn, images, layers, depth, centred):
    maps, logits, tau = facnn.class_maps(images), facnn(images), facnn.head.log_tau.exp()

    def score(y):
        return pick(y, TARGETS) - y.mean(1) * centred

    assert len(maps) == 5
    assert depth in (len(maps), math.ceil(len(maps) / 2))
    attributions, delta = ClassMap(facnn).attribute(
        images, TARGETS, layers=layers, centred=centred, return_convergence_delta=True
    )
    mean_score = torch.stack([score(tau * m.mean((2, 3))) for m in maps[-depth:]]).mean(0)
    torch.testing.assert_close(attributions.sum((1, 2, 3)), mean_score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(delta, mean_score - score(logits), rtol=1e-4, atol=1e-5)
    assert delta.abs().min() > 1e-3

    large = [torch.nn.functional.interpolate(m, (16, 16), mode="bilinear") for m in maps[-depth:]]
    first = torch.stack([m[0, 0] - m[0].mean(0) * centred for m in large]).mean(0)
    torch.testing.assert_close(attributions[0, 0] * images[0].numel(), tau * first, rtol=1e-4, atol=1e-5)


def test_contrast_sums_to_the_difference_of_two_logits(facnn, images):
    logits, others = facnn(images), [1, 1, 3]
    method = ClassMap(facnn)
    attributions, delta = method.attribute(images, TARGETS, contrast=others, return_convergence_delta=True)
    wanted = pick(logits, TARGETS) - pick(logits, others)
    torch.testing.assert_close(attributions.sum((1, 2, 3)), wanted, rtol=1e-4, atol=1e-5)
    assert delta.abs().max() < 1e-5
    torch.testing.assert_close(method.attribute(images, others, contrast=TARGETS), -attributions)
    assert method.attribute(images, 2, contrast=2).abs().max() == 0
    with pytest.raises(IndexError, match="target 5 is out of range"):
        method.attribute(images, TARGETS, contrast=5)


def test_centred_maps_of_all_classes_cancel(facnn, images):
    every = torch.stack([ClassMap(facnn).attribute(images, c) for c in range(5)])
    assert every.sum(0).abs().max() < 1e-5 * every.abs().max()


def test_unknown_layers(facnn, images):
    with pytest.raises(ValueError, match="'bottom_half' is unknown, expected 'penultimate'"):
        ClassMap(facnn).attribute(images, 0, layers="bottom_half")


@pytest.mark.usefixtures("no_backward")
def test_no_backward_pass(facnn, images):
    images.requires_grad_()
    method = ClassMap(facnn)
    for layers in ("penultimate", "average"):
        method.attribute(images, 1, layers=layers, contrast=0, return_convergence_delta=True)
    LayerClassMap(facnn, facnn.stages[0]).attribute(images, 1)


def test_errors_come_before_any_forward_pass(facnn, images, monkeypatch):
    def refuse(x):
        raise RuntimeError("forward pass")

    monkeypatch.setattr(facnn, "class_maps", refuse)
    with pytest.raises(IndexError, match="target 5 is out of range, expected 0 to 4"):
        ClassMap(facnn).attribute(images, 5)
    with pytest.raises(ValueError, match="layers"):
        ClassMap(facnn).attribute(images, 1, layers="all")


@pytest.mark.parametrize("training", [False, True])
def test_layer_class_maps_are_the_raw_maps(facnn, images, training):
    maps = facnn.class_maps(images)
    running_mean = facnn.stages[0].blocks[0].branch[0].bn.running_mean.clone()
    facnn.train(training)
    layers = [block for stage in facnn.stages for block in stage.blocks]
    for layer, expected in zip(layers, maps, strict=True):
        result = LayerClassMap(facnn, layer).attribute(images, TARGETS)
        torch.testing.assert_close(result, pick(expected, TARGETS)[:, None])
        assert not result.requires_grad
    assert all(module.training == training for module in facnn.modules())
    assert torch.equal(facnn.stages[0].blocks[0].branch[0].bn.running_mean, running_mean)


def test_stage_means_its_last_block(facnn, images):
    of_stage = LayerClassMap(facnn, facnn.stages[1]).attribute((images,), 3)[0]
    of_block = LayerClassMap(facnn, facnn.stages[1].blocks[1]).attribute(images, torch.tensor(3))
    assert of_stage.shape == (3, 1, 4, 4)
    torch.testing.assert_close(of_stage, of_block)
    assert LayerAttribution.interpolate(of_stage, (16, 16), "bilinear").shape == (3, 1, 16, 16)


def test_layer_errors(facnn, images):
    with pytest.raises(ValueError, match=r"ClassMapHead .* expected one of stages\.0\.blocks\.0, stages\.0, stages\.1"):
        LayerClassMap(facnn, facnn.head)
    with pytest.raises(TypeError, match="Conv2d"):
        LayerClassMap(torch.nn.Conv2d(3, 3, 1), facnn.stages[0])
    with pytest.raises(ValueError, match="attribute_to_layer_input"):
        LayerClassMap(facnn, facnn.stages[0]).attribute(images, 0, attribute_to_layer_input=True)


def test_threads_with_different_arguments(facnn, images):
    facnn.train()
    jobs = [(c, layers, other) for c in range(5) for layers in ("penultimate", "average") for other in (None, 2)]

    def run(job):
        target, layers, contrast = job
        return ClassMap(facnn).attribute(images, target, layers=layers, contrast=contrast)

    serial = [run(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        torch.testing.assert_close(list(pool.map(run, jobs)), serial, rtol=0, atol=0)
