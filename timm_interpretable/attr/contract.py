"""What every attribution of this package shares of Captum's contract: inputs, targets, and the model it explains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from timm_interpretable.models.interface import plain_model
from timm_interpretable.models.sharing import Model, shared_copy

__all__ = [
    "AttributionOutput",
    "BaselineType",
    "Inputs",
    "TargetType",
    "as_logits",
    "at_least_float32",
    "baseline_values",
    "broadcast",
    "check_at_least_one",
    "class_columns",
    "class_indices",
    "described",
    "evaluation_view",
    "explained_model",
    "extra_arguments",
    "finite",
    "gradients",
    "like_input",
    "of_samples",
    "progress_bar",
    "runnable",
    "single_input",
]

AttributionOutput: TypeAlias = Tensor | tuple[Tensor, ...]

TargetType: TypeAlias = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
"""The classes to explain, in any of Captum's forms: one for all images, or one for each."""

BaselineType: TypeAlias = float | Tensor | tuple[float | Tensor, ...] | None
"""What a missing pixel shows: zero (None), a number, a tensor that broadcasts to the images, or a 1-tuple of these.

Captum's tools, such as `NoiseTunnel`, hand baselines on in a tuple.
"""

Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...])
"""Images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way."""

_DELAY = 3.0  # seconds without a progress bar


def explained_model(forward_func: Any, *methods: str) -> Any:
    """The module behind `torch.compile`, `DataParallel` and `DistributedDataParallel`, which must have all `methods`.

    Raises:
        TypeError: the model lacks one of them, so this attribution cannot explain it.
    """
    model = plain_model(forward_func)
    for method in methods:
        if not isinstance(model, nn.Module) or not callable(getattr(model, method, None)):
            raise TypeError(f"{type(model).__name__} cannot be explained: expected a model with a method `{method}`.")
    return model


def evaluation_view(model: Model, frozen: bool = False) -> Model:
    """The model in evaluation mode, without touching it: itself where it is so already, else a view of it.

    Flipping `training` and restoring it would be seen by every other thread that uses the model, and a pass in
    training mode would move the statistics of its BatchNorm layers. `frozen` asks, in the same way, for parameters
    that take no gradient: `autograd.grad` for the input alone still computes those of autograd functions written in
    Python and of compiled models.
    """
    unfit = any(module.training for module in model.modules())
    unfit = unfit or (frozen and any(p.requires_grad for p in model.parameters()))
    return shared_copy(model, frozen).eval() if unfit else model


def runnable(forward_func: Any, frozen: bool = False) -> Callable[..., Any]:
    """What an attribution of any model calls: functions as they are, modules as their `evaluation_view`.

    A compiled module in evaluation mode stays as it is, for a copy would have to be compiled anew; otherwise a wrapped
    module gives the plain one inside.

    Raises:
        TypeError: `forward_func` cannot be called.
    """
    if not isinstance(forward_func, nn.Module):
        if not callable(forward_func):
            raise TypeError(f"{type(forward_func).__name__} cannot be explained: expected a module or a function.")
        return forward_func
    compiled = "_orig_mod" in forward_func._modules or forward_func._compiled_call_impl is not None
    if compiled and not any(module.training for module in forward_func.modules()):
        return forward_func
    return evaluation_view(explained_model(forward_func, "forward"), frozen)


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are recorded inside, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def single_input(inputs: Any, additional_forward_args: Any = None) -> tuple[Tensor, bool]:
    """The one image batch `(B, C, H, W)` in `inputs`, a tensor or a 1-tuple, and whether it came in a tuple.

    Raises:
        ValueError: not exactly one input, an empty one, one of another rank, or `additional_forward_args` given.
    """
    if additional_forward_args is not None:
        raise ValueError(
            "additional_forward_args is not supported, expected None: the models take images and nothing else."
        )
    is_tuple = isinstance(inputs, tuple)
    tensors = inputs if is_tuple else (inputs,)
    if len(tensors) != 1 or not isinstance(tensors[0], Tensor):
        kinds = ", ".join(type(t).__name__ for t in tensors)
        raise ValueError(f"inputs has {len(tensors)} entries ({kinds}), expected one tensor of images (B, C, H, W).")
    x = tensors[0]
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"inputs has shape {tuple(x.shape)}, expected a non-empty batch of images (B, C, H, W).")
    return x, is_tuple


