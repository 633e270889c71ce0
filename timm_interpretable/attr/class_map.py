"""Class maps of an FA-CNN as Captum attributions: forward passes only, no hooks, no modes

Source: `End-to-end Feature Alignment: A Simple CNN with Intrinsic Class Attribution` (Parniyan Farvardin,
David Chapman) - https://arxiv.org/abs/2603.25798. The FA-CNN here is a reconstruction from its abstract.

`model.class_maps(x)` gives the raw maps of all blocks. `M_c^l` is the one of class c after block l, and the logit is
`y_c = tau * mean(M_c^L)`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from captum._utils.typing import TargetType
from captum.attr import Attribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from timm_interpretable.attr.contract import (
    AttributionOutput,
    class_indices,
    evaluation_view,
    explained_model,
    like_input,
    single_input,
)

__all__ = ["ClassMap", "LayerClassMap"]


class ClassMap(Attribution):
    """Class maps in the shape of the image, scaled so that they add up to the score of the class.

    Explains the model in evaluation mode, whichever mode it is in, and of a compiled or (distributed) data parallel
    model the plain module inside.

    Args:
        forward_func: a model with `class_maps`, else `TypeError`.
    """

    def __init__(self, forward_func: nn.Module) -> None:
        explained_model(forward_func, "class_maps")
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        layers: str = "penultimate",
        contrast: bool = False,
        return_convergence_delta: bool = False,
    ) -> AttributionOutput | tuple[AttributionOutput, Tensor]:
        """Signed attributions of the shape of `inputs`, in units of the logit.

        The map, times tau, is upsampled bilinearly and shared equally by the channels. Its sum over (C, H, W) is,
        to rounding,

        * for `layers='penultimate'` the logit `y_c`,
        * for `'average'` (every block) and `'top_half'` (the last half, rounded up) the mean of `tau * mean(M_c^l)`
          over these blocks: *not* the logit. The convergence delta says how far off.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: must be None.
            layers: 'penultimate', 'average' or 'top_half'.
            contrast: attribute `M_c - sum_j p_j M_j` instead of `M_c`, with p the softmax of the logits. The score is
                then `y_c - sum_j p_j y_j`.
            return_convergence_delta: return `(attributions, delta)`, see `compute_convergence_delta`.

        Returns:
            contiguous and detached, fp32 (fp64 for an fp64 model).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target outside the model's classes.
            ValueError: unknown `layers`, several or empty inputs, additional arguments.
        """
        x, is_tuple = single_input(inputs, additional_forward_args)
        model = evaluation_view(explained_model(self.forward_func, "class_maps"))
        classes = class_indices(target, len(x), model.num_classes, x.device)
        _check_layers(layers)
        with torch.no_grad():
            maps = _maps_of(model, x, layers)
            tau = model.head.log_tau.to(maps[-1].dtype).exp()
            probs = (tau * maps[-1].mean((2, 3))).softmax(1) if contrast else None
            chosen = [tau * _class_map(m, classes, probs) for m in maps]
            spread = torch.stack([_spread(m, x.shape) for m in chosen]).mean(0)
        attributions = like_input(spread.expand(x.shape).contiguous(), is_tuple)
        if return_convergence_delta:
            return attributions, self.compute_convergence_delta(attributions, None, inputs, target, contrast=contrast)
        return attributions

    def has_convergence_delta(self) -> bool:
        return True

    @log_usage(part_of_slo=True)
    def compute_convergence_delta(
        self,
        attributions: AttributionOutput,
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        contrast: bool = False,
    ) -> Tensor:
        """`sum(attributions) - score(end_point)` per sample, `(B,)`, in units of the logit.

        The score is the logit, or `y_c - sum_j p_j y_j` with `contrast`. It comes from the model's own forward pass,
        not from its maps, and does not depend on `layers`: for 'average' and 'top_half' the delta is the distance from
        the logit.

        `start_point` is ignored and only keeps Captum's order of arguments: class maps account for the whole logit, not
        for its difference from a baseline.
        """
        x, _ = single_input(end_point, additional_forward_args)
        total = single_input(attributions)[0].flatten(1).sum(1)
        if len(total) != len(x):
            raise AssertionError(f"{len(total)} attributions do not match the {len(x)} samples of end_point.")
        model = evaluation_view(explained_model(self.forward_func, "class_maps"))
        classes = class_indices(target, len(x), model.num_classes, x.device)
        with torch.no_grad():
            features = model.forward_features(x)
            # a half-precision model rounds its logits last; the maps account for the logit before that
            logits = model.forward_head(features.to(torch.promote_types(features.dtype, torch.float32)))
            if logits.ndim == 4:  # global_pool=''
                logits = logits.mean((2, 3))
            score = logits.gather(1, classes[:, None])[:, 0]
            if contrast:
                score = score - (logits.softmax(1) * logits).sum(1)
            return total - score


class LayerClassMap(LayerAttribution):
    """The raw class map `M_c^l` after one block, found by its position in the model, without a hook.

    Args:
        forward_func: a model with `class_maps`, else `TypeError`.
        layer: a block (`model.stages[i].blocks[j]`) or a stage (`model.stages[i]`: its last block), else `ValueError`.
    """

    def __init__(self, forward_func: nn.Module, layer: nn.Module) -> None:
        super().__init__(forward_func, layer)
        self.depth = _block_position(explained_model(forward_func, "class_maps"), layer)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> AttributionOutput:
        """Signed maps `(B, 1, h_l, w_l)` in units of the activations: no tau, no upsampling.

        `LayerAttribution.interpolate` brings them to the size of the image.

        Raises:
            as `ClassMap.attribute`; `ValueError` for `attribute_to_layer_input`: class maps belong to a block's output.
        """
        if attribute_to_layer_input:
            raise ValueError(
                "attribute_to_layer_input is not supported, expected False: ask for the block before instead."
            )
        x, is_tuple = single_input(inputs, additional_forward_args)
        model = evaluation_view(explained_model(self.forward_func, "class_maps"))
        classes = class_indices(target, len(x), model.num_classes, x.device)
        with torch.no_grad():
            return like_input(_class_map(model.class_maps(x)[self.depth], classes).contiguous(), is_tuple)


def _check_layers(layers: str) -> None:
    if layers not in ("penultimate", "average", "top_half"):
        raise ValueError(f"layers={layers!r} is unknown, expected 'penultimate', 'average' or 'top_half'.")


def _maps_of(model: Any, x: Tensor, layers: str) -> list[Tensor]:
    if layers == "penultimate":  # with many classes the maps of all blocks would take many times the memory
        return [model.head.class_maps(model.forward_features(x))]
    maps: list[Tensor] = model.class_maps(x)
    return maps if layers == "average" else maps[-math.ceil(len(maps) / 2) :]


def _class_map(maps: Tensor, classes: Tensor, probs: Tensor | None = None) -> Tensor:
    """Maps `(B, K, h, w)` to those of `classes`, `(B, 1, h, w)`, less their mean over `probs` `(B, K)` if given."""
    chosen = maps[torch.arange(len(maps), device=maps.device), classes][:, None]
    if probs is None:
        return chosen
    # no einsum: autocast would run it in half precision
    return chosen - (probs[:, :, None, None] * maps).sum(1, keepdim=True)


def _spread(maps: Tensor, shape: torch.Size) -> Tensor:
    """Maps `(B, 1, h, w)` to `(B, 1, H, W)`, such that C copies add up to the spatial mean of each map."""
    pixels = shape[1] * shape[2] * shape[3]
    large = F.interpolate(maps, shape[2:], mode="bilinear", align_corners=False)
    # bilinear upsampling keeps the mean for integer factors only; elsewhere the rest goes to all pixels alike
    rest = maps.mean((2, 3), keepdim=True) - large.mean((2, 3), keepdim=True)
    return (large + rest) / pixels


def _block_position(model: Any, layer: nn.Module) -> int:
    position, names = -1, []
    for i, stage in enumerate(model.stages):
        names.append(f"stages.{i}")
        for j, block in enumerate(stage.blocks):
            position += 1
            names.append(f"stages.{i}.blocks.{j}")
            if layer is block:
                return position
        if layer is stage:
            return position
    raise ValueError(f"layer is a {type(layer).__name__} that has no class map, expected one of {', '.join(names)}.")
