"""Contributions of CoDA-Nets and B-cos networks as Captum attributions, without hooks and without modes

Source: `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Moritz Böhle, Mario Fritz,
Bernt Schiele, CVPR 2021) - https://arxiv.org/abs/2104.00032, equations 7 to 9; `B-cos Networks: Alignment is All We
Need for Interpretability` (the same authors, CVPR 2022) - https://arxiv.org/abs/2205.10268, equation 13.

With the weights that it has chosen for an image, such a network is one matrix: `y_c - b_0 = W_c(x) [x, 1 - x]`. The
contribution of an encoded pixel is its term of that sum. `[x, 1 - x]` holds every colour twice; the two terms of a
colour are added, which gives the shape of the image and keeps the sum.

This is not `InputXGradient`. The gradient of the logit also differentiates the weights, and its product with the
image adds up to nothing in particular; and on the three channels of the image it misses the half of the sum that
belongs to `1 - x`. Over 200 test images of CIFAR-10 and `coda_net_s.cifar10` the contributions miss the logit (4.5 on
average, less its bias) by 2e-7 in the median, Captum's `InputXGradient` by 4.6; the rank correlation of the two maps is
.01 (`examples/contributions.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import Attribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from timm_interpretable.attr.contract import (
    AttributionOutput,
    TargetType,
    at_least_float32,
    class_indices,
    evaluation_view,
    explained_model,
    finite,
    like_input,
    single_input,
)
from timm_interpretable.attr.evidence import Explanation
from timm_interpretable.models import LinearMap

ContrastType = TargetType | str

__all__ = ["ContributionEvidence", "InputContribution", "LayerContribution"]


class ContributionEvidence:
    """One forward pass of a network with `dynamic_weights`: its logits, and the linear map that it is for every image.

    The contributions of a class cost one transpose of that map, and no further pass.

    Args:
        weights: the map of the batch.
        model: whose encoding and bias they belong to.
    """

    def __init__(self, weights: LinearMap, model: Any) -> None:
        self.weights, self.encoding, self.bias = weights, model.encoding, model.logit_bias

    @property
    def logits(self) -> Tensor:
        return self.weights.logits() + self.bias

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes

    @torch.no_grad()
    def maps(self, classes: Tensor) -> Tensor:
        """Contributions `(B, n, H, W)` to the logits of classes `(B, n)`, channels added up."""
        return self.of_classes(classes).sum(2)

    @torch.no_grad()
    def attribution(self, classes: Tensor) -> Tensor:
        """Contributions `(B, C, H, W)` to the logit of one class per image, `(B,)`."""
        return self.of_classes(classes[:, None])[:, 0].contiguous()

    @torch.no_grad()
    def of_classes(self, classes: Tensor) -> Tensor:
        """Contributions to classes `(B, n)`, `(B, n, C, H, W)`."""
        return self.encoding.decode(_product(self.weights.class_rows(classes), self.weights.inputs[0].unsqueeze(1)))

    @torch.no_grad()
    def explanation(self, classes: Tensor) -> Explanation:
        # from the output of the head down to the image
        *deeper, rows = self.weights.rows_by_depth(F.one_hot(classes, self.weights.inputs[-1].shape[1]))
        outputs = reversed(self.weights.inputs[1:])
        depth = [_product(one, output).sum(1) for one, output in zip(deeper, outputs, strict=True)][::-1]
        attribution = self.encoding.decode(_product(rows, self.weights.inputs[0])).contiguous()
        return Explanation(attribution, depth, at_least_float32(rows))


class _Completeness:
    """What contributions of any layer have in common: they add up to the logit less its bias.

    With `contrast` they explain the difference of the logit to another class's, or to the mean of all classes with
    'mean', and add up to that difference.
    """

    forward_func: Any

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
        contrast: ContrastType = None,
    ) -> Tensor:
        """`sum(attributions) - (logit - bias)` per sample, `(B,)`, in units of the logit.

        With `contrast`, as given to `attribute`, the difference to that logit takes the place of `logit - bias`.

        The logit comes from the model's own forward pass; zero to rounding. `start_point` is ignored and only keeps
        Captum's order of arguments: contributions account for the whole logit, not for a difference from a baseline.
        """
        x, _ = single_input(end_point, additional_forward_args)
        total = single_input(attributions)[0].flatten(1).sum(1)
        if len(total) != len(x):
            raise AssertionError(f"{len(total)} attributions do not match the {len(x)} samples of end_point.")
        model, combination = self._explained(x, target, contrast)
        with torch.no_grad():
            # not the model's logits: those of a half-precision model are rounded last, with the bias in them
            outputs = model.dynamic_weights(x).logits()
        return total - (outputs * combination).sum(1)

    def _explained(self, x: Tensor, target: TargetType, contrast: ContrastType = None) -> tuple[Any, Tensor]:
        """The model in evaluation mode, and the combination of logits `(B, K)` that is explained."""
        model = evaluation_view(explained_model(self.forward_func, "dynamic_weights"))
        combination = _one_hot(target, x, model)
        if isinstance(contrast, str):
            if contrast != "mean":
                raise ValueError(f"contrast={contrast!r} is unknown, expected a class or 'mean'.")
            return model, combination - 1 / model.num_classes
        return model, combination if contrast is None else combination - _one_hot(contrast, x, model)

    def _attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: TargetType, additional_forward_args: Any, depth: int | None,
        internal_batch_size: int | None, return_convergence_delta: bool, contrast: ContrastType,
    ) -> AttributionOutput | tuple[AttributionOutput, Tensor]:  # fmt: skip
        """Contributions of the input of layer `depth`; of the image, its encodings paired, for None."""
        x, is_tuple = single_input(inputs, additional_forward_args)
        model, combination = self._explained(x, target, contrast)
        with torch.no_grad():
            parts = []
            for weights, part in _passes(model, x, internal_batch_size):
                terms = _product(weights.rows(combination[part], depth or 0), weights.inputs[depth or 0])
                parts.append(model.encoding.decode(terms) if depth is None else terms)
            found = finite(torch.cat(parts), type(self).__name__, x, model)
            attributions = like_input(found.contiguous(), is_tuple)
        if return_convergence_delta:
            delta = self.compute_convergence_delta(attributions, None, inputs, target, None, contrast)
            return attributions, delta
        return attributions


class InputContribution(_Completeness, Attribution):
    """What each colour of each pixel contributes to a logit, exactly: the contributions add up to logit less bias.

    Explains the model in evaluation mode, whichever mode it is in, and of a compiled or (distributed) data parallel
    model the plain module inside. Nothing of the model is changed meanwhile, so that several threads can share it.

    Args:
        forward_func: a model with `dynamic_weights`, else `TypeError`.
    """

    def __init__(self, forward_func: nn.Module) -> None:
        explained_model(forward_func, "dynamic_weights")
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        contrast: ContrastType = None,
    ) -> AttributionOutput | tuple[AttributionOutput, Tensor]:
        """Signed contributions of the shape of `inputs`, in units of the logit.

        Args:
            inputs: images `(B, C, H, W)` in [0, 1], a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: must be None.
            internal_batch_size: images per pass, to bound the memory; None for all at once.
            return_convergence_delta: return `(attributions, delta)`, see `compute_convergence_delta`.
            contrast: another class, in the same forms as `target`: why the target rather than this one? Or 'mean', for
                the mean of all classes.

        Returns:
            contiguous and detached, fp32 (fp64 for an fp64 model).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target or contrast outside the model's classes.
            ValueError: several or empty inputs, additional arguments, `internal_batch_size` below 1.
        """
        return self._attribute(
            inputs, target, additional_forward_args, None, internal_batch_size, return_convergence_delta, contrast
        )

    def evidence(self, inputs: Tensor | tuple[Tensor, ...]) -> ContributionEvidence:
        """The logits and what gives the contributions to any class, from one forward pass. Arguments as `attribute`."""
        x, _ = single_input(inputs)
        model = evaluation_view(explained_model(self.forward_func, "dynamic_weights"))
        with torch.no_grad():
            return ContributionEvidence(model.dynamic_weights(x), model)

    def contributions(
        self, inputs: Tensor | tuple[Tensor, ...], internal_batch_size: int | None = None,
        classes: Sequence[int] | Tensor | None = None, top_k: int | None = None,
    ) -> AttributionOutput:  # fmt: skip
        """The contributions to several classes from one forward pass, `(B, n, C, H, W)`.

        Class by class the same as `attribute`. Arguments and errors as there, and:

        Args:
            classes: which ones, the same for all images `(n,)` or for each its own `(B, n)`; all K by default.
            top_k: instead, the classes with the largest logits of each image, the largest first.

        Raises:
            ValueError: both are given, or `top_k` is not between 1 and K.
            IndexError: a class that the model does not have.
        """
        x, is_tuple = single_input(inputs)
        model = evaluation_view(explained_model(self.forward_func, "dynamic_weights"))
        wanted = None if top_k is not None else _class_table(classes, x, model)
        if top_k is not None and (classes is not None or not 1 <= top_k <= model.num_classes):
            raise ValueError(f"top_k={top_k} must be between 1 and {model.num_classes}, and given without classes.")
        parts = []
        with torch.no_grad():
            for weights, part in _passes(model, x, internal_batch_size):
                chosen = weights.logits().topk(top_k or 1).indices if wanted is None else wanted[part]
                parts.append(ContributionEvidence(weights, model).of_classes(chosen))
            return like_input(torch.cat(parts).contiguous(), is_tuple)

    def through_depth(
        self, inputs: Tensor | tuple[Tensor, ...], target: TargetType = None, internal_batch_size: int | None = None
    ) -> list[Tensor]:
        """What each position contributes at every depth, channels added up: a list of `(B, 1, h_l, w_l)`.

        From the image to the output of the head; each map adds up to the logit less its bias. Arguments and errors as
        in `attribute`.
        """
        x, _ = single_input(inputs)
        model, combination = self._explained(x, target)
        with torch.no_grad():
            parts = []
            for weights, part in _passes(model, x, internal_batch_size):
                pairs = zip(weights.rows_by_depth(combination[part]), reversed(weights.inputs), strict=True)
                parts.append([_product(rows, one).sum(1, keepdim=True) for rows, one in pairs])
            return [torch.cat(maps) for maps in reversed(list(zip(*parts, strict=True)))]

    def effective_weights(
        self, inputs: Tensor | tuple[Tensor, ...], target: TargetType = None, internal_batch_size: int | None = None
    ) -> AttributionOutput:
        """`W_c(x)` itself, for `[x, 1 - x]`, `(B, 2 C, H, W)`: what `viz.weight_picture` draws.

        Arguments and errors as in `attribute`.
        """
        x, is_tuple = single_input(inputs)
        model, combination = self._explained(x, target)
        with torch.no_grad():
            parts = [weights.rows(combination[part]) for weights, part in _passes(model, x, internal_batch_size)]
            return like_input(at_least_float32(torch.cat(parts)).contiguous(), is_tuple)


class LayerContribution(_Completeness, LayerAttribution):
    """What each channel and position of one layer contributes to a logit, found by the layer's place, without a hook.

    Args:
        forward_func: a model with `dynamic_weights`, else `TypeError`.
        layer: one of `model.dynamic_layers()`, the last of which is the head, else `ValueError`.
    """

    def __init__(self, forward_func: nn.Module, layer: nn.Module) -> None:
        super().__init__(forward_func, layer)
        layers = explained_model(forward_func, "dynamic_weights").dynamic_layers()
        depths = [i for i, one in enumerate(layers) if one is layer]
        if not depths:
            raise ValueError(
                f"layer is a {type(layer).__name__} that is not a layer of the model, expected one of its "
                f"{len(layers)} dynamic_layers()."
            )
        self.depth = depths[0]

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        contrast: ContrastType = None,
    ) -> AttributionOutput | tuple[AttributionOutput, Tensor]:
        """Signed contributions of the shape of the layer's output (or input), in units of the logit.

        They too add up to the logit less its bias. Arguments and errors as in `InputContribution.attribute`.
        `attribute_to_layer_input` at the first layer sees the encoded image, with twice the channels.
        """
        depth = self.depth if attribute_to_layer_input else self.depth + 1
        return self._attribute(
            inputs, target, additional_forward_args, depth, internal_batch_size, return_convergence_delta, contrast
        )


def _one_hot(target: TargetType, x: Tensor, model: Any) -> Tensor:
    """One class per image as coefficients `(B, K)`."""
    classes = class_indices(target, len(x), model.num_classes, x.device)
    return F.one_hot(classes, model.num_classes).to(torch.promote_types(x.dtype, torch.float32))


def _class_table(classes: Sequence[int] | Tensor | None, x: Tensor, model: Any) -> Tensor:
    """Classes `(B, n)`."""
    if classes is None:
        classes = range(model.num_classes)
    table = torch.as_tensor(classes if isinstance(classes, Tensor) else list(classes), device=x.device)
    wrong = table[(table < 0) | (table >= model.num_classes)]
    if len(wrong):
        raise IndexError(f"class {int(wrong[0])} is out of range, expected 0 to {model.num_classes - 1}.")
    return table.expand(len(x), -1)


def _product(rows: Tensor, inputs: Tensor) -> Tensor:
    return at_least_float32(rows) * at_least_float32(inputs)


def _passes(model: Any, x: Tensor, size: int | None) -> Iterator[tuple[LinearMap, slice]]:
    """The model's weights for at most `size` images at a time, and which images these are."""
    if size is not None and size < 1:
        raise ValueError(f"internal_batch_size={size} is out of range, expected at least 1.")
    size = size or len(x)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield model.dynamic_weights(x[part]), part
