"""Equal-error rate, and deletion and insertion of face maps, against plain code and on models that are understood."""

import numpy as np
import pytest
import torch

from timm_interpretable.metrics import all_pairs, equal_error_rate, kept_pixels, verification_curves


def error_rates(similarity: torch.Tensor, genuine: torch.Tensor, threshold: float) -> tuple[float, float]:
    rejected = (similarity[genuine] < threshold).double().mean().item()
    accepted = (similarity[~genuine] >= threshold).double().mean().item()
    return rejected, accepted


def test_all_pairs_once():
    first, second, genuine = all_pairs(torch.tensor([0, 0, 1, 1, 1]))
    assert len(first) == 10
    assert (first < second).all()
    assert genuine.sum() == 1 + 3


def test_equal_error_rate_of_scores_by_hand():
    similarity = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1, 0.0])
    genuine = torch.tensor([True] * 4 + [False] * 4)
    rate, threshold = equal_error_rate(similarity, genuine)
    assert rate == 0.25
    assert 0.3 < threshold < 0.6
    assert error_rates(similarity, genuine, threshold) == (0.25, 0.25)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0, 50.0])
def test_equal_error_rate_is_where_both_errors_meet(rng, shift):
    genuine = torch.arange(400) < 150
    similarity = torch.randn(400, generator=rng) + shift * genuine
    rate, threshold = equal_error_rate(similarity, genuine)
    rejected, accepted = error_rates(similarity, genuine, threshold)
    assert rate == pytest.approx((rejected + accepted) / 2, abs=1e-6)
    # no threshold of a fine grid brings the two closer together
    gaps = [abs(r - a) for r, a in (error_rates(similarity, genuine, t) for t in similarity.unique())]
    assert abs(rejected - accepted) <= min(gaps) + 1e-6
    if shift == 50:
        assert rate == 0
        assert similarity[~genuine].max() < threshold < similarity[genuine].min()


def test_equal_error_rate_is_symmetric_and_keeps_its_value_under_rising_functions(rng):
    genuine = torch.arange(300) < 100
    similarity = torch.randn(300, generator=rng) + genuine
    rate = equal_error_rate(similarity, genuine).rate
    assert equal_error_rate(similarity.exp(), genuine).rate == pytest.approx(rate)
    # two thresholds may be equally good, half a pair of the smaller kind apart
    assert equal_error_rate(-similarity, ~genuine).rate == pytest.approx(rate, abs=0.5 / 100 + 1e-9)
    assert equal_error_rate(-similarity, genuine).rate == pytest.approx(1 - rate, abs=0.5 / 100 + 1e-9)


def test_equal_error_rate_without_any_difference():
    assert equal_error_rate(torch.ones(6), torch.arange(6) < 3).rate == 0.5


@pytest.mark.parametrize(
    ("similarity", "genuine", "message"),
    [
        (torch.ones(3), torch.ones(3, dtype=torch.bool), "3 of 3 pairs are genuine"),
        (torch.ones(3), torch.zeros(3, dtype=torch.bool), "0 of 3 pairs are genuine"),
        (torch.ones(3), torch.ones(2, dtype=torch.bool), r"similarity \(3,\) and genuine \(2,\)"),
        (torch.ones(3), torch.ones(3), "expected"),
        (torch.tensor([0.0, float("nan")]), torch.tensor([True, False]), "not finite"),
    ],
)
def test_equal_error_rate_refuses(similarity, genuine, message):
    with pytest.raises(ValueError, match=message):
        equal_error_rate(similarity, genuine)


# --- which pixels are hidden


@pytest.mark.parametrize("size", [(9, 7), (3, 7), (1, 11)])  # in 21 and 11 pixels percentiles are pixels
@pytest.mark.parametrize("percentage", [0, 10, 35, 50, 90, 100, 12.5])
def test_the_papers_rule_is_numpys_percentile(rng, percentage, size):
    maps = torch.rand(5, *size, generator=rng)
    maps[0] = maps[0].round()  # ties
    maps[1] = 0.5
    for one, kept in zip(maps.double().numpy(), kept_pixels(maps, percentage).numpy(), strict=True):
        assert (kept == (one <= np.percentile(one, 100 - percentage))).all()


@pytest.mark.parametrize("percentage", [0, 10, 35, 50, 90, 100])
def test_strict_hides_the_asked_share_of_every_map_the_largest_first(rng, percentage):
    maps = torch.rand(4, 10, 8, generator=rng)
    maps[0] = maps[0].round()
    maps[1] = 0.0
    hidden = ~kept_pixels(maps, percentage, strict=True)
    assert hidden.flatten(1).sum(1).tolist() == [round(0.8 * percentage)] * 4
    for one, gone in zip(maps, hidden, strict=True):
        if 0 < percentage < 100:
            assert one[gone].min() >= one[~gone].max()


def test_maps_and_percentages_that_hide_nothing():
    for maps, percentage, message in (
        (torch.full((1, 2, 2), torch.nan), 10, "not finite"),
        (torch.zeros(1, 2, 2), 101, "percentage=101, expected a number from 0 to 100"),
        (torch.zeros(2, 2), 10, r"maps \(2, 2\), expected"),
    ):
        for strict in (False, True):
            with pytest.raises(ValueError, match=message):
                kept_pixels(maps, percentage, strict)


