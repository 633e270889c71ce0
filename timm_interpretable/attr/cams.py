"""Grad-CAM and HiResCAM at the last feature map of any timm model, behind Captum's interface and without hooks

Sources: `Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization` (Selvaraju et al., ICCV
2017) - https://arxiv.org/abs/1610.02391; `Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
neural networks` (Draelos, Carin) - https://arxiv.org/abs/2011.08891.

The pass is cut where timm cuts it, between `forward_features` and `forward_head`: only the head is differentiated.
"""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from timm_interpretable.attr.contract import (
    AttributionOutput,
    TargetType,
    as_logits,
    at_least_float32,
    class_indices,
    described,
    evaluation_view,
    explained_model,
    finite,
    gradients,
    like_input,
    single_input,
)

__all__ = ["GradCAM", "HiResCAM", "grad_cam"]


class _LastMapCAM(Attribution):
    def __init__(self, forward_func: nn.Module) -> None:
        explained_model(forward_func, "forward_features", "forward_head")
        super().__init__(forward_func)

    def _attribute(self, inputs: Any, target: TargetType, args: Any, averaged: bool, relu: bool) -> AttributionOutput:
        x, is_tuple = single_input(inputs, args)

        def logit(outputs: Tensor) -> Tensor:
            logits = as_logits(outputs)
            return logits.gather(1, class_indices(target, len(x), logits.shape[1], logits.device)[:, None])[:, 0]

        maps = _cam(self.forward_func, x, logit, averaged, type(self).__name__)
        return like_input(maps.relu() if relu else maps, is_tuple)


class GradCAM(_LastMapCAM):
    """Grad-CAM: the last feature map, each channel weighted by its mean gradient.

    Explains the model in evaluation mode, whichever mode it is in, and of a compiled or (distributed) data parallel
    model the plain module inside.

    Args:
        forward_func: a timm model with `forward_head` and with `forward_features` that give a map
            `(B, num_features, h, w)`; `TypeError` without these methods.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        relu_attributions: bool = True,
    ) -> AttributionOutput:
        """`relu(sum_k mean(dy_c / dA_k) A_k)`, `(B, 1, h, w)`, in the resolution of the feature map A.

        `LayerAttribution.interpolate` of Captum brings it to the size of the image.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: must be None.
            relu_attributions: keep the positive part, as in the paper; False for the signed map, as of Captum's
                `LayerGradCam`.

        Returns:
            contiguous and detached, fp32 (fp64 for an fp64 model).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target outside the model's classes.
            ValueError: several or empty inputs, additional arguments; a model without such a feature map or without
                logits `(B, K)`; NaN or infinity in the map.
        """
        return self._attribute(inputs, target, additional_forward_args, True, relu_attributions)


class HiResCAM(_LastMapCAM):
    """HiResCAM: the last feature map times its gradient, position by position.

    Args, model: as of `GradCAM`.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        relu_attributions: bool = False,
    ) -> AttributionOutput:
        """`sum_k dy_c / dA_k A_k`, `(B, 1, h, w)`, in the resolution of the feature map A, signed.

        Where the head is pooling and a linear layer, it adds up to the logit less its bias.

        Args:
            relu_attributions: keep the positive part only, as pytorch-grad-cam does.

        Other arguments, result and errors as in `GradCAM.attribute`.
        """
        return self._attribute(inputs, target, additional_forward_args, False, relu_attributions)


def grad_cam(model: Any, images: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM, `(B, 1, h, w)`, of any score instead of a logit, such as a cosine of embeddings.

    Args:
        model: as of `GradCAM`, with or without a classifier.
        images: `(B, C, H, W)`.
        score: outputs of the model to one number per image, `(B,)`: a function, or a loss of `attr.losses`.

    Raises:
        TypeError: another model.
        ValueError: as `GradCAM.attribute`; a score that does not give `(B,)`.
    """
    return _cam(model, single_input(images)[0], score, True, "Grad-CAM").relu()


def _cam(model: Any, x: Tensor, score: Callable[[Tensor], Tensor], averaged: bool, method: str) -> Tensor:
    net: Any = evaluation_view(explained_model(model, "forward_features", "forward_head"))
    with gradients():
        with torch.no_grad():
            found = net.forward_features(x)
        channels_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")  # timm's Swin and its kind
        _check_features(found, net.num_features, channels_last)
        leaf = found.clone().requires_grad_()
        values = score(net.forward_head(leaf.clone()))  # a head may work in place, which no leaf allows
        if values.shape != (len(x),):
            raise ValueError(f"The score gives {described(values)}, expected one number per image, ({len(x)},).")
        (grad,) = torch.autograd.grad(values.sum(), leaf)
    features, grad = at_least_float32(found), at_least_float32(grad)
    if channels_last:
        features, grad = features.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    weights = grad.mean((2, 3), keepdim=True) if averaged else grad
    return finite((weights * features).sum(1, keepdim=True).contiguous(), method, x, net)


def _check_features(features: Any, channels: int, channels_last: bool) -> None:
    axis = 3 if channels_last else 1
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[axis] != channels:
        raise ValueError(
            f"CAMs need a feature map (B, {channels}, h, w) from forward_features, got {described(features)}: for a "
            "transformer see `timm_interpretable.cam.target_layers`."
        )
