"""Does a map add up to what it explains, and does it depend on what the model has learnt?

Sources: completeness is the axiom of `Axiomatic Attribution for Deep Networks` (Sundararajan, Taly, Yan, ICML 2017) -
https://arxiv.org/abs/1703.01365; randomisation is the cascading test of `Sanity Checks for Saliency Maps` (Adebayo et
al., NeurIPS 2018) - https://arxiv.org/abs/1810.03292.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from timm_interpretable.attr.rise import standardised

__all__ = ["completeness", "randomisation", "rank_correlation"]


def completeness(attributions: Tensor, scores: Tensor) -> Tensor:
    """How far an attribution is from adding up to its score, relative to it: `|sum - score| / |score|`, `(B,)`.

    0 for complete attributions; infinite for a score of 0 that is not met.

    Args:
        attributions: `(B, ...)`, signed.
        scores: what they should add up to, `(B,)`: the logit, that of a CoDA-Net less its bias, for integrated
            gradients less the logit of the baseline.

    Raises:
        ValueError: another number of scores than of attributions.
    """
    if scores.ndim != 1 or attributions.ndim < 2 or len(scores) != len(attributions):
        raise ValueError(
            f"attributions {tuple(attributions.shape)}, scores {tuple(scores.shape)}: expected (B, ...), (B,)."
        )
    missing = (attributions.detach().double().flatten(1).sum(1) - scores.detach()).abs()
    return torch.where(missing == 0, 0, missing / scores.detach().double().abs()).float()


def randomisation(
    model: nn.Module,
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor],
    images: Tensor,
    target: Tensor,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Rank correlation of the map with itself, while the weights become random from the last layer to the first.

    A layer's weights are put into random order, which keeps their distribution. A faithful map has lost itself by the
    end; one that stays shows the image rather than the model.

    Args:
        model: it is left as it is: the weights of a copy are changed.
        attribute: model, images and target to maps `(B, ...)`, such as
            `lambda model, x, target: ClassMap(model).attribute(x, target)`.
        images: `(B, C, H, W)`.
        target: classes `(B,)`.
        seed: of the order.

    Returns:
        by the name of the layer whose weights became random last, `(B,)`, in that order.

    Raises:
        ValueError: the model has no layer with more than one weight.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
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
    """Spearman's correlation of maps `(B, ...)`, sample by sample, `(B,)`; 0 where either is constant.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"maps {tuple(a.shape)} and {tuple(b.shape)} must have the same shape.")
    x, y = (standardised(maps.detach().float().flatten(1), ranked=True) for maps in (a, b))
    return (x * y).sum(1)