def test_ties_hide_less_than_asked_and_strict_breaks_them_at_random():
    maps = torch.zeros(3, 10, 10)
    assert kept_pixels(maps, 30).all()
    kept = kept_pixels(maps, 30, strict=True, seed=1)
    assert torch.equal(kept, kept_pixels(maps, 30, strict=True, seed=1))
    assert not torch.equal(kept, kept_pixels(maps, 30, strict=True, seed=2))
    assert not torch.equal(kept[0], kept[1])
    assert (kept_pixels(maps, 60, strict=True, seed=1) <= kept).all()  # what is hidden stays hidden


# --- curves


def means(x: torch.Tensor) -> torch.Tensor:
    """The embedding of an image: the mean of its left and of its right half."""
    half = x.shape[-1] // 2
    return torch.stack([x[..., :half].mean((1, 2, 3)), x[..., half:].mean((1, 2, 3))], dim=1)


@pytest.fixture
def left_pairs():
    """What counts for the genuine half of the pairs is the left half of the image; impostors have nothing there."""
    genuine = torch.arange(20) % 2 == 0
    probes = torch.zeros(20, 1, 6, 8)
    probes[genuine, ..., :4] = 1
    probes[..., 4:] = 0.5
    left = torch.zeros(20, 6, 8)
    left[..., :4] = 1
    return probes, torch.tensor([[1.0, 0.0]]).expand(20, -1), genuine, left


def test_a_perfect_map_beats_chance_and_its_opposite(left_pairs):
    probes, references, genuine, left = left_pairs
    rng = torch.Generator().manual_seed(0)
    noise = 1e-3 * torch.rand(left.shape, generator=rng)
    areas = {
        name: verification_curves(means, probes, references, genuine, maps, 0.7)
        for name, maps in (("good", left + noise), ("random", 1e3 * noise), ("bad", noise - left))
    }
    deletion = {name: curves.deletion_area for name, curves in areas.items()}
    insertion = {name: curves.insertion_area for name, curves in areas.items()}
    assert deletion["good"] < deletion["random"] < deletion["bad"]
    assert insertion["good"] > insertion["random"] > insertion["bad"]


@pytest.mark.parametrize("strict", [False, True])
def test_ends_of_the_curves(left_pairs, strict):
    probes, references, genuine, left = left_pairs
    maps = left + 1e-3 * torch.rand(left.shape)
    curves = verification_curves(means, probes, references, genuine, maps, 0.7, strict=strict)
    assert curves.deletion[0] == 1  # nothing is hidden, and the threshold separates the pairs
    assert curves.insertion[0] == 0.5  # a black picture resembles nothing: only the impostors are right
    assert curves.deletion.shape == curves.insertion.shape == (11,)
    if strict:
        assert curves.deletion[-1] == 0.5
        assert curves.insertion[-1] == 1


def test_deletion_and_insertion_see_complementary_pixels(rng):
    seen = []

    def embed(x):
        seen.append(x)
        return means(x)

    probes, maps = torch.rand(3, 1, 6, 8, generator=rng) + 0.1, torch.rand(3, 6, 8, generator=rng).round()
    for strict in (False, True):
        seen.clear()
        verification_curves(
            embed, probes, torch.ones(3, 2), torch.tensor([True, False, True]), maps, 0.5, strict=strict
        )
        assert len(seen) == 22
        for deletion, insertion in zip(seen[::2], seen[1::2], strict=True):
            assert torch.equal(deletion + insertion, probes)
            assert torch.equal((deletion > 0) ^ (insertion > 0), torch.ones_like(probes, dtype=torch.bool))


@pytest.mark.parametrize("strict", [False, True])
def test_batch_size_does_not_matter(rng, strict):
    probes, maps = torch.rand(7, 3, 6, 8, generator=rng), torch.rand(7, 6, 8, generator=rng).round()
    genuine, references = torch.rand(7, generator=rng) > 0.5, torch.rand(7, 2, generator=rng)
    args = (means, probes, references, genuine, maps, 0.95)
    one, many = (verification_curves(*args, strict=strict, batch_size=size) for size in (1, 64))
    assert torch.equal(one.deletion, many.deletion)
    assert torch.equal(one.insertion, many.insertion)


def test_constant_maps_and_half_precision(rng):
    probes, genuine = torch.rand(4, 1, 6, 8, generator=rng), torch.tensor([True, True, False, False])
    args = (probes, torch.ones(4, 2), genuine)
    flat = verification_curves(means, *args, torch.zeros(4, 6, 8), 0.9)
    assert (flat.deletion == flat.deletion[0]).all()  # the paper's rule hides nothing of a constant map
    half = verification_curves(means, *args, torch.zeros(4, 6, 8).bfloat16(), 0.9, strict=True)
    assert half.deletion.isfinite().all()


def test_area_of_a_curve_by_hand(left_pairs):
    probes, references, genuine, left = left_pairs
    curves = verification_curves(lambda x: references[: len(x)], probes, references, genuine, left, 0.7)
    assert curves.deletion_area == curves.insertion_area == 50.0  # always "one person": right in half of the pairs


def test_bad_arguments(left_pairs):
    probes, references, genuine, left = left_pairs
    with pytest.raises(ValueError, match=r"maps \(20, 3, 8\)"):
        verification_curves(means, probes, references, genuine, left[:, :3], 0.5)
    with pytest.raises(ValueError, match=r"references \(3, 2\)"):
        verification_curves(means, probes, references[:3], genuine, left, 0.5)
    with pytest.raises(ValueError, match="batch_size=0"):
        verification_curves(means, probes, references, genuine, left, 0.5, batch_size=0)
    for wrong in ((0, 101), (50, 20)):
        with pytest.raises(ValueError, match="expected rising numbers from 0 to 100"):
            verification_curves(means, probes, references, genuine, left, 0.5, wrong)
