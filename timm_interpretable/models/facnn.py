"""FA-CNN: a CNN whose feature maps are aligned with its classes from the pixels to the logits

A reconstruction from the abstract of `End-to-end Feature Alignment: A Simple CNN with Intrinsic Class Attribution`
(Parniyan Farvardin, David Chapman) - https://arxiv.org/abs/2603.25798. No code or weights of its authors were
available; widths, strides and the lift are this project's.

Three layers keep the order of the channels, so that trunk channel k means the same thing at every depth:

* `Lift`: pixels to trunk channels by `pixel_unshuffle` and repetition, without parameters,
* `DampenedSkip`: `A <- (1 - alpha) A + alpha F(A)`, with ordinary convolutions inside `F` only,
* `ClassMapHead`: class c owns a contiguous group of channels; its map `M_c` is their mean, its logit `tau * mean(M_c)`.

There is no linear layer, so the penultimate class map is, up to a positive factor, the Grad-CAM of its logit.
"""

import math
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, DropPath, calculate_drop_path_rates
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from timm_interpretable.models.dtypes import at_least_float32
from timm_interpretable.models.weights import CIFAR10_CLASSES, HUB_ORG, IMAGENETTE_CLASSES, local_overlay

__all__ = ["ClassMapHead", "DampenedBlock", "DampenedSkip", "FeatureAlignedCNN", "Lift"]


_Device = torch.device | str | None
_Dtype = torch.dtype | None


