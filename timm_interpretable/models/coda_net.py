"""CoDA-Net: a network that is linear in its input, with weights that depend on the input and align with it

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Moritz Böhle, Mario Fritz,
Bernt Schiele, CVPR 2021) - https://arxiv.org/abs/2104.00032. Written from the paper's equations; nothing of its
authors' code, and none of their weights, is here.

Every layer is a convolution of dynamic alignment units (`dau.py`). A unit answers with `w(x)^T x`, and w(x) has a
bounded norm, so that the output can only be large where w(x) points in the direction of x. With all w(x) held constant
the network is one linear map (`DynamicWeights`), whose rows times the input are contributions that add up to the logits
exactly.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from timm_interpretable.models.dau import DAUConv2d
from timm_interpretable.models.encoding import ColourEncoding, adapted_weight
from timm_interpretable.models.weights import CIFAR10_CLASSES, HUB_ORG, IMAGENETTE_CLASSES, local_overlay

__all__ = ["CoDANet", "DynamicWeights", "published_state_dict"]

_Device = torch.device | str | None
_Dtype = torch.dtype | None


class AlignmentStage(nn.Module):
    """Dynamic alignment layers, of which only the first may have a stride."""

    def __init__(self, layers: list[DAUConv2d]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.layers, x)
        return self.layers(x)


class CoDANet(nn.Module):
    """Convolutional dynamic alignment network.

    Input: images in [0, 1], `(B, in_chans, H, W)`, not standardised. Any size at which every layer has an output.

    Logits: `sum of the last layer / temperature + logit_bias`. There is no other layer than dynamic alignment
    convolutions: no norm, no activation, no linear layer. The last one is the head. The sum grows with the area of the
    image; with `native_positions` it counts as that of an image of the native size, so that logits of all sizes mean
    the same.

    Args:
        num_classes: number of units of the head; 0 for none.
        global_pool: 'sum' as in the paper, or '' for the unpooled output over the temperature.
        channels, strides, kernel_sizes: per layer before the head. A layer with a stride starts a stage.
        ranks: per layer, the head included.
        head_kernel_size: of the head.
        norm: 'sq' or 'l2', see `DAUConv2d`.
        temperature: T; the larger, the better the weights must align with the input for a large logit.
        logit_bias: b_0, the logit of an image that no unit responds to.
        native_positions: positions of the last layer at the size of the training images; 0 for a plain sum at every
            size, as in the paper.
        drop_rate: dropout before the head.
        drop_path_rate: 0, since there are no residual paths that could be dropped.
        backend: 'torch' or 'triton', what computes the layers; see `DAUConv2d`.
    """

    explanation = "contributions"
    output = "sigmoid"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "sum",
        channels: tuple[int, ...] = (16, 16, 32, 32, 32, 64, 64, 64),
        strides: tuple[int, ...] = (1, 1, 2, 1, 1, 2, 1, 1),
        kernel_sizes: tuple[int, ...] = (3, 3, 3, 3, 3, 3, 3, 3),
        ranks: tuple[int, ...] = (32, 32, 64, 64, 64, 64, 64, 64, 64),
        head_kernel_size: int = 1,
        norm: str = "sq",
        temperature: float = 1000.0,
        logit_bias: float = math.log(0.1 / 0.9),
        native_positions: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "torch",
        device: _Device = None,
        dtype: _Dtype = None,
    ) -> None:
        super().__init__()
        if not len(channels) == len(strides) == len(kernel_sizes) == len(ranks) - 1:
            raise ValueError(
                f"channels={channels}, strides={strides} and kernel_sizes={kernel_sizes} must name the same number of "
                f"layers, and ranks={ranks} one more, for the head."
            )
        if drop_path_rate:
            raise ValueError(f"drop_path_rate={drop_path_rate} is not supported, expected 0 without residual paths.")
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} is out of range, expected a positive number.")
        if native_positions < 0:
            raise ValueError(f"native_positions={native_positions} is out of range, expected 0 or more.")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = channels[-1]
        self.temperature, self.logit_bias, self.drop_rate = temperature, logit_bias, drop_rate
        self.native_positions = native_positions
        self.grad_checkpointing = False

        self.encoding = ColourEncoding(in_chans)
        stages: list[list[DAUConv2d]] = []
        self.feature_info: list[dict[str, Any]] = []
        previous, reduction = self.encoding.out_chans, 1
        for width, stride, size, rank in zip(channels, strides, kernel_sizes, ranks[:-1], strict=True):
            if not stages or stride > 1:
                stages.append([])
                self.feature_info.append(dict(module=f"stages.{len(stages) - 1}"))
            stages[-1].append(DAUConv2d(previous, width, size, stride, size // 2, rank, norm, backend, **dd))
            previous, reduction = width, reduction * stride
            self.feature_info[-1].update(num_chs=width, reduction=reduction)
        self.stages = nn.Sequential(*[AlignmentStage(layers) for layers in stages])
        self._head = dict(
            kernel_size=head_kernel_size, padding=head_kernel_size // 2, rank=ranks[-1], norm=norm, backend=backend
        )
        self._build_head(num_classes, global_pool, **dd)

    def _build_head(self, num_classes: int, global_pool: str | None, device: Any = None, dtype: Any = None) -> None:
        if global_pool is not None and global_pool not in ("sum", ""):
            raise ValueError(f"global_pool={global_pool!r} is not supported, expected 'sum' or ''.")
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} is out of range, expected 0 or more.")
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head: nn.Module = (
            DAUConv2d(self.num_features, num_classes, device=device, dtype=dtype, **self._head)  # type: ignore[arg-type]
            if num_classes > 0
            else nn.Identity()
        ).train(self.training)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(
            stem=r"^stages\.0\.layers\.0\.", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.layers\.(\d+)"
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the layers of a stage in the backward pass: memory for one stage instead of all."""
        self.grad_checkpointing = enable
        stage: Any
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head of random units for another number of classes."""
        like = next(self.stages.parameters())
        self._build_head(num_classes, global_pool, device=like.device, dtype=like.dtype)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of the stages; arguments as in timm."""
        assert output_fmt == "NCHW", "Output format must be NCHW."
        take, last = feature_take_indices(len(self.feature_info), indices)
        intermediates = []
        x = self.encoding(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last index, and the head."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `(B, in_chans, H, W)` to the input of the head `(B, num_features, h, w)`."""
        return self.stages(self.encoding(x))

    @torch.jit.ignore
    def forward_encoded(self, encoded: Tensor) -> Tensor:
        """Logits `(B, K)` of what `encoding` gives, `(B, 2 in_chans, H, W)`, where an absent pixel is zero."""
        return self.forward_head(self.stages(encoded))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits `(B, K)`; to their spatial mean `(B, num_features)` with `pre_logits` or no classes."""
        dtype = x.dtype
        x = F.dropout(x, self.drop_rate, self.training)
        if pre_logits or self.num_classes == 0:
            return x.mean((2, 3)) if self.global_pool == "sum" else x
        x = self.head(x)
        if self.global_pool == "sum":
            total = x.sum((2, 3), dtype=sum_dtype(x)) / self.sum_divisor(x.shape[2], x.shape[3])
            return (total + self.logit_bias).to(dtype)
        return x / self.temperature

    def sum_divisor(self, height: int, width: int) -> float:
        """What a sum over so many positions is divided by: T, and at another size than the native one their ratio."""
        if self.native_positions == 0:
            return self.temperature
        return self.temperature * (height * width / self.native_positions)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def dynamic_layers(self) -> list[DAUConv2d]:
        """Every layer, first to head."""
        stages: Any = self.stages
        layers = [layer for stage in stages for layer in stage.layers]
        return layers + ([self.head] if isinstance(self.head, DAUConv2d) else [])

    @torch.jit.ignore
    def dynamic_weights(self, x: Tensor) -> "DynamicWeights":
        """The linear map that the network is for each image of the batch `(B, in_chans, H, W)`; one forward pass."""
        if self.num_classes == 0:
            raise ValueError("num_classes=0 has no logits to explain; call reset_classifier(num_classes) first.")
        return DynamicWeights(self, self.encoding(x))


_FEW = 2
"""Up to so many classes one by one are cheaper than all of them at once."""


class DynamicWeights:
    """The weights that a CoDA-Net has chosen for one batch, held constant: a linear map per image.

    From `CoDANet.dynamic_weights`. Nothing here knows of autograd: the map and its transpose are both explicit.
    """

    def __init__(self, model: CoDANet, encoded: Tensor) -> None:
        self.layers = list(model.dynamic_layers())
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.inputs = [encoded]
        x = encoded
        for layer in self.layers:
            factors = layer.factors(x)
            x = layer.align(x, *factors)
            self.factors.append(factors)
            self.inputs.append(x)
        self.divisor = model.sum_divisor(x.shape[2], x.shape[3])

    def logits(self) -> Tensor:
        """The logits less their bias, `(N, K)`, in at least fp32."""
        return self._pooled(self.inputs[-1])

    def apply(self, x: Tensor) -> Tensor:
        """The linear map on any encoded images `(N, 2 in_chans, H, W)`; `(N, K)`. On its own input it is `logits`."""
        for layer, factors in zip(self.layers, self.factors, strict=True):
            x = layer.align(x, *factors)
        return self._pooled(x)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for pair in self.factors for one in pair) + sum(one.nbytes for one in self.inputs)

    def rows(self, combination: Tensor, depth: int = 0) -> Tensor:
        """The rows of all classes, combined with coefficients `(N, K)`, in the shape of the input of layer `depth`.

        Times that input (`inputs[depth]`) they add up to the same combination of the logits less their bias.
        """
        for rows in self.rows_by_depth(combination, depth):  # noqa: B007  the last is wanted
            pass
        return rows

    def rows_by_depth(self, combination: Tensor, depth: int = 0) -> Iterator[Tensor]:
        """`rows` at every depth, from the output of the head down to the input of layer `depth`."""
        last = self.inputs[-1]
        rows = combination.to(last.dtype)[:, :, None, None].expand(last.shape) / self.divisor
        yield rows
        for i in reversed(range(depth, len(self.layers))):
            rows = self.layers[i].align_transposed(rows, *self.factors[i], self._size(i))
            yield rows

    def class_rows(self, classes: Tensor, depth: int = 0) -> Tensor:
        """The rows of classes `(N, n)`, `(N, n, *inputs[depth].shape[1:])`."""
        count = self.inputs[-1].shape[1]
        if classes.shape[1] <= _FEW:
            return torch.stack([self.rows(F.one_hot(column, count), depth) for column in classes.unbind(1)], 1)
        rows = self.all_rows(depth)
        return rows.gather(1, classes[:, :, None, None, None].expand(-1, -1, *rows.shape[2:]))

    def all_rows(self, depth: int = 0) -> Tensor:
        """The rows of all classes, `(N, K, *inputs[depth].shape[1:])`."""
        n, count, h, w = self.inputs[-1].shape
        identity = torch.eye(count, dtype=self.inputs[-1].dtype, device=self.inputs[-1].device)
        rows = identity[None, :, :, None, None].expand(n, count, count, h, w)
        for i in reversed(range(depth, len(self.layers))):
            rows = self.layers[i].align_transposed_all(rows, *self.factors[i], self._size(i))
        return rows / self.divisor

    def _pooled(self, outputs: Tensor) -> Tensor:
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32)).sum((2, 3)) / self.divisor

    def _size(self, i: int) -> tuple[int, int]:
        return (self.inputs[i].shape[2], self.inputs[i].shape[3])


@register_notrace_function
def sum_dtype(x: Tensor) -> torch.dtype:
    """Sums over all positions, of values that T divides, want more digits than half precision has."""
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        return torch.float32
    return x.dtype


# --- checkpoints


def published_state_dict(model: CoDANet) -> dict[str, Tensor]:
    """The parameters under the names and in the layout of the checkpoints that the paper's authors published."""
    state = {}
    for i, layer in enumerate(model.dynamic_layers()):
        units = layer.units().detach()
        base = f"{i}.weight_mod.weighting_f"
        state[f"{base}.0.weight"] = layer.code.weight.detach()
        # D-major: viewed (D, C, r), with D in the order of `unfold`
        state[f"{base}.1.weight"] = units[:, :-1].permute(2, 0, 1).flatten(0, 1)[:, :, None, None].contiguous()
        state[f"{base}.1.bias"] = units[:, -1].t().flatten().contiguous()
    return state


def _from_published(state: dict[str, Tensor], model: CoDANet) -> dict[str, Tensor]:
    names = {id(module): name for name, module in model.named_modules()}
    converted = {}
    for i, layer in enumerate(model.dynamic_layers()):
        name, base = names[id(layer)], f"{i}.weight_mod.weighting_f"
        code, units, bias = (state[f"{base}.{key}"] for key in ("0.weight", "1.weight", "1.bias"))
        patch = code[0].numel()
        units = units.view(patch, -1, units.shape[1]).permute(1, 2, 0)
        bias = bias.view(patch, -1).t().unsqueeze(1)
        converted[f"{name}.code.weight"] = code
        converted[f"{name}.weight"] = torch.cat([units, bias], 1).view(-1, *code.shape[1:])
    return converted


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: CoDANet) -> dict[str, Tensor]:
    """Takes this package's layout and the published one; adapts the first layer to another number of colours."""
    if "0.weight_mod.weighting_f.0.weight" in state_dict:
        state_dict = _from_published(state_dict, model)
    state_dict = dict(state_dict)
    for name in ("stages.0.layers.0.code.weight", "stages.0.layers.0.weight"):
        if name in state_dict:
            state_dict[name] = adapted_weight(state_dict[name], model.in_chans, model.encoding.copies)
    return state_dict


