"""Pixel removal: does the prediction hold while pixels that an attribution calls unimportant disappear?

Source: `Full-Gradient Representation for Neural Network Visualization` (Srinivas and Fleuret, NeurIPS 2019), as used in
section 4.2 of the CoDA-Net paper (https://arxiv.org/abs/2104.00032).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from timm_interpretable.metrics.maps import MapSource, maps_of

__all__ = ["QUARTER", "TENTHS", "Fill", "RemovalCurves", "area", "logit_deletion", "pixel_removal", "removal_curves"]

QUARTER = tuple(i / 80 for i in range(21))
"""0 to 25 % of the pixels in 20 steps, as in the CoDA-Net paper."""

TENTHS = tuple(i / 10 for i in range(11))
"""0 to 100 % of the pixels in tenths, as in the FAME paper."""

Fill: TypeAlias = float | Sequence[float] | Tensor
"""What a removed pixel shows, in the units of the images: a number; one per channel, such as the data set's mean; or a
tensor that broadcasts to the images, such as `blurred(images)`."""


class RemovalCurves(NamedTuple):
    """What a model says while pixels go, at every fraction.

    probability: what it gives for the class, `(B, n)`, fp32.
    correct: whether this is the highest of all classes, bool `(B, n)`. Its mean over images is the accuracy where the
        target is the true class.
    """

    probability: Tensor
    correct: Tensor


def removal_curves(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = QUARTER,
    most_important_first: bool = False,
    fill: Fill = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> RemovalCurves:
    """The probability of a class, and whether it stays the prediction, while more and more pixels are replaced.

    Pixels of equal value go in a random order of the places in an image, drawn from `seed` and the same for all
    images: no part of the image is favoured, and the result for an image does not depend on the others.

    Args:
        predict: images to probabilities `(B, K)`.
        images: `(B, C, H, W)`.
        maps: one importance per pixel, `(B, H, W)`, or a sum over channels of `(B, C, H, W)`; or what `maps_of` makes
            them from, such as a Captum `Attribution`, which is called on at most `batch_size` images.
        target: classes `(B,)`.
        fractions: of the pixels, each in [0, 1].
        most_important_first: else the least important go first.
        fill: replaces a removed pixel.
        seed: of the order of equal values.
        batch_size: altered images per call of `predict`; None for 64, on a CPU for what fits into its caches: 8 at 224
            pixels, and as many more as images are smaller.

    Raises:
        ValueError: shapes that do not match, maps that are not finite, a fraction outside [0, 1], or a batch size
            below 1.
    """
    size = check_removal(images, maps, target, fractions, batch_size)
    replacement = _replacement(fill, images)
    counts = removal_counts(images, fractions)

    def altered(part: slice, rank: Tensor) -> Iterator[Tensor]:
        shown = replacement[part] if len(replacement) > 1 else replacement
        for some in counts.split(max(1, size // len(rank))):
            removed = rank[:, None] < some[:, None, None, None, None]
            yield torch.where(removed, shown, images[part]).flatten(0, 1)

    return curves_of(predict, altered, images, maps, target, most_important_first, seed, size)


def pixel_removal(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = QUARTER,
    most_important_first: bool = False,
    fill: Fill = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The probabilities of `removal_curves`, which explains the arguments: `(B, len(fractions))`."""
    return removal_curves(
        predict, images, maps, target, fractions, most_important_first, fill, seed, batch_size
    ).probability


