"""What can be computed of a model and a picture: one look at it with all intrinsic maps, and methods for one class."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from torch import Tensor

from timm_interpretable.app.cache import Tick
from timm_interpretable.app.gpu import on_gpu
from timm_interpretable.app.models import Model
from timm_interpretable.attr import FAME, RISE, InputContribution
from timm_interpretable.metrics import grad_cam, odd_share, smoothed
from timm_interpretable.viz import Array, weight_picture

IG_STEPS, FAME_STEPS, RISE_MASKS = 50, 50, 300
SMOOTH = 0.1  # of a side
_IG_BATCH, _RISE_BATCH = 5, 10


class Method(NamedTuple):
    """A method for people, and where it is computed."""

    title: str
    lane: str  # 'look' is there with the prediction; 'fast' and 'slow' are lanes of the desk


METHODS = {
    "class_map": Method("class map", "look"),
    "contrast": Method("class map, contrast", "look"),
    "contributions": Method("contributions", "look"),
    "contributions_smoothed": Method("contributions, smoothed", "look"),
    "grad_cam": Method("Grad-CAM", "fast"),
    "integrated_gradients": Method("integrated gradients", "slow"),
    "fame": Method("FAME", "slow"),
    "rise": Method("RISE", "slow"),
}


def methods_of(family: str) -> tuple[str, ...]:
    """The methods for a family of models, its own first."""
    own = {"FA-CNN": ("class_map", "contrast"), "CoDA-Net": ("contributions", "contributions_smoothed")}.get(family, ())
    return (*own, "grad_cam", "integrated_gradients", "fame", "rise")


@dataclass(frozen=True, eq=False)
class Look:
    """A forward pass: the prediction, and whatever maps of all classes it contains.

    seen: 8-bit `(H, W, 3)`. logits, probs: `(K,)`. depth: maps `(K, h_l, w_l)` after every block, in units of the
    logit (the last adds up to it), of an FA-CNN; of a CoDA-Net the contributions `(K, H, W)` alone. weights: 8-bit
    `(K, H, W, 4)`, the rendering of a CoDA-Net. constant: what the logits have besides their contributions.
    """

    seen: Array
    logits: Array
    probs: Array
    seconds: float
    depth: tuple[Array, ...] = ()
    weights: Array | None = None
    constant: float = 0.0

    @property
    def nbytes(self) -> int:
        arrays = [
            self.seen,
            self.logits,
            self.probs,
            *self.depth,
            *([self.weights] if self.weights is not None else []),
        ]
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, eq=False)
class Found:
    """A map of one class by a method that is not part of the forward pass, `(h, w)`, and numbers about it."""

    values: Array
    seconds: float
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def smooth(values: Array) -> Array:
    """A map `(H, W)`, each pixel the mean of its neighbourhood."""
    return smoothed(torch.from_numpy(values), smoothing(values)).numpy()


def smoothing(values: Array) -> int:
    """The side of that neighbourhood, in pixels."""
    return odd_share(values.shape[1], SMOOTH)


@on_gpu
def look(model: Model, picture: Image.Image) -> Look:
    """One forward pass, and the maps in it."""
    start = time.perf_counter()
    x = model.inputs(picture)
    net: Any = model.net
    depth: tuple[Array, ...] = ()
    weights, constant = None, 0.0
    with torch.no_grad():
        if model.intrinsic == "class_map":
            tau = net.head.log_tau.exp()
            maps = [tau * one[0] for one in net.class_maps(x)]
            depth = tuple((one / (one.shape[1] * one.shape[2])).cpu().numpy() for one in maps)
            logits = maps[-1].mean((1, 2))
        elif model.intrinsic == "contributions":
            dynamic = net.dynamic_weights(x)
            rows = dynamic.all_rows()
            terms = net.encoding.decode(rows * dynamic.inputs[0][:, None])[0].sum(1)  # (K, H, W)
            depth, constant = (terms.cpu().numpy(),), float(net.logit_bias)
            weights = np.stack([weight_picture(*pair) for pair in zip(rows[0], terms, strict=True)])
            logits = dynamic.logits()[0] + constant
        else:
            logits = net(x)[0]
        logits = logits.float()
        probs = model.probabilities(logits)
    seconds = time.perf_counter() - start
    return Look(model.seen(x), logits.cpu().numpy(), probs.cpu().numpy(), seconds, depth, weights, constant)


@on_gpu
def find(model: Model, picture: Image.Image, method: str, target: int, tick: Tick) -> Found:
    """The map of one class by a method that asks the model from outside."""
    start = time.perf_counter()
    compute = {"grad_cam": _grad_cam, "integrated_gradients": _integrated, "fame": _fame, "rise": _rise}[method]
    values, facts = compute(model, model.inputs(picture), target, tick)
    return Found(values.float().cpu().numpy(), time.perf_counter() - start, facts)


@on_gpu
def through_depth(model: Model, picture: Image.Image, target: int) -> tuple[Array, ...]:
    """Contributions of one class after every layer of a CoDA-Net, `(h_l, w_l)`."""
    maps = InputContribution(model.net).through_depth(model.inputs(picture), target)[1:]
    return tuple(one[0, 0].cpu().numpy() for one in maps)


class Counted:
    """A network that reports how often it was asked, and stops when nobody waits any longer."""

    def __init__(self, function: Callable[[Tensor], Tensor], tick: Tick, calls: int) -> None:
        self.function, self.tick, self.calls, self.done = function, tick, calls, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.tick(self.done, self.calls)
        self.done += 1
        return self.function(x)


Result = tuple[Tensor, dict[str, float]]


def _grad_cam(model: Model, x: Tensor, target: int, tick: Tick) -> Result:
    return grad_cam(model.net, x, torch.tensor([target], device=x.device))[0], {}


def _integrated(model: Model, x: Tensor, target: int, tick: Tick) -> Result:
    black = model.black[None].expand_as(x)
    net = Counted(model.net, tick, IG_STEPS // _IG_BATCH + 2)
    values: Any = IntegratedGradients(net).attribute(
        x, black, target, n_steps=IG_STEPS, internal_batch_size=_IG_BATCH
    )  # fmt: skip
    with torch.no_grad():
        ends = model.net(torch.cat([x, black]))[:, target]
    return values[0].sum(0), dict(logit_of_black=float(ends[1]), steps=IG_STEPS)


def _fame(model: Model, x: Tensor, target: int, tick: Tick) -> Result:
    net = Counted(model.net, tick, FAME_STEPS)
    options: Any = dict(n_steps=FAME_STEPS, step_size=model.grey_step, clamp=(model.black, model.white))
    maps, details = FAME(net).attribute(x, target, return_details=True, **options)
    return maps[0, 0], dict(steps=FAME_STEPS, before=float(details.loss[0, 0]), after=float(details.loss[0, -1]))


def _rise(model: Model, x: Tensor, target: int, tick: Tick) -> Result:
    net = Counted(lambda masked: model.probabilities(model.net(masked)), tick, RISE_MASKS // _RISE_BATCH)
    maps: Any = RISE(net).attribute(
        x, target, n_masks=RISE_MASKS, internal_batch_size=_RISE_BATCH, baselines=model.black[None]
    )
    return maps[0, 0], dict(masks=RISE_MASKS)