# --- configurations


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0, "crop_mode": "squash",
        "interpolation": "bicubic", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "first_conv": (),  # the filter above adapts the first layer: its inputs are pairs of encodings
        "classifier": "head",
        "license": "apache-2.0", "origin_url": "https://arxiv.org/abs/2104.00032",
        **kwargs,
    }  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        "coda_net_s.cifar10": _cfg(hf_hub_id=f"{HUB_ORG}/coda_net_s.cifar10", label_names=CIFAR10_CLASSES),
        "coda_net_s.*": _cfg(),  # the default has no tag: the weights above are of other arguments
        "coda_net_m.imagenette": _cfg(
            hf_hub_id=f"{HUB_ORG}/coda_net_m.imagenette", label_names=IMAGENETTE_CLASSES, input_size=(3, 96, 96)
        ),
        "coda_net_l": _cfg(num_classes=100, input_size=(3, 240, 240), pool_size=(20, 20), crop_mode="center"),
    }
)


# About a quarter of the paper's ranks, at a quarter of the cost; with b, the filters of a unit are 8 or 16.
_QUARTER = (7, 7, 15, 15, 15, 15, 15, 15, 15)
# What a tag's weights were trained with, where it is not the default of the architecture
_TAG_ARGS: dict[str | None, dict[str, Any]] = {
    "cifar10": dict(ranks=_QUARTER, norm="l2", temperature=1e6),
    "imagenette": dict(temperature=1e6),
}