def _lift(x: Tensor, width: int, in_chans: int, stride: int, reduction: int) -> Tensor:
    h, w = x.shape[-2], x.shape[-1]
    if h % reduction != 0 or w % reduction != 0:
        nearest = [max(1, (size + reduction // 2) // reduction) * reduction for size in (h, w)]
        raise ValueError(
            f"Input size {h}x{w} does not fit: height and width must be multiples of {reduction} "
            f"(the nearest size that fits is {nearest[0]}x{nearest[1]})."
        )
    if x.shape[1] != in_chans:
        raise ValueError(f"Input has {x.shape[1]} channels, expected in_chans={in_chans}.")
    x = F.pixel_unshuffle(x, stride)
    copies = (width + x.shape[1] - 1) // x.shape[1]
    x = x.repeat(1, copies, 1, 1)[:, :width]
    return x.contiguous(memory_format=torch.channels_last)


# Both branch on the shape or the type of their input, which a symbolic trace does not know: it keeps them as calls.
torch.fx.wrap("at_least_float32")
torch.fx.wrap("_lift")


class Lift(nn.Module):
    """Pixels to trunk channels: `pixel_unshuffle`, then the channels repeated cyclically to the trunk width.

    Channel k of the result is one colour of one sub-pixel. Where `width` is a multiple of `in_chans * stride**2`, the
    mean over the channels is the average-pooled mean colour of the image, exactly.

    Shapes: `(B, in_chans, H, W)` to `(B, width, H / stride, W / stride)`. H and W must be multiples of `reduction`, the
    reduction of the whole trunk, else `ValueError`.
    """

    def __init__(self, width: int, in_chans: int = 3, stride: int = 8, reduction: int = 8) -> None:
        super().__init__()
        if in_chans * stride**2 > width:
            raise ValueError(
                f"in_chans={in_chans} with stem_stride={stride} lifts to {in_chans * stride**2} channels, more than "
                f"trunk_width={width}; expected a wider trunk or a smaller stem stride."
            )
        self.width = width
        self.in_chans = in_chans
        self.stride = stride
        self.reduction = reduction

    def forward(self, x: Tensor) -> Tensor:
        return _lift(x, self.width, self.in_chans, self.stride, self.reduction)

    def extra_repr(self) -> str:
        return f"width={self.width}, in_chans={self.in_chans}, stride={self.stride}, reduction={self.reduction}"


class DampenedSkip(nn.Module):
    """Blend of the trunk `a` and the branch output `f`, both `(B, C, H, W)`; nothing follows the sum.

    mode: `convex` `(1 - alpha) a + alpha f`, `additive` `a + alpha f`, or `literal` `alpha a + f`.
    learnable: make alpha a parameter, kept in (0, 1) by a sigmoid.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        mode: str = "convex",
        learnable: bool = False,
        device: _Device = None,
        dtype: _Dtype = None,
    ) -> None:
        super().__init__()
        if mode not in ("convex", "additive", "literal"):
            raise ValueError(f"skip={mode!r} is unknown, expected 'convex', 'additive' or 'literal'.")
        if not 0 < alpha <= 1 or (learnable and alpha == 1):
            raise ValueError(f"alpha={alpha} is out of range, expected 0 < alpha <= 1 (below 1 when learnable).")
        self.alpha = alpha
        self.mode = mode
        logit = torch.tensor(math.log(alpha / (1 - alpha)), device=device, dtype=dtype) if learnable else None
        self.alpha_logit = nn.Parameter(logit) if logit is not None else None

    def forward(self, a: Tensor, f: Tensor) -> Tensor:
        f = f.to(a.dtype)  # the trunk keeps its own precision, whatever autocast gave the branch
        if self.alpha_logit is None:
            if self.mode == "convex":
                return torch.lerp(a, f, self.alpha)
            if self.mode == "additive":
                return torch.add(a, f, alpha=self.alpha)
            return torch.add(f, a, alpha=self.alpha)
        alpha = self.alpha_logit.sigmoid().to(a.dtype)
        if self.mode == "convex":
            return a + alpha * (f - a)
        if self.mode == "additive":
            return a + alpha * f
        return alpha * a + f

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, mode={self.mode!r}, learnable={self.alpha_logit is not None}"


class DampenedBlock(nn.Module):
    """One trunk block: the residual branch of a ResNet block, then `DampenedSkip`. Shape-preserving.

    branch: `basic` (3x3 to `branch_width`, 3x3 back) or `bottleneck` (1x1, 3x3, 1x1); each convolution is followed by
    norm and activation.
    signed: leave the last activation out, so that the branch can also take evidence away.
    """

    def __init__(
        self,
        width: int,
        branch_width: int,
        branch: str = "bottleneck",
        alpha: float = 0.2,
        skip: str = "convex",
        learn_alpha: bool = False,
        drop_path: float = 0.0,
        signed: bool = False,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        act_layer: type[nn.Module] = nn.ReLU,
        device: _Device = None,
        dtype: _Dtype = None,
    ) -> None:
        super().__init__()
        kernels = {"basic": (3, 3), "bottleneck": (1, 3, 1)}.get(branch)
        if kernels is None:
            raise ValueError(f"branch={branch!r} is unknown, expected 'basic' or 'bottleneck'.")
        widths = [width] + [branch_width] * (len(kernels) - 1) + [width]
        layer = partial(ConvNormAct, norm_layer=norm_layer, act_layer=act_layer, device=device, dtype=dtype)
        last = len(kernels) - 1
        self.branch = nn.Sequential(
            *[layer(widths[i], widths[i + 1], k, apply_act=i < last or not signed) for i, k in enumerate(kernels)]
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.skip = DampenedSkip(alpha, skip, learn_alpha, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x, self.drop_path(self.branch(x)))


class AlignedStage(nn.Module):
    """An optional 2x2 average pooling of the trunk, then dampened blocks."""

    def __init__(self, blocks: list[nn.Module], pool: bool) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint(self.blocks, x)
        return self.blocks(x)


class ClassMapHead(nn.Module):
    """Global-average-pooling classifier without a linear layer.

    Class c owns the channels `[c g, (c + 1) g)` with `g = width // num_classes`; left-over channels belong to no class.
    The number of classes changes the grouping only: the parameters are the shared log-temperature and, where asked for,
    one bias that all logits share. Maps and logits are computed in at least fp32; logits are then rounded to the
    trunk's own type.

    centred: the map of a class is the mean of its group less that of all groups, `M_c - mean_j M_j`. What all classes
        share, such as the brightness of the image, then drops out of maps and logits alike.
    logit_bias: start value of a learned bias that all logits share; None for no bias. One sigmoid per class needs it,
        for most classes are absent.
    """

    def __init__(
        self, width: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0, tau: float = 10.0,
        centred: bool = False, logit_bias: float | None = None, device: _Device = None, dtype: _Dtype = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.drop = nn.Dropout(drop_rate)
        self.centred = centred
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau), device=device, dtype=dtype))
        bias = None if logit_bias is None else torch.tensor(float(logit_bias), device=device, dtype=dtype)
        self.logit_bias = None if bias is None else nn.Parameter(bias)
        self.reset(num_classes, pool_type)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Set the number of classes (0: none) and, unless None, the pooling: 'avg', or '' for unpooled maps."""
        if pool_type is not None and pool_type not in ("avg", ""):
            raise ValueError(f"global_pool={pool_type!r} is not supported, expected 'avg' or ''.")
        if not 0 <= num_classes <= self.width:
            raise ValueError(
                f"num_classes={num_classes} does not fit trunk_width={self.width}: "
                "every class needs a channel of its own; expected a trunk at least as wide as the number of classes."
            )
        self.num_classes = num_classes
        self.group_size = self.width // num_classes if num_classes > 0 else 0
        if pool_type is not None:
            self.pool_type = pool_type

    @property
    def temperature(self) -> Tensor:
        """What the logits are multiples of: logit = temperature * mean(map) + bias. In at least fp32."""
        return at_least_float32(self.log_tau.detach()).exp()

    def class_maps(self, x: Tensor) -> Tensor:
        """Trunk `(B, C, H, W)` to the class maps `M_c`, `(B, K, H, W)`; centred ones where the head is so."""
        if self.num_classes == 0:
            raise ValueError("num_classes=0 has no class maps; call reset_classifier(num_classes) first.")
        return self._group_mean(at_least_float32(x))

    def _group_mean(self, x: Tensor) -> Tensor:
        x = x[:, : self.num_classes * self.group_size]
        maps = x.reshape(x.shape[0], self.num_classes, self.group_size, x.shape[2], x.shape[3]).mean(2)
        return maps - maps.mean(1, keepdim=True) if self.centred and self.num_classes > 1 else maps

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        dtype = x.dtype
        x = at_least_float32(x)
        if self.pool_type == "avg":
            x = x.mean((2, 3), keepdim=True)
        x = self.drop(x)
        if not pre_logits and self.num_classes > 0:
            x = self._group_mean(x) * self.log_tau.to(x.dtype).exp()
            if self.logit_bias is not None:
                x = x + self.logit_bias.to(x.dtype)
        return (x.flatten(1) if self.pool_type == "avg" else x).to(dtype)


class BackboneStem(nn.Module):
    """A timm backbone and one 1x1 convolution, instead of the lift: the trunk of a hybrid starts here.

    Takes the deepest feature map of the backbone whose reduction is at most `max_reduction`. Images come in [0, 1]
    and are standardised as the backbone expects it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, width: int, in_chans: int = 3, max_reduction: int = 16, pretrained: bool = False,
        norm_layer: type[nn.Module] = nn.BatchNorm2d, act_layer: type[nn.Module] = nn.ReLU,
        device: _Device = None, dtype: _Dtype = None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        make = partial(timm.create_model, backbone, features_only=True, in_chans=in_chans, **dd)
        info = make(device="meta").feature_info
        fitting = [i for i, r in enumerate(info.reduction()) if r <= max_reduction]
        if not fitting:
            raise ValueError(
                f"backbone={backbone!r} has no feature map of reduction <= {max_reduction}: {info.reduction()}."
            )
        index = info.out_indices[fitting[-1]]
        self.backbone = make(pretrained=pretrained, out_indices=(index,))
        self.stride = self.backbone.feature_info.reduction()[-1]
        self.nhwc = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")
        cfg = self.backbone.pretrained_cfg if hasattr(self.backbone, "pretrained_cfg") else {}
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = torch.tensor(cfg.get(name, (default,)), device=device, dtype=dtype)
            if len(values) != in_chans:
                values = values.mean(0, keepdim=True)
            self.register_buffer(name, values[:, None, None], persistent=False)
        features = self.backbone.feature_info.channels()[-1]
        self.project = ConvNormAct(features, width, 1, norm_layer=norm_layer, act_layer=act_layer, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone((x - self.mean) / self.std)[0]
        return self.project(x.permute(0, 3, 1, 2) if self.nhwc else x)


class FeatureAlignedCNN(nn.Module):
    """Feature-aligned CNN, and its hybrid with an ordinary backbone.

    Input: images in [0, 1], `(B, in_chans, H, W)`, not standardised, so that the trunk starts non-negative.

    Args:
        num_classes: number of classes, at most `trunk_width`.
        in_chans: number of image channels; adapting a trained model to another number needs no parameter.
        global_pool: 'avg', or '' for unpooled outputs.
        trunk_width: channels of the trunk, constant from the lift to the head.
        stem_stride: side of the pixel blocks that the lift turns into channels.
        layers: blocks per stage.
        branch_widths: inner width of the branches, per stage.
        branch: 'basic' or 'bottleneck', as in ResNets.
        pools: stages that begin with a 2x2 average pooling.
        alpha, skip, learn_alpha: see `DampenedSkip`.
        tau: initial temperature of the head.
        signed_blocks: so many of the last blocks have signed branches, see `DampenedBlock`.
        centred, logit_bias: see `ClassMapHead`.
        output: what makes probabilities of the logits, 'softmax' or 'sigmoid' (one yes-or-no question per class, for
            training with binary cross-entropy).
        drop_rate: dropout of the pooled channels.
        drop_path_rate: stochastic depth of the branches.
        backbone: name of a timm model for the hybrid; replaces the lift. None for a pure FA-CNN.
        backbone_pretrained: load timm's weights of that backbone.
    """

    explanation = "class_map"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        trunk_width: int = 192,
        stem_stride: int = 4,
        layers: tuple[int, ...] = (2, 2, 2, 2),
        branch_widths: tuple[int, ...] = (64, 64, 128, 256),
        branch: str = "bottleneck",
        pools: tuple[int, ...] = (1, 2),
        alpha: float = 0.2,
        skip: str = "convex",
        learn_alpha: bool = False,
        tau: float = 10.0,
        signed_blocks: int = 0,
        centred: bool = False,
        logit_bias: float | None = None,
        output: str = "softmax",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        act_layer: type[nn.Module] = nn.ReLU,
        backbone: str | None = None,
        backbone_pretrained: bool = False,
        device: _Device = None,
        dtype: _Dtype = None,
    ) -> None:
        super().__init__()
        if len(layers) != len(branch_widths):
            raise ValueError(f"layers={layers} and branch_widths={branch_widths} must name the same number of stages.")
        if any(not 0 <= stage < len(layers) for stage in pools):
            raise ValueError(f"pools={pools} names a stage that does not exist, expected 0 to {len(layers) - 1}.")
        if not 0 <= signed_blocks <= sum(layers):
            raise ValueError(f"signed_blocks={signed_blocks} is out of range, expected 0 to {sum(layers)}.")
        if output not in ("softmax", "sigmoid"):
            raise ValueError(f"output={output!r} is unknown, expected 'softmax' or 'sigmoid'.")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        norm_act: dict[str, Any] = {"norm_layer": norm_layer, "act_layer": act_layer}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = trunk_width
        self.output = output
        self.grad_checkpointing = False

        if backbone is None:
            self.stem: nn.Module = Lift(trunk_width, in_chans, stem_stride, reduction=stem_stride * 2 ** len(pools))
            reduction = stem_stride
        else:
            self.stem = BackboneStem(
                backbone, trunk_width, in_chans, pretrained=backbone_pretrained, **norm_act, **dd
            )  # fmt: skip
            reduction = self.stem.stride
        self.feature_info = [dict(num_chs=trunk_width, reduction=reduction, module="stem")]

        stages = []
        drop_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(layers)))
        signed = iter(k >= sum(layers) - signed_blocks for k in range(sum(layers)))
        for i, depth in enumerate(layers):
            blocks: list[nn.Module] = [
                DampenedBlock(
                    trunk_width, branch_widths[i], branch, alpha, skip, learn_alpha, next(drop_rates), next(signed),
                    **norm_act, **dd,
                )
                for _ in range(depth)
            ]  # fmt: skip
            stages.append(AlignedStage(blocks, pool=i in pools))
            reduction *= 2 if i in pools else 1
            self.feature_info.append(dict(num_chs=trunk_width, reduction=reduction, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.head = ClassMapHead(trunk_width, num_classes, global_pool, drop_rate, tau, centred, logit_bias, **dd)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)")

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        stage: Any
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Regroup the trunk for another number of classes; no parameter appears, disappears or changes."""
        self.head.reset(num_classes, global_pool)
        self.num_classes = num_classes

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The trunk after the stem (index 0) and after each stage; arguments as in timm."""
        assert output_fmt == "NCHW", "Output format must be NCHW."
        take, last = feature_take_indices(len(self.feature_info), indices)
        intermediates = []
        x = self.stem(x)
        if 0 in take:
            intermediates.append(x)
        for i, stage in enumerate(self.stages[:last] if stop_early else self.stages, start=1):
            x = stage(x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last index; the head still fits, the trunk being equally wide everywhere."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[:last]
        if isinstance(self.stem, Lift):  # a shallower trunk takes more input sizes
            self.stem.reduction = self.feature_info[last]["reduction"]
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `(B, in_chans, H, W)` to the last trunk `(B, trunk_width, h, w)`."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Trunk to logits `(B, K)`; to pooled channels `(B, trunk_width)` with `pre_logits` or without classes."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @property
    def logit_bias(self) -> Tensor | float:
        """What the logits have besides their maps: the head's bias, 0 without one."""
        return 0.0 if self.head.logit_bias is None else self.head.logit_bias.detach()

    def map_positions(self) -> dict[str, int]:
        """By the name of a module whose output has class maps, the position of these maps in `class_maps`."""
        found, position = {}, -1
        stage: Any
        for i, stage in enumerate(self.stages):
            for j in range(len(stage.blocks)):
                position += 1
                found[f"stages.{i}.blocks.{j}"] = position
            found[f"stages.{i}"] = position
        return found

    def class_maps(self, x: Tensor) -> list[Tensor]:
        """Class maps after every block, `M_c^l` of shape `(B, K, h_l, w_l)`, from one forward pass.

        Signed, in at least fp32. The logits are `tau` times the spatial mean of the last entry, plus `logit_bias`.
        """
        x = self.stem(x)
        maps = []
        stage: Any
        for stage in self.stages:
            x = stage.pool(x)
            for block in stage.blocks:
                x = block(x)
                maps.append(self.head.class_maps(x))
        return maps


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: FeatureAlignedCNN) -> dict[str, Tensor]:
    """Weights with a `logit_bias` where the model has one, the start value if need be, and without one elsewhere."""
    own = model.head.logit_bias
    if own is None:
        return {key: value for key, value in state_dict.items() if key != "head.logit_bias"}
    return {"head.logit_bias": own.detach(), **state_dict}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10, "input_size": (3, 224, 224), "pool_size": (14, 14), "crop_pct": 1.0, "crop_mode": "squash",
        "interpolation": "bicubic", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "first_conv": (), "classifier": (),  # neither exists: the lift and the head have no weights
        "license": "apache-2.0", "origin_url": "https://arxiv.org/abs/2603.25798",
        **kwargs,
    }  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        "facnn_resnet18.imagenette": _cfg(
            hf_hub_id=f"{HUB_ORG}/facnn_resnet18.imagenette",
            label_names=IMAGENETTE_CLASSES,
            input_size=(3, 192, 192),
            pool_size=(12, 12),
        ),
        "facnn_resnet18.cifar10": _cfg(
            hf_hub_id=f"{HUB_ORG}/facnn_resnet18.cifar10",
            label_names=CIFAR10_CLASSES,
            input_size=(3, 32, 32),
            pool_size=(4, 4),
        ),
        "facnn_resnet34": _cfg(),
        "facnn_resnet50": _cfg(num_classes=1000),
        "facnn_hybrid_resnet18": _cfg(num_classes=1000, first_conv="stem.backbone.conv1"),
    }
)

