"""Grad-CAM at the last feature map of any timm model, without a hook: the comparison of this package's maps."""

from typing import Any

import torch
from torch import Tensor


def grad_cam(model: Any, images: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017) of the logit at the model's last feature map, `(B, h, w)`.

    Args:
        model: a timm model in evaluation mode.
        images: `(B, C, H, W)`.
        target: one class per image, `(B,)`.

    Raises:
        ValueError: `forward_features` gives no feature map `(B, num_features, h, w)`.
    """
    with torch.no_grad():
        features = model.forward_features(images)
    if features.ndim != 4 or features.shape[1] != model.num_features:
        raise ValueError(f"Grad-CAM needs a feature map (B, {model.num_features}, h, w), got {tuple(features.shape)}.")
    with torch.enable_grad():
        features.requires_grad_()
        score = model.forward_head(features).gather(1, target[:, None]).sum()
        (grad,) = torch.autograd.grad(score, features)
    return (grad.mean((2, 3), keepdim=True) * features.detach()).sum(1).relu()
