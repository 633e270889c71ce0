"""Face verification: how often a similarity is right about two pictures, and what hiding parts of one of them changes

Source of the curves: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi
Zhang, Manuel Günther) - https://arxiv.org/abs/2605.12017.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PERCENTAGES",
    "EqualError",
    "VerificationCurves",
    "all_pairs",
    "equal_error_rate",
    "kept_pixels",
    "verification_curves",
]

PERCENTAGES = tuple(range(0, 101, 10))
"""Percentages of the pixels, 0 to 100."""


class EqualError(NamedTuple):
    """The equal-error rate and the threshold that gives it.

    rate: in [0, 1].
    threshold: pairs that are at least so similar count as one person.
    """

    rate: float
    threshold: float


def all_pairs(people: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of N pictures once: indices of both, int64, and whether they show one person, `(N (N - 1) / 2,)` each.

    Args:
        people: who is on each picture, `(N,)`, as numbers.
    """
    first, second = torch.triu_indices(len(people), len(people), 1)
    return first, second, people[first] == people[second]


def equal_error_rate(similarity: Tensor, genuine: Tensor) -> EqualError:
    """The error rate at the threshold where impostor pairs pass as often as genuine pairs fail.

    Thresholds are tried halfway between neighbouring similarities, and beyond both ends. If the two rates are equal at
    none of them, the threshold where they are closest counts, and the rate is their mean.

    Args:
        similarity: the similarity of each pair, `(N,)`.
        genuine: whether a pair shows one person, bool `(N,)`.

    Raises:
        ValueError: other shapes, similarities that are not finite, no genuine pair or no impostor pair.
    """
    if similarity.ndim != 1 or genuine.shape != similarity.shape or genuine.dtype != torch.bool:
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and genuine {tuple(genuine.shape)} {genuine.dtype}, expected (N,) "
            "and bool (N,)."
        )
    if not similarity.isfinite().all():
        raise ValueError("similarity has entries that are not finite.")
    if genuine.all() or not genuine.any():
        raise ValueError(f"{int(genuine.sum())} of {len(genuine)} pairs are genuine, expected some of both kinds.")
    values, same = similarity.detach().cpu().double(), genuine.cpu()
    scores = values.unique()
    candidates = torch.cat([scores[:1] - 1e-6, (scores[:-1] + scores[1:]) / 2, scores[-1:] + 1e-6])
    ours, others = values[same].sort().values, values[~same].sort().values
    rejected = torch.searchsorted(ours, candidates).double() / len(ours)
    accepted = 1 - torch.searchsorted(others, candidates).double() / len(others)
    best = (rejected - accepted).abs().argmin()
    return EqualError(((rejected + accepted)[best] / 2).item(), candidates[best].item())


class VerificationCurves(NamedTuple):
    """The share of right decisions at every percentage, `(P,)` each, float64 on the CPU.

    deletion: with the most important pixels hidden.
    insertion: with everything but the most important pixels hidden.
    percentages: percentages of the pixels that are most important, `(P,)`.
    """

    deletion: Tensor
    insertion: Tensor
    percentages: Tensor

    @property
    def deletion_area(self) -> float:
        """Area under the curve times 100; the lower, the better the map."""
        return torch.trapezoid(self.deletion, self.percentages).item()

    @property
    def insertion_area(self) -> float:
        """Area under the curve times 100; the higher, the better the map."""
        return torch.trapezoid(self.insertion, self.percentages).item()


