"""A small face embedding network: timm's ResNet without a classifier, for grey pictures

Its pooled features are the embedding; two pictures are compared by the cosine of theirs. It is here so that the
attributions of face verification have something to explain, not to identify people.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from timm_interpretable.models.weights import HUB_ORG, local_overlay

__all__ = ["VERIFICATION_THRESHOLDS", "FaceResNet"]

VERIFICATION_THRESHOLDS: dict[str, float] = {"face_resnet10.orl": 0.4749}
"""Cosine from which on two pictures count as one person: where both errors were equal in `evaluate`, by model."""

default_cfgs = generate_default_cfgs(
    {
        "face_resnet10.orl": dict(
            hf_hub_id=f"{HUB_ORG}/face_resnet10.orl",
            num_classes=0,
            input_size=(1, 112, 92),
            pool_size=(7, 6),
            mean=(0.0,),
            std=(1.0,),
            interpolation="bicubic",
            crop_pct=1.0,
            crop_mode="center",
            first_conv="conv1.0",
            classifier="fc",
            license="apache-2.0",
        )
    }
)


class FaceResNet(ResNet):
    """A ResNet whose last block ends without a ReLU: of features that are never negative all cosines are positive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layer4[-1].act2 = nn.Identity()


@register_model
def face_resnet10(pretrained: bool = False, **kwargs: Any) -> FaceResNet:
    """ResNet-10-T, narrower and for one channel, with a last map at a sixteenth of the size; 128 features."""
    variant = "face_resnet10"
    overlay = local_overlay(variant, pretrained, kwargs)
    args: dict[str, Any] = dict(
        block=BasicBlock, layers=(1, 1, 1, 1), channels=(24, 48, 96, 128), stem_width=8, stem_type="deep_tiered",
        avg_down=True, output_stride=16, num_classes=0, in_chans=1,
    )  # fmt: skip
    return build_model_with_cfg(FaceResNet, variant, pretrained, pretrained_cfg_overlay=overlay, **{**args, **kwargs})