def logit_deletion(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = TENTHS,
    fill: Fill = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """What the raw logit of a class has lost when the most important pixels are gone, `(B, len(fractions))`.

    Deletion as in the FAME paper (https://arxiv.org/abs/2605.12017): the more is lost, and the earlier, the better the
    map says what the model uses. Its mean over the fractions is the one number per image.

    Args:
        model: images to logits `(B, K)`.
        images, maps, target, fractions, seed, batch_size: as in `removal_curves`.
        fill: what a deleted pixel shows, in the units of `images`: black, which of standardised images is
            `-mean / std`.

    Raises:
        ValueError: as `removal_curves`.
    """
    curve = pixel_removal(model, images, maps, target, (0.0, *fractions), True, fill, seed, batch_size)
    return curve[:, :1] - curve[:, 1:]


def area(curve: Tensor, fractions: Sequence[float]) -> Tensor:
    """Area under curves by the trapezoidal rule, divided by the span of the fractions: a mean height, `(...)`.

    Args:
        curve: `(..., n)`; of bool ones, such as `RemovalCurves.correct`, true counts as 1.
        fractions: n rising numbers, at least two.

    Raises:
        ValueError: another number of fractions than of points, fewer than two, or fractions that do not rise.
    """
    points = torch.as_tensor(fractions, dtype=torch.promote_types(curve.dtype, torch.float32), device=curve.device)
    if points.ndim != 1 or len(points) < 2 or curve.shape[-1:] != points.shape or not (points.diff() > 0).all():
        raise ValueError(
            f"curve {tuple(curve.shape)} over fractions={tuple(fractions)}, expected as many rising numbers as points, "
            "at least two."
        )
    return torch.trapezoid(curve.to(points.dtype), points) / (points[-1] - points[0])


# --- what other metrics use too


def curves_of(
    predict: Callable[[Tensor], Tensor],
    altered: Callable[[slice, Tensor], Iterator[Tensor]],
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    most_important_first: bool,
    seed: int,
    batch_size: int,
) -> RemovalCurves:
    """Curves of images that are altered in any way.

    Args:
        altered: which images, and the rank of their pixels, to altered images fraction by fraction, several fractions
            at once or not: `(b, C, H, W)` of the first fraction, then those of the second, and so on.
        predict, images, maps, target, most_important_first, seed, batch_size: as in `removal_curves`.
    """
    probability, correct = [], []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            classes = target[part]
            found = maps_of(maps[part] if isinstance(maps, Tensor) else maps, images[part], classes)
            rank = removal_rank(_checked(found, images), most_important_first, seed)
            outputs = torch.cat([predict(x).float() for x in altered(part, rank)])
            outputs = outputs.view(-1, len(classes), outputs.shape[1]).transpose(0, 1)  # (b, n, K)
            probability.append(outputs.gather(2, classes[:, None, None].expand(-1, outputs.shape[1], 1))[:, :, 0])
            correct.append(outputs.argmax(2) == classes[:, None])
    return RemovalCurves(torch.cat(probability), torch.cat(correct))


def removal_counts(images: Tensor, fractions: Sequence[float]) -> Tensor:
    """How many pixels these are, `(n,)`."""
    pixels = images.shape[2:].numel()
    return torch.tensor([round(fraction * pixels) for fraction in fractions], dtype=torch.int32, device=images.device)


def removal_rank(maps: Tensor, most_important_first: bool, seed: int = 0) -> Tensor:
    """When each pixel of maps `(B, H, W)` goes, from 0 on, int32; equal values in a random order of the places.

    Most important first is exactly the reverse of least important first.
    """
    values = maps.detach().flatten(1)
    count = values.shape[1]
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = shuffled[values[:, shuffled].argsort(dim=1, stable=True)]
    places = torch.arange(count, dtype=torch.int32, device=values.device)
    if most_important_first:
        places = places.flip(0)
    rank = torch.empty(order.shape, dtype=torch.int32, device=values.device)
    return rank.scatter_(1, order, places.expand_as(order)).view(maps.shape)


def check_removal(
    images: Tensor, maps: MapSource, target: Tensor, fractions: Sequence[float], batch_size: int | None
) -> int:
    """How many images to give to the model at once.

    Raises:
        ValueError: shapes that do not match, a fraction outside [0, 1], or a batch size below 1.
    """
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else None
    fitting = shape is None or (len(shape) in (3, 4) and (shape[0], *shape[-2:]) == (len(images), *images.shape[2:]))
    if images.ndim != 4 or not len(images) or not fitting or target.shape != images.shape[:1]:
        raise ValueError(
            f"images {tuple(images.shape)}, maps {shape or type(maps).__name__} and target "
            f"{tuple(target.shape)}, expected "
            "(B, C, H, W), (B, H, W) and (B,)."
        )
    if not len(fractions):
        raise ValueError("fractions is empty, expected at least one number from 0 to 1.")
    wrong = [fraction for fraction in fractions if not 0 <= fraction <= 1]
    if wrong:
        raise ValueError(f"fractions has {wrong[0]}, expected numbers from 0 to 1.")
    return images_per_pass(images, batch_size)


def images_per_pass(images: Tensor, batch_size: int | None) -> int:
    """The size that was asked for, or one that suits the device (see `removal_curves`).

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is None:
        return 64 if images.device.type != "cpu" else max(1, 8 * 224**2 // images.shape[2:].numel())
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected at least 1.")
    return batch_size


def _checked(maps: Tensor, images: Tensor) -> Tensor:
    if maps.shape[1:] != images.shape[2:]:
        raise ValueError(f"maps {tuple(maps.shape)} of images {tuple(images.shape)}, expected their height and width.")
    if not maps.isfinite().all():
        raise ValueError("maps have entries that are not finite: pixels cannot be put in order by them.")
    return maps


def _replacement(fill: Fill, images: Tensor) -> Tensor:
    """`(1 or B, C or 1, H or 1, W or 1)` in the dtype of the images."""
    values = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    if values.ndim == 1:
        values = values[:, None, None]
    values = values[(None,) * (4 - values.ndim)]
    if any(size not in (1, whole) for size, whole in zip(values.shape, images.shape, strict=False)) or values.ndim > 4:
        raise ValueError(
            f"fill {tuple(values.shape)} does not fit images {tuple(images.shape)}, expected a number, one per channel "
            "or a tensor that broadcasts to them."
        )
    return values
