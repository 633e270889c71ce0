"""The ordinary networks that this package's models are compared with: timm's, trained on the same data as long

They have no map of their own; what explains them is Grad-CAM and the like.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

from timm_interpretable.models.weights import CIFAR10_CLASSES, HUB_ORG, IMAGENETTE_CLASSES, local_overlay

__all__: list[str] = []


def _cfg(name: str, classes: tuple[str, ...], size: int) -> dict[str, Any]:
    return dict(
        hf_hub_id=f"{HUB_ORG}/{name}",
        num_classes=len(classes),
        label_names=classes,
        input_size=(3, size, size),
        pool_size=(max(1, size // 32),) * 2,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="squash",
        first_conv="conv1",
        classifier="fc",
        license="apache-2.0",
    )


default_cfgs = generate_default_cfgs(
    {
        name: _cfg(name, classes, size)
        for name, classes, size in (
            ("baseline_resnet18.imagenette", IMAGENETTE_CLASSES, 192),
            ("baseline_resnet18.cifar10", CIFAR10_CLASSES, 32),
        )
    }
)


@register_model
def baseline_resnet18(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """timm's `resnet18`, under a name of its own so that `pretrained=True` gives the weights trained here."""
    variant = "baseline_resnet18"
    overlay = local_overlay(variant, pretrained, kwargs)
    args: dict[str, Any] = dict(block=BasicBlock, layers=(2, 2, 2, 2))
    return build_model_with_cfg(ResNet, variant, pretrained, pretrained_cfg_overlay=overlay, **{**args, **kwargs})
