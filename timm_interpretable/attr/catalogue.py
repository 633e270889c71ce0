"""The list of explanation methods

Commands, benchmark, page and cards take their methods from here and from nowhere else. A row says what a method is
called, which models it applies to, how it is built, what it costs and what its maps add up to. A family of models adds
rows of its own with `register_method`; its models name theirs in their attribute `explanation`.

What "black", "absent" and "baseline" mean to a model is settled once, in the `Context` that a row is built for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, Occlusion
from torch import Tensor

from timm_interpretable.attr.cams import GradCAM, HiResCAM
from timm_interpretable.attr.class_map import ClassMap
from timm_interpretable.attr.contract import evaluation_view
from timm_interpretable.attr.contribution import InputContribution
from timm_interpretable.attr.evidence import Evidence
from timm_interpretable.attr.fame import FAME
from timm_interpretable.attr.maps import MapsOfClasses, maps_by_class, spread
from timm_interpretable.attr.permutation import PatchPermutation
from timm_interpretable.attr.rise import RISE
from timm_interpretable.attr.smoothing import odd_share, smoothed
from timm_interpretable.models import (
    class_probabilities,
    encode,
    explanation_of,
    forward_encoded,
    has_encoding,
    has_maps_through_depth,
    plain_model,
)

__all__ = [
    "METHODS",
    "Context",
    "Cost",
    "Method",
    "MethodSettings",
    "SumsTo",
    "evidence_of",
    "explained_by",
    "method_named",
    "methods_for",
    "own_method",
    "register_method",
]

Ticks = Callable[[int, int], None]


class Cost(str, Enum):
    """What one map costs, in passes of the network."""

    FORWARD = "forward pass"
    GRADIENT = "gradient"
    MANY_PASSES = "many passes"


@dataclass(frozen=True)
class MethodSettings:
    """Everything that maps depend on besides the model and the images.

    Args:
        ig_steps: steps of integrated gradients.
        n_samples: masks of RISE.
        fame_steps: steps of FAME.
        window: side of the square of occlusion, as a share of the image's side; the square moves by half of itself.
        patch: side of the patches of permutation importance, as a share of the image's side.
        permutations: other images from which each patch is taken.
        smooth: side of the square over which smoothed contributions are averaged, as a share of the image's side.
        perturbations_per_eval: altered images per forward pass, for methods of many passes.
        seed: of everything that is drawn at random.
    """

    ig_steps: int = 20
    n_samples: int = 500
    fame_steps: int = 50
    window: float = 1 / 6
    patch: float = 1 / 12
    permutations: int = 1
    smooth: float = 1 / 10
    perturbations_per_eval: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Context:
    """A model, and what a method needs to know about it.

    Args:
        model: in evaluation mode; `Context.of` takes any.
        black, white: what a black and a white pixel are to the model, `(C, 1, 1)`.
        settings: see `MethodSettings`.
        reference: gives images `(R, C, H, W)` whose patches replace those of the explained ones, for permutation
            importance. None takes the patches from the other images of the batch.
        tick: called before each pass of a method of many passes, with the number of passes that are done and of those
            that there will be. It may raise to end the computation.
    """

    model: Any
    black: Tensor
    white: Tensor
    settings: MethodSettings = field(default_factory=MethodSettings)
    reference: Callable[[], Tensor] | None = None
    tick: Ticks | None = None

    @classmethod
    def of(cls, model: Any, settings: MethodSettings | None = None, **options: Any) -> "Context":
        """The context of a model, with black and white from the mean and standard deviation of its configuration.

        Args:
            model: of this package or of timm, in any mode; it is left as it is.
            settings: see `MethodSettings`.
            options: `reference` or `tick`.
        """
        view = evaluation_view(plain_model(model))
        config = getattr(view, "pretrained_cfg", None) or {}
        like = next(view.parameters())
        mean, std = (
            torch.tensor(config.get(name) or default, device=like.device, dtype=torch.float32)[:, None, None]
            for name, default in (("mean", (0.0,)), ("std", (1.0,)))
        )
        return cls(view, (0 - mean) / std, (1 - mean) / std, settings or MethodSettings(), **options)

    def encode(self, images: Tensor) -> Tensor:
        """What the network sees of images: its encoding, or the images themselves."""
        with torch.no_grad():
            return encode(self.model, images)

    def network(self, encoded: Tensor) -> Tensor:
        """Logits `(B, K)` of what `encode` gives: the function that gradient and perturbation methods explain."""
        return forward_encoded(self.model, encoded)

    def probabilities(self, encoded: Tensor) -> Tensor:
        """Probabilities `(B, K)` of what `encode` gives."""
        return class_probabilities(self.model, self.network(encoded).float())

    @property
    def absent(self) -> Tensor:
        """What a pixel that is not there is to the network, `(1 or C, 1, 1)`, in units of what `encode` gives.

        An encoding network says of an absent pixel that it is neither dark nor bright: zero in every channel. For any
        other network there is no such value, and black stands for it.
        """
        return torch.zeros_like(self.black[:1]) if has_encoding(self.model) else self.black

    def baseline(self, encoded: Tensor) -> Tensor:
        """Images of absent pixels, in the shape of `encoded`."""
        return self.absent.to(encoded).expand_as(encoded)

    def counted(self, function: Callable[[Tensor], Tensor], passes: int) -> Callable[[Tensor], Tensor]:
        """The function, telling `tick` of its calls."""
        if self.tick is None:
            return function
        tick, done = self.tick, 0

        def call(x: Tensor) -> Tensor:
            nonlocal done
            tick(min(done, passes), passes)
            done += 1
            return function(x)

        return call


@dataclass(frozen=True)
class SumsTo:
    """What the maps of a method add up to.

    Args:
        words: for people, such as 'the logit'.
        score: from a context, images `(B, C, H, W)`, their logits `(B, K)` and classes `(B,)` to the sums, `(B,)`.
    """

    words: str
    score: Callable[[Context, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """One row of the catalogue.

    Args:
        key: for programs, in file names and addresses.
        title: for people, in tables, cards and on the page.
        cost: of one map.
        build: from a context to what makes maps `(B, n, H, W)` of images `(B, C, H, W)` and classes `(B, n)`.
        applies: whether a model has this explanation.
        sums_to: what the maps add up to; None where they add up to nothing in particular.
        evidence: of a model's own explanation: from a context and images to everything that one forward pass says.
        from_evidence: options of `Evidence.maps`, or a function that reads the maps `(B, n, H, W)` of classes `(B, n)`
            from the evidence of the model's own method. Such a row needs no `build`, and costs no further forward pass
            where the evidence is there.
        signed: whether maps can be negative.
    """

    key: str
    title: str
    cost: Cost
    build: Callable[[Context], MapsOfClasses] | None = None
    applies: Callable[[Any], bool] = lambda model: True
    sums_to: SumsTo | None = None
    evidence: Callable[[Context, Tensor], Evidence] | None = None
    from_evidence: Callable[[Context, Any, Tensor], Tensor] | None = None
    signed: bool = True

    def maps(self, context: Context) -> MapsOfClasses:
        """What makes maps `(B, n, H, W)` of images `(B, C, H, W)` and classes `(B, n)`."""
        if self.build is not None:
            return self.build(context)
        return lambda images, classes: self.read(context, evidence_of(context, images), classes)

    def read(self, context: Context, evidence: Evidence, classes: Tensor) -> Tensor:
        """Maps `(B, n, H, W)` of classes `(B, n)` from a forward pass that has been made."""
        if self.from_evidence is None:
            return evidence.maps(classes)
        return self.from_evidence(context, evidence, classes)

    @property
    def is_read(self) -> bool:
        """Whether the maps are part of the model's forward pass."""
        return self.build is None


