"""Class maps of FA-CNNs and hybrids as Captum attributions: forward passes only, no hooks, no modes

Source: `End-to-end Feature Alignment: A Simple CNN with Intrinsic Class Attribution` (Parniyan Farvardin,
David Chapman) - https://arxiv.org/abs/2603.25798. The FA-CNN here is a reconstruction from its abstract.

`model.class_maps(x)` gives the maps of all blocks. `M_c^l` is the one of class c after block l, and the logit is
`y_c = tau * mean(M_c^L) + b`, with b = 0 unless the model has a `logit_bias`.

The softmax does not see what all logits share, so an explanation of a softmax classifier should not show it either. Its
maps are therefore centred: `M_c - mean_j M_j`, which adds up to `y_c - mean_j y_j`. The logits of a model with one
sigmoid per class mean something by themselves, so its maps stay as they are and add up to `y_c - b`.
"""

import math
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from timm_interpretable.attr.contract import (
    AttributionOutput,
    TargetType,
    class_indices,
    evaluation_view,
    explained_model,
    finite,
    like_input,
    single_input,
)
from timm_interpretable.attr.evidence import Explanation
from timm_interpretable.attr.maps import spread

__all__ = ["ClassMap", "ClassMapEvidence", "LayerClassMap"]


class ClassMapEvidence:
    """One forward pass of an FA-CNN: its logits, and the class maps of every class.

    Args:
        maps: after one or several blocks, `tau * M^l` of shape `(B, K, h_l, w_l)`, the last block last.
        constant: what the logits have besides the mean of the last map.
        shape: of the images, `(B, C, H, W)`.
        centred: show `M_c - mean_j M_j` instead of `M_c`.
    """

    def __init__(self, maps: list[Tensor], constant: Tensor | float, shape: torch.Size, centred: bool) -> None:
        self.layers, self.constant, self.shape = maps, constant, shape
        self.centred = centred and maps[-1].shape[1] > 1

    @property
    def logits(self) -> Tensor:
        return self.layers[-1].mean((2, 3)) + self.constant

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.layers)

    @torch.no_grad()
    def maps(self, classes: Tensor, layers: str = "penultimate", contrast: Tensor | None = None) -> Tensor:
        """Signed maps `(B, n, H, W)` of classes `(B, n)`, in units of the logit.

        Args:
            layers: 'penultimate', 'average' (of all blocks) or 'top_half' (of the last half, rounded up).
            contrast: other classes `(B, n)` whose maps are subtracted, instead of the mean over all classes.
        """
        chosen = [self._of(one, classes, contrast) for one in self._layers(layers)]
        return torch.stack([spread(one, self.shape[2:]) for one in chosen]).mean(0)

    @torch.no_grad()
    def explanation(self, classes: Tensor, layers: str = "penultimate", contrast: Tensor | None = None) -> Explanation:
        others = None if contrast is None else contrast[:, None]
        one = self.maps(classes[:, None], layers, others)
        spread = (one / self.shape[1]).expand(self.shape).contiguous()
        # a hybrid has one map, which has no way through depth
        layers_shown = self.layers if len(self.layers) > 1 else []
        depth = [self._of(m, classes[:, None], others)[:, 0] / m.shape[2:].numel() for m in layers_shown]
        return Explanation(spread, depth, depth_label="block")

    def raw(self) -> "ClassMapEvidence":
        """The same pass, with maps that are not centred."""
        return ClassMapEvidence(self.layers, self.constant, self.shape, False)

    def _layers(self, layers: str) -> list[Tensor]:
        if layers == "penultimate":
            return self.layers[-1:]
        return self.layers if layers == "average" else self.layers[-math.ceil(len(self.layers) / 2) :]

    def _of(self, maps: Tensor, classes: Tensor, contrast: Tensor | None) -> Tensor:
        """Maps `(B, K, h, w)` to those of classes `(B, n)`, less what they are held against."""
        rows = torch.arange(len(maps), device=maps.device)[:, None]
        if contrast is not None:
            return maps[rows, classes] - maps[rows, contrast]
        return maps[rows, classes] - maps.mean(1, keepdim=True) if self.centred else maps[rows, classes]


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
        contrast: TargetType = None,
        centred: bool | None = None,
        return_convergence_delta: bool = False,
    ) -> AttributionOutput | tuple[AttributionOutput, Tensor]:
        """Signed attributions of the shape of `inputs`, in units of the logit.

        The map, times tau, is upsampled bilinearly and shared equally by the channels. Its sum over (C, H, W) is, to
        rounding, the score

        * `y_c - mean_j y_j` for centred maps,
        * `y_c - b` for maps that are not centred,
        * `y_c - y_d` with `contrast=d`.

        This holds for `layers='penultimate'`. For 'average' (every block) and 'top_half' (the last half, rounded up)
        the sum is the mean of the scores that these blocks would give, and the convergence delta says how far that is
        from the model's own.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: must be None.
            layers: 'penultimate', 'average' or 'top_half'.
            contrast: another class, in the same forms: why the target rather than this one?
            centred: subtract the mean over all classes. None does so for models with a softmax, see the module.
            return_convergence_delta: return `(attributions, delta)`, see `compute_convergence_delta`.

        Returns:
            contiguous and detached, fp32 (fp64 for an fp64 model).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target or contrast outside the model's classes.
            ValueError: unknown `layers`, several or empty inputs, additional arguments.
        """
        x, is_tuple = single_input(inputs, additional_forward_args)
        _check_layers(layers)
        model = self._model()
        classes, others = _classes(target, x, model), None if contrast is None else _classes(contrast, x, model)
        with torch.no_grad():
            evidence = _evidence(model, x, layers == "penultimate", centred)
            found = evidence.explanation(classes, layers, others).attribution
        attributions = like_input(finite(found, "ClassMap", x, model), is_tuple)
        if return_convergence_delta:
            delta = self.compute_convergence_delta(attributions, None, inputs, target, None, contrast, centred)
            return attributions, delta
        return attributions

    def evidence(self, inputs: Tensor | tuple[Tensor, ...], centred: bool | None = None) -> ClassMapEvidence:
        """The logits and the maps of all classes after every block, from one forward pass. Arguments as `attribute`."""
        x, _ = single_input(inputs)
        with torch.no_grad():
            return _evidence(self._model(), x, False, centred)

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
        contrast: TargetType = None,
        centred: bool | None = None,
    ) -> Tensor:
        """`sum(attributions) - score(end_point)` per sample, `(B,)`, in units of the logit; the score as `attribute`.

        The score comes from the model's own forward pass, not from its maps, and does not depend on `layers`.
        `start_point` is ignored and only keeps Captum's order of arguments: class maps account for the whole score, not
        for its difference from a baseline.
        """
        x, _ = single_input(end_point, additional_forward_args)
        total = single_input(attributions)[0].flatten(1).sum(1)
        if len(total) != len(x):
            raise AssertionError(f"{len(total)} attributions do not match the {len(x)} samples of end_point.")
        model = self._model()
        classes, others = _classes(target, x, model), None if contrast is None else _classes(contrast, x, model)
        with torch.no_grad():
            features = model.forward_features(x)
            # a half-precision model rounds its logits last; the maps account for the logit before that
            logits = model.forward_head(features.to(torch.promote_types(features.dtype, torch.float32)))
            if logits.ndim == 4:  # global_pool=''
                logits = logits.mean((2, 3))
            score = logits.gather(1, classes[:, None])[:, 0]
            if others is not None:
                return total - (score - logits.gather(1, others[:, None])[:, 0])
            return total - (score - (logits.mean(1) if _centres(model, centred) else _constant(model)))

    def _model(self) -> Any:
        return evaluation_view(explained_model(self.forward_func, "class_maps"))


