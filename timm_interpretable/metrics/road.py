"""ROAD: remove and debias. Pixels go, and nothing betrays where they were

Source: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann, Borisov, Kasneci,
Kasneci, ICML 2022) - https://arxiv.org/abs/2202.00449.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from timm_interpretable.metrics.imputation import impute
from timm_interpretable.metrics.maps import MapSource
from timm_interpretable.metrics.removal import RemovalCurves, check_removal, curves_of, removal_counts

__all__ = ["DECILES", "road", "road_curves"]

DECILES = tuple(i / 10 for i in range(1, 10))
"""10 to 90 % of the pixels."""


def road_curves(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = DECILES,
    most_important_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
) -> RemovalCurves:
    """`removal_curves` with pixels replaced by noisy linear imputation.

    The mean over the fractions is the usual summary: low where the most important pixels go first, high where the
    least important do. The paper reports it of the accuracy, pytorch-grad-cam of the probability.

    Args:
        predict, images, maps, target, fractions, most_important_first, batch_size: as in `removal_curves`.
        noise, tolerance: of `impute`, in units of the images.
        seed: of the order of equal values and of the noise, which is the same for all images.

    Raises:
        ValueError: as `removal_curves` and `impute`.
    """
    size = check_removal(images, maps, target, fractions, batch_size)
    counts = removal_counts(images, fractions)

    def altered(part: slice, rank: Tensor) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for count in counts:
            yield impute(images[part], rank < count, noise, generator, tolerance)

    return curves_of(predict, altered, images, maps, target, most_important_first, seed, size)


def road(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = DECILES,
    most_important_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
) -> Tensor:
    """The probabilities of `road_curves`, which explains the arguments: `(B, len(fractions))`."""
    return road_curves(
        predict, images, maps, target, fractions, most_important_first, noise, seed, tolerance, batch_size
    ).probability
