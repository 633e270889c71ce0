"""FAME: change the image until the model no longer sees the thing, then look at what changed

Source: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017. Written from its equations.

A loss (see `losses`) is descended by steps of constant size, every sample by itself,

    x' <- x' - step_size * g / max|g|,    g = dL/dx'    (the maximum over C, H and W),

and the map is the smoothed change of the grey image, `|grey(x') - grey(x)|`, in units of the image. The paper scales
it to [0, 1] for its pictures and overlaps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from timm_interpretable.attr.contract import (
    AttributionOutput,
    TargetType,
    at_least_float32,
    broadcast,
    check_at_least_one,
    described,
    extra_arguments,
    finite,
    gradients,
    like_input,
    of_samples,
    progress_bar,
    runnable,
    single_input,
)
from timm_interpretable.attr.losses import (
    Custom,
    FeatureLocationLoss,
    Layer,
    LogitLoss,
    Loss,
    check_feature_map,
    feature_function,
)

__all__ = ["FAME", "FAMEDetails", "change_map"]

Bound = float | Tensor


class FAMEDetails(NamedTuple):
    """How FAME came to its maps.

    perturbed: the images at the end, `(B, C, H, W)`, in at least fp32.
    loss: before every step, `(B, n_steps)`; a finished sample keeps its last value.
    steps: how many each sample took, `(B,)`.
    """

    perturbed: Tensor
    loss: Tensor
    steps: Tensor


class FAME(Attribution):
    """Feature activation map explanation of any differentiable model.

    A module is explained in evaluation mode, whichever mode it is in, and its parameters take no gradient. A compiled
    module runs as it is where it is in evaluation mode (best frozen before it is compiled: its backward pass computes
    the gradients of all parameters that ask for one), else as the plain module inside. A function is called as it is.

    Args:
        forward_func: a module or function of images `(B, C, H, W)` whose samples do not depend on each other, else
            `TypeError` (not callable).
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(f"{type(forward_func).__name__} cannot be explained: expected a module or a function.")
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        loss: Loss | Callable[[Any], Tensor] | None = None,
        n_steps: int = 100,
        step_size: float = 1 / 255,
        stop_below: float | Tensor | None = None,
        clamp: tuple[Bound, Bound] | None = None,
        blur: int | str | None = "auto",
        show_progress: bool | None = None,
        internal_batch_size: int | None = None,
        return_details: bool = False,
    ) -> AttributionOutput | tuple[AttributionOutput, FAMEDetails]:
        """The change of the grey image, `|grey(x') - grey(x)|`, in the shape of `inputs`, equal in all channels.

        In units of the inputs and never negative, smoothed as `blur` says and not normalised: at most
        `n_steps * step_size`.

        Args:
            inputs: images `(B, C, H, W)` as the model takes them, a tensor or a 1-tuple of it; the result comes back
                the same way. Grey is luma for three channels, else their mean.
            target: class in any of Captum's forms, for a loss that has one.
            additional_forward_args: passed on; tensors with one entry per sample follow their sample.
            loss: what is descended; None for `LogitLoss()`. A callable gets the outputs of the samples that still run.
            n_steps: the cost is linear in it, two passes per step. The paper takes 500.
            step_size: largest change of a value per step, in units of `inputs`.
            stop_below: end a sample when its loss falls below, one number or `(B,)`; `-inf` for never. None: what the
                loss says. Finished samples leave the batch and cost nothing more.
            clamp: bounds of every image, such as `(0, 1)`: numbers, or tensors that broadcast to `(1, C, H, W)`.
            blur: 'auto' for the paper's Gaussian (49 pixels wide at 224) scaled to the image, its width in pixels (odd;
                sigma as OpenCV derives it), or None.
            show_progress: a bar that counts steps; None for one in a terminal, where it takes over three seconds.
            internal_batch_size: images per pass, to bound the memory; None for all at once.
            return_details: return `(attributions, FAMEDetails)`.

        Returns:
            contiguous and detached, fp32 (fp64 for fp64 images). Zero where nothing changed.

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target outside the model's classes.
            ValueError: a bad value of any other argument; a loss that does not give `(B,)` or does not depend on the
                images; NaN or infinity in the loss or the maps.
        """
        x, is_tuple = single_input(inputs)
        _check_steps(x, n_steps, step_size)
        check_at_least_one("internal_batch_size", internal_batch_size)
        what = _as_loss(loss, target)
        limit = _limit(what.stop_below if stop_below is None else stop_below, x)
        bounds, width = _bounds(clamp, x), _blur_width(blur, x)
        size = internal_batch_size or len(x)
        descent = _Descent(
            self.forward_func, _forward(self.forward_func, what.layer), extra_arguments(additional_forward_args),
            what, target, limit, n_steps, step_size, bounds, record=return_details,
        )  # fmt: skip
        with progress_bar(n_steps * math.ceil(len(x) / size), "FAME", show_progress) as bar:
            maps, details = descent.maps(x, size, width, bar)
        attributions = like_input(maps.expand(x.shape).contiguous(), is_tuple)
        return (attributions, details) if return_details else attributions

    def feature_locations(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        layer: Layer,
        additional_forward_args: Any = None,
        n_steps: int = 100,
        step_size: float = 1 / 255,
        stop_below: float | None = None,
        clamp: tuple[Bound, Bound] | None = None,
        blur: int | str | None = "auto",
        show_progress: bool | None = None,
        internal_batch_size: int | None = None,
    ) -> Tensor:
        """One map per location of a feature map, `(B, h, w, H, W)`: `FeatureLocationLoss` at all of them in turn.

        Args:
            layer: as in `FeatureLocationLoss`.
            internal_batch_size: images per pass, of the `h * w` that the locations of one image make; None for all of
                these at once.

        Other arguments as in `attribute`; errors as there and of `FeatureLocationLoss`.
        """
        x, _ = single_input(inputs)
        _check_steps(x, n_steps, step_size)
        check_at_least_one("internal_batch_size", internal_batch_size)
        limit, bounds, width = _limit(stop_below, x[:1]), _bounds(clamp, x), _blur_width(blur, x)
        args, forward = extra_arguments(additional_forward_args), feature_function(self.forward_func, layer)
        with torch.no_grad():
            first = of_samples(args, len(x), torch.zeros(1, dtype=torch.long, device=x.device))
            h, w = check_feature_map(forward(x[:1], *first), layer).shape[2:]
        parts = torch.arange(h * w, device=x.device).split(internal_batch_size or h * w)
        maps = []
        with progress_bar(n_steps * len(x) * len(parts), "FAME", show_progress) as bar:
            for i in range(len(x)):
                for part in parts:
                    descent = _Descent(
                        self.forward_func, forward, of_samples(args, len(x), torch.full_like(part, i)),
                        FeatureLocationLoss(layer, part // w, part % w), None,
                        None if limit is None else limit.expand(len(part)), n_steps, step_size, bounds,
                    )  # fmt: skip
                    image = x[i : i + 1].expand(len(part), -1, -1, -1)
                    maps.append(descent.maps(image, len(part), width, bar)[0][:, 0])
        return torch.cat(maps).unflatten(0, (len(x), h, w))


def change_map(inputs: Tensor, perturbed: Tensor, blur: int | str | None = "auto") -> Tensor:
    """The change of the grey image, `(B, H, W)`, in units of the inputs: FAME's last step, for a descent that is done.

    Args:
        inputs: images `(B, C, H, W)`.
        perturbed: `FAMEDetails.perturbed`, or whatever else they were turned into, in the same shape.
        blur: as in `FAME.attribute`.

    Raises:
        ValueError: another shape, or a bad value of an option.
    """
    x, _ = single_input(inputs)
    if perturbed.shape != x.shape:
        raise ValueError(f"perturbed is {described(perturbed)}, expected the shape of the inputs, {described(x)}.")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return _change(x, at_least_float32(perturbed), _blur_width(blur, x))[:, 0]


@dataclass
class _Descent:
    """One batch of images on its way: nothing outlives the call, so calls do not see each other."""

    model: Any
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    loss: Loss
    target: TargetType
    limit: Tensor | None
    n_steps: int
    step_size: float
    bounds: tuple[Tensor, Tensor] | None
    record: bool = False
    bound: Loss | None = None

    def maps(self, x: Tensor, size: int, width: int, bar: Any) -> tuple[Tensor, FAMEDetails]:
        """Maps `(B, 1, H, W)` under a blur of that width, and how they came about."""
        with gradients():
            details = self.run(x.detach(), size, bar)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return finite(_change(x, details.perturbed, width), "FAME", x, self.model), details

    def run(self, x: Tensor, size: int, bar: Any) -> FAMEDetails:
        # steps smaller than the resolution of half precision must add up
        perturbed = at_least_float32(x).clone()
        curve = perturbed.new_zeros(len(x), self.n_steps if self.record else 0)
        result = FAMEDetails(perturbed, curve, torch.zeros(len(x), dtype=torch.long, device=x.device))
        for samples in torch.arange(len(x), device=x.device).split(size):
            begin = bar.n
            self._descend(samples, x.dtype, result, bar)
            bar.update(begin + self.n_steps - bar.n)  # the steps that an early end has left out
        return result

    def _descend(self, samples: Tensor, dtype: torch.dtype, result: FAMEDetails, bar: Any) -> None:
        """Run some of the samples to their end, and write where that is into the result."""
        image, args = result.perturbed[samples], of_samples(self.args, len(result.steps), samples)
        loss: Loss | None = None
        for step in range(self.n_steps):
            leaf = image.to(dtype).detach().requires_grad_()
            outputs = self.forward(leaf, *args)
            loss = self._loss(outputs, samples, len(result.steps)) if loss is None else loss
            values = _checked(loss(outputs), samples)
            if step == 0:  # a sample that is no number stays none: better to say so now than after all steps
                finite(values.detach(), "FAME", leaf.detach(), self.model, samples, "losses")
            if self.record:
                result.loss[samples, step] = values.detach().to(result.loss.dtype)
            going = self._going(values, samples)
            if going is not None:
                _write(result, samples, image, step)
                if len(going) == 0:
                    return
                values = values[going]
            (grad,) = torch.autograd.grad(values.sum(), leaf)
            if going is not None:  # finished samples leave the batch
                samples, image, grad = samples[going], image[going], grad[going]
                args, loss = of_samples(self.args, len(result.steps), samples), None
            self._step(image, grad)
            bar.update()
        _write(result, samples, image, self.n_steps)

    def _loss(self, outputs: Any, samples: Tensor, batch: int) -> Loss:
        if self.bound is None:
            self.bound = self.loss.bind(outputs, self.target, batch)
        return self.bound.select(samples)

    def _going(self, values: Tensor, samples: Tensor) -> Tensor | None:
        """Which of the samples go on, `(b,)`; None for all."""
        if self.limit is None:
            return None
        going = (values.detach() >= self.limit[samples]).nonzero()[:, 0]
        return going if len(going) < len(samples) else None

    def _step(self, image: Tensor, grad: Tensor) -> None:
        grad = grad.to(image.dtype)
        peak = torch.linalg.vector_norm(grad, math.inf, dim=(1, 2, 3), keepdim=True)
        image.sub_(grad / peak.where(peak > 0, 1), alpha=self.step_size)  # no gradient, no step
        if self.bounds is not None:
            image.clamp_(*self.bounds)


def _write(result: FAMEDetails, samples: Tensor, image: Tensor, step: int) -> None:
    result.perturbed[samples] = image
    result.steps[samples] = step
    if step < result.loss.shape[1]:
        result.loss[samples, step:] = result.loss[samples, step : step + 1]


def _checked(values: Any, samples: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != samples.shape:
        raise ValueError(f"The loss gives {described(values)}, expected one number per sample, ({len(samples)},).")
    if not values.requires_grad:
        raise ValueError("The loss does not depend on the images, expected a differentiable model and loss.")
    return values


def _forward(forward_func: Callable[..., Any], layer: Layer | None) -> Callable[..., Any]:
    return runnable(forward_func, frozen=True) if layer is None else feature_function(forward_func, layer)


def _as_loss(loss: Loss | Callable[[Any], Tensor] | None, target: TargetType) -> Loss:
    if isinstance(loss, type) or not (loss is None or callable(loss)):
        raise ValueError(f"loss={loss!r} is no loss, expected an object such as LogitLoss() or a callable.")
    if loss is None:
        return LogitLoss()
    what = loss if isinstance(loss, Loss) else Custom(loss)
    if target is not None and not what.takes_target:
        raise ValueError(f"target={target!r} means nothing to {type(what).__name__}, expected None.")
    return what


def _limit(stop_below: float | Tensor | None, x: Tensor) -> Tensor | None:
    if stop_below is None or (not isinstance(stop_below, Tensor) and stop_below == -math.inf):
        return None
    limit = torch.as_tensor(stop_below, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device).detach()
    if limit.shape not in ((), (len(x),)) or limit.isnan().any():
        raise ValueError(
            f"stop_below={stop_below} does not fit, expected one number or one for each of {len(x)} samples."
        )
    return limit.expand(len(x))


def _check_steps(x: Tensor, n_steps: int, step_size: float) -> None:
    if not x.is_floating_point():
        raise ValueError(f"inputs have dtype {x.dtype}, expected floating point.")
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} is out of range, expected at least 1.")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size} is out of range, expected a positive number.")


