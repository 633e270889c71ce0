"""Pixels are removed in the order of a map: how soon does the prediction change?

* Pixel removal: `Full-Gradient Representation for Neural Network Visualization` (Srinivas and Fleuret, NeurIPS 2019,
  https://arxiv.org/abs/1905.00780), as used in section 4.2 of the CoDA-Net paper (https://arxiv.org/abs/2104.00032).
* Insertion and deletion: `RISE: Randomized Input Sampling for Explanation of Black-box Models` (Petsiuk, Das, Saenko,
  BMVC 2018), section 4.2 - https://arxiv.org/abs/1806.07421.
* Deletion of a logit: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi
  Zhang, Manuel Günther) - https://arxiv.org/abs/2605.12017.
* ROAD, remove and debias: `A Consistent and Efficient Evaluation Strategy for Attribution Methods` (Rong, Leemann,
  Borisov, Kasneci, Kasneci, ICML 2022) - https://arxiv.org/abs/2202.00449.

What a removed pixel becomes is the `fill` of each function; see `timm_interpretable.metrics.fills`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from timm_interpretable.attr.maps import MapSource, images_per_pass, maps_of
from timm_interpretable.metrics.fills import Classifier, Fill, Removal, check_classes, check_images
from timm_interpretable.metrics.imputation import impute
from timm_interpretable.models.interface import has_encoding

__all__ = [
    "DECILES",
    "PAPER_REMOVAL",
    "QUARTER",
    "TENTHS",
    "InsertionDeletion",
    "RemovalCurves",
    "area",
    "insertion_deletion",
    "logit_deletion",
    "pixel_removal",
    "removal_counts",
    "removal_curves",
    "removal_rank",
    "road",
    "road_curves",
]

PAPER_REMOVAL = tuple(i / 508 for i in range(128))
"""0 to 25 % of the pixels at 128 points: with these `fractions`, `pixel_removal` follows the protocol of the CoDA-Net
paper. Its images are the first 1,024 of the test set in their order, its target is the true class, pixels go one by
one, least important first, and become absent (the default for a CoDA-Net). The number reported is the mean probability,
a sigmoid for each class, over the points and the images."""

QUARTER = tuple(i / 80 for i in range(21))
"""0 to 25 % of the pixels at 21 points: the range of `PAPER_REMOVAL` at a sixth of its cost."""

TENTHS = tuple(i / 10 for i in range(11))
"""0 to 100 % of the pixels in tenths, as in the FAME paper."""

DECILES = tuple(i / 10 for i in range(1, 10))
"""10 to 90 % of the pixels in tenths, for ROAD."""


# --- pixel removal


class RemovalCurves(NamedTuple):
    """What a classifier says at every fraction of removed pixels.

    probability: what it gives for the class, `(B, n)`, fp32.
    correct: whether this is the highest of all classes, bool `(B, n)`. Its mean over images is the accuracy where the
        target is the true class.
    """

    probability: Tensor
    correct: Tensor


def removal_curves(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = QUARTER,
    most_important_first: bool = False,
    fill: Fill | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> RemovalCurves:
    """The probability of a class, and whether it stays the prediction, while more and more pixels are removed.

    Pixels of equal value go in a random order of the places in an image. It is drawn from `seed` and is the same for
    all images: no part of the image is favoured, and the result for an image does not depend on the others.

    Args:
        model: a module that gives logits, in evaluation mode, or a function from images to probabilities `(B, K)`.
        images: `(B, C, H, W)`, of any height and width.
        maps: one importance per pixel, `(B, H, W)`, or `(B, C, H, W)`, whose channels are added up; or what `maps_of`
            makes them from, such as a Captum `Attribution`, which is called on at most `batch_size` images.
        target: classes `(B,)`, int64.
        fractions: shares of the pixels, each in [0, 1].
        most_important_first: whether the most important pixels go first, instead of the least important.
        fill: what a removed pixel becomes: `"absent"`, `"black"`, `"mean"`, `"blur"`, a number, one per channel, or a
            tensor that broadcasts to the images. None means absent for a module that encodes its images, black for any
            other module, and 0 for a function; see `Fill`.
        seed: of the order of equal values.
        batch_size: altered images per pass. None means 64, and on a CPU as many as its caches hold: 8 at 224 pixels,
            more of smaller images.

    Raises:
        ValueError: shapes that do not match, maps that are not finite, a class that the model does not have, a fraction
            outside [0, 1], a batch size below 1, or a fill that the model does not have.
        TypeError: a model that cannot be called.
    """
    return _fill_curves(Removal(model, fill), images, maps, target, fractions, most_important_first, seed, batch_size)


def pixel_removal(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = QUARTER,
    most_important_first: bool = False,
    fill: Fill | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The probabilities of `removal_curves`, `(B, len(fractions))`; arguments and errors are the same."""
    return removal_curves(
        model, images, maps, target, fractions, most_important_first, fill, seed, batch_size
    ).probability


