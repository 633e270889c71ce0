"""B-cos networks: timm's CNNs with layers that are linear in their input and rewarded for alignment with it

Source: `B-cos Networks: Alignment is All We Need for Interpretability` (Moritz Böhle, Mario Fritz, Bernt Schiele, CVPR
2022) - https://arxiv.org/abs/2205.10268, and `B-cos Alignment for Inherently Interpretable CNNs and Vision
Transformers` (Moritz Böhle, Navdeeppal Singh, Mario Fritz, Bernt Schiele, TPAMI 2024) -
https://arxiv.org/abs/2306.10898. Written from the papers' equations.

A B-cos unit answers with `|cos(x, w)| w^T x` for a weight w of length 1. There are no biases and no activations, norms
do not subtract a mean, and the head is a B-cos unit per class and position, followed by the mean over positions. With
the cosines (and the norms' variances) held constant the network is one linear map (`HeldCosines`), whose rows times
the input are contributions that add up to the logits exactly.

The networks are timm's ResNet, DenseNet and ConvNeXt with their layers exchanged (`bcosify`), so that blocks, names and
features are timm's.
"""

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, Mlp, SelectAdaptivePool2d, get_device_dtype, to_2tuple
from timm.models import (
    ConvNeXt,
    DenseNet,
    ResNet,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
    resolve_pretrained_cfg,
)
from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage
from timm.models.densenet import DenseBlock, DenseLayer, DenseTransition
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from timm_interpretable.models.dtypes import at_least_float32
from timm_interpretable.models.encoding import ColourEncoding, adapted_weight
from timm_interpretable.models.interface import plain_model
from timm_interpretable.models.sharing import shared_copy
from timm_interpretable.models.weights import HUB_ORG, IMAGENET_LABELS, IMAGENETTE_CLASSES, local_overlay

__all__ = [
    "BatchNormUncentred2d", "BcosConv2d", "BcosConvNeXt", "BcosDenseNet", "BcosHead", "BcosResNet", "HeldCosines",
    "PositionNorm2d", "bcosify",
]  # fmt: skip

_Pair = tuple[int, int]
_Network = TypeVar("_Network", bound=nn.Module)


# --- layers


def padded_average(x: Tensor, kernel_size: _Pair, stride: _Pair, padding: _Pair) -> Tensor:
    """`F.avg_pool2d` with zeros around the image that count.

    The zeros are put there first: on CUDA the gradient of padded pooling in channels_last was wrong, silently, until
    torch mended it in the summer of 2026 (https://github.com/pytorch/pytorch/issues/188344).
    """
    if padding[0] > 0 or padding[1] > 0:
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    return F.avg_pool2d(x, kernel_size, stride)


class AveragePool2d(nn.Module):
    """The average over windows, with zeros around the image that count."""

    def __init__(self, kernel_size: _Pair, stride: _Pair, padding: _Pair) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return padded_average(x, self.kernel_size, self.stride, self.padding)


