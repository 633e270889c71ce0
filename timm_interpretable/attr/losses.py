"""What FAME descends: small objects that turn the outputs of a model into one number per sample

Sources: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017; the losses on features are those of LOTS (Rozsa, Günther, Boult, 2017).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_interpretable.attr.contract import (
    TargetType,
    as_logits,
    at_least_float32,
    class_indices,
    described,
    evaluation_view,
    explained_model,
)
from timm_interpretable.models.sharing import module_copies

__all__ = ["CosineDissimilarity", "CosineSimilarity", "FeatureLocationLoss", "LogitLoss", "Loss"]

Layer = int | str | nn.Module


class Loss:
    """One number per sample, `(B,)`, from the outputs of a model; losses add up and take factors: `a - 0.5 * b`.

    A loss of your own is any callable from outputs to `(B,)`. Subclass this where it holds data of each sample: while
    FAME runs, samples that are finished leave the batch, and `select` takes their data along.

    Attributes:
        stop_below: a sample is finished where its loss falls below; None for never.
        layer: the layer whose feature map is the output, see `FeatureLocationLoss`; None for the model's output.
        takes_target: whether the `target` of `attribute` means something to this loss.
        per_sample: names of attributes that are tensors with one entry per sample.
    """

    stop_below: float | None = None
    layer: Layer | None = None
    takes_target: bool = False
    per_sample: tuple[str, ...] = ()

    def __call__(self, outputs: Any) -> Tensor:
        raise NotImplementedError

    def bind(self, outputs: Any, target: TargetType, batch: int) -> "Loss":
        """The loss of a whole batch, checked against the first outputs seen (those of some of its samples)."""
        return self

    def select(self, samples: Tensor) -> "Loss":
        """The loss of some of the samples, given by their indices `(b,)`."""
        return self._with(**{name: getattr(self, name)[samples] for name in self.per_sample})

    def _with(self, **values: Any) -> "Loss":
        other = copy.copy(self)
        for name, value in values.items():
            setattr(other, name, value)
        return other

    def __add__(self, other: "Loss") -> "Loss":
        return _Sum((self, 1.0), (other, 1.0)) if isinstance(other, Loss) else NotImplemented

    def __sub__(self, other: "Loss") -> "Loss":
        return _Sum((self, 1.0), (other, -1.0)) if isinstance(other, Loss) else NotImplemented

    def __mul__(self, factor: float) -> "Loss":
        return _Sum((self, float(factor))) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> "Loss":
        return self * -1.0


class _Sum(Loss):
    """A weighted sum of losses of the same outputs. What ends its terms does not end it."""

    def __init__(self, *terms: tuple[Loss, float]) -> None:
        self.terms = terms
        self.takes_target = any(loss.takes_target for loss, _ in terms)
        self.layer = terms[0][0].layer
        other = [loss.layer for loss, _ in terms if loss.layer is not self.layer and loss.layer != self.layer]
        if other:
            raise ValueError(f"The terms of a loss read layers {self.layer!r} and {other[0]!r}, expected one layer.")

    def __call__(self, outputs: Any) -> Tensor:
        return torch.stack([weight * loss(outputs) for loss, weight in self.terms]).sum(0)

    def bind(self, outputs: Any, target: TargetType, batch: int) -> Loss:
        return _Sum(*((loss.bind(outputs, target, batch), weight) for loss, weight in self.terms))

    def select(self, samples: Tensor) -> Loss:
        return _Sum(*((loss.select(samples), weight) for loss, weight in self.terms))


class Custom(Loss):
    """A user's own callable."""

    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        self.function = function

    def __call__(self, outputs: Any) -> Tensor:
        return self.function(outputs)


class LogitLoss(Loss):
    """The raw logit `z_c` of the target class: image classification.

    Args:
        abs: descend `|z_c|`, which holds the logit at zero once it is there.
        stop_at_zero: a sample is finished where its logit falls below zero; one that starts there gives a zero map.

    Raises:
        ValueError: both: an absolute value never falls below zero. Ask for `stop_below` instead.
    """

    takes_target = True
    per_sample = ("classes",)

    def __init__(self, abs: bool = False, stop_at_zero: bool = False) -> None:
        if abs and stop_at_zero:
            raise ValueError("abs=True with stop_at_zero=True never stops, expected one of them; see stop_below.")
        self.abs = abs
        self.stop_below = 0.0 if stop_at_zero else None
        self.classes: Tensor | None = None

    def bind(self, outputs: Any, target: TargetType, batch: int) -> Loss:
        logits = as_logits(outputs)
        return self._with(classes=class_indices(target, batch, logits.shape[1], logits.device))

    def __call__(self, outputs: Any) -> Tensor:
        assert self.classes is not None, "bind comes first"
        logit = at_least_float32(as_logits(outputs).gather(1, self.classes[:, None])[:, 0])
        return logit.abs() if self.abs else logit


class FeatureLocationLoss(Loss):
    """L1 norm over the channels of one location of a feature map: which pixels does this cell depend on?

    Args:
        layer: an index into the `forward_intermediates` of a timm model (negative ones count from the end), which
            stops there and also gives the tokens of a transformer as a map; or any submodule, itself or its name,
            whose output is a map `(B, C, h, w)`. Of a submodule that runs more than once the first output counts.
        row, col: the location, one for all samples or `(B,)`. Negative ones are not allowed.
    """

    per_sample = ("row", "col")

    def __init__(self, layer: Layer, row: int | Tensor, col: int | Tensor) -> None:
        self.layer = layer
        self.row = torch.as_tensor(row)
        self.col = torch.as_tensor(col)

    def bind(self, outputs: Any, target: TargetType, batch: int) -> Loss:
        maps = check_feature_map(outputs, self.layer)
        sides = {}
        for name, side in (("row", maps.shape[2]), ("col", maps.shape[3])):
            values = getattr(self, name)
            wrong = [v for v in values.flatten().tolist() if not (isinstance(v, int) and 0 <= v < side)]
            if wrong or values.shape not in ((), (1,), (batch,)):
                seen = wrong[0] if wrong else f"of shape {tuple(values.shape)}"
                raise ValueError(f"{name} {seen} does not fit, expected 0 to {side - 1}, one or {batch} of them.")
            sides[name] = values.to(maps.device).expand(batch).clone()
        return self._with(**sides)

    def __call__(self, outputs: Any) -> Tensor:
        index = self.row * outputs.shape[3] + self.col
        cell = outputs.flatten(2).gather(2, index[:, None, None].expand(-1, outputs.shape[1], 1))
        return at_least_float32(cell).abs().sum((1, 2))