def logit_deletion(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = TENTHS,
    fill: Fill | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """How much the logit of a class falls when the most important pixels are removed, `(B, len(fractions))`.

    The value is the logit of the image less the logit of the image without these pixels, fp32, in units of the logit.
    The larger it is, and the earlier, the better the map says what the model uses. The FAME paper reports the mean over
    the fractions.

    Args:
        model: a module that gives logits, in evaluation mode, or a function from images to logits `(B, K)`.
        images, maps, target, fractions, fill, seed, batch_size: as in `removal_curves`.

    Raises:
        ValueError, TypeError: as `removal_curves`.
    """
    if not len(fractions):
        raise ValueError("fractions is empty, expected at least one number from 0 to 1.")
    removal = Removal(model, fill, logits=True)
    curve = _fill_curves(removal, images, maps, target, (0.0, *fractions), True, seed, batch_size).probability
    return curve[:, :1] - curve[:, 1:]


def area(curve: Tensor, fractions: Sequence[float]) -> Tensor:
    """Area under curves by the trapezoidal rule, divided by the span of the fractions: a mean height, `(...)`.

    Args:
        curve: `(..., n)`; in bool curves, such as `RemovalCurves.correct`, true counts as 1.
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


# --- insertion and deletion


class InsertionDeletion(NamedTuple):
    """Probabilities of the class, fp32.

    insertion: with the most important pixels put into the start image, `(B, n_steps + 1)`, from none to all of them.
    deletion: with the most important pixels removed, `(B, n_steps + 1)`, from none to all of them.
    fractions: shares of the pixels, 0 to 1, `(n_steps + 1,)`, float64 on the CPU.
    """

    insertion: Tensor
    deletion: Tensor
    fractions: Tensor

    @property
    def insertion_area(self) -> Tensor:
        """Area under the curve, `(B,)`; the higher, the better the map."""
        return area(self.insertion, self.fractions.tolist())

    @property
    def deletion_area(self) -> Tensor:
        """Area under the curve, `(B,)`; the lower, the better the map."""
        return area(self.deletion, self.fractions.tolist())


def insertion_deletion(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    n_steps: int = 50,
    fill: Fill | None = None,
    start: Fill | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> InsertionDeletion:
    """The probability of a class while the most important pixels are inserted, and while they are deleted.

    Args:
        model, images, maps, target, seed, batch_size: as in `removal_curves`.
        n_steps: number of steps, of equally many pixels each. The paper takes as many as the image has rows. Every step
            costs two passes per image.
        fill: what a removed pixel becomes in deletion, as in `removal_curves`. The paper uses 0 on standardised images,
            the mean colour of ImageNet.
        start: what pixels show before their insertion, a `Fill`. None means absent for a module that encodes its
            images, and for all else the blurred image, as in the paper.

    Raises:
        ValueError: fewer than one step; else as `removal_curves`.
        TypeError: a model that cannot be called.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}, expected at least 1.")
    check_images(images, maps, target)
    steps = [i / n_steps for i in range(n_steps + 1)]
    if start is None:
        start = "absent" if isinstance(model, nn.Module) and has_encoding(model) else "blur"
    if not isinstance(maps, Tensor):  # made once for both orders
        parts = zip(*(x.split(images_per_pass(images, batch_size)) for x in (images, target)), strict=True)
        maps = torch.cat([_maps(maps, *part) for part in parts])
    deletion = removal_curves(model, images, maps, target, steps, True, fill, seed, batch_size)
    # to show the most important share is to hide the least important rest
    insertion = removal_curves(model, images, maps, target, steps[::-1], False, start, seed, batch_size)
    return InsertionDeletion(insertion.probability, deletion.probability, torch.tensor(steps, dtype=torch.float64))


# --- ROAD


def road_curves(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = DECILES,
    most_important_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
) -> RemovalCurves:
    """`removal_curves` where noisy linear imputation replaces removed pixels, so that nothing betrays where they were.

    The mean over the fractions is the usual summary. It is low for a good map where the most important pixels go first,
    and high where the least important do. The paper reports it of the accuracy, pytorch-grad-cam of the probability.
    Images are imputed before a model encodes them.

    Args:
        model, images, maps, target, fractions, most_important_first, batch_size: as in `removal_curves`.
        noise, tolerance: as in `impute`, in units of the images.
        seed: of the order of equal values and of the noise, which is the same for all images.

    Raises:
        ValueError, TypeError: as `removal_curves` and `impute`.
    """

    def altered(part: slice, rank: Tensor) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for count in counts:
            yield impute(images[part], rank < count, noise, generator, tolerance)

    size = _checked_batch(images, maps, target, fractions, batch_size)
    counts = removal_counts(images, fractions)
    classify = Removal(model, 0.0).classify  # what is imputed are the images, not their encoding
    return _curves(classify, altered, images, maps, target, most_important_first, seed, size)