def like_input(attribution: Tensor, is_tuple: bool) -> AttributionOutput:
    return (attribution,) if is_tuple else attribution


def extra_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """`additional_forward_args` as Captum takes them: None, one argument, or a tuple of them."""
    if additional_forward_args is None:
        return ()
    return additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)


def of_samples(args: tuple[Any, ...], batch: int, samples: Tensor) -> tuple[Any, ...]:
    """The arguments of some samples of the batch: tensors with one entry per sample are indexed, the rest stays."""
    return tuple(a[samples.to(a.device)] if isinstance(a, Tensor) and a.ndim and len(a) == batch else a for a in args)


def broadcast(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """The value of an argument in the shape of the images, in at least fp32.

    Raises:
        ValueError: it does not broadcast.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    values = torch.as_tensor(value, dtype=dtype, device=x.device).detach()
    try:
        return values.expand_as(x)
    except RuntimeError as error:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected a number or what broadcasts to {tuple(x.shape)}."
        ) from error


def baseline_values(baselines: BaselineType, x: Tensor) -> Tensor | None:
    """What masked pixels show, in the shape of the images; None for zero.

    Raises:
        ValueError: it does not broadcast, or is a tuple of more or less than one.
    """
    if isinstance(baselines, tuple):
        if len(baselines) != 1:
            raise ValueError(f"baselines is a tuple of {len(baselines)}, expected one entry, for one tensor of images.")
        (baselines,) = baselines
    if baselines is None or (not isinstance(baselines, Tensor) and baselines == 0):
        return None
    return broadcast("baselines", baselines, x).to(x.dtype)


def check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}={value} is out of range, expected at least 1.")


def progress_bar(total: int, title: str, show_progress: bool | None) -> Any:
    """A bar; with None only in a terminal, and only once the work takes over three seconds."""
    if show_progress is None:
        return tqdm(total=total, desc=title, disable=None, delay=_DELAY)
    return tqdm(total=total, desc=title, disable=not show_progress)


def finite(
    values: Tensor, method: str, inputs: Tensor, model: Any = None, samples: Tensor | None = None, what: str = "maps"
) -> Tensor:
    """The values of a method `(B, ...)` as they are, if all of them are numbers.

    Args:
        method: its name, for the message.
        inputs: the images that it was given, `(B, ...)`.
        model: what was explained; None where that is not at hand.
        samples: `(B,)`, what the message calls the images; None for their places in the batch.
        what: the values are.

    Raises:
        ValueError: NaN or infinity somewhere, with the method, the images and the cause.
    """
    if values.isfinite().all():
        return values
    bad = (~values.isfinite()).flatten(1).any(1) if values.ndim > 1 else ~values.isfinite()
    if not inputs[bad].isfinite().all():
        cause = "the inputs hold NaN or infinity there"
    elif weight := _spoiled_weight(model):
        cause = f"{weight} of the model holds NaN or infinity"
    elif _computes_in(torch.float16, inputs, model):
        cause = "numbers above 65504 overflow in float16; explain the model in float32 or bfloat16"
    else:
        cause = "the inputs are finite, and what the model makes of them is not"
    names = (bad.nonzero()[:, 0] if samples is None else samples[bad.to(samples.device)]).tolist()
    shown = ", ".join(map(str, names[:5])) + (" and so on" if len(names) > 5 else "")
    raise ValueError(f"{method}: the {what} of images {shown} of the batch are not finite: {cause}.")


def _spoiled_weight(model: Any) -> str | None:
    if not isinstance(model, nn.Module):
        return None
    tensors = chain(model.named_parameters(), model.named_buffers())
    return next((name for name, t in tensors if t.is_floating_point() and not t.isfinite().all()), None)


def _computes_in(dtype: torch.dtype, inputs: Tensor, model: Any) -> bool:
    device = inputs.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == dtype:
        return True
    tensors = [inputs, *model.parameters()] if isinstance(model, nn.Module) else [inputs]
    return any(t.dtype == dtype for t in tensors)


def as_logits(outputs: Any) -> Tensor:
    """Outputs `(B, K)`; `(B,)`, the score of a model with one class, as `(B, 1)`.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2):
        raise ValueError(f"The model gives {described(outputs)}, expected logits (B, K).")
    return outputs if outputs.ndim == 2 else outputs[:, None]


