"""The catalogue: every row gives maps for every model that it says it applies to, and they add up to what it says."""

from dataclasses import replace

import pytest
import timm
import torch
from captum.attr import InputXGradient, IntegratedGradients

from timm_interpretable.attr import (
    METHODS,
    ClassMap,
    Context,
    Cost,
    Method,
    MethodSettings,
    evidence_of,
    method_named,
    methods_for,
    own_method,
    register_method,
)

FEW = MethodSettings(ig_steps=200, n_samples=8, fame_steps=2, window=1 / 2, patch=1 / 4, smooth=1 / 4)


@pytest.fixture
def coda_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "coda_net_s", num_classes=5, channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(5, 7, 8),
            temperature=1.0,
        ).eval()  # fmt: skip


@pytest.fixture
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet10t", num_classes=5).eval()


@pytest.fixture(params=["facnn", "sigmoid facnn", "coda_net", "resnet"])
def model(request, make_facnn):
    if request.param == "sigmoid facnn":
        return make_facnn(output="sigmoid", logit_bias=-2.0)
    return request.getfixturevalue(request.param)


@pytest.fixture
def x(images):
    return torch.nn.functional.interpolate(images, (32, 48))


def test_every_row_gives_finite_maps_of_every_class(model, x):
    classes = torch.tensor([[0, 4, 1], [2, 2, 3], [1, 0, 4]])
    context = Context.of(model, FEW)
    for key, method in methods_for(model).items():
        maps = method.maps(context)(x, classes)
        assert maps.shape == (3, 3, 32, 48), key
        assert maps.isfinite().all(), key
        assert not maps.requires_grad, key
        assert method.signed or (maps >= 0).all(), key
        if key != "random":
            torch.testing.assert_close(maps[1, 0], maps[1, 1], rtol=1e-4, atol=1e-6)


def test_maps_add_up_to_what_the_row_says(model, x):
    target = torch.tensor([0, 4, 2])
    context = Context.of(model, FEW)
    checked, logits = 0, model(x).detach()
    for method in methods_for(model).values():
        if method.sums_to is not None:
            total = method.maps(context)(x, target[:, None])[:, 0].sum((1, 2))
            wanted = method.sums_to.score(context, x, logits, target)
            exact = method.cost is Cost.FORWARD
            scale = wanted.abs().max().item()
            torch.testing.assert_close(total, wanted, rtol=0, atol=(1e-4 if exact else 0.05) * scale, msg=method.key)
            checked += 1
    assert checked >= 1


def test_own_explanation_comes_first(facnn, coda_net, resnet):
    assert [next(iter(methods_for(m))) for m in (facnn, coda_net)] == ["class_map", "contributions"]
    assert own_method(facnn).title == "class map"
    assert own_method(resnet) is None
    assert "class_map" not in methods_for(resnet)
    assert "contributions" not in methods_for(facnn)
    assert list(methods_for(facnn, ["random", "grad_cam"])) == ["grad_cam", "random"]


def test_names_are_unique_and_unknown_ones_are_refused(facnn):
    assert len({m.title for m in METHODS.values()}) == len(METHODS)
    with pytest.raises(ValueError, match=r"no explanation method 'gradcam', expected one of: class_map"):
        methods_for(facnn, ["gradcam"])
    with pytest.raises(ValueError, match=r"'grad_cam'.* already"):
        register_method(method_named("grad_cam"))
    with pytest.raises(ValueError, match="neither how it is built nor what it is read from"):
        register_method(Method("nothing", "nothing", Cost.FORWARD))
    with pytest.raises(ValueError, match="no explanation that is part of its forward pass"):
        evidence_of(Context.of(timm.create_model("resnet10t")), torch.rand(1, 3, 32, 32))


def test_black_and_absent_are_what_they_are_to_the_model(facnn, coda_net):
    standardised = timm.create_model("resnet10t", pretrained_cfg_overlay=dict(mean=(0.5,) * 3, std=(0.25,) * 3))
    context = Context.of(standardised)
    torch.testing.assert_close(context.black, torch.full((3, 1, 1), -2.0))
    torch.testing.assert_close(context.white, torch.full((3, 1, 1), 2.0))
    assert torch.equal(context.absent, context.black)
    assert torch.equal(Context.of(facnn).black, torch.zeros(3, 1, 1))
    encoding = Context.of(coda_net)
    seen = encoding.encode(torch.rand(1, 3, 8, 8))
    assert seen.shape == (1, 6, 8, 8)
    assert torch.equal(encoding.baseline(seen), torch.zeros_like(seen))
    # with nothing there no unit answers, so the logit is its bias
    torch.testing.assert_close(encoding.network(encoding.baseline(seen)), torch.full((1, 5), coda_net.logit_bias))
    black = encoding.encode(torch.zeros(1, 3, 8, 8))
    assert not torch.equal(black, encoding.baseline(black))


