"""What a removed pixel becomes, and what a classifier says about the rest

Networks of this package may encode their images. CoDA-Net, after `Convolutional Dynamic Alignment Networks for
Interpretable Classifications` (Böhle, Fritz, Schiele, CVPR 2021, https://arxiv.org/abs/2104.00032), sees the channels
`[x, 1 - x]`. A black pixel is then (0, 0, 0, 1, 1, 1), an input like any other, which brings evidence of its own; only
a pixel that is zero in every encoded channel is absent. That is how the paper removes pixels, and it is the default
here for networks with an encoding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from timm_interpretable.attr.maps import MapSource
from timm_interpretable.attr.smoothing import blurred
from timm_interpretable.models.interface import (
    class_probabilities,
    encode,
    forward_encoded,
    has_encoding,
    plain_model,
)

__all__ = ["Classifier", "Fill", "NamedFill", "Removal", "black_pixel", "check_classes", "check_images"]

Classifier: TypeAlias = nn.Module | Callable[[Tensor], Tensor]
"""A module that gives logits `(B, K)` of images, in evaluation mode; or a function that gives probabilities `(B, K)`.

`class_probabilities` makes probabilities of a module's logits: their softmax, or a sigmoid for each class where the
model says so."""

NamedFill: TypeAlias = Literal["absent", "black", "mean", "blur"]

Fill: TypeAlias = NamedFill | float | Sequence[float] | Tensor
"""What a removed pixel becomes.

* `"absent"`: zero in every channel of the encoded image; only for a module that encodes its images.
* `"black"`: black in the units of the model's images (`black_pixel`); only for a module, since a function has no units.
* `"mean"`: the mean colour of the image itself.
* `"blur"`: the blurred image (`timm_interpretable.attr.smoothing.blurred`).
* in the units of the images: a number; one number per channel, such as the mean colour of a data set; or a tensor that
  broadcasts to the images.