def _bounds(clamp: tuple[Bound, Bound] | None, x: Tensor) -> tuple[Tensor, Tensor] | None:
    if clamp is None:
        return None
    low, high = (broadcast("clamp", bound, x[:1]) for bound in clamp)
    if not (low < high).all():
        raise ValueError(f"clamp={clamp} is empty, expected a lower and a higher bound.")
    slack = 1e-3 * (high - low)
    if ((x < low - slack) | (x > high + slack)).any():
        raise ValueError(
            f"inputs reach from {x.min():.4g} to {x.max():.4g}, outside clamp={clamp}: expected bounds in the units of "
            "the inputs, those of standardised images standardised likewise."
        )
    return low, high


def _blur_width(blur: int | str | None, x: Tensor) -> int:
    side = min(x.shape[2:])
    if blur is None:
        return 1
    if blur == "auto":
        return 2 * round((49 * side / 224 - 1) / 2) + 1
    if not isinstance(blur, int) or blur % 2 == 0 or not 0 < blur < 2 * side:
        raise ValueError(f"blur={blur!r} does not fit, expected 'auto', None or an odd width from 1 to {2 * side - 1}.")
    return blur


def _change(x: Tensor, perturbed: Tensor, width: int) -> Tensor:
    """The map `(B, 1, H, W)`: how far the grey image has changed."""
    return _blurred((_grey(perturbed) - _grey(x.to(perturbed.dtype))).abs(), width)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    luma = torch.tensor([0.2989, 0.5870, 0.1140], dtype=x.dtype, device=x.device)
    return (x * luma[:, None, None]).sum(1, keepdim=True)


def _blurred(maps: Tensor, width: int) -> Tensor:
    """Gaussian blur; sigma follows from the width as in OpenCV, and borders are mirrored as there."""
    if width == 1:
        return maps
    half = width // 2
    sigma = 0.3 * (half - 1) + 0.8
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=maps.dtype, device=maps.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = F.conv2d(F.pad(maps, (half, half, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(maps, (0, 0, half, half), mode="reflect"), kernel.view(1, 1, -1, 1))
