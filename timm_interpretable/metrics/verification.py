"""Face verification: how often a similarity is right about two pictures, and what hiding parts of one does to that

Source of the curves: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi
Zhang, Manuel Günther) - https://arxiv.org/abs/2605.12017.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PERCENTAGES", "EqualError", "VerificationCurves", "all_pairs", "equal_error_rate", "kept_pixels",
    "verification_curves",
]  # fmt: skip

PERCENTAGES = tuple(range(0, 101, 10))
"""Percentages of the pixels, 0 to 100."""


class EqualError(NamedTuple):
    """rate: in [0, 1]; threshold: pairs at least so similar count as one person."""

    rate: float
    threshold: float


def all_pairs(people: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of N pictures once: indices of both, and whether they show one person, `(N (N - 1) / 2,)` each."""
    first, second = torch.triu_indices(len(people), len(people), 1)
    return first, second, people[first] == people[second]


def equal_error_rate(similarity: Tensor, genuine: Tensor) -> EqualError:
    """The error rate at the threshold where as large a share of impostors passes as of genuine pairs fails.

    Candidates lie halfway between neighbouring similarities, and beyond both ends. Where the two rates never meet the
    closest counts, and the rate is their mean.

    Args:
        similarity: of each pair, `(N,)`.
        genuine: whether a pair shows one person, bool `(N,)`.

    Raises:
        ValueError: other shapes; similarities that are not finite; no genuine or no impostor pair.
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
    """Share of right decisions at every percentage, `(P,)` each, on the CPU.

    deletion: with the most important pixels hidden. insertion: with nothing but them.
    percentages: of the pixels, `(P,)`.
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
    """Is `cosine >= threshold` still right about the pairs, while pixels of one picture go, or come?

    Args:
        embed: images to embeddings `(B, D)`.
        probes: the pictures that lose pixels, `(N, C, H, W)`.
        references: embeddings of the other pictures, `(N, D)`.
        genuine: whether the pair shows one person, bool `(N,)`.
        maps: importance of every pixel of the probes for the similarity (e+), `(N, H, W)`.
        threshold: best that of `equal_error_rate` on the whole pictures.
        percentages: P, in rising order. The area is only that of the paper where they run from 0 to 100.
        strict, seed: as in `kept_pixels`.
        fill: what a hidden pixel shows; 0 is black for a model of images in [0, 1].
        batch_size: images per call.

    Raises:
        ValueError: shapes that do not match; percentages outside [0, 100] or not rising.
    """
    count = len(probes)
    if probes.ndim != 4 or maps.shape != (count, *probes.shape[2:]) or genuine.shape != (count,):
        raise ValueError(
            f"probes {tuple(probes.shape)}, maps {tuple(maps.shape)} and genuine {tuple(genuine.shape)}, expected "
            "(N, C, H, W), (N, H, W) and (N,)."
        )
    if references.ndim != 2 or len(references) != count:
        raise ValueError(f"references {tuple(references.shape)}, expected one embedding for each of {count} probes.")
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
    """What deletion of the most important pixels leaves, bool `(N, H, W)`; insertion shows exactly the others.

    Args:
        maps: importance of every pixel, `(N, H, W)`.
        percentage: P, in [0, 100].
        strict: False for the paper's rule, which keeps `e <= percentile(e, 100 - P)`: where many values are equal it
            hides fewer pixels than P says. True to hide P % of the pixels of every map, those of equal value in an
            order drawn at random, for every map its own.
        seed: of that order.
    """
    values = maps.detach().flatten(1).double()
    if not strict:
        limit = values.quantile(1 - percentage / 100, dim=1, keepdim=True)
        return (values <= limit).view(maps.shape)
    count = values.shape[1]
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([torch.randperm(count, generator=generator) for _ in values]).to(values.device)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden.scatter_(1, order[:, : round(percentage / 100 * count)], True)
    return ~hidden.view(maps.shape)