def described(value: Any) -> str:
    """The shape of a tensor, the type of anything else: for messages."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def class_indices(target: TargetType, batch: int, num_classes: int, device: torch.device | None = None) -> Tensor:
    """One class index per sample, `(batch,)`, from any of Captum's forms of `target`.

    These are an int, a tensor of one, or a tuple of one, for the whole batch; and a 1-d tensor, a list of ints, or a
    list of tuples of one, with an entry per sample.

    Raises:
        AssertionError: no target for more than one class, or a form that Captum refuses too.
        IndexError: a class that the model does not have. Negative classes count as such: -1 is more often a mark of
            "no label" than a wish for the last class.
        ValueError: the model has no classes, or the target does not select one class per sample.
    """
    if num_classes < 1:
        raise ValueError(
            "The model has num_classes=0 and nothing to attribute; call reset_classifier(num_classes) first."
        )
    if target is None:
        if num_classes > 1:
            raise AssertionError(f"Target not provided when necessary: the model has {num_classes} classes.")
        target = 0
    values = _one_or_one_each(target, batch)
    if any(isinstance(value, slice) for value in values):
        raise ValueError(f"target={target!r} selects several classes, expected one class for each of {batch} samples.")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise AssertionError(f"target={target!r} is not valid, expected class indices.")
    _check_range(values, num_classes)
    return torch.tensor(values, device=device).expand(batch)


def _one_or_one_each(target: Any, batch: int) -> list[Any]:
    """What a target holds: one entry, or one for each sample. Whether these are classes is not checked."""
    if isinstance(target, Tensor):
        if target.numel() != 1 and target.shape != (batch,):
            raise AssertionError(f"target has shape {tuple(target.shape)}, expected one class, or ({batch},) of them.")
        values: list[Any] = target.flatten().tolist()
        return values
    if isinstance(target, list):
        if len(target) != batch:
            raise AssertionError(f"target is a list of {len(target)} classes, expected {batch}, one for each sample.")
        return [_only(entry) if isinstance(target[0], tuple) else entry for entry in target]
    return [_only(target) if isinstance(target, tuple) else target]


def _only(entry: Any) -> Any:
    if not isinstance(entry, tuple) or len(entry) != 1:
        raise AssertionError(f"target {entry!r} does not select from outputs (B, K), expected a tuple of one class.")
    return entry[0]


def class_columns(classes: Tensor | None, batch: int, num_classes: int, device: torch.device) -> Tensor | None:
    """Checked `classes`, n for each sample, `(batch, n)`; None, for all classes, stays None.

    Raises:
        IndexError: a class that the model does not have.
        ValueError: another shape.
    """
    if classes is None:
        return None
    if classes.ndim != 2 or len(classes) != batch or not classes.shape[1]:
        raise ValueError(f"classes has shape {tuple(classes.shape)}, expected ({batch}, n): n for each sample.")
    _check_range(classes.flatten().tolist(), num_classes)
    return classes.to(device)


def _check_range(values: list[int], num_classes: int) -> None:
    for value in values:
        if not 0 <= value < num_classes:
            raise IndexError(f"target {value} is out of range, expected 0 to {num_classes - 1}.")