"""


@dataclass(frozen=True, eq=False)
class Removal:
    """How pixels are removed for a classifier.

    Images without the pixels of `removed`, bool `(B, H, W)`, are classified in three steps:

        seen, shown = removal.seen(images), removal.shown(images)
        probabilities = removal.classify(torch.where(removed[:, None], shown, seen))

    Args:
        model: a `Classifier`.
        fill: a `Fill`. None means `"absent"` for a module that encodes its images, `"black"` for any other module, and
            0 for a function.
        logits: whether `classify` gives the logits of a module instead of its probabilities. A function is taken as it
            is.

    Raises:
        TypeError: `model` cannot be called.
        ValueError: the model has no such fill, or there is no fill of this name.
    """

    model: Classifier
    fill: Fill | None = None
    logits: bool = False

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"{type(self.model).__name__} cannot be called, expected a module or a function.")
        module = isinstance(self.model, nn.Module)
        if self.fill is None:
            named = "absent" if has_encoding(self.model) else "black"
            object.__setattr__(self, "fill", named if module else 0.0)
        if not isinstance(self.fill, str):
            return
        if self.fill not in get_args(NamedFill):
            names = ", ".join(repr(name) for name in get_args(NamedFill))
            raise ValueError(f"fill={self.fill!r}, expected {names}, a number, one per channel or a tensor.")
        kind = type(plain_model(self.model)).__name__
        if self.name == "absent" and not (module and has_encoding(self.model)):
            raise ValueError(f"fill='absent' is for modules that encode their images, and {kind} does not.")
        if self.name == "black" and not module:
            raise ValueError(f"fill='black' is for modules, whose units are known; for a {kind} give its number.")

    @property
    def name(self) -> str:
        """`"absent"`, `"black"`, `"mean"` or `"blur"`; `"given"` for numbers and tensors."""
        return self.fill if isinstance(self.fill, str) else "given"

    def seen(self, images: Tensor) -> Tensor:
        """What pixels are removed from: the encoded images `(B, C', H, W)` if they become absent, else the images."""
        return encode(self.model, images) if self.name == "absent" else images

    def shown(self, images: Tensor) -> Tensor:
        """What takes the place of removed pixels; it broadcasts to `seen(images)` and has its dtype.

        Raises:
            ValueError: a fill that does not fit images of this shape.
        """
        if self.name == "absent":
            return images.new_zeros(1, 1, 1, 1)
        if self.name == "black":
            return black_pixel(self.model, images.shape[1]).to(images)[None]
        if self.name == "mean":
            return images.mean((2, 3), keepdim=True, dtype=torch.promote_types(images.dtype, torch.float32)).to(images)
        if self.name == "blur":
            return blurred(images)
        values = torch.as_tensor(self.fill, dtype=images.dtype, device=images.device)
        if values.ndim == 1:
            values = values[:, None, None]
        values = values[(None,) * (4 - values.ndim)]
        fits = zip(values.shape, images.shape, strict=False)
        if values.ndim > 4 or any(size not in (1, whole) for size, whole in fits):
            raise ValueError(
                f"fill {tuple(values.shape)} does not fit images {tuple(images.shape)}, expected a number, one per "
                "channel or a tensor that broadcasts to them."
            )
        return values

    def classify(self, seen: Tensor) -> Tensor:
        """Probabilities `(B, K)` of what `seen` gives, altered or not, in fp32; logits if `logits`.

        Raises:
            ValueError: the classifier gives something else than `(B, K)`.
        """
        outputs = forward_encoded(self.model, seen) if self.name == "absent" else self.model(seen)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(seen):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(f"the model gives {found} for {len(seen)} images, expected ({len(seen)}, K).")
        outputs = outputs.float()
        if self.logits or not isinstance(self.model, nn.Module):
            return outputs
        return class_probabilities(self.model, outputs)

    def of(self, part: slice) -> "Removal":
        """The same for some of the images: a fill of one picture per image is cut to theirs."""
        if isinstance(self.fill, Tensor) and self.fill.ndim == 4 and len(self.fill) > 1:
            return replace(self, fill=self.fill[part])
        return self


def black_pixel(model: Any, channels: int = 3) -> Tensor:
    """What a black pixel is to a model, `(channels, 1, 1)` in fp32: `-mean / std` of its `pretrained_cfg`.

    It is 0 for a model without such a configuration, which is taken to see images in [0, 1].

    Raises:
        ValueError: the configuration has a mean and standard deviation for another number of channels.
    """
    config = getattr(plain_model(model), "pretrained_cfg", None) or {}
    mean, std = (
        torch.tensor(config.get(name) or default, dtype=torch.float32) for name, default in (("mean", 0), ("std", 1))
    )
    black = (-mean / std).reshape(-1) + 0.0  # no negative zero
    if (black == black[0]).all():
        black = black[:1].expand(channels)
    if len(black) != channels:
        raise ValueError(
            f"{type(plain_model(model)).__name__} is configured for {len(black)} channels, and the images have "
            f"{channels}: give the fill as a number per channel."
        )
    return black[:, None, None]


# --- what the metrics of a classifier are given


def check_images(images: Tensor, maps: MapSource, target: Tensor) -> None:
    """Images, maps and classes as the metrics of a classifier take them.

    Raises:
        ValueError: shapes that do not match, or classes that are not int64.
    """
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else None
    fitting = shape is None or (len(shape) in (3, 4) and (shape[0], *shape[-2:]) == (len(images), *images.shape[2:]))
    if images.ndim != 4 or not len(images) or not fitting or target.shape != images.shape[:1]:
        raise ValueError(
            f"images {tuple(images.shape)}, maps {shape or type(maps).__name__} and target {tuple(target.shape)}, "
            "expected (B, C, H, W), (B, H, W) and (B,)."
        )
    if target.dtype != torch.int64:
        raise ValueError(f"target is {target.dtype}, expected torch.int64.")


def check_classes(target: Tensor, count: int) -> None:
    """Classes that a model with so many of them has.

    Raises:
        ValueError: a class that the model does not have.
    """
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= count:
        raise ValueError(f"target reaches from {low} to {high}, expected 0 to {count - 1}, the classes of the model.")
