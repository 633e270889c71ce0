import pytest
import torch

from timm_interpretable.attr.smoothing import blurred
from timm_interpretable.metrics import area, logit_deletion, pixel_removal, removal_curves
from timm_interpretable.metrics.removal import removal_rank

TARGET = torch.tensor([0, 1])


@pytest.fixture
def images():
    return 0.5 + 0.5 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def brightness(x):
    """Two classes whose 'probability' is the share of pixels that are left."""
    left = (x.sum(1) > 0).float().mean((1, 2))
    return torch.stack([left, left], dim=1)


def test_removes_the_asked_share(images):
    fractions = (0, 0.25, 0.5, 1)
    curve = pixel_removal(brightness, images, torch.rand(2, 4, 4), TARGET, fractions)
    assert curve.tolist() == [[1, 0.75, 0.5, 0]] * 2


@pytest.mark.parametrize("most_important_first", [False, True])
def test_order(images, most_important_first):
    """A model that sees one pixel, the most important of the map."""
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    best = maps.flatten(1).argmax(1)

    def predict(x):  # fractions of the two images in turn
        seen = x.sum(1).flatten(1).gather(1, best.repeat(len(x) // 2)[:, None])[:, 0] > 0
        return torch.stack([seen, seen], dim=1).float()

    curve = pixel_removal(predict, images, maps, TARGET, (0, 1 / 16, 15 / 16, 1), most_important_first)
    assert curve.tolist() == [[1, 0, 0, 0] if most_important_first else [1, 1, 1, 0]] * 2


def test_target_and_fill(images):
    def predict(x):
        return torch.stack([x[:, 0].amax((1, 2)), x[:, 1].amin((1, 2))], dim=1)

    grey = torch.tensor([0.25, 0.125, 0.0])[:, None, None]
    curve = pixel_removal(predict, images, torch.zeros(2, 4, 4), TARGET, (1.0,), fill=grey)
    assert curve.tolist() == [[0.25], [0.125]]


def test_a_fill_per_channel_and_one_per_image(images):
    seen = []

    def predict(x):
        seen.append(x)
        return torch.zeros(len(x), 2)

    maps = torch.rand(2, 4, 4)
    for fill, whole in (((0.25, 0.125, 0.0), torch.tensor([0.25, 0.125, 0.0])[:, None, None]), (blurred(images), None)):
        pixel_removal(predict, images, maps, TARGET, (1.0,), fill=fill, batch_size=1)
        wanted = blurred(images) if whole is None else whole.expand_as(images)
        torch.testing.assert_close(torch.cat(seen[-2:]), wanted)
    with pytest.raises(ValueError, match=r"fill \(1, 2, 1, 1\) does not fit images \(2, 3, 4, 4\)"):
        pixel_removal(predict, images, maps, TARGET, (1.0,), fill=(0.5, 0.5))


def test_probability_and_whether_it_is_still_right(images):
    """The model calls an image dark, class 0, once less than half of it is left."""

    def predict(x):
        left = brightness(x)[:, 0]
        return torch.stack([1 - left, left], dim=1)

    curves = removal_curves(predict, images, torch.rand(2, 4, 4), TARGET, (0, 0.25, 0.75, 1))
    assert curves.probability.tolist() == [[0, 0.25, 0.75, 1], [1, 0.75, 0.25, 0]]
    assert curves.correct.tolist() == [[False, False, True, True], [True, True, False, False]]
    assert torch.equal(
        curves.probability, pixel_removal(predict, images, torch.rand(2, 4, 4), TARGET, (0, 0.25, 0.75, 1))
    )


def test_equal_values_go_in_a_random_order_of_the_seed():
    flat = torch.zeros(2, 20, 20)
    ranks = [removal_rank(flat, False, seed) for seed in (0, 0, 1)]
    assert torch.equal(ranks[0], ranks[1])
    assert not torch.equal(ranks[0], ranks[2])
    assert torch.equal(ranks[0][0], ranks[0][1])  # no image depends on its place in the batch
    first = ranks[0][0] < 100
    assert first[:10].float().mean().item() == pytest.approx(0.25, abs=0.1)  # not from the top
    assert (first != (ranks[2][0] < 100)).float().mean() > 0.2
    assert torch.equal(removal_rank(flat, True), 399 - ranks[0])


def test_values_decide_before_the_seed_does(rng):
    maps = torch.randint(0, 5, (2, 9, 9), generator=rng).float()
    for first in (False, True):
        rank = removal_rank(maps, first, seed=3).flatten(1).long()
        values = torch.empty(2, 81).scatter_(1, rank, maps.flatten(1))
        assert (values.diff(dim=1) * (-1 if first else 1) >= 0).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 64])