METHODS: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Add a row to the catalogue.

    Raises:
        ValueError: the key or the title is taken, or the row says neither how it is built nor what it is read from.
    """
    same = [m for m in METHODS.values() if m.key == method.key or m.title == method.title]
    if same:
        raise ValueError(f"The catalogue has a method {same[0].key!r} ({same[0].title}) already, expected a new name.")
    if method.build is None and method.evidence is None and method.from_evidence is None:
        raise ValueError(f"Method {method.key!r} says neither how it is built nor what it is read from.")
    METHODS[method.key] = method
    return method


def explained_by(key: str) -> Callable[[Any], bool]:
    """For `Method.applies`: whether that is the model's own explanation."""
    return lambda model: explanation_of(model) == key


def methods_for(model: Any, keys: Iterable[str] | None = None) -> dict[str, Method]:
    """The methods that a model has, its own first; only those of `keys` where they are given.

    Raises:
        ValueError: a key that is not in the catalogue.
    """
    wanted = None if keys is None else [method_named(key).key for key in keys]
    own = explanation_of(model)
    rows = sorted(METHODS.values(), key=lambda method: (method.key != own, not method.is_read))
    return {m.key: m for m in rows if m.applies(model) and (wanted is None or m.key in wanted)}


def method_named(key: str) -> Method:
    """The row of that key.

    Raises:
        ValueError: there is none; the message lists the keys that there are.
    """
    if key not in METHODS:
        raise ValueError(f"There is no explanation method {key!r}, expected one of: {', '.join(METHODS)}.")
    return METHODS[key]