def _create_coda_net(variant: str, pretrained: bool = False, **kwargs: Any) -> CoDANet:
    overlay = local_overlay(variant, pretrained, kwargs)
    cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"))
    tag_args = _TAG_ARGS.get(cfg.tag, {})
    native = dict(native_positions=math.prod(cfg.pool_size or (0,)))
    return build_model_with_cfg(
        CoDANet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, pretrained_cfg_overlay=overlay,
        feature_cfg=dict(out_indices=(0, 1, 2), flatten_sequential=True),
        **{"pretrained_model_args": tag_args, **native, **tag_args, **kwargs},
    )  # fmt: skip


@register_model
def coda_net_s(pretrained: bool = False, **kwargs: Any) -> CoDANet:
    """The paper's S-CoDA for 32-pixel images: nine layers, 7.78 M parameters with ten classes.

    The weights `coda_net_s.cifar10` have about a quarter of its ranks, and L2 norms: 1.95 M parameters.
    """
    return _create_coda_net("coda_net_s", pretrained, **kwargs)


@register_model
def coda_net_m(pretrained: bool = False, **kwargs: Any) -> CoDANet:
    """For 96 to 160 pixels: the paper's S behind a 7 x 7 layer of stride 3, with about a quarter of its ranks; L2."""
    args: dict[str, Any] = dict(
        kernel_sizes=(7, 3, 3, 3, 3, 3, 3, 3), strides=(3, 1, 2, 1, 1, 2, 1, 1), ranks=_QUARTER, norm="l2"
    )
    return _create_coda_net("coda_net_m", pretrained, **{**args, **kwargs})


@register_model
def coda_net_l(pretrained: bool = False, **kwargs: Any) -> CoDANet:
    """The paper's L-CoDA for 240-pixel images."""
    args: dict[str, Any] = dict(
        channels=(16, 32, 32, 64, 64, 64, 64, 64),
        kernel_sizes=(7, 3, 3, 3, 3, 3, 3, 3),
        strides=(3, 1, 1, 2, 1, 1, 2, 1),
        ranks=(64, 64, 64, 128, 128, 128, 256, 256, 256),
        head_kernel_size=3,
        temperature=1e5,
    )
    return _create_coda_net("coda_net_l", pretrained, **{**args, **kwargs})
