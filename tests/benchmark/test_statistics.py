"""Intervals that cover the mean as often as they say, and differences of pairs."""

import pytest
import torch

from timm_interpretable.benchmark.statistics import curve_band, mean_interval, paired_difference


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(200, 60, generator=generator)
    inside = [
        low <= 0.5 <= high for _, low, high, _ in (mean_interval(sample, seed=i) for i, sample in enumerate(samples))
    ]
    assert 0.90 <= sum(inside) / len(inside) <= 0.99


def test_it_agrees_with_the_normal_approximation():
    sample = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    found = mean_interval(sample)
    half = 1.96 * sample.std() / 20
    assert found.mean == pytest.approx(sample.mean().item())
    assert found.low == pytest.approx((sample.mean() - half).item(), abs=0.01)
    assert found.high == pytest.approx((sample.mean() + half).item(), abs=0.01)
    assert found.images == 400
    assert found == mean_interval(sample)  # seeded
    assert found != mean_interval(sample, seed=1)


def test_one_image_and_none():
    assert mean_interval([0.25]) == (0.25, 0.25, 0.25, 1)
    with pytest.raises(ValueError, match=r"shape \(0, 1\), expected \(N, P\)"):
        mean_interval([])


def test_pairs_are_of_the_same_image():
    hard, easy = 0.1, 0.9  # the images differ more than the methods do
    reference = {i: easy if i % 2 else hard for i in range(40)}
    better = {i: value + 0.05 for i, value in reference.items()}
    found = paired_difference({**better, 99: 5.0}, reference)  # 99 has no partner
    assert found == (pytest.approx(0.05), pytest.approx(0.05), pytest.approx(0.05), 40)
    assert mean_interval(list(better.values())).low < mean_interval(list(reference.values())).high


def test_a_band_is_that_of_its_points():
    curves = torch.rand(30, 3, generator=torch.Generator().manual_seed(2))
    band = curve_band(curves)
    for i in range(3):
        assert band[:, i].tolist() == pytest.approx([mean_interval(curves[:, i])[k] for k in (1, 0, 2)])