def verification_curves(
    embed: Callable[[Tensor], Tensor],
    probes: Tensor,
    references: Tensor,
    genuine: Tensor,
    maps: Tensor,
    threshold: float,
    percentages: Sequence[float] = PERCENTAGES,
    strict: bool = False,
    seed: int = 0,
    fill: float = 0.0,
    batch_size: int = 64,
) -> VerificationCurves:
    """How often `cosine >= threshold` is right about pairs while pixels of one picture are hidden, or shown.

    Args:
        embed: images to embeddings `(B, D)`.
        probes: the pictures that lose pixels, `(N, C, H, W)`.
        references: embeddings of the other pictures, `(N, D)`.
        genuine: whether the pair shows one person, bool `(N,)`.
        maps: importance of every pixel of the probes for the similarity (e+ in the paper), `(N, H, W)`, finite.
        threshold: pairs that are at least so similar count as one person; that of `equal_error_rate` on the whole
            pictures is the usual choice.
        percentages: percentages of the pixels, in rising order. Areas are those of the paper if they run from 0 to 100.
        strict, seed: as in `kept_pixels`.
        fill: what a hidden pixel shows, in the units of the images; 0 is black for images in [0, 1].
        batch_size: images per pass.

    Raises:
        ValueError: shapes that do not match, maps that are not finite, percentages that are outside [0, 100] or do not
            rise, or a batch size below 1.
    """
    count = len(probes)
    if probes.ndim != 4 or maps.shape != (count, *probes.shape[2:]) or genuine.shape != (count,):
        raise ValueError(
            f"probes {tuple(probes.shape)}, maps {tuple(maps.shape)} and genuine {tuple(genuine.shape)}, expected "
            "(N, C, H, W), (N, H, W) and (N,)."
        )
    if references.ndim != 2 or len(references) != count:
        raise ValueError(f"references {tuple(references.shape)}, expected one embedding for each of {count} probes.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected at least 1.")
    levels = torch.as_tensor(percentages, dtype=torch.float64)
    if not ((levels >= 0) & (levels <= 100)).all() or not (levels.diff() > 0).all():
        raise ValueError(f"percentages={tuple(percentages)}, expected rising numbers from 0 to 100.")
    units = F.normalize(references.float(), dim=1)
    curves = torch.zeros(2, len(levels), dtype=torch.float64)
    with torch.no_grad():
        for p, percentage in enumerate(levels.tolist()):
            kept = kept_pixels(maps, percentage, strict, seed)
            for c, mask in enumerate((kept, ~kept)):
                right = 0
                for part in torch.arange(count, device=probes.device).split(batch_size):
                    seen = torch.where(mask[part, None], probes[part], fill)
                    cosine = (F.normalize(embed(seen).float(), dim=1) * units[part]).sum(1)
                    right += int(((cosine >= threshold) == genuine[part]).sum())
                curves[c, p] = right / count
    return VerificationCurves(curves[0], curves[1], levels)


def kept_pixels(maps: Tensor, percentage: float, strict: bool = False, seed: int = 0) -> Tensor:
    """The pixels that stay when the most important ones are deleted, bool `(N, H, W)`; insertion shows the others.

    Args:
        maps: importance of every pixel, `(N, H, W)`, finite.
        percentage: P, in [0, 100].
        strict: False for the paper's rule, which keeps `e <= percentile(e, 100 - P)`: where many values are equal it
            hides fewer pixels than P says. True to hide P % of the pixels of every map; pixels of equal value go in a
            random order, drawn for every map anew.
        seed: of that order.

    Raises:
        ValueError: maps of another shape or not finite, or a percentage outside [0, 100].
    """
    if maps.ndim != 3:
        raise ValueError(f"maps {tuple(maps.shape)}, expected (N, H, W).")
    if not 0 <= percentage <= 100:
        raise ValueError(f"percentage={percentage}, expected a number from 0 to 100.")
    values = maps.detach().flatten(1)
    if not values.isfinite().all():
        raise ValueError("maps have entries that are not finite: pixels cannot be put in order by them.")
    count = values.shape[1]
    if not strict:
        # the percentile lies between two neighbours in the order, and only values up to the lower one are below it
        lower = int((count - 1) * (100 - percentage) / 100)
        limit = values.sort(dim=1).values[:, lower : lower + 1]
        return (values <= limit).view(maps.shape)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([torch.randperm(count, generator=generator) for _ in values]).to(values.device)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden.scatter_(1, order[:, : round(percentage / 100 * count)], True)
    return ~hidden.view(maps.shape)
