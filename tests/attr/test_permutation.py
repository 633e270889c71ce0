"""Patch permutation against closed forms on linear models, and the contract of all attributions."""

import pytest
import torch
from captum.attr import FeaturePermutation, NoiseTunnel, PerturbationAttribution
from captum.log import log_usage
from test_captum_contract import AttributionContract
from torch import nn

from timm_interpretable.attr import PatchPermutation
from timm_interpretable.metrics import grid_localisation

CLASSES = torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1]])


class FromReference(PatchPermutation):
    @log_usage()
    def attribute(self, inputs, *args, **kwargs):
        like = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
        size = like.shape[-3:] if isinstance(like, torch.Tensor) else (3, 16, 16)
        reference = torch.rand(5, *size, generator=torch.Generator().manual_seed(1))
        return super().attribute(inputs, *args, **{"patch": 8, "n_samples": 2, "reference": reference, **kwargs})


class TestContract(AttributionContract):
    method = FromReference
    unsupported_model = "facnn"

    @pytest.fixture
    def model(self, facnn):
        return facnn

    def test_input_errors(self, model, images):
        for inputs in ((), (images, images), images[:0], images[0]):
            with pytest.raises(ValueError, match="expected"):
                self.attribute(model, inputs)


@pytest.fixture
def linear(rng):
    weight = torch.randn(3, 3, 8, 8, generator=rng)
    return weight, lambda x: torch.einsum("bchw,kchw->bk", x, weight)


@pytest.fixture
def images(rng, request):
    if request.cls is not None:
        return torch.rand(3, 3, 16, 16, generator=rng)
    return torch.rand(4, 3, 8, 8, generator=rng)


def by_patch(values, patch):
    return values.unfold(-2, patch, patch).unfold(-2, patch, patch).sum((-1, -2))


def test_is_a_perturbation_attribution(linear):
    assert isinstance(PatchPermutation(linear[1]), PerturbationAttribution)