def road(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float] = DECILES,
    most_important_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
) -> Tensor:
    """The probabilities of `road_curves`, `(B, len(fractions))`; arguments and errors are the same."""
    return road_curves(
        model, images, maps, target, fractions, most_important_first, noise, seed, tolerance, batch_size
    ).probability


# --- the order of pixels


def removal_counts(images: Tensor, fractions: Sequence[float]) -> Tensor:
    """How many pixels of an image `(B, C, H, W)` the fractions are, rounded, int32 `(n,)`."""
    pixels = images.shape[2:].numel()
    return torch.tensor([round(fraction * pixels) for fraction in fractions], dtype=torch.int32, device=images.device)


def removal_rank(maps: Tensor, most_important_first: bool, seed: int = 0) -> Tensor:
    """The place of each pixel in the order of removal, from 0 on, int32 `(B, H, W)`.

    Pixels of equal value go in a random order of the places. Most important first is exactly the reverse of least
    important first.

    Args:
        maps: importance of every pixel, `(B, H, W)`, finite.
        most_important_first: whether the most important pixels go first, instead of the least important.
        seed: of the order of equal values, which is the same for all maps.
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


# --- what all of them share

_Altered: TypeAlias = Callable[[slice, Tensor], Iterator[Tensor]]
"""Which images, and the rank of their pixels, to what the classifier sees of the altered images, fraction by fraction,
several fractions at once or not: `(b, C, H, W)` of the first fraction, then those of the second, and so on."""


def _fill_curves(
    removal: Removal,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fractions: Sequence[float],
    most_important_first: bool,
    seed: int,
    batch_size: int | None,
) -> RemovalCurves:
    """Curves of images whose removed pixels become the same, whatever their neighbours are."""

    def altered(part: slice, rank: Tensor) -> Iterator[Tensor]:
        some, x = removal.of(part), images[part]
        seen, shown = some.seen(x), some.shown(x)
        for few in counts.split(max(1, size // len(rank))):
            removed = rank[:, None] < few[:, None, None, None, None]
            yield torch.where(removed, shown, seen).flatten(0, 1)

    size = _checked_batch(images, maps, target, fractions, batch_size)
    counts = removal_counts(images, fractions)
    if not isinstance(removal.fill, str):
        removal.shown(images)  # a tensor of too many pictures would fit some of the images
    return _curves(removal.classify, altered, images, maps, target, most_important_first, seed, size)


def _curves(
    classify: Callable[[Tensor], Tensor],
    altered: _Altered,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    most_important_first: bool,
    seed: int,
    batch_size: int,
) -> RemovalCurves:
    """Curves of images that are altered in any way; `altered` runs without gradients."""
    probability, correct = [], []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        classes = target[part]
        found = _maps(maps[part] if isinstance(maps, Tensor) else maps, images[part], classes)
        rank = removal_rank(found, most_important_first, seed)
        with torch.no_grad():
            outputs = torch.cat([classify(x) for x in altered(part, rank)])
        check_classes(classes, outputs.shape[1])
        outputs = outputs.view(-1, len(classes), outputs.shape[1]).transpose(0, 1)  # (b, n, K)
        probability.append(outputs.gather(2, classes[:, None, None].expand(-1, outputs.shape[1], 1))[:, :, 0])
        correct.append(outputs.argmax(2) == classes[:, None])
    return RemovalCurves(torch.cat(probability), torch.cat(correct))


def _maps(source: MapSource, images: Tensor, target: Tensor) -> Tensor:
    """Maps that give an order of the pixels, `(B, H, W)`."""
    maps = maps_of(source, images, target)
    if maps.shape[1:] != images.shape[2:]:
        raise ValueError(f"maps {tuple(maps.shape)} of images {tuple(images.shape)}, expected their height and width.")
    if not maps.isfinite().all():
        raise ValueError("maps have entries that are not finite: pixels cannot be put in order by them.")
    return maps


def _checked_batch(
    images: Tensor, maps: MapSource, target: Tensor, fractions: Sequence[float], batch_size: int | None
) -> int:
    """How many images to give to the model at once.

    Raises:
        ValueError: shapes that do not match, classes that are not int64, a fraction outside [0, 1], or a batch size
            below 1.
    """
    check_images(images, maps, target)
    if not len(fractions):
        raise ValueError("fractions is empty, expected at least one number from 0 to 1.")
    wrong = [fraction for fraction in fractions if not 0 <= fraction <= 1]
    if wrong:
        raise ValueError(f"fractions has {wrong[0]}, expected numbers from 0 to 1.")
    return images_per_pass(images, batch_size)
