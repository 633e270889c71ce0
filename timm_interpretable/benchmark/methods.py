"""The attributions that the benchmark compares, by name: what makes the maps, for which models, at what cost"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_interpretable.attr import FAME, RISE, ClassMap
from timm_interpretable.metrics import (
    MapsOfClasses,
    comparison_methods,
    hires_cam,
    maps_by_class,
    occlusion,
    odd_share,
    patch_permutation_importance,
    smoothed,
)
from timm_interpretable.models import class_probabilities

__all__ = ["METHODS", "Context", "Method", "MethodSettings", "methods_for", "probabilities"]


@dataclass(frozen=True)
class MethodSettings:
    """Everything that the maps depend on besides model and images.

    ig_steps: of integrated gradients, from a black image.
    masks: of RISE.
    fame_steps: of FAME.
    window: side of occlusion's square, as a share of the image's; it moves by half of itself.
    patch: side of the patches of permutation importance, as a share of the image's.
    permutations: other images that each patch is taken from.
    smooth: side of the square over which smoothed contributions are averaged, as a share of the image's.
    bf16: bfloat16 autocast where altered images are classified to score a map; the maps themselves are fp32.
    """

    ig_steps: int = 20
    masks: int = 500
    fame_steps: int = 50
    window: float = 1 / 6
    patch: float = 1 / 12
    permutations: int = 1
    smooth: float = 1 / 10
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Context:
    """What a method is built for.

    black, white: what a black and a white pixel are to the model, `(C, 1, 1)`.
    reference: gives images `(R, C, H, W)` whose patches replace those of the explained ones; loaded when asked for.
    """

    model: Any
    black: Tensor
    white: Tensor
    reference: Callable[[], Tensor]
    settings: MethodSettings


@dataclass(frozen=True)
class Method:
    """build: to what makes maps `(B, n, H, W)` of images `(B, C, H, W)` and classes `(B, n)`.

    costly: needs tens to hundreds of passes per map.
    complete: what the maps claim to add up to for images and classes `(B,)`, if they do.
    """

    build: Callable[[Context], MapsOfClasses]
    applies: Callable[[Any], bool] = lambda model: True
    costly: bool = False
    complete: Callable[[Context, Tensor, Tensor], Tensor] | None = None


def methods_for(model: Any, names: list[str] | None = None) -> dict[str, Method]:
    """Those of `METHODS` that a model has, the model's own first; only the named ones where names are given."""
    return {name: m for name, m in METHODS.items() if m.applies(model) and (names is None or name in names)}


def probabilities(model: Any, bf16: bool = False) -> Callable[[Tensor], Tensor]:
    """Images to probabilities `(B, K)`."""

    def predict(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            return class_probabilities(model, model(images).float())

    return predict


def _facnn(model: Any) -> bool:
    return hasattr(model, "class_maps")


def _coda_net(model: Any) -> bool:
    return hasattr(model, "dynamic_weights")


def _known(name: str, context: Context) -> MapsOfClasses:
    return comparison_methods(context.model, context.settings.ig_steps)[name]


def _class_map(context: Context, **options: Any) -> MapsOfClasses:
    return maps_by_class(lambda x, target: ClassMap(context.model).attribute(x, target, **options))


def _smoothed(context: Context) -> MapsOfClasses:
    raw = _known("contributions", context)

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        return smoothed(raw(x, classes), odd_share(x.shape[-1], context.settings.smooth))

    return maps


def _hires_cam(context: Context) -> MapsOfClasses:
    return maps_by_class(
        lambda x, target: F.interpolate(hires_cam(context.model, x, target)[:, None], x.shape[-2:], mode="bilinear")
    )


def _integrated_gradients(context: Context) -> MapsOfClasses:
    """From black, which of standardised images is not zero."""
    if bool((context.black == 0).all()):
        return _known("integrated gradients", context)
    shifted = comparison_methods(_Shifted(context.model, context.black), context.settings.ig_steps)
    return lambda x, classes: shifted["integrated gradients"](x - context.black, classes)


class _Shifted(nn.Module):
    """A model for which black is zero."""

    def __init__(self, model: nn.Module, black: Tensor) -> None:
        super().__init__()
        self.model, self.black = model, black

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + self.black)
        return logits


def _occlusion(context: Context) -> MapsOfClasses:
    def maps(x: Tensor, classes: Tensor) -> Tensor:
        side = max(2, round(x.shape[-1] * context.settings.window))
        return occlusion(context.model, x, classes, side, side // 2, context.black)

    return maps


def _permutation(context: Context) -> MapsOfClasses:
    reference, settings = context.reference(), context.settings

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        side = max(1, round(x.shape[-1] * settings.patch))
        return patch_permutation_importance(
            context.model, x, classes, side, settings.permutations, settings.seed, reference
        )

    return maps


def _rise(context: Context) -> MapsOfClasses:
    explained = RISE(_Probabilities(context.model))
    options: dict[str, Any] = dict(
        n_masks=context.settings.masks, baselines=context.black[None], seed=context.settings.seed
    )

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        found: Any = explained.all_classes(x, **options)
        return found[torch.arange(len(x), device=x.device)[:, None], classes]

    return maps


class _Probabilities(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return probabilities(self.model)(x)


def _fame(context: Context) -> MapsOfClasses:
    steps, size = context.settings.fame_steps, float((context.white - context.black).mean()) / 255
    return maps_by_class(lambda x, target: FAME(context.model).attribute(x, target, n_steps=steps, step_size=size))


def _random(context: Context) -> MapsOfClasses:
    generator = torch.Generator().manual_seed(context.settings.seed)
    return lambda x, classes: torch.rand(*classes.shape, *x.shape[2:], generator=generator).to(x.device)


def _logit(context: Context, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return context.model(x).float().gather(1, target[:, None])[:, 0]


def _logit_over_bias(context: Context, x: Tensor, target: Tensor) -> Tensor:
    return _logit(context, x, target) - context.model.logit_bias


def _logit_over_black(context: Context, x: Tensor, target: Tensor) -> Tensor:
    return _logit(context, x, target) - _logit(context, context.black.expand_as(x), target)


METHODS: dict[str, Method] = {
    "class map": Method(_class_map, _facnn, complete=_logit),
    "class map (average)": Method(partial(_class_map, layers="average"), _facnn),
    "class map (contrast)": Method(partial(_class_map, contrast=True), _facnn),
    "contributions": Method(partial(_known, "contributions"), _coda_net, complete=_logit_over_bias),
    "contributions (smoothed)": Method(_smoothed, _coda_net),
    "Grad-CAM": Method(partial(_known, "Grad-CAM")),
    "HiResCAM": Method(_hires_cam),
    "input x gradient": Method(partial(_known, "input x gradient")),
    "integrated gradients": Method(_integrated_gradients, costly=True, complete=_logit_over_black),
    "occlusion": Method(_occlusion, costly=True),
    "patch permutation": Method(_permutation, costly=True),
    "RISE": Method(_rise, costly=True),
    "FAME": Method(_fame, costly=True),
    "random": Method(_random),
}