class LayerClassMap(LayerAttribution):
    """The raw class map `M_c^l` after one block, found by its position in the model, without a hook.

    Args:
        forward_func: a model with `class_maps`, else `TypeError`.
        layer: of an FA-CNN a block (`model.stages[i].blocks[j]`) or a stage (`model.stages[i]`: its last block), of a
            hybrid `model.backbone`; else `ValueError`.
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
        """Signed maps `(B, 1, h_l, w_l)` in units of the activations: no tau, no centring, no upsampling.

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
        classes = _classes(target, x, model)
        with torch.no_grad():
            maps = model.class_maps(x)[self.depth]
            chosen = maps[torch.arange(len(maps), device=maps.device), classes][:, None]
            return like_input(finite(chosen, "LayerClassMap", x, model).contiguous(), is_tuple)


def _classes(target: TargetType, x: Tensor, model: Any) -> Tensor:
    return class_indices(target, len(x), model.num_classes, x.device)


def _check_layers(layers: str) -> None:
    if layers not in ("penultimate", "average", "top_half"):
        raise ValueError(f"layers={layers!r} is unknown, expected 'penultimate', 'average' or 'top_half'.")


def _centres(model: Any, centred: bool | None) -> bool:
    wanted = model.output == "softmax" if centred is None else centred
    return bool(wanted and model.num_classes > 1)


def _constant(model: Any) -> Any:
    return model.logit_bias


def _evidence(model: Any, x: Tensor, last_only: bool, centred: bool | None) -> ClassMapEvidence:
    # with many classes the maps of all blocks would take many times the memory of the last
    maps = [model.head.class_maps(model.forward_features(x))] if last_only else model.class_maps(x)
    scaled = [model.head.temperature * one for one in maps]
    return ClassMapEvidence(scaled, _constant(model), x.shape, _centres(model, centred))


def _block_position(model: Any, layer: nn.Module) -> int:
    positions: dict[str, int] = model.map_positions()
    for name, position in positions.items():
        if layer is model.get_submodule(name):
            return position
    raise ValueError(
        f"layer is a {type(layer).__name__} that has no class map, expected one of {', '.join(positions)}."
    )