def own_method(model: Any) -> Method | None:
    """The model's own explanation; None for a model that has none."""
    key = explanation_of(model)
    return None if key is None else method_named(key)


def evidence_of(context: Context, images: Tensor) -> Evidence:
    """Everything that one forward pass of a self-explaining model says.

    Raises:
        ValueError: the model has no explanation of its own, or one that is not part of its forward pass.
    """
    own = own_method(context.model)
    if own is None or own.evidence is None:
        raise ValueError(f"{type(context.model).__name__} has no explanation that is part of its forward pass.")
    return own.evidence(context, images)


# --- how the rows are built


def _attribution(attribute: Callable[..., Any], enlarge: bool = False) -> MapsOfClasses:
    """Maps of a Captum attribution, whose channels are added up; brought to the size of the images on demand."""

    def one_class(images: Tensor, target: Tensor) -> Tensor:
        found: Tensor = attribute(images, target=target).detach()
        return F.interpolate(found, images.shape[-2:], mode="bilinear") if enlarge else found

    return maps_by_class(one_class)


def _grad_cam(context: Context) -> MapsOfClasses:
    return _attribution(GradCAM(context.model).attribute, enlarge=True)


def _hires_cam(context: Context) -> MapsOfClasses:
    return _attribution(HiResCAM(context.model).attribute, enlarge=True)


def _input_x_gradient(context: Context) -> MapsOfClasses:
    method = InputXGradient(context.network)
    return _attribution(lambda x, target: method.attribute(context.encode(x).detach().requires_grad_(), target))