def test_the_context_leaves_a_model_in_training_mode_alone(facnn, x):
    facnn.train()
    context = Context.of(facnn)
    assert not context.model.training
    assert facnn.training
    method_named("grad_cam").maps(context)(x, torch.tensor([[0], [1], [2]]))
    assert facnn.training
    assert all(p.grad is None for p in facnn.parameters())


def test_captums_methods_are_captums(coda_net, resnet, x):
    target = torch.tensor([0, 4, 2])
    for model in (coda_net, resnet):
        context = Context.of(model, FEW)
        seen = context.encode(x)
        black = context.baseline(seen)
        expected = {
            "input_x_gradient": InputXGradient(context.network).attribute(seen, target),
            "integrated_gradients": IntegratedGradients(context.network).attribute(seen, black, target, n_steps=200),
        }
        for key, attribution in expected.items():
            maps = method_named(key).maps(context)(x, target[:, None])[:, 0]
            torch.testing.assert_close(maps, attribution.detach().sum(1), rtol=1e-3, atol=1e-5, msg=key)


def test_methods_of_many_passes_report_and_can_be_ended(facnn, x):
    few = replace(FEW, perturbations_per_eval=2)
    for key, method in methods_for(facnn).items():
        if method.cost is Cost.MANY_PASSES:
            seen: list[tuple[int, int]] = []
            tick = lambda done, passes, seen=seen: seen.append((done, passes))  # noqa: E731
            context = Context.of(facnn, few, tick=tick, reference=lambda: x)
            method.maps(context)(x[:1], torch.tensor([[0]]))
            assert len(seen) > 1, key
            assert all(done <= passes for done, passes in seen), key

            def stop(done, passes):
                raise InterruptedError

            with pytest.raises(InterruptedError):
                method.maps(Context.of(facnn, few, tick=stop, reference=lambda: x))(x[:1], torch.tensor([[0]]))


# --- the forward pass is run once


def test_evidence_of_an_fa_cnn_is_one_forward_pass(facnn, x, monkeypatch):
    passes = []
    forward = type(facnn.stem).forward
    monkeypatch.setattr(type(facnn.stem), "forward", lambda self, x: passes.append(1) or forward(self, x))
    evidence = evidence_of(Context.of(facnn), x)
    for key in ("class_map", "class_map_raw", "class_map_average", "class_map_top_half"):
        method_named(key).read(Context.of(facnn), evidence, torch.tensor([[0, 1]] * 3))
    evidence.explanation(torch.tensor([0, 4, 2]))
    assert len(passes) == 1
    monkeypatch.undo()
    torch.testing.assert_close(evidence.logits, facnn(x))
    torch.testing.assert_close(
        evidence.explanation(torch.tensor([0, 4, 2])).attribution, ClassMap(facnn).attribute(x, [0, 4, 2])
    )


def test_evidence_of_a_coda_net_is_one_forward_pass(coda_net, x, monkeypatch):
    passes = []
    weights = type(coda_net).dynamic_weights
    monkeypatch.setattr(type(coda_net), "dynamic_weights", lambda self, x: passes.append(1) or weights(self, x))
    monkeypatch.setattr(type(coda_net), "forward", lambda self, x: passes.append(1))
    evidence = evidence_of(Context.of(coda_net), x)
    one = evidence.explanation(torch.tensor([0, 4, 2]))
    every = evidence.maps(torch.arange(5).expand(3, 5))
    assert len(passes) == 1
    monkeypatch.undo()
    torch.testing.assert_close(evidence.logits, coda_net(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.attribution.sum(1), every[torch.arange(3), [0, 4, 2]], rtol=1e-4, atol=1e-6)
    for depth in one.depth:
        wanted = evidence.logits[torch.arange(3), [0, 4, 2]] - coda_net.logit_bias
        torch.testing.assert_close(depth.sum((1, 2)), wanted, rtol=1e-3, atol=1e-5)
