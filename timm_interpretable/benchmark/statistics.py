"""Means with bootstrapped intervals, and differences between methods on the same images

Source: percentile intervals of `An Introduction to the Bootstrap` (Efron and Tibshirani, 1993), chapter 13.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RESAMPLES", "Interval", "curve_band", "mean_interval", "paired_difference"]

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean over images with its 95 % interval."""

    mean: float
    low: float
    high: float
    images: int


def mean_interval(values: Sequence[float] | Tensor, seed: int = 0) -> Interval:
    """Mean of one number per image, with the 2.5th and 97.5th percentile of the means of resampled images.

    Raises:
        ValueError: no value.
    """
    column = torch.as_tensor(values, dtype=torch.double).flatten()
    low, mean, high = curve_band(column[:, None], seed)[:, 0].tolist()
    return Interval(mean, low, high, len(column))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float], seed: int = 0) -> Interval:
    """Mean of `values - reference` over the images that have both, with its interval.

    Both are by the index of the image.

    Raises:
        ValueError: no image has both.
    """
    common = sorted(values.keys() & reference.keys())
    return mean_interval([values[i] - reference[i] for i in common], seed)


def curve_band(curves: Tensor, seed: int = 0) -> Tensor:
    """Lower end, mean and upper end of a curve per image, point by point: `(N, P)` to `(3, P)`.

    Raises:
        ValueError: no curve.
    """
    if curves.ndim != 2 or not len(curves):
        raise ValueError(f"curves have shape {tuple(curves.shape)}, expected (N, P) with N at least 1.")
    curves = curves.double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(curves), (RESAMPLES, len(curves)), generator=generator)
    counts = torch.zeros(RESAMPLES, len(curves), dtype=torch.double).scatter_add_(
        1, drawn, torch.ones((), dtype=torch.double).expand(drawn.shape)
    )
    means = counts @ curves / len(curves)
    ends = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double), dim=0)
    return torch.stack([ends[0], curves.mean(0), ends[1]])