# What a tag's weights were trained with, where it is not the default of the architecture
_SIGMOID: dict[str, Any] = dict(signed_blocks=1, centred=True, logit_bias=math.log(0.1 / 0.9), output="sigmoid")
_TAG_ARGS: dict[str | None, dict[str, Any]] = {
    "imagenette": _SIGMOID,
    "cifar10": dict(stem_stride=2, **_SIGMOID),
}


def _create_facnn(variant: str, pretrained: bool = False, **kwargs: Any) -> FeatureAlignedCNN:
    overlay = local_overlay(variant, pretrained, kwargs)
    tag_args = _TAG_ARGS.get(resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg")).tag, {})
    args = {"pretrained_model_args": tag_args, **tag_args, **kwargs}
    if args.get("output") != "sigmoid" and "logit_bias" not in kwargs:
        args.pop("logit_bias", None)  # a bias that all logits share means nothing to the softmax
    return build_model_with_cfg(
        FeatureAlignedCNN, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
        pretrained_cfg_overlay=overlay,
        feature_cfg=dict(out_indices=(0, 1, 2, 3, 4), flatten_sequential=True),
        **args,
    )  # fmt: skip


@register_model
def facnn_resnet18(pretrained: bool = False, **kwargs: Any) -> FeatureAlignedCNN:
    """8 dampened blocks, as many as ResNet-18 has residual ones, with bottleneck branches."""
    return _create_facnn("facnn_resnet18", pretrained, **kwargs)


@register_model
def facnn_resnet34(pretrained: bool = False, **kwargs: Any) -> FeatureAlignedCNN:
    """16 dampened blocks, as many as ResNet-34 has residual ones, with bottleneck branches."""
    return _create_facnn("facnn_resnet34", pretrained, **{"layers": (3, 4, 6, 3), **kwargs})


@register_model
def facnn_resnet50(pretrained: bool = False, **kwargs: Any) -> FeatureAlignedCNN:
    """16 dampened blocks, as many as ResNet-50 has residual ones, and a trunk wide enough for 1000 classes."""
    args: dict[str, Any] = dict(
        layers=(3, 4, 6, 3), branch_widths=(128, 128, 256, 512), trunk_width=1152, stem_stride=8, pools=(1,)
    )
    return _create_facnn("facnn_resnet50", pretrained, **{**args, **kwargs})


@register_model
def facnn_hybrid_resnet18(pretrained: bool = False, **kwargs: Any) -> FeatureAlignedCNN:
    """An ordinary backbone (`backbone=`, a timm model with `features_only`), a 1x1 convolution, 4 dampened blocks."""
    args = dict(
        backbone="resnet18", trunk_width=1024, layers=(1, 1, 1, 1), branch_widths=(256, 256, 256, 256), pools=()
    )
    return _create_facnn("facnn_hybrid_resnet18", pretrained, **{**args, **kwargs})