def test_batch_size_does_not_matter(batch_size, rng):
    images, maps, target = torch.rand(5, 3, 6, 6, generator=rng), torch.zeros(5, 6, 6), torch.arange(5) % 3
    sizes = []

    def predict(x):
        sizes.append(len(x))
        return x.mean((2, 3)).softmax(1)

    curve = pixel_removal(predict, images, maps, target, batch_size=batch_size)
    wanted = torch.cat(
        [pixel_removal(predict, x[None], m[None], t[None]) for x, m, t in zip(images, maps, target, strict=True)]
    )
    torch.testing.assert_close(curve, wanted)
    assert max(sizes[: -(5 * 21)] or [0]) <= batch_size


def test_area_is_the_mean_height():
    curve = torch.tensor([[1.0, 1, 1], [1, 0.5, 0], [0, 0, 1]])
    assert area(curve, (0, 0.5, 1)).tolist() == [1, 0.5, 0.25]
    assert area(curve, (0, 0.125, 0.25)).tolist() == [1, 0.5, 0.25]
    assert area(curve[2], (0, 0.8, 1)).item() == pytest.approx(0.1)
    assert area(curve[2] > 0, (0, 0.5, 1)).item() == 0.25
    for points in ((0, 1), (0, 0.5, 0.5), (0, 1, 0.5)):
        with pytest.raises(ValueError, match="as many rising numbers"):
            area(curve, points)


def test_constant_map_and_half_precision_work(images):
    plain = pixel_removal(brightness, images, torch.ones(2, 4, 4), TARGET)
    half = pixel_removal(brightness, images.bfloat16(), torch.ones(2, 4, 4).bfloat16(), TARGET)
    assert plain.shape == (2, 21)
    assert torch.equal(plain, half)


def test_input_is_left_alone(images):
    before = images.clone()
    pixel_removal(brightness, images, torch.rand(2, 4, 4), TARGET)
    assert torch.equal(images, before)


def test_bad_input(images):
    with pytest.raises(ValueError, match=r"maps \(2, 3, 4\)"):
        pixel_removal(brightness, images, torch.rand(2, 3, 4), TARGET)
    with pytest.raises(ValueError, match=r"fractions has 1\.5"):
        pixel_removal(brightness, images, torch.rand(2, 4, 4), TARGET, (1.5,))
    with pytest.raises(ValueError, match="fractions is empty"):
        pixel_removal(brightness, images, torch.rand(2, 4, 4), TARGET, ())
    with pytest.raises(ValueError, match="batch_size=0"):
        pixel_removal(brightness, images, torch.rand(2, 4, 4), TARGET, batch_size=0)
    with pytest.raises(ValueError, match="not finite"):
        pixel_removal(brightness, images, torch.full((2, 4, 4), float("nan")), TARGET)


def test_what_goes_first_and_what_goes_last_are_complementary(images):
    """Deleting the most important P % and the least important 100 - P % covers every pixel exactly once."""
    seen = []

    def predict(x):
        seen.append(x.clone())
        return torch.zeros(len(x), 2)

    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    for share in (0.0, 0.25, 0.8125, 1.0):
        pixel_removal(predict, images, maps, TARGET, (share,), most_important_first=True)
        pixel_removal(predict, images, maps, TARGET, (1 - share,))
        deleted, kept = ((x == 0).all(1) for x in seen[-2:])
        assert torch.equal(deleted, ~kept)


def linear(rng):
    weight = torch.randn(3, 2, 3, 4, 4, generator=rng)
    return weight, lambda x: torch.einsum("bchw,kchw->bk", x, weight[:, 0])


def test_deletion_of_a_linear_model_in_closed_form(images):
    """The logit loses the contributions of the pixels that have gone; ranked by contribution it loses most."""
    weight, model = linear(torch.Generator().manual_seed(0))
    black = torch.tensor([-0.5, 0.25, 0.0])[:, None, None]
    contributions = ((images - black) * weight[TARGET, 0]).sum(1)
    fractions = (0.0, 0.25, 0.5, 1.0)
    curve = logit_deletion(model, images, contributions, TARGET, fractions, black)
    ranked = contributions.flatten(1).sort(descending=True).values.cumsum(1)
    torch.testing.assert_close(curve, torch.stack([0 * ranked[:, 0], ranked[:, 3], ranked[:, 7], ranked[:, 15]], 1))
    other = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(2))
    worse = logit_deletion(model, images, other, TARGET, fractions, black)
    assert (worse <= curve + 1e-5).all()
    torch.testing.assert_close(worse[:, -1], curve[:, -1])  # in the end everything is gone


def test_deletion_goes_by_tenths(images):
    _, model = linear(torch.Generator().manual_seed(0))
    curve = logit_deletion(model, images, torch.rand(2, 4, 4), TARGET)
    assert curve.shape == (2, 11)
    assert (curve[:, 0] == 0).all()
    torch.testing.assert_close(curve[:, -1], model(images)[[0, 1], TARGET])
