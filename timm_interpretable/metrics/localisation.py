"""Does a map look at the object? Measured against boxes, by energy, pointing and overlap.

The chance level of energy and pointing is the area share of the box; it is also the overlap of the whole image with it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_interpretable.attr import ClassMap, InputContribution
from timm_interpretable.metrics.alignment import gradcam_depth_correlation
from timm_interpretable.metrics.gradcam import grad_cam

__all__ = ["THRESHOLDS", "box_iou", "energy_in_box", "localisation_report", "pointing_game", "unit_range"]

THRESHOLDS = (0.3, 0.5, 0.7)
"""Of `box_iou`, as in the FAME paper."""


def energy_in_box(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive attribution that falls inside the box, `(B,)` in [0, 1].

    The energy-based pointing game of Score-CAM (Wang et al., 2020, section 4.3). 0 for a map without a positive value.

    Args:
        maps: attributions `(B, H, W)`, signed; negative values count as zero.
        masks: bool `(B, H, W)`, true inside the box.

    Raises:
        ValueError: the shapes differ, or the masks are not bool.
    """
    _check(maps, masks)
    positive = maps.detach().double().relu().flatten(1)  # the sum over a large map in half precision would saturate
    total = positive.sum(1)
    inside = (positive * masks.flatten(1)).sum(1)
    share = inside / total.where(total > 0, torch.ones_like(total))
    return share.to(torch.promote_types(maps.dtype, torch.float32))


def pointing_game(maps: Tensor, masks: Tensor, seed: int = 0) -> Tensor:
    """Whether the highest point of the map is inside the box, bool `(B,)` (Zhang et al., 2016).

    Of several equally high points the first counts, in a random order drawn from `seed` and the same for all maps. A
    map without a positive value points nowhere: a miss.

    Args, Raises: as `energy_in_box`.
    """
    _check(maps, masks)
    values = maps.detach().flatten(1)
    order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    peak, index = values[:, order].max(1)
    return masks.flatten(1).gather(1, order[index][:, None])[:, 0] & (peak > 0)


def box_iou(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Intersection over union of `{map >= t}` and the box for every threshold, `(B, len(thresholds))` in [0, 1].

    As in the FAME paper (https://arxiv.org/abs/2605.12017). 0 where neither covers a pixel.

    Args:
        maps: `(B, H, W)` in [0, 1]; see `unit_range` for signed ones.
        masks: bool `(B, H, W)`, true inside the box.

    Raises:
        ValueError: the shapes differ, the masks are not bool, or a map leaves [0, 1].
    """
    _check(maps, masks)
    low, high = maps.min().item(), maps.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"maps reach from {low:.4g} to {high:.4g}, expected 0 to 1; see unit_range.")
    overlaps = []
    for threshold in thresholds:
        above = maps.detach() >= threshold
        both, either = (above & masks).sum((1, 2)), (above | masks).sum((1, 2))
        overlaps.append(both / either.clamp(min=1))
    return torch.stack(overlaps, dim=1)


def unit_range(maps: Tensor) -> Tensor:
    """The positive part of every map, stretched to [0, 1]: what pytorch-grad-cam does to a CAM.

    A map without a positive value, or constant where it is positive everywhere, becomes zero.

    Args:
        maps: `(B, H, W)`, signed.
    """
    positive = maps.detach().to(torch.promote_types(maps.dtype, torch.float32)).relu()
    positive = positive - positive.amin((1, 2), keepdim=True)
    peak = positive.amax((1, 2), keepdim=True)
    return positive / peak.where(peak > 0, 1)


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have the same shape, expected (B, H, W)."
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks have dtype {masks.dtype}, expected torch.bool.")


def localisation_report(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], masks: Tensor) -> dict[str, Any]:
    """Energy and pointing of every map that the model offers for the true class, means over the images.

    Grad-CAM for any timm model; for CoDA-Net also its contributions; for FA-CNN its class maps, and their correlation
    with Grad-CAM block by block.

    Args:
        model: in evaluation mode.
        batches: images `(B, C, H, W)` and classes `(B,)`.
        masks: the boxes of all images in their order, bool `(N, H', W')`. Maps are brought to this size.

    Returns:
        `images`, `chance` (mean area of the boxes), `maps` (per map `energy` and `pointing`), and for FA-CNN
        `gradcam_depth_correlation`, first block to last.
    """
    scores: dict[str, list[Tensor]] = {}
    depths: list[list[float]] = []
    done = 0
    for x, labels in batches:
        inside = masks[done : done + len(x)]
        done += len(x)
        for name, maps in _maps(model, x, labels).items():
            maps = F.interpolate(maps[:, None].float(), masks.shape[1:], mode="bilinear")[:, 0]
            values = torch.stack([energy_in_box(maps, inside), pointing_game(maps, inside).float()], dim=1)
            scores.setdefault(name, []).append(values.cpu())
        if hasattr(model, "class_maps"):
            depths += [gradcam_depth_correlation(model, x, labels)] * len(x)  # one mean per batch, weighted by its size
    means = {name: torch.cat(batch).mean(0).tolist() for name, batch in scores.items()}
    report: dict[str, Any] = {"images": done, "chance": masks.float().mean().item()}
    report["maps"] = {name: {"energy": energy, "pointing": pointing} for name, (energy, pointing) in means.items()}
    if depths:
        report["gradcam_depth_correlation"] = torch.tensor(depths).mean(0).tolist()
    return report


def _maps(model: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The maps of one class, each `(B, H, W)` at the size of the images."""
    cam = F.interpolate(grad_cam(model, x, target)[:, None], x.shape[-2:], mode="bilinear")  # as ClassMap does its own
    maps = {"gradcam": cam[:, 0]}
    if hasattr(model, "dynamic_weights"):
        maps["contributions"] = InputContribution(model).attribute(x, target).sum(1)
    if hasattr(model, "class_maps"):
        attribute = ClassMap(model).attribute
        for layers in ("penultimate", "average", "top_half"):
            maps[layers] = attribute(x, target=target, layers=layers).sum(1)
        maps["contrast"] = attribute(x, target=target, contrast=True).sum(1)
    return maps