class CosineSimilarity(Loss):
    """Cosine of an embedding and a reference: what two images have in common (e+) is what lowers it.

    Args:
        reference: embeddings of the other images, computed once and held constant: `(B, D)`, or one for all samples,
            `(D,)` or `(1, D)`.
        stop_below: a sample is finished below this similarity; None for never.
    """

    per_sample = ("reference",)

    def __init__(self, reference: Tensor, stop_below: float | None = 0.01) -> None:
        self.reference = unit_reference(reference)
        self.stop_below = stop_below

    def bind(self, outputs: Any, target: TargetType, batch: int) -> Loss:
        return self._with(reference=fitting_reference(self.reference, outputs, batch))

    def __call__(self, outputs: Any) -> Tensor:
        return cosine(outputs, self.reference)


class CosineDissimilarity(CosineSimilarity):
    """One minus the cosine: where two images differ (e-) is what, changed, makes them alike.

    Arguments as `CosineSimilarity`. For a pair of two people turn the end off with `stop_below=None`.
    """

    def __call__(self, outputs: Any) -> Tensor:
        return 1 - cosine(outputs, self.reference)


def unit_reference(reference: Tensor) -> Tensor:
    """Embeddings `(D,)` or `(B, D)` as constant unit vectors `(1 or B, D)`, in at least fp32.

    Raises:
        ValueError: another shape.
    """
    if not isinstance(reference, Tensor) or reference.ndim not in (1, 2):
        raise ValueError(f"reference is {described(reference)}, expected embeddings (D,) or (B, D).")
    return F.normalize(torch.atleast_2d(at_least_float32(reference.detach())), dim=1)


def fitting_reference(reference: Tensor, outputs: Any, batch: int) -> Tensor:
    """One unit vector per sample, `(batch, D)`, on the device of the embeddings.

    Raises:
        ValueError: the outputs are no embeddings of its dimension, or it holds neither one nor `batch` of them.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != reference.shape[1]:
        raise ValueError(
            f"The model gives {described(outputs)}, expected embeddings (B, {reference.shape[1]}) like the reference."
        )
    if len(reference) not in (1, batch):
        raise ValueError(f"reference holds {len(reference)} embeddings, expected 1 or {batch}.")
    return reference.to(outputs.device).expand(batch, -1)


def cosine(outputs: Tensor, reference: Tensor) -> Tensor:
    """Cosines of embeddings with unit vectors, `(B,)`; 0 for a zero embedding."""
    return (F.normalize(at_least_float32(outputs), dim=1) * reference).sum(1)


def feature_function(forward_func: Any, layer: Layer) -> Callable[..., Any]:
    """Images to the feature map of one layer of a module, which runs in evaluation mode with frozen parameters.

    An index goes through timm's `forward_intermediates`. For any other submodule nothing but a hook is general enough;
    it is put on a copy of the module tree that nobody else sees, so calls stay re-entrant, and it ends the pass there.

    Raises:
        TypeError: `forward_func` is no module, or an index is given for one without `forward_intermediates`.
        ValueError: the model has no such layer.
    """
    if not isinstance(layer, int):
        return _tap(explained_model(forward_func, "forward"), layer)
    model = evaluation_view(explained_model(forward_func, "forward_intermediates"), frozen=True)
    count = len(model.feature_info)
    if not -count <= layer < count:
        raise ValueError(f"layer={layer} is out of range, expected {-count} to {count - 1}.")

    def forward(x: Tensor, *args: Any) -> Tensor:
        return model.forward_intermediates(x, *args, indices=[layer], stop_early=True, intermediates_only=True)[0]

    return forward


class _ReachedError(Exception):
    """Carries the output of the layer out of the pass."""


def _tap(model: nn.Module, layer: str | nn.Module) -> Callable[..., Any]:
    found = [(name, module) for name, module in model.named_modules() if layer is module or layer == name]
    if not found:
        raise ValueError(f"layer {layer_name(layer)} is not in the model, expected a submodule or the name of one.")

    def reached(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _ReachedError(output)

    name, module = found[0]
    copies = module_copies(model, frozen=True)
    private = copies[id(model)].eval()
    copies[id(module)].register_forward_hook(reached)

    def forward(*args: Any) -> Any:
        try:
            private(*args)
        except _ReachedError as end:
            return end.args[0]
        raise ValueError(f"layer {name!r} takes no part in the forward pass, expected one that does.")

    return forward


def check_feature_map(outputs: Any, layer: Layer | None) -> Tensor:
    if isinstance(outputs, Tensor) and outputs.ndim == 4:
        return outputs
    raise ValueError(
        f"layer {layer_name(layer)} gives {described(outputs)}, expected a feature map (B, C, h, w); for the tokens of "
        "a timm transformer give the index of a block."
    )


def layer_name(layer: Layer | None) -> str:
    return type(layer).__name__ if isinstance(layer, nn.Module) else repr(layer)
