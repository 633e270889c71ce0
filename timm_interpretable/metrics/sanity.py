"""Does a map add up to what it explains, and does it depend on what the model has learnt?

Sources: completeness is the axiom of `Axiomatic Attribution for Deep Networks` (Sundararajan, Taly, Yan, ICML 2017) -
https://arxiv.org/abs/1703.01365; randomisation is the cascading test of `Sanity Checks for Saliency Maps` (Adebayo et
al., NeurIPS 2018) - https://arxiv.org/abs/1810.03292.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["completeness", "randomisation", "rank_correlation"]


def completeness(attributions: Tensor, scores: Tensor) -> Tensor:
    """How far an attribution is from adding up to its score, relative to it: `|sum - score| / |score|`, `(B,)`, fp32.

    It is 0 for a complete attribution, infinite for a score of 0 that is not met, and NaN where an attribution or score
    is NaN. The sum is taken in float64 on the CPU, since large values that cancel would lose their digits in fp32.

    Args:
        attributions: `(B, ...)`, signed.
        scores: what they should add up to, `(B,)`: the logit; for a CoDA-Net the logit less its bias; for integrated
            gradients the logit less that of the baseline.

    Raises:
        ValueError: another number of scores than of attributions.
    """
    if scores.ndim != 1 or attributions.ndim < 2 or len(scores) != len(attributions):
        raise ValueError(
            f"attributions {tuple(attributions.shape)}, scores {tuple(scores.shape)}: expected (B, ...), (B,)."
        )
    wanted = _exact(scores)
    missing = (_exact(attributions).flatten(1).sum(1) - wanted).abs()
    return torch.where(missing == 0, 0, missing / wanted.abs()).float().to(attributions.device)


def randomisation(
    model: nn.Module,
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor],
    images: Tensor,
    target: Tensor,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Rank correlation of a map with itself, while the weights become random from the last layer to the first.

    The weights of a layer are put into random order, which keeps their distribution. A faithful map has no correlation
    left at the end; a map that keeps it shows the image rather than the model.

    Args:
        model: it is left as it is, since the weights of a copy are changed. The copy shares what cannot be copied.
        attribute: model, images and target to maps `(B, ...)`, such as
            `lambda model, x, target: ClassMap(model).attribute(x, target)`.
        images: `(B, C, H, W)`.
        target: classes `(B,)`.
        seed: of the order.

    Returns:
        the correlations `(B,)` by the name of the layer whose weights became random last, in that order; see
        `rank_correlation`.

    Raises:
        ValueError: the model has no layer with more than one weight.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = _copied(model)
    layers = {
        name: weights
        for name, module in changed.named_modules()
        if (weights := [weight for weight in module.parameters(recurse=False) if weight.numel() > 1])
    }
    if not layers:
        raise ValueError(f"{type(model).__name__} has no weights to put into random order.")
    before = attribute(model, images, target)
    found = {}
    for name, weights in reversed(layers.items()):
        with torch.no_grad():
            for weight in weights:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view(weight.shape))
        found[name] = rank_correlation(before, attribute(changed, images, target))
    return found


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of maps `(B, ...)`, sample by sample, `(B,)` in [-1, 1], fp32.

    Equal values share the mean of their ranks. The correlation is 0 where either map is constant, and NaN where either
    has a NaN.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"maps {tuple(a.shape)} and {tuple(b.shape)} must have the same shape, expected (B, ...).")
    x, y = (_standard_ranks(_exact(maps).flatten(1)) for maps in (a, b))
    return (x * y).sum(1).clamp(-1, 1).float().to(a.device)


def _standard_ranks(values: Tensor) -> Tensor:
    """Ranks in the rows of `(B, N)`, less their mean and of length 1; 0 where all values are equal, NaN with a NaN."""
    ordered = values.sort(dim=1).values
    ranks = (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double()
    ranks = ranks - ranks.mean(1, keepdim=True)
    length = ranks.norm(dim=1, keepdim=True)
    return (ranks / length.where(length > 0, 1)).masked_fill(values.isnan().any(1, keepdim=True), torch.nan)


def _exact(x: Tensor) -> Tensor:
    """In float64 on the CPU, since not every device has it."""
    return x.detach().cpu().double()


def _copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own; what cannot be copied, such as a lock or a tensor with a history, is shared."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(shared))
            except (RuntimeError, TypeError):
                shared[id(value)] = value
    return copy.deepcopy(model, shared)