def _integrated_gradients(context: Context) -> MapsOfClasses:
    steps, size = context.settings.ig_steps, context.settings.perturbations_per_eval

    def attribute(x: Tensor, target: Tensor) -> Tensor:
        seen, at_once = context.encode(x), max(size, len(x))
        network = context.counted(context.network, -(-steps * len(x) // at_once))
        found: Tensor = IntegratedGradients(network).attribute(
            seen, context.baseline(seen), target, n_steps=steps, internal_batch_size=at_once
        )
        return found

    return _attribution(attribute)


def _occlusion(context: Context) -> MapsOfClasses:
    settings = context.settings

    def attribute(x: Tensor, target: Tensor) -> Tensor:
        seen = context.encode(x)
        window = [max(2, round(side * settings.window)) for side in x.shape[-2:]]
        strides = [side // 2 for side in window]
        places = [-(-(side - w) // s) + 1 for side, w, s in zip(x.shape[-2:], window, strides, strict=True)]
        at_once = _copies(settings, x)
        network = context.counted(context.network, -(-places[0] * places[1] // at_once))
        with torch.no_grad():
            found: Tensor = Occlusion(network).attribute(
                seen, (seen.shape[1], *window), (seen.shape[1], *strides), context.absent.to(seen).expand(
                    1, *seen.shape[1:]), target, perturbations_per_eval=at_once,
            )  # fmt: skip
        # Captum gives every channel of a window its whole effect
        return found[:, :1]

    return _attribution(attribute)


def _permutation(context: Context) -> MapsOfClasses:
    settings = context.settings
    reference = context.reference() if context.reference is not None else None

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        side, at_once = max(1, round(min(x.shape[-2:]) * settings.patch)), _copies(settings, x)
        patches = -(-x.shape[-2] // side) * -(-x.shape[-1] // side)
        model = context.counted(context.model, 1 + -(-patches * settings.permutations // at_once))
        return PatchPermutation(model).all_classes(
            x, classes=classes, patch=side, reference=reference, n_samples=settings.permutations, seed=settings.seed,
            perturbations_per_eval=at_once, show_progress=False,
        )  # fmt: skip

    return maps


def _rise(context: Context) -> MapsOfClasses:
    settings = context.settings

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        seen, at_once = context.encode(x), _copies(settings, x)
        network = context.counted(context.probabilities, -(-settings.n_samples // at_once))
        return RISE(network).all_classes(
            seen, classes=classes, n_samples=settings.n_samples, baselines=context.absent[None], seed=settings.seed,
            perturbations_per_eval=at_once, show_progress=False,
        )  # fmt: skip

    return maps


def _copies(settings: MethodSettings, x: Tensor) -> int:
    """Altered copies of each image per forward pass, so that a batch of any size fits into memory."""
    return max(1, settings.perturbations_per_eval // len(x))


def _fame(context: Context) -> MapsOfClasses:
    steps, step_size = context.settings.fame_steps, float((context.white - context.black).mean()) / 255
    clamp = (context.black[None], context.white[None])

    def attribute(x: Tensor, target: Tensor) -> Tensor:
        explained: Any = context.model if context.tick is None else context.counted(context.model, steps)
        found: Any = FAME(explained).attribute(
            x, target, n_steps=steps, step_size=step_size, clamp=clamp, show_progress=False
        )
        return found[:, :1]

    return _attribution(attribute)


def _head_map(context: Context) -> MapsOfClasses:
    def maps(x: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            every = context.model.head_maps(x)
        chosen = every.gather(1, classes[:, :, None, None].expand(-1, -1, *every.shape[2:]))
        return spread(chosen, x.shape[-2:])

    return maps


def _random(context: Context) -> MapsOfClasses:
    generator = torch.Generator().manual_seed(context.settings.seed)
    return lambda x, classes: torch.rand(*classes.shape, *x.shape[2:], generator=generator).to(x.device)


def _smoothed(context: Context, evidence: Evidence, classes: Tensor) -> Tensor:
    maps = evidence.maps(classes)
    return smoothed(maps, odd_share(min(maps.shape[-2:]), context.settings.smooth))


# --- what maps add up to


def _of_class(logits: Tensor, target: Tensor) -> Tensor:
    return logits.gather(1, target[:, None])[:, 0]


def _class_map_score(context: Context, images: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    constant = logits.mean(1) if context.model.output == "softmax" else context.model.logit_bias
    return _of_class(logits, target) - constant


def _logit_less_bias(context: Context, images: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    return _of_class(logits, target) - context.model.logit_bias


def _logit_less_baseline(context: Context, images: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return _of_class(logits - context.network(context.baseline(context.encode(images))), target)


# --- the rows

_has_class_maps, _has_contributions = explained_by("class_map"), explained_by("contributions")


def _has_block_maps(model: Any) -> bool:
    return _has_class_maps(model) and has_maps_through_depth(model)


def _has_head_maps(model: Any) -> bool:
    return callable(getattr(model, "head_maps", None))


def _own_class_maps(context: Context, images: Tensor) -> Evidence:
    return ClassMap(context.model).evidence(images)


def _own_contributions(context: Context, images: Tensor) -> Evidence:
    return InputContribution(context.model).evidence(images)


def _class_map_option(context: Context, evidence: Any, classes: Tensor, **options: Any) -> Tensor:
    maps: Tensor = evidence.maps(classes, **options)
    return maps


def _raw_class_map(context: Context, evidence: Any, classes: Tensor) -> Tensor:
    maps: Tensor = evidence.raw().maps(classes)
    return maps


for _row in (
    Method(
        "class_map", "class map", Cost.FORWARD, applies=_has_class_maps, evidence=_own_class_maps,
        sums_to=SumsTo("the logit less what all classes share", _class_map_score),
    ),
    Method(
        "class_map_raw", "class map, not centred", Cost.FORWARD, applies=_has_class_maps, from_evidence=_raw_class_map,
        sums_to=SumsTo("the logit less its bias", _logit_less_bias),
    ),
    Method(
        "class_map_average", "class map, average of all blocks", Cost.FORWARD, applies=_has_block_maps,
        from_evidence=partial(_class_map_option, layers="average"),
    ),
    Method(
        "class_map_top_half", "class map, average of the last half", Cost.FORWARD, applies=_has_block_maps,
        from_evidence=partial(_class_map_option, layers="top_half"),
    ),
    Method(
        "contributions", "contributions", Cost.FORWARD, applies=_has_contributions, evidence=_own_contributions,
        sums_to=SumsTo("the logit less its bias", _logit_less_bias),
    ),
    Method(
        "contributions_smoothed", "contributions, smoothed", Cost.FORWARD, applies=_has_contributions,
        from_evidence=_smoothed,
    ),
    Method(
        "head_map", "head map", Cost.FORWARD, _head_map, applies=_has_head_maps,
        sums_to=SumsTo("the logit less its bias", _logit_less_bias),
    ),
    Method("grad_cam", "Grad-CAM", Cost.GRADIENT, _grad_cam, signed=False),
    Method("hires_cam", "HiResCAM", Cost.GRADIENT, _hires_cam),
    Method("input_x_gradient", "input x gradient", Cost.GRADIENT, _input_x_gradient),
    Method(
        "integrated_gradients", "integrated gradients", Cost.MANY_PASSES, _integrated_gradients,
        sums_to=SumsTo("the logit less that of the baseline", _logit_less_baseline),
    ),
    Method("occlusion", "occlusion", Cost.MANY_PASSES, _occlusion),
    Method("patch_permutation", "patch permutation", Cost.MANY_PASSES, _permutation),
    Method("rise", "RISE", Cost.MANY_PASSES, _rise, signed=False),
    Method("fame", "FAME", Cost.MANY_PASSES, _fame, signed=False),
    Method("random", "random", Cost.FORWARD, _random, signed=False),
):  # fmt: skip
    register_method(_row)
