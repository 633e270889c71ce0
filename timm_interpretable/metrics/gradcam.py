"""CAMs at the last feature map of any timm model, without a hook: the comparison of this package's maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def grad_cam(model: Any, images: Tensor, target: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017) of the logit at the model's last feature map, `(B, h, w)`.

    Args:
        model: a timm model in evaluation mode.
        images: `(B, C, H, W)`.
        target: one class per image, `(B,)`; or what is explained instead of a logit, outputs to `(B,)`.

    Raises:
        ValueError: `forward_features` gives no feature map `(B, num_features, h, w)`.
    """
    features, grad = _features_and_gradient(model, images, target)
    return (grad.mean((2, 3), keepdim=True) * features).sum(1).relu()


def hires_cam(model: Any, images: Tensor, target: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """HiResCAM (Draelos and Carin, 2020, https://arxiv.org/abs/2011.08891): gradients are not averaged, `(B, h, w)`.

    Signed; pytorch-grad-cam keeps the positive part.

    Args, Raises: as `grad_cam`.
    """
    features, grad = _features_and_gradient(model, images, target)
    return (grad * features).sum(1)


def _features_and_gradient(
    model: Any, images: Tensor, target: Tensor | Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = model.forward_features(images)
    if features.ndim != 4 or features.shape[1] != model.num_features:
        raise ValueError(f"CAMs need a feature map (B, {model.num_features}, h, w), got {tuple(features.shape)}.")
    with torch.enable_grad():
        features.requires_grad_()
        outputs = model.forward_head(features)
        score = outputs.gather(1, target[:, None]) if isinstance(target, Tensor) else target(outputs)
        (grad,) = torch.autograd.grad(score.sum(), features)
    return features.detach(), grad
