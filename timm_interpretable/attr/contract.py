"""What every attribution of this package shares of Captum's contract: inputs, targets, and the model it explains."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from captum._utils.common import _select_targets
from captum._utils.typing import TargetType
from torch import Tensor, nn

AttributionOutput = Tensor | tuple[Tensor, ...]
Model = TypeVar("Model", bound=nn.Module)


def explained_model(forward_func: Any, method: str) -> Any:
    """The module behind `torch.compile`, `DataParallel` and `DistributedDataParallel`, which must have `method`.

    Raises:
        TypeError: the model has no such method, so this attribution cannot explain it.
    """
    model = forward_func
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:  # torch.compile
            model = model._orig_mod
        else:
            break
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


def shared_copy(model: Model, frozen: bool = False) -> Model:
    """A copy of the module tree that shares every parameter and buffer, so it costs next to no memory."""
    plain = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    shared: dict[int, Any] = {id(t): t.detach() if frozen else t for t in chain(model.buffers(), plain)}
    for p in model.parameters():
        shared[id(p)] = nn.Parameter(p.detach(), requires_grad=False) if frozen else p
    return copy.deepcopy(model, shared)


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


def check_batch_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise ValueError(f"internal_batch_size={size} is out of range, expected at least 1.")


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
    """One class index per sample, `(batch,)`, from any form of `target` that Captum's `_select_targets` takes.

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
    for value in _flat(target):
        if isinstance(value, int) and not 0 <= value < num_classes:
            raise IndexError(f"target {value} is out of range, expected 0 to {num_classes - 1}.")
    target = target.cpu() if isinstance(target, Tensor) else target
    indices = _select_targets(torch.arange(num_classes).expand(batch, num_classes), target)
    if indices.shape != (batch,):
        raise ValueError(
            f"target={target!r} selects {tuple(indices.shape)}, expected one class for each of {batch} samples."
        )
    return indices.to(device)


def _flat(target: Any) -> list[Any]:
    if isinstance(target, Tensor):
        return target.flatten().tolist()
    if isinstance(target, (list, tuple)):
        return [value for entry in target for value in _flat(entry)]
    return [target]