class BcosConv2d(nn.Conv2d):
    """Convolution of B-cos units: `|cos(x, w)|^(b - 1) w^T x` for every patch x (equation 5 of arXiv 2205.10268).

    w is the filter over its length. There is no bias. The length of a patch is `sqrt(sum x^2 + 1e-6)`, over the
    channels of the filter's group, with zeros outside of the image.

    Args:
        b: the exponent B; 2 in all published networks, 1 for a plain convolution with filters of length 1.
    """

    def __init__(self, *args: Any, b: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, bias=False)  # type: ignore[misc]
        if isinstance(self.padding, str):
            raise ValueError(f"padding={self.padding!r} is not supported, expected numbers.")
        self.b = float(b)
        self.constant = False  # whether the cosines count as constants when derivatives are taken

    def forward(self, x: Tensor) -> Tensor:
        return self.aligned(x)

    def aligned(self, x: Tensor) -> Tensor:
        """The answers of the units to what they see, `(B, out_channels, h, w)`."""
        weight = self.weight / torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        response = F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)
        if self.b == 1.0:
            return response
        cosines = self.cosines(x.detach(), response.detach()) if self.constant else self.cosines(x, response)
        return (response * cosines).to(response.dtype)

    def cosines(self, x: Tensor, response: Tensor) -> Tensor:
        """`|cos|^(b - 1)` of every unit and position, in the shape of the response `w^T x`."""
        lengths = self.patch_lengths(x)
        if self.groups > 1:
            lengths = lengths.repeat_interleave(self.out_channels // self.groups, dim=1)
        cosines = response.abs() / lengths
        return cosines if self.b == 2.0 else (cosines + 1e-6).pow(self.b - 1)

    def patch_lengths(self, x: Tensor) -> Tensor:
        """`sqrt(sum x^2 + 1e-6)` of the patches, `(B, groups, h, w)`; at least fp32."""
        squares = at_least_float32(x).square()
        if self.groups == 1:
            sums = squares.sum(1, keepdim=True)
        elif self.groups == self.in_channels:
            sums = squares
        else:
            sums = squares.unflatten(1, (self.groups, self.in_channels // self.groups)).sum(2)
        if self.dilation != (1, 1):
            ones = torch.ones(self.groups, 1, self.kernel_size[0], self.kernel_size[1], dtype=sums.dtype)
            ones = ones.to(x.device)
            sums = F.conv2d(sums, ones, None, self.stride, self.padding, self.dilation, self.groups)
        elif self.kernel_size != (1, 1) or self.stride != (1, 1):
            # not avg_pool2d's divisor, which torch's ONNX exporter forgets
            means = padded_average(sums, self.kernel_size, self.stride, self.padding)  # type: ignore[arg-type]
            sums = means * (self.kernel_size[0] * self.kernel_size[1])
        return (sums + 1e-6).sqrt()


@register_notrace_module  # branches on the input's shape
class BcosStemConv2d(BcosConv2d):
    """The first layer: takes images `(B, in_chans, H, W)` in [0, 1], which it encodes, or their encoding.

    Args:
        encoding: gives what the units see.
    """

    def __init__(self, encoding: ColourEncoding, *args: Any, **kwargs: Any) -> None:
        super().__init__(encoding.out_chans, *args, **kwargs)
        self.encoding = encoding

    def forward(self, x: Tensor) -> Tensor:
        return self.aligned(x if x.shape[1] == self.in_channels else self.encoding(x))


class BatchNormUncentred2d(nn.BatchNorm2d):
    """`weight * x / sqrt(v + eps)`: batch norm that subtracts no mean and adds no bias.

    v is the variance about the mean: of the batch in training, where it also moves the running variance, and the
    running variance in evaluation. The running mean is only there because checkpoints have it.
    """

    bias: None  # type: ignore[assignment]

    def __init__(self, num_features: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            variance = at_least_float32(x).var((0, 2, 3), correction=0)
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
        else:
            assert self.running_var is not None
            variance = self.running_var
        scale = self.weight / (variance + self.eps).sqrt()
        return x * scale.to(x.dtype)[:, None, None]


class PositionNorm2d(nn.Module):
    """`weight * (x - mean) / sqrt(v + eps)` over the channels of every position, without a bias."""

    def __init__(self, num_features: int, eps: float = 1e-6, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.eps = eps
        self.constant = False  # whether the variance counts as a constant when derivatives are taken
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        values = at_least_float32(x)
        variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
        if self.constant:
            variance = variance.detach()
        return ((values - mean) / (variance + self.eps).sqrt() * self.weight[:, None, None]).to(x.dtype)


class BcosHead(nn.Module):
    """Dropout, a B-cos unit per class and position, the mean over positions, and a constant bias `-log(K - 1)`.

    With that bias an image that no unit responds to has the probability 1/K of every class.

    Args:
        num_classes: K; 0 for none.
        pool_type: 'avg', or '' for the outputs of all positions.
    """

    def __init__(
        self, num_features: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if pool_type not in ("avg", ""):
            raise ValueError(f"global_pool={pool_type!r} is not supported, expected 'avg' or ''.")
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} is out of range, expected 0 or more.")
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Identity()
        if num_classes > 0:
            units = BcosConv2d(num_features, num_classes, 1, device=device, dtype=dtype)
            self.fc = units
            nn.init.kaiming_normal_(units.weight, mode="fan_out", nonlinearity="relu")
        self.logit_bias = -math.log(num_classes - 1) if num_classes > 2 else 0.0

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x)
        if pre_logits:
            return self.global_pool(x)
        return self.global_pool(self.fc(x)) + self.logit_bias


# --- networks


class _BcosNetwork(nn.Module):
    """What the networks below add to timm's: the first of their base classes."""

    explanation = "contributions"
    output = "sigmoid"
    __jit_unused_properties__: ClassVar[list[str]] = ["encoding", "logit_bias"]
    num_features: int
    num_classes: int
    drop_rate: float

    def _convert(self, in_chans: int, global_pool: str) -> None:
        """Exchange the layers of timm's network, made for `2 in_chans` colours (6 for 1)."""
        dd = get_device_dtype(self)
        self.in_chans = in_chans
        for name in ("fc", "classifier", "global_pool", "head_drop", "head"):
            if name in self._modules:
                del self._modules[name]
        _exchange_layers(self, ColourEncoding(in_chans))
        self.head = BcosHead(self.num_features, self.num_classes, global_pool, self.drop_rate, **dd)
        self.head_hidden_size = self.num_features

    @property
    def encoding(self) -> ColourEncoding:
        """Gives what the network sees: `[x, 1 - x]` of an image."""
        return next(m.encoding for m in self.modules() if isinstance(m, BcosStemConv2d))

    @property
    def logit_bias(self) -> float:
        return self.head.logit_bias

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """New random units for another number of classes; 0 for none. There is nothing else in the head to reset."""
        pool = self.head.global_pool.pool_type if global_pool is None else global_pool
        dd = get_device_dtype(self)
        self.num_classes = num_classes
        self.head = BcosHead(self.num_features, num_classes, pool, self.drop_rate, **dd).train(self.training)
        self.head_hidden_size = self.num_features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features `(B, C, h, w)` to logits `(B, K)`; to their spatial mean with `pre_logits` or without classes."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))  # type: ignore[operator]

    @torch.jit.ignore
    def forward_encoded(self, encoded: Tensor) -> Tensor:
        """Logits `(B, K)` of what `encoding` gives, `(B, 2 in_chans, H, W)`, where an absent pixel is zero."""
        return self(encoded)

    @torch.jit.ignore
    def head_maps(self, x: Tensor) -> Tensor:
        """The outputs of the head's units, `(B, K, h, w)`: their spatial means are the logits less their bias.

        Signed, at least fp32. One forward pass gives the maps of all classes.
        """
        if self.num_classes == 0:
            raise ValueError("num_classes=0 has no logits to explain; call reset_classifier(num_classes) first.")
        return at_least_float32(self.head.fc(self.forward_features(x)))  # type: ignore[operator]

    @torch.jit.ignore
    def dynamic_layers(self) -> list[nn.Module]:
        """What a contribution can be attributed to, from the stem over all blocks to the head's units."""
        return [self.get_submodule(name) for name in self._layer_names()] + [self.head.fc]

    def _layer_names(self) -> list[str]:
        """Names of the modules through whose output, one after the other, all of the network goes."""
        raise NotImplementedError

    @torch.jit.ignore
    def dynamic_weights(self, x: Tensor) -> "HeldCosines":
        """The linear map that the network is for each image of the batch `(B, in_chans, H, W)`; one forward pass."""
        return HeldCosines(self, self.encoding(x))


_STAGES = ("layer1", "layer2", "layer3", "layer4")


class BcosResNet(_BcosNetwork, ResNet):
    """B-cos ResNet and ResNeXt; arguments as timm's `ResNet`.

    Input: images in [0, 1], `(B, in_chans, H, W)`, not standardised.
    """

    def __init__(self, *args: Any, in_chans: int = 3, global_pool: str = "avg", **kwargs: Any) -> None:
        encoded = ColourEncoding(in_chans).out_chans
        super().__init__(*args, in_chans=encoded, zero_init_last=False, **kwargs)
        self._convert(in_chans, global_pool)

    def _layer_names(self) -> list[str]:
        stages: list[tuple[str, Any]] = [(name, self.get_submodule(name)) for name in _STAGES]
        return ["act1", *(f"{name}.{j}" for name, stage in stages for j in range(len(stage)))]


class BcosDenseNet(_BcosNetwork, DenseNet):
    """B-cos DenseNet; arguments as timm's `DenseNet`.

    Input: images in [0, 1], `(B, in_chans, H, W)`, not standardised.
    """

    def __init__(
        self, *args: Any, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0, **kwargs: Any
    ) -> None:
        encoded = ColourEncoding(in_chans).out_chans
        super().__init__(*args, in_chans=encoded, **kwargs)
        self.drop_rate = drop_rate
        self._convert(in_chans, global_pool)

    def _layer_names(self) -> list[str]:
        features: Any = self.features
        names = [name for name, _ in features.named_children()]
        return [f"features.{name}" for name in names if not name.startswith(("conv", "pool"))]


class BcosConvNeXt(_BcosNetwork, ConvNeXt):
    """B-cos ConvNeXt; arguments as timm's `ConvNeXt`.

    Input: images in [0, 1], `(B, in_chans, H, W)`, not standardised.

    Args:
        norm_layer: 'position' for norms over the channels of a position, or 'batch'.
    """

    def __init__(
        self, *args: Any, in_chans: int = 3, global_pool: str = "avg", norm_layer: str = "position", **kwargs: Any
    ) -> None:
        if norm_layer not in ("position", "batch"):
            raise ValueError(f"norm_layer={norm_layer!r} is not supported, expected 'position' or 'batch'.")
        norm = nn.BatchNorm2d if norm_layer == "batch" else LayerNorm2d
        encoded = ColourEncoding(in_chans).out_chans
        super().__init__(
            *args, in_chans=encoded, norm_layer=norm, conv_mlp=True, conv_bias=False, head_norm_first=True, **kwargs
        )
        self._convert(in_chans, global_pool)

    def _layer_names(self) -> list[str]:
        stages: Any = self.stages
        blocks = [f"stages.{i}.blocks.{j}" for i, stage in enumerate(stages) for j in range(len(stage.blocks))]
        return ["stem", *blocks, "norm_pre"]


_NETWORKS: dict[type[nn.Module], type[_BcosNetwork]] = {
    ResNet: BcosResNet, DenseNet: BcosDenseNet, ConvNeXt: BcosConvNeXt,
}  # fmt: skip


def bcosify(model: nn.Module) -> Any:
    """The B-cos form of a timm network, to be trained: its own weights, where it keeps them, are a start at best.

    Filters and norms' weights are copied; biases go. A filter of the first layer is shared by a colour and its
    complement, `[w, -w] / 2`. The head is new and random. `model` stays as it is.

    Args:
        model: a timm ResNet (or ResNeXt), DenseNet or ConvNeXt with `conv_mlp=True`, for images of any number of
            colours. The norm of a ConvNeXt's head comes before the mean over positions.

    Raises:
        ValueError: it is another kind of model, or has a layer without a B-cos form, which the message names.
    """
    plain: Any = plain_model(model)
    family = _NETWORKS.get(type(plain))
    if family is None:
        known = ", ".join(network.__name__ for network in _NETWORKS)
        raise ValueError(f"{type(plain).__name__} has no B-cos form, expected one of timm's {known}.")
    new: Any = copy.deepcopy(plain)
    in_chans = int(new.in_chans)
    first = next(m for m in new.modules() if isinstance(m, nn.Conv2d))
    colours = first.weight.detach()
    if in_chans == 1:
        colours = colours.expand(-1, 3, -1, -1) / 3
    first.weight = nn.Parameter(torch.cat([colours, -colours], 1) / 2)
    first.in_channels = first.weight.shape[1]
    new.__class__ = family
    if isinstance(new, ConvNeXt) and isinstance(getattr(new.head, "norm", None), nn.LayerNorm):
        new.norm_pre = new.head.norm
    new.drop_rate = float(getattr(plain, "drop_rate", 0.0) or 0.0)
    new._convert(in_chans, "avg")
    return new


# --- the exchange of layers

_ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
# what is linear by itself, or made of layers that are exchanged
_KEPT = (
    nn.Identity, nn.Dropout, nn.AvgPool2d, AveragePool2d, DropPath, ColourEncoding, nn.Sequential, Mlp, BasicBlock,
    Bottleneck, DenseBlock, DenseLayer, DenseTransition, ConvNeXtStage, ConvNeXtBlock,
)  # fmt: skip


def _exchange_layers(network: nn.Module, encoding: ColourEncoding) -> None:
    """Every layer of the tree by its B-cos form.

    Raises:
        ValueError: a layer has none.
    """
    is_first = True
    for path, parent in list(network.named_modules()):
        for name, child in list(parent.named_children()):
            where = f"{path}.{name}" if path else name
            if isinstance(child, nn.Conv2d):
                setattr(parent, name, _bcos_conv(child, encoding if is_first else None, where))
                is_first = False
            else:
                parent._modules[name] = _bcos_layer(child, where)


def _bcos_conv(conv: nn.Conv2d, encoding: ColourEncoding | None, where: str) -> BcosConv2d:
    if type(conv) is not nn.Conv2d:
        raise ValueError(f"{where} is a {type(conv).__name__}, which has no B-cos form; expected a Conv2d.")
    dd: dict[str, Any] = dict(device="meta", dtype=conv.weight.dtype)
    options: dict[str, Any] = dict(
        kernel_size=conv.kernel_size, stride=conv.stride, padding=conv.padding, dilation=conv.dilation,
        groups=conv.groups, **dd,
    )  # fmt: skip
    if encoding is None:
        new = BcosConv2d(conv.in_channels, conv.out_channels, **options)
    else:
        new = BcosStemConv2d(encoding, conv.out_channels, **options)
    new.weight = conv.weight
    return new.train(conv.training)


def _bcos_layer(layer: nn.Module, where: str) -> nn.Module:
    """The B-cos form of a layer that is no convolution; a module made of layers is returned as it is."""
    new: Any
    if type(layer).__module__ in _ACTIVATIONS and not list(layer.parameters()):
        return nn.Identity()
    if isinstance(layer, nn.MaxPool2d):
        size, stride, padding = (to_2tuple(v) for v in (layer.kernel_size, layer.stride, layer.padding))
        return AveragePool2d(size, stride, padding)
    if isinstance(layer, nn.BatchNorm2d):
        new = BatchNormUncentred2d(layer.num_features, layer.eps, layer.momentum, device="meta")
        new.weight = layer.weight
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(layer, name))
        return new.train(layer.training)
    if isinstance(layer, nn.LayerNorm):
        new = PositionNorm2d(layer.normalized_shape[0], layer.eps, device="meta")
        new.weight = layer.weight
        return new.train(layer.training)
    if type(layer) not in _KEPT:
        raise ValueError(f"{where} is a {type(layer).__name__}, which has no B-cos form.")
    return layer


# --- the linear map


class HeldCosines:
    """The linear map that a B-cos network is for one batch, its cosines and variances held constant.

    From `dynamic_weights`. The network's own modules are not touched: the pass runs through a copy of their tree that
    shares all weights. `inputs[0]` is the encoded image, `inputs[i + 1]` the output of `dynamic_layers()[i]`.
    """

    def __init__(self, model: _BcosNetwork, encoded: Tensor) -> None:
        network: Any = shared_copy(model, frozen=True)
        network.set_grad_checkpointing(False)
        for module in network.modules():
            if isinstance(module, (BcosConv2d, PositionNorm2d)):
                module.constant = True
        outputs: list[Tensor] = []
        for name in network._layer_names():
            parent, _, own = name.rpartition(".")
            network.get_submodule(parent)._modules[own] = _Recorded(network.get_submodule(name), outputs)
        # not a method of this object: the graph would hold the object that holds the graph, and neither would be freed
        saved: list[int] = []
        self._saved = saved
        with torch.inference_mode(False), torch.enable_grad():
            encoded = (encoded.clone() if encoded.is_inference() else encoded.detach()).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(partial(_counted, saved), _as_it_is):
                maps = network.head_maps(encoded)
        self.inputs = [encoded, *outputs, maps]

    @property
    def nbytes(self) -> int:
        """What the pass keeps to take derivatives from, the weights included."""
        return sum(self._saved)

    def logits(self) -> Tensor:
        """The logits less their bias, `(N, K)`, in at least fp32."""
        return self.inputs[-1].detach().mean((2, 3))

    def rows(self, combination: Tensor, depth: int = 0) -> Tensor:
        """The rows of all classes, combined with coefficients `(N, K)`, in the shape of `inputs[depth]`.

        Times that input they add up to the same combination of the logits less their bias.
        """
        return next(iter(self._gradients(combination, [self.inputs[depth]])))

    def rows_by_depth(self, combination: Tensor, depth: int = 0) -> Iterator[Tensor]:
        """`rows` at every depth, from the output of the head down to `inputs[depth]`."""
        return reversed(self._gradients(combination, self.inputs[depth:]))

    def class_rows(self, classes: Tensor, depth: int = 0) -> Tensor:
        """The rows of classes `(N, n)`, `(N, n, *inputs[depth].shape[1:])`."""
        count = self.inputs[-1].shape[1]
        parts = [self.rows(F.one_hot(column, count), depth) for column in classes.unbind(1)]
        return torch.stack(parts, 1)

    def _gradients(self, combination: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        maps = self.inputs[-1]
        start = combination.to(maps.dtype)[:, :, None, None].expand(maps.shape) / (maps.shape[2] * maps.shape[3])
        return torch.autograd.grad(maps, inputs, start, retain_graph=True)


def _counted(counts: list[int], saved: Tensor) -> Tensor:
    counts.append(saved.nbytes)
    return saved


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


class _Recorded(nn.Module):
    """A module of the copied tree that keeps its output."""

    def __init__(self, module: nn.Module, outputs: list[Tensor]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        self.outputs.append(y)
        return y


# --- checkpoints


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: _BcosNetwork) -> dict[str, Tensor]:
    """Takes this package's layout and that of the papers' authors; adapts the first layer to other colours."""
    if any(name.endswith(".linear.weight") for name in state_dict):
        state_dict = {_own_name(name, model): value for name, value in state_dict.items()}
        shapes = model.state_dict()
        for name, value in state_dict.items():
            if name in shapes and value.shape != shapes[name].shape and value.numel() == shapes[name].numel():
                state_dict[name] = value.reshape(shapes[name].shape)  # layer scales are (C, 1, 1) there
        for name in shapes.keys() - state_dict.keys():
            if name.endswith(("running_mean", "num_batches_tracked")):  # no output depends on them
                state_dict[name] = shapes[name]
    stem = next(name for name, module in model.named_modules() if isinstance(module, BcosStemConv2d))
    first = f"{stem}.weight"
    if first not in state_dict:
        return state_dict
    encoding = model.encoding
    return dict(state_dict, **{first: adapted_weight(state_dict[first], encoding.in_chans, encoding.copies)})


def _own_name(name: str, model: _BcosNetwork) -> str:
    """The name here of a parameter of the authors' checkpoints, which are named like torchvision's networks."""
    name = name.replace(".linear.weight", ".weight")
    if not isinstance(model, BcosConvNeXt):
        head, _, after = name.partition(".")
        return f"head.fc.{after}" if head in ("fc", "classifier") else name
    part, index, *rest = name.split(".")
    if part == "classifier":
        return ".".join(["norm_pre" if index == "0" else "head.fc", *rest])
    if int(index) < 2:
        return ".".join(["stem", index, *rest])
    stage, is_downsampling = divmod(int(index) - 2, 2)
    if is_downsampling:
        return ".".join([f"stages.{stage + 1}.downsample", *rest])
    block, kind, *rest = rest
    layers = {"0": "conv_dw", "1": "norm", "2": "mlp.fc1", "3": "mlp.fc2"}
    inside = "gamma" if kind == "layer_scale" else ".".join([layers[rest[0]], *rest[1:]])
    return f"stages.{stage}.blocks.{block}.{inside}"


# --- configurations

_RELEASES = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights"


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "first_conv": (),  # the filter above adapts the first layer: its inputs are pairs of encodings
        "classifier": "head.fc",
        **kwargs,
    }  # fmt: skip


def _linked(file: str, **kwargs: Any) -> dict[str, Any]:
    """Weights of the papers' authors, at their place; the name of a file carries the start of its sha256."""
    return _cfg(
        url=f"{_RELEASES}/{file}.pth", origin_url="https://github.com/B-cos/B-cos-v2", license="other",
        **IMAGENET_LABELS, **kwargs,
    )  # fmt: skip


_LONG: dict[str, Any] = dict(crop_pct=0.965)

default_cfgs = generate_default_cfgs(
    {
        "bcos_resnet18.in1k": _linked("resnet_18-68b4160fff"),
        "bcos_resnet34.in1k": _linked("resnet_34-a63425a03e"),
        "bcos_resnet50.long_in1k": _linked("resnet_50_long-ef38a88533", **_LONG),
        "bcos_resnet50.in1k": _linked("resnet_50-ead259efe4"),
        "bcos_resnet101.in1k": _linked("resnet_101-84c3658278"),
        "bcos_resnet152.long_in1k": _linked("resnet_152_long-0b4b434939", **_LONG),
        "bcos_resnet152.in1k": _linked("resnet_152-42051a77c1"),
        "bcos_resnext50_32x4d.in1k": _linked("resnext_50_32x4d-57af241ab9"),
        "bcos_densenet121.long_in1k": _linked("densenet_121_long-5175461597", **_LONG),
        "bcos_densenet121.in1k": _linked("densenet_121-b8daf96afb"),
        "bcos_densenet161.in1k": _linked("densenet_161-9e9ea51353"),
        "bcos_densenet169.in1k": _linked("densenet_169-7037ee0604"),
        "bcos_densenet201.in1k": _linked("densenet_201-00ac87066f"),
        "bcos_convnext_tiny.pn_in1k": _linked("convnext_tiny_pn-539b1bfb37", **_LONG),
        "bcos_convnext_tiny.bnu_in1k": _linked("convnext_tiny_bnu-dbd7f5ef9d", **_LONG),
        "bcos_convnext_base.pn_in1k": _linked("convnext_base_pn-b0495852c6", **_LONG),
        "bcos_convnext_base.bnu_in1k": _linked("convnext_base_bnu-7c32a704b3", **_LONG),
        "bcos_resnet18_050.imagenette": _cfg(
            hf_hub_id=f"{HUB_ORG}/bcos_resnet18_050.imagenette", num_classes=10, label_names=IMAGENETTE_CLASSES,
            input_size=(3, 160, 160), pool_size=(5, 5), crop_pct=1.0, crop_mode="squash", interpolation="bicubic",
            license="apache-2.0", origin_url="https://arxiv.org/abs/2306.10898",
        ),
    }
)  # fmt: skip


def _create(network: type[_Network], variant: str, pretrained: bool, kwargs: dict[str, Any], **args: Any) -> _Network:
    overlay = local_overlay(variant, pretrained, kwargs)
    levels = 4 if network is BcosConvNeXt else 5
    model: _Network = build_model_with_cfg(
        network, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, pretrained_cfg_overlay=overlay,
        feature_cfg=dict(out_indices=tuple(range(levels)), flatten_sequential=network is not BcosResNet),
        **{**args, **kwargs},
    )  # fmt: skip
    return model


def _resnet(variant: str, pretrained: bool, kwargs: dict[str, Any], **args: Any) -> BcosResNet:
    return _create(BcosResNet, variant, pretrained, kwargs, **args)


def _densenet(variant: str, pretrained: bool, kwargs: dict[str, Any], **args: Any) -> BcosDenseNet:
    return _create(BcosDenseNet, variant, pretrained, kwargs, **args)


def _convnext(variant: str, pretrained: bool, kwargs: dict[str, Any], **args: Any) -> BcosConvNeXt:
    cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"))
    norm = "batch" if cfg.tag == "bnu_in1k" else "position"
    return _create(BcosConvNeXt, variant, pretrained, kwargs, **{"norm_layer": norm, **args})


@register_model
def bcos_resnet18_050(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-18 with half the channels, 2.8 M parameters: this project's, for small data."""
    args: dict[str, Any] = dict(block=BasicBlock, layers=(2, 2, 2, 2), channels=(32, 64, 128, 256))
    return _resnet("bcos_resnet18_050", pretrained, kwargs, **args)


@register_model
def bcos_resnet18(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-18."""
    return _resnet("bcos_resnet18", pretrained, kwargs, block=BasicBlock, layers=(2, 2, 2, 2))


@register_model
def bcos_resnet34(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-34."""
    return _resnet("bcos_resnet34", pretrained, kwargs, block=BasicBlock, layers=(3, 4, 6, 3))


@register_model
def bcos_resnet50(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-50."""
    return _resnet("bcos_resnet50", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 6, 3))


@register_model
def bcos_resnet101(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-101."""
    return _resnet("bcos_resnet101", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 23, 3))


@register_model
def bcos_resnet152(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNet-152."""
    return _resnet("bcos_resnet152", pretrained, kwargs, block=Bottleneck, layers=(3, 8, 36, 3))


@register_model
def bcos_resnext50_32x4d(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """B-cos ResNeXt-50 32x4d."""
    args: dict[str, Any] = dict(block=Bottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4)
    return _resnet("bcos_resnext50_32x4d", pretrained, kwargs, **args)


@register_model
def bcos_densenet121(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """B-cos DenseNet-121."""
    return _densenet("bcos_densenet121", pretrained, kwargs, growth_rate=32, block_config=(6, 12, 24, 16))


@register_model
def bcos_densenet161(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """B-cos DenseNet-161."""
    return _densenet("bcos_densenet161", pretrained, kwargs, growth_rate=48, block_config=(6, 12, 36, 24))


@register_model
def bcos_densenet169(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """B-cos DenseNet-169."""
    return _densenet("bcos_densenet169", pretrained, kwargs, growth_rate=32, block_config=(6, 12, 32, 32))


@register_model
def bcos_densenet201(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """B-cos DenseNet-201."""
    return _densenet("bcos_densenet201", pretrained, kwargs, growth_rate=32, block_config=(6, 12, 48, 32))


@register_model
def bcos_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """B-cos ConvNeXt-T."""
    return _convnext("bcos_convnext_tiny", pretrained, kwargs, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))


@register_model
def bcos_convnext_base(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """B-cos ConvNeXt-B."""
    return _convnext("bcos_convnext_base", pretrained, kwargs, depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024))
