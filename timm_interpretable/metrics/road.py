"""ROAD: remove and debias. Pixels go, and nothing betrays where they were

Source: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann, Borisov, Kasneci,
Kasneci, ICML 2022) - https://arxiv.org/abs/2202.00449.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from timm_interpretable.metrics.imputation import impute
from timm_interpretable.metrics.removal import check_removal, removal_rank

__all__ = ["DECILES", "road"]

DECILES = tuple(i / 10 for i in range(1, 10))
"""10 to 90 % of the pixels."""


def road(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    fractions: Sequence[float] = DECILES,
    most_important_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-3,
) -> Tensor:
    """The probability of a class with more and more pixels replaced by noisy linear imputation, `(B, len(fractions))`.

    The mean over the fractions is the usual summary: low where the most important pixels go first, high where the
    least important do. The noise of an image depends on its place in the batch.

    Args:
        predict, images, maps, target, fractions, most_important_first: as in `pixel_removal`.
        noise, tolerance: of `impute`, in units of the images.
        seed: of the noise.

    Raises:
        ValueError: as `pixel_removal` and `impute`.
    """
    check_removal(images, maps, target, fractions)
    rank = removal_rank(maps, most_important_first)
    generator = torch.Generator().manual_seed(seed)
    curve = []
    with torch.no_grad():
        for fraction in fractions:
            removed = rank < round(fraction * images.shape[2] * images.shape[3])
            altered = impute(images, removed, noise, generator, tolerance)
            curve.append(predict(altered).float().gather(1, target[:, None])[:, 0])
    return torch.stack(curve, dim=1)
