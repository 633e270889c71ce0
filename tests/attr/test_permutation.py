import pytest
import torch

from timm_interpretable.metrics import grid_localisation, patch_permutation_importance

CLASSES = torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1]])


@pytest.fixture
def linear(rng):
    weight = torch.randn(3, 3, 8, 8, generator=rng)
    return weight, lambda x: torch.einsum("bchw,kchw->bk", x, weight)


@pytest.fixture
def images(rng):
    return torch.rand(4, 3, 8, 8, generator=rng)


def by_patch(values, patch):
    return values.unfold(-2, patch, patch).unfold(-2, patch, patch).sum((-1, -2))


def test_linear_model_in_closed_form(linear, images):
    """With all other images as donors a patch loses its contribution less the mean of theirs."""
    weight, model = linear
    maps = patch_permutation_importance(model, images, CLASSES, patch=4, n_permutations=3)
    for i in range(4):
        others = (images.sum(0) - images[i]) / 3
        wanted = by_patch(((images[i] - others) * weight[CLASSES[i]]).sum(1), 4)
        torch.testing.assert_close(maps[i, :, ::4, ::4], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(maps[i, :, 3::4, 3::4], wanted, atol=1e-4, rtol=0)


def test_a_reference_in_closed_form_and_one_by_one(linear, images, rng):
    weight, model = linear
    reference = torch.rand(5, 3, 8, 8, generator=rng)
    maps = patch_permutation_importance(model, images, CLASSES, 2, 5, reference=reference)
    wanted = by_patch(((images - reference.mean(0))[:, None] * weight[CLASSES]).sum(2), 2)
    torch.testing.assert_close(maps[:, :, ::2, ::2], wanted, atol=1e-4, rtol=0)
    few = [patch_permutation_importance(model, images, CLASSES, 2, 2, 7, reference, size) for size in (1, 3, 64)]
    alone = [
        patch_permutation_importance(model, images[i : i + 1], CLASSES[i : i + 1], 2, 2, 7, reference) for i in range(4)
    ]
    for maps in (few[1], few[2], torch.cat(alone)):
        torch.testing.assert_close(maps, few[0], atol=1e-5, rtol=0)


def test_no_image_keeps_its_own_patch_and_none_comes_twice(images):
    donors = []
    marked = torch.arange(4.0)[:, None, None, None].expand_as(images)

    def model(x):
        donors.append(x[:, 0, 0, 0])
        return torch.zeros(len(x), 3)

    patch_permutation_importance(model, marked, CLASSES, patch=8, n_permutations=3, batch_size=4)
    whole, *altered = donors
    assert torch.equal(torch.stack([whole, *altered]).sort(0).values, torch.arange(4.0)[:, None].expand(4, 4))


def test_seed_and_images_that_the_patch_does_not_divide(linear, images):
    _, model = linear
    first, again, other = (patch_permutation_importance(model, images, CLASSES, 3, 1, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, :, 6, 6], first[:, :, 7, 7])  # the last patch has 2 x 2 pixels
    assert not torch.equal(first[:, :, 5, 5], first[:, :, 6, 6])


def test_equal_images_are_equally_unimportant(linear, images):
    _, model = linear
    maps = patch_permutation_importance(model, images[:1].expand(4, -1, -1, -1), CLASSES, 4, 2)
    assert maps.abs().max() < 1e-5


def test_it_makes_maps_for_grids(images):
    """A model that sees the brightest red, green and blue: each image holds the evidence for its own colour."""
    model = lambda x: x.amax((2, 3))  # noqa: E731
    colours = torch.zeros(1, 4, 4, 6, 6)
    for i in range(4):
        colours[0, i, i] = 1
    black = torch.zeros(3, 4, 12, 12)

    def maps(x, classes):
        return patch_permutation_importance(model, x, classes, 6, 3, reference=black)

    assert torch.equal(grid_localisation(maps, colours, torch.arange(4)[None]), torch.ones(1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(patch=9), "patch=9 is out of range, expected 1 to 8"),
        (dict(n_permutations=4), "n_permutations=4, expected 1 to 3"),
        (dict(n_permutations=3, reference=torch.zeros(2, 3, 8, 8)), "expected 1 to 2"),
        (dict(reference=torch.zeros(2, 3, 8, 9)), r"reference \(2, 3, 8, 9\)"),
        (dict(classes=CLASSES[0]), r"classes \(2,\)"),
        (dict(batch_size=0), "batch_size=0"),
    ],
)
def test_bad_input(linear, images, change, message):
    good = dict(images=images, classes=CLASSES, patch=4, n_permutations=2)
    with pytest.raises(ValueError, match=message):
        patch_permutation_importance(linear[1], **{**good, **change})
