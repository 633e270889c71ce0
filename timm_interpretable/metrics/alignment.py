"""How far up the trunk of an FA-CNN the class map and Grad-CAM agree."""

from typing import Any

import torch
from captum._utils.typing import TargetType
from torch import Tensor, nn

from timm_interpretable.attr.contract import class_indices, evaluation_view, explained_model


def gradcam_depth_correlation(model: nn.Module, images: Tensor, targets: TargetType) -> list[float]:
    """Correlation of Grad-CAM with the class map `M_c^l`, taken at the same block, for every block from first to last.

    Grad-CAM (Selvaraju et al., 2017) of the raw logit at block l is `ReLU(sum_k mean(dy_c / dA_k^l) A_k^l)`; the class
    map goes through the same ReLU. The value is Pearson's correlation over the pixels of one image, averaged over the
    images; an image where either map is constant counts as 0. At the last block the two maps are proportional: 1.

    Args:
        model: a model with `class_maps`; it is measured in evaluation mode and left as it is.
        images: `(B, C, H, W)`.
        targets: classes, in any of Captum's forms.
    """
    net = evaluation_view(explained_model(model, "class_maps"))
    classes = class_indices(targets, len(images), net.num_classes, images.device)
    with torch.enable_grad():
        trunks = _trunk_after_each_block(net, images)
        score = net.forward_head(trunks[-1]).gather(1, classes[:, None]).sum()
        grads = torch.autograd.grad(score, trunks)
    correlations = []
    for trunk, grad in zip(trunks, grads, strict=True):
        cam = (grad.mean((2, 3), keepdim=True) * trunk).sum(1)
        class_map = net.head.class_maps(trunk)[torch.arange(len(images), device=images.device), classes]
        correlations.append(pearson(cam.detach().relu(), class_map.detach().relu()).mean().item())
    return correlations


def _trunk_after_each_block(model: Any, images: Tensor) -> list[Tensor]:
    x = model.stem(images).detach().requires_grad_()  # a graph over the trunk, also where the parameters are frozen
    trunks = []
    for stage in model.stages:
        x = stage.pool(x)
        for block in stage.blocks:
            x = block(x)
            trunks.append(x)
    return trunks


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Per sample, `(B,)`; 0 where either is constant."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / scale.where(scale > 0, torch.ones_like(scale))