def test_linear_model_in_closed_form(linear, images):
    """With all other images as donors a patch loses its contribution less the mean of theirs."""
    weight, model = linear
    maps = PatchPermutation(model).all_classes(images, classes=CLASSES, patch=4, n_samples=3)
    for i in range(4):
        others = (images.sum(0) - images[i]) / 3
        wanted = by_patch(((images[i] - others) * weight[CLASSES[i]]).sum(1), 4)
        torch.testing.assert_close(maps[i, :, ::4, ::4], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(maps[i, :, 3::4, 3::4], wanted, atol=1e-4, rtol=0)


def test_attribute_and_all_classes_are_the_same_maps(linear, images):
    method = PatchPermutation(linear[1])
    whole = method.all_classes(images, patch=4, n_samples=2)
    assert whole.shape == (4, 3, 8, 8)
    some = method.all_classes(images, classes=CLASSES, patch=4, n_samples=2)
    torch.testing.assert_close(some, whole[torch.arange(4)[:, None], CLASSES])
    for target in (2, [0, 2, 1, 1]):
        one = method.attribute(images, target, patch=4, n_samples=2)
        columns = torch.as_tensor(target).expand(4)
        torch.testing.assert_close(one, whole[torch.arange(4), columns][:, None].expand_as(images))
    (in_tuple,) = method.all_classes((images,), patch=4, n_samples=2)
    assert torch.equal(in_tuple, whole)


def test_two_images_are_captums_feature_permutation(linear, images):
    """The only permutation of two that keeps neither in its place."""
    x, features = images[:2], torch.arange(4).reshape(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    swapped = FeaturePermutation(linear[1], perm_func=lambda x, mask: torch.where(mask, x.flip(0), x))
    expected = swapped.attribute(x, 1, feature_mask=features.expand(1, 3, 8, 8))
    torch.testing.assert_close(PatchPermutation(linear[1]).attribute(x, 1, patch=4), expected, atol=1e-4, rtol=0)


def test_a_reference_in_closed_form_and_one_by_one(linear, images, rng):
    weight, model = linear
    method, reference = PatchPermutation(model), torch.rand(5, 3, 8, 8, generator=rng)
    maps = method.all_classes(images, classes=CLASSES, patch=2, n_samples=5, reference=reference)
    wanted = by_patch(((images - reference.mean(0))[:, None] * weight[CLASSES]).sum(2), 2)
    torch.testing.assert_close(maps[:, :, ::2, ::2], wanted, atol=1e-4, rtol=0)
    options = dict(patch=2, n_samples=2, seed=7, reference=reference)
    few = [method.all_classes(images, perturbations_per_eval=size, **options) for size in (None, 1, 3, 64)]
    alone = [method.all_classes(images[i : i + 1], **options) for i in range(4)]
    for maps in (*few[1:], torch.cat(alone)):
        torch.testing.assert_close(maps, few[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("per_eval", [None, 1, 3, 100])
def test_perturbations_per_eval_bounds_a_call_as_in_captum(images, per_eval):
    sizes = []

    def model(x):
        sizes.append(len(x))
        return x.mean((2, 3))

    PatchPermutation(model).attribute(images, 0, patch=4, n_samples=2, perturbations_per_eval=per_eval)
    assert sizes[0] == 4
    assert sum(sizes[1:]) == 4 * 4 * 2
    assert max(sizes[1:]) == 4 * min(8, per_eval or 8)


def test_no_image_keeps_its_own_patch_and_none_comes_twice(images):
    donors = []
    marked = torch.arange(4.0)[:, None, None, None].expand_as(images)

    def model(x):
        donors.append(x[:, 0, 0, 0])
        return torch.zeros(len(x), 3)

    PatchPermutation(model).attribute(marked, 0, patch=8, n_samples=3, perturbations_per_eval=1)
    whole, *altered = donors
    assert torch.equal(torch.stack([whole, *altered]).sort(0).values, torch.arange(4.0)[:, None].expand(4, 4))


def test_seed_and_images_that_the_patch_does_not_divide(linear, images):
    method = PatchPermutation(linear[1])
    first, again, other = (method.attribute(images, 0, patch=3, seed=seed)[:, 0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, 6, 6], first[:, 7, 7])  # the last patch has 2 x 2 pixels
    assert not torch.equal(first[:, 5, 5], first[:, 6, 6])


def test_equal_images_are_equally_unimportant(linear, images):
    maps = PatchPermutation(linear[1]).attribute(images[:1].expand(4, -1, -1, -1), 0, patch=4, n_samples=2)
    assert maps.abs().max() < 1e-5


def test_additional_arguments_follow_their_sample(images):
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def score(x, factor, constant):
        return factor * x.mean((1, 2, 3)) + constant

    reference = torch.zeros(1, 3, 8, 8)
    options = dict(patch=4, reference=reference)
    result = PatchPermutation(score).attribute(images, additional_forward_args=(factor, 1.0), **options)
    plain = PatchPermutation(lambda x: x.mean((1, 2, 3))).attribute(images, **options)
    torch.testing.assert_close(result, factor[:, None, None, None] * plain)
    tunnel = NoiseTunnel(PatchPermutation(score)).attribute(
        images, nt_samples=2, stdevs=1e-6, additional_forward_args=(factor, 1.0), **options
    )
    torch.testing.assert_close(tunnel, result, rtol=1e-2, atol=1e-4)


def test_module_in_training_mode_is_explained_in_evaluation_mode(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    statistics = model[1].running_mean.clone()
    result = PatchPermutation(model).attribute(images, 1, patch=4)
    assert model.training
    assert torch.equal(model[1].running_mean, statistics)
    torch.testing.assert_close(result, PatchPermutation(model.eval()).attribute(images, 1, patch=4))


def test_progress(images, capsys):
    options = dict(patch=4, n_samples=2)
    for show in (None, False):
        PatchPermutation(lambda x: x.mean((2, 3))).attribute(images, 0, show_progress=show, **options)
    assert capsys.readouterr().err == ""
    PatchPermutation(lambda x: x.mean((2, 3))).attribute(images, 0, show_progress=True, **options)
    err = capsys.readouterr().err
    assert "PatchPermutation" in err
    assert "8/8" in err


def test_it_makes_maps_for_grids(images):
    """A model that sees the brightest red, green and blue: each image holds the evidence for its own colour."""
    method = PatchPermutation(lambda x: x.amax((2, 3)))
    colours = torch.zeros(1, 4, 4, 6, 6)
    for i in range(4):
        colours[0, i, i] = 1
    black = torch.zeros(3, 4, 12, 12)

    def maps(x, classes):
        return method.all_classes(x, classes=classes, patch=6, n_samples=3, reference=black)

    assert torch.equal(grid_localisation(maps, colours, torch.arange(4)[None]), torch.ones(1, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(patch=9), ValueError, "patch=9 is out of range, expected 1 to 8"),
        (dict(n_samples=4), ValueError, "n_samples=4, expected 1 to 3"),
        (dict(n_samples=3, reference=torch.zeros(2, 3, 8, 8)), ValueError, "expected 1 to 2"),
        (dict(reference=torch.zeros(2, 3, 8, 9)), ValueError, r"reference \(2, 3, 8, 9\)"),
        (dict(classes=CLASSES[0]), ValueError, r"classes has shape \(2,\)"),
        (dict(classes=CLASSES + 1), IndexError, "target 3 is out of range, expected 0 to 2"),
        (dict(perturbations_per_eval=0), ValueError, "perturbations_per_eval=0"),
    ],
)
def test_bad_input(linear, images, change, error, message):
    good = dict(classes=CLASSES, patch=4, n_samples=2)
    with pytest.raises(error, match=message):
        PatchPermutation(linear[1]).all_classes(images, **{**good, **change})
