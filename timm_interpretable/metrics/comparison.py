"""The maps of one model by several methods, and how they do in the CoDA-Net paper's two tests.

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Böhle, Fritz, Schiele, CVPR 2021),
section 4.2 - https://arxiv.org/abs/2104.00032.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_interpretable.attr import ClassMap, InputContribution
from timm_interpretable.metrics.gradcam import grad_cam
from timm_interpretable.metrics.grid import MapsOfClasses, confident_grids, grid_localisation, maps_by_class
from timm_interpretable.metrics.removal import QUARTER, pixel_removal

__all__ = ["COSTLY", "comparison_methods", "grid_report", "occlusion", "removal_report"]

COSTLY = ("integrated gradients", "occlusion 5", "occlusion 9")
"""Methods that need tens to thousands of passes."""


def comparison_methods(model: Any, n_steps: int = 20, stride: int = 4) -> dict[str, MapsOfClasses]:
    """Attributions of an FA-CNN, a CoDA-Net or any timm CNN, its own first.

    Gradient methods see what the network sees first: for a CoDA-Net the encoding `[x, 1 - x]`.

    Args:
        model: in evaluation mode.
        n_steps: of integrated gradients, from a black image.
        stride: of occlusion, in pixels.
    """
    methods: dict[str, MapsOfClasses] = {}
    if hasattr(model, "dynamic_weights"):
        methods["contributions"] = lambda x, classes: _contributions(model, x, classes)
    if hasattr(model, "class_maps"):
        methods["class map"] = maps_by_class(lambda x, target: ClassMap(model).attribute(x, target=target))
        methods["class map, contrast"] = maps_by_class(
            lambda x, target: ClassMap(model).attribute(x, target=target, contrast=True)
        )
    methods["Grad-CAM"] = maps_by_class(
        lambda x, target: F.interpolate(grad_cam(model, x, target)[:, None], x.shape[-2:], mode="bilinear")
    )
    methods["input x gradient"] = lambda x, classes: _times_gradient(model, x, classes, None)
    steps = [(i + 0.5) / n_steps for i in range(n_steps)]
    methods["integrated gradients"] = lambda x, classes: _times_gradient(model, x, classes, steps)
    for size in (5, 9):
        methods[f"occlusion {size}"] = lambda x, classes, size=size: occlusion(model, x, classes, size, stride)  # type: ignore[misc]
    return methods


def _contributions(model: Any, images: Tensor, classes: Tensor) -> Tensor:
    if classes.shape[1] == 1:  # a tenth of the work for one of ten classes
        return InputContribution(model).attribute(images, classes[:, 0]).sum(1, keepdim=True)
    every = InputContribution(model).contributions(images)
    assert isinstance(every, Tensor)
    maps = every.sum(2)  # (B, K, H, W)
    return maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def _times_gradient(model: Any, images: Tensor, classes: Tensor, path: list[float] | None) -> Tensor:
    """The input times its gradient; on a path from black, their difference times the mean gradient (midpoint rule)."""
    encode = getattr(model, "encoding", None)
    with torch.no_grad():
        x = encode(images) if encode else images
        # a black image is the baseline, which for [x, 1 - x] is not zero
        black = encode(torch.zeros_like(images)) if encode else torch.zeros_like(images)
    difference, scales = (x, [1.0]) if path is None else (x - black, path)
    total = torch.zeros(*classes.shape, *x.shape[2:], device=x.device)
    for scale in scales:
        with torch.enable_grad():
            point = (x - (1 - scale) * difference).requires_grad_()
            logits = model.forward_head(model.stages(point)) if encode else model(point)
            chosen = logits.gather(1, classes).sum(0)
        for i, score in enumerate(chosen.unbind()):
            (grad,) = torch.autograd.grad(score, point, retain_graph=i + 1 < len(chosen))
            total[:, i] += (grad * difference).sum(1).float()
    return total / len(scales)


def occlusion(
    model: Callable[[Tensor], Tensor], images: Tensor, classes: Tensor, size: int, stride: int = 1,
    fill: float | Tensor = 0.0,
) -> Tensor:  # fmt: skip
    """What the logit loses when a square is covered, spread over the square (Zeiler and Fergus, 2014), `(B, n, H, W)`.

    As Captum's `Occlusion`, for all classes from the same passes. A pixel has the mean of the squares that cover it.

    Args:
        model: images to logits `(B, K)`.
        images: `(B, C, H, W)`.
        classes: `(B, n)`.
        size: side of the square in pixels.
        stride: between squares.
        fill: the value that covers, or one per channel, `(C, 1, 1)`.

    Raises:
        ValueError: a square that is larger than the images, or steps that would leave pixels uncovered.
    """
    height, width = images.shape[2:]
    if not 1 <= stride <= size:
        raise ValueError(f"stride={stride} is out of range, expected 1 to {size}, the side of the square.")
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size={size} is out of range, expected 1 to {min(height, width)}, the side of the images.")
    with torch.no_grad():
        whole = model(images).gather(1, classes).float()
        total = torch.zeros(*classes.shape, height, width, device=images.device)
        count = torch.zeros(height, width, device=images.device)
        for top in _starts(height, size, stride):
            for left in _starts(width, size, stride):
                square = (..., slice(top, top + size), slice(left, left + size))
                covered = images.clone()
                covered[square] = fill
                lost = whole - model(covered).gather(1, classes).float()
                total[square] += lost[:, :, None, None]
                count[square] += 1
    return total / count


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Where squares begin; the last one ends at the border."""
    return [*range(0, length - size, stride), length - size]


def grid_report(
    methods: Mapping[str, MapsOfClasses], images: Tensor, labels: Tensor, probs: Tensor,
    counts: Mapping[str, int], side: int = 3, batch_size: int = 4, seed: int = 0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Grid localisation of every method on the most confident, correctly classified images, as in the paper.

    Args:
        methods: from `comparison_methods`.
        images: `(N, C, h, w)`.
        labels: their classes `(N,)`.
        probs: the model's probabilities `(N, K)`.
        counts: grids per method.
        side: images per row and column of a grid.
        batch_size: grids per call.
        seed: of the choice of the grids.

    Returns:
        per method `grids`, and over all cells `mean`, `median` and the standard error of the mean over grids, `sem`.
    """
    grids = confident_grids(labels, probs, side, max(counts[name] for name in methods), seed)
    report = {}
    for name, maps in methods.items():
        chosen = grids[: counts[name]].to(images.device)
        shares = grid_localisation(maps, images[chosen], labels[chosen], batch_size)
        sem = shares.mean(1).std() / len(shares) ** 0.5
        report[name] = dict(grids=len(shares), mean=shares.mean().item(), median=shares.median().item(), sem=sem.item())
    return report


def removal_report(
    methods: Mapping[str, MapsOfClasses], predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor,
    batch_size: int = 50,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Mean probability of the true class while up to a quarter of the pixels go, the least important first.

    Args:
        methods: from `comparison_methods`.
        predict: images to probabilities `(B, K)`.
        images: `(N, C, H, W)`.
        labels: their classes `(N,)`.
        batch_size: images per call.

    Returns:
        per method `images`, `area` (the mean over the curve), and the `curve` over `QUARTER`.
    """
    report = {}
    for name, maps in methods.items():
        curves = [
            pixel_removal(predict, x, maps(x, target[:, None])[:, 0], target, QUARTER)
            for x, target in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
        curve = torch.cat(curves).mean(0)
        report[name] = dict(images=len(images), area=curve.mean().item(), curve=curve.tolist())
    return report
