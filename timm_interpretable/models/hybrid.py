"""Exact class maps for pretrained networks that end in global average pooling and one linear layer

Such a network computes `y_c = w_c . mean(F) + b_c` from its last feature maps F. Averaging is linear, so this is
`mean(M_c)` with the class map `M_c = w_c . F + b_c`: the linear layer as a 1x1 convolution, before the pooling. The
logits stay what they were, and every logit is the mean of a map that the same forward pass gives.

The map is the CAM of `Learning Deep Features for Discriminative Localization` (Bolei Zhou et al.) -
https://arxiv.org/abs/1512.04150, and it is Grad-CAM of the logit at F before its ReLU, up to a positive factor. It is
aligned with the classes from F on, unlike the maps of an FA-CNN, which are so at every depth.
"""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from timm_interpretable.models.interface import plain_model
from timm_interpretable.models.sharing import shared_copy
from timm_interpretable.models.weights import HUB_ORG, IMAGENET_LABELS, local_overlay

__all__ = ["ClassMapModel", "LinearMapHead", "class_map_model"]


class LinearMapHead(nn.Module):
    """Global average pooling, dropout and a linear layer, which also gives its class maps.

    Maps are computed in at least fp32.
    """

    def __init__(self, fc: nn.Module, num_features: int, pool_type: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features, self.pool_type = num_features, pool_type
        self.drop = nn.Dropout(drop_rate)
        self.fc = fc

    temperature = 1.0
    """The logits are the spatial mean of the maps as they are."""

    def reset(self, num_classes: int, pool_type: str | None = None, like: Tensor | None = None) -> None:
        """A new linear layer for that number of classes (0: none); pooling 'avg', or '' for unpooled maps.

        Args:
            like: gives the new layer its device and type.
        """
        if pool_type not in (None, "avg", ""):
            raise ValueError(f"global_pool={pool_type!r} is not supported, expected 'avg' or ''.")
        dd: dict[str, Any] = {} if like is None else dict(device=like.device, dtype=like.dtype)
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.fc.train(self.training)
        self.pool_type = self.pool_type if pool_type is None else pool_type

    def class_maps(self, x: Tensor) -> Tensor:
        """Features `(B, C, h, w)` to the class maps `(B, K, h, w)`."""
        if not isinstance(self.fc, nn.Linear):
            raise ValueError("num_classes=0 has no class maps; call reset_classifier(num_classes) first.")
        dtype = torch.promote_types(x.dtype, torch.float32)
        bias = None if self.fc.bias is None else self.fc.bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.to(dtype), self.fc.weight.to(dtype)[:, :, None, None], bias)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pool_type == "avg":
            x = self.drop(x.mean((2, 3)))
            return x if pre_logits else self.fc(x)
        x = self.drop(x)
        return x if pre_logits else self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ClassMapModel(nn.Module):
    """A network of global average pooling and one linear layer, with its class maps; see `class_map_model`.

    Args:
        backbone: a timm model that gives feature maps `(B, C, h, w)` by `forward_features`; its own head is not used.
        head: turns them into logits.
        num_classes: of the head.
    """

    explanation = "class_map"
    output = "softmax"
    logit_bias = 0.0
    """The bias of the linear layer is part of the maps."""
    maps_through_depth = False

    def __init__(self, backbone: Any, head: LinearMapHead, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = head.num_features
        self.feature_info = [
            {**one, "module": f"backbone.{one['module']}"} for one in getattr(backbone, "feature_info", ())
        ]

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = self.backbone.group_matcher(coarse)
        return {name: _inside(patterns) for name, patterns in found.items()}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        own = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in own()}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer, unlike the heads of FA-CNNs; with 0 classes none."""
        self.head.reset(num_classes, global_pool, like=next(self.backbone.parameters()))
        self.num_classes = num_classes

    @torch.jit.ignore
    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the backbone's."""
        return self.backbone.forward_intermediates(x, *args, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As the backbone's. The head fits no shallower backbone, so it goes as well."""
        take: list[int] = self.backbone.prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `(B, in_chans, H, W)` to the last feature maps `(B, C, h, w)`."""
        return self.backbone.forward_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits `(B, K)`; to pooled channels `(B, C)` with `pre_logits` or without classes."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def class_maps(self, x: Tensor) -> list[Tensor]:
        """The class maps `M_c = w_c . F + b_c`, `(B, K, h, w)`, as a list of one; the logits are their spatial means.

        Signed, in at least fp32.
        """
        return [self.head.class_maps(self.forward_features(x))]

    def map_positions(self) -> dict[str, int]:
        """By the name of a module whose output has a class map, the position of that map in `class_maps`."""
        return {"backbone": 0}


def class_map_model(model: nn.Module) -> ClassMapModel:
    """The same classifier, with class maps that add up to its logits.

    The logits are the same up to rounding. `model` stays as it is. Both share the memory of their weights, so training
    one changes the other; convert a `copy.deepcopy` where that must not be. Moving one to another device or type leaves
    the other where it is.

    Args:
        model: a timm classifier whose last feature maps `(B, C, h, w)` are averaged over all positions and go through
            one linear layer and nothing else. Dropout between them is kept.

    Raises:
        ValueError: it is another kind of model; the message names the layer that stands in the way.
    """
    plain: Any = plain_model(model)
    name = type(plain).__name__
    fc = _linear(plain, name)
    _check_head(plain, fc, name)
    backbone: Any = shared_copy(plain)
    backbone.reset_classifier(0)
    classes, channels = fc.weight.shape[:2]
    linear = nn.Linear(channels, classes, fc.bias is not None, device="meta")
    linear.weight = nn.Parameter(fc.weight.detach().flatten(1), fc.weight.requires_grad)
    linear.bias = fc.bias
    head = LinearMapHead(linear, channels, drop_rate=float(getattr(plain, "drop_rate", 0.0) or 0.0))
    converted = ClassMapModel(backbone, head, classes)
    _own_parameters(converted)
    converted.pretrained_cfg = dict(getattr(plain, "pretrained_cfg", None) or {})  # type: ignore[assignment]
    return converted.train(plain.training)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: ClassMapModel) -> dict[str, Tensor]:
    """Takes the state dict of the plain timm network too: `classifier.weight` is `head.fc.weight` here."""
    if any(name.startswith("backbone.") for name in state_dict):
        return state_dict
    classifier = str((model.backbone.pretrained_cfg or {}).get("classifier"))
    return {
        name.replace(classifier, "head.fc", 1) if name.startswith(f"{classifier}.") else f"backbone.{name}": value
        for name, value in state_dict.items()
    }


default_cfgs = generate_default_cfgs(
    {
        # the weights are those of timm's tf_efficientnet_lite0.in1k; the whole picture is squashed to the input size
        "facnn_hybrid_efficientnet_lite0.in1k": dict(
            hf_hub_id=f"{HUB_ORG}/facnn_hybrid_efficientnet_lite0.in1k",
            num_classes=len(IMAGENET_LABELS["label_names"]),
            **IMAGENET_LABELS,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            crop_pct=1.0,
            crop_mode="squash",
            first_conv="backbone.conv_stem",
            classifier="head.fc",
            license="apache-2.0",
            origin_url="https://huggingface.co/timm/tf_efficientnet_lite0.in1k",
        ),
    }
)


@register_model
def facnn_hybrid_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> ClassMapModel:
    """timm's `tf_efficientnet_lite0` with class maps: a small network of ImageNet's thousand classes."""
    variant = "facnn_hybrid_efficientnet_lite0"
    overlay = local_overlay(variant, pretrained, kwargs)
    model: ClassMapModel = build_model_with_cfg(
        _hybrid_of("tf_efficientnet_lite0"), variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
        pretrained_cfg_overlay=overlay, feature_cfg=dict(feature_cls="getter"), **kwargs,
    )  # fmt: skip
    return model


def _hybrid_of(backbone: str) -> Callable[..., ClassMapModel]:
    def build(
        num_classes: int = 1000, global_pool: str = "avg", drop_rate: float = 0.0, **kwargs: Any
    ) -> ClassMapModel:
        network = timm.create_model(backbone, num_classes=0, **kwargs)
        head = LinearMapHead(nn.Identity(), int(network.num_features), drop_rate=drop_rate)
        model = ClassMapModel(network, head, 0)
        model.reset_classifier(num_classes, global_pool)
        return model

    return build


def _own_parameters(model: nn.Module) -> None:
    """Parameters of its own, in the same memory: `.to()` and `.double()` change a parameter object in place."""
    own: dict[int, nn.Parameter] = {}  # shared ones stay shared
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = nn.Parameter(parameter.detach(), parameter.requires_grad)
                module._parameters[name] = own.setdefault(id(parameter), fresh)


# --- what can be converted

_LINEAR_KINDS = {"AdaptiveAvgPool2d", "FastAdaptiveAvgPool", "Flatten", "Identity", "Dropout"}


def _linear(model: Any, name: str) -> Any:
    """The linear layer that makes the logits."""
    fc = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(fc, nn.Linear) or (isinstance(fc, nn.Conv2d) and fc.kernel_size == (1, 1) and fc.groups == 1):
        return fc
    if fc is None:
        raise ValueError(f"{name} has no exact class maps: it has no get_classifier(), expected a timm classifier.")
    where = next((f"{path} is " for path, module in model.named_modules() if module is fc), "")
    raise ValueError(f"{name} has no exact class maps: its classifier {where}a {type(fc).__name__}, expected a Linear.")


def _check_head(model: Any, fc: Any, name: str) -> None:
    """Whether `forward_head` averages and goes through the linear layer: tried on made-up features.

    Raises:
        ValueError: it does something else. Names the first layer that is neither averaging, dropout nor linear.
    """
    weight = fc.weight.detach().flatten(1)
    if weight.is_meta:
        raise ValueError(f"{name} is on the meta device, expected a model with weights.")
    channels = int(getattr(model, "num_features", weight.shape[1]))
    features = torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(0)).to(weight)
    found, called = _traced_head(model, features)
    if channels == weight.shape[1] and found is not None:
        expected = F.linear(features.mean((2, 3)), weight, None if fc.bias is None else fc.bias.detach())
        tolerance = 100 * torch.finfo(weight.dtype).eps * float(expected.abs().max())
        if found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance:
            return
    culprit = next((f"{p} ({type(m).__name__})" for p, m in called if type(m).__name__ not in _LINEAR_KINDS), None)
    reason = f"{culprit} stands between the features and the classifier" if culprit else "its head does something else"
    raise ValueError(
        f"{name} has no exact class maps: {reason}, expected feature maps (B, C, h, w), their global average and one "
        "linear layer."
    )


def _traced_head(model: Any, features: Tensor) -> tuple[Tensor | None, list[tuple[str, nn.Module]]]:
    """What `forward_head` gives, None where it fails, and the modules before the classifier that it calls, by name."""
    view: Any = shared_copy(model).eval()
    called: list[tuple[str, nn.Module]] = []
    classifier = view.get_classifier()
    for path, module in view.named_modules():
        if module is not classifier and not list(module.children()):
            module.register_forward_pre_hook(lambda m, args, path=path: called.append((path, m)))
    with torch.no_grad():
        try:
            found = view.forward_head(features)
        except Exception:  # a head that takes no feature maps raises anything
            found = None
    return found if isinstance(found, Tensor) else None, called


def _inside(patterns: Any) -> Any:
    """Patterns of `group_matcher` for the names of the backbone, for those names here."""
    if isinstance(patterns, str):
        return patterns.replace("^", r"^backbone\.", 1)
    if isinstance(patterns, tuple):  # (pattern, order)
        return (_inside(patterns[0]), *patterns[1:])
    return [_inside(one) for one in patterns]
