"""Drop and increase in confidence: what a model says of an image that is darkened where a map is low

Source: `Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks` (Chattopadhyay, Sarkar, Howlader,
Balasubramanian, WACV 2018), section 4.1 - https://arxiv.org/abs/1710.11063. pytorch-grad-cam has them too, as
`DropInConfidence`, which is not relative, and `IncreaseInConfidence`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from timm_interpretable.attr.maps import MapSource, images_per_pass, maps_of
from timm_interpretable.metrics.fills import Classifier, Fill, Removal, check_classes, check_images
from timm_interpretable.metrics.localisation import unit_range

__all__ = ["ConfidenceChange", "confidence_change"]


class ConfidenceChange(NamedTuple):
    """Probabilities of the class, `(B,)` each, fp32.

    before: of the image.
    after: of the image that shows only what its map marks.
    """

    before: Tensor
    after: Tensor

    @property
    def drop(self) -> Tensor:
        """The loss as a share of the probability, `(B,)` in [0, 1], 0 where nothing is lost. Lower is better."""
        return ((self.before - self.after) / self.before.where(self.before > 0, 1)).clamp_min(0)

    @property
    def increase(self) -> Tensor:
        """Whether the model is more confident than before, bool `(B,)`. The higher its mean, the better."""
        return self.after > self.before


def confidence_change(
    model: Classifier,
    images: Tensor,
    maps: MapSource,
    target: Tensor,
    fill: Fill | None = None,
    batch_size: int | None = None,
) -> ConfidenceChange:
    """The probability of a class for the image, and for the image blended with a fill where its map is low.

    The positive part of each map is stretched to [0, 1] by `unit_range`. Every pixel of the altered image is
    `map * image + (1 - map) * fill`; a module that encodes its images sees its encoding blended with absent pixels.
    With `fill=0` this is the product of image and map, as in pytorch-grad-cam: 0 is black for images in [0, 1], and the
    mean colour for standardised ones.

    Args:
        model, images, maps, target, fill: as in `removal_curves`.
        batch_size: images per pass; None as in `removal_curves`.

    Raises:
        ValueError: shapes that do not match, a class or a fill that the model does not have, or a batch size below 1.
        TypeError: a model that cannot be called.
    """
    check_images(images, maps, target)
    size, removal, parts = images_per_pass(images, batch_size), Removal(model, fill), []
    if not isinstance(removal.fill, str):
        removal.shown(images)  # a tensor of too many pictures would fit some of the images
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        x, classes, some = images[part], target[part], removal.of(part)
        found = maps_of(maps[part] if isinstance(maps, Tensor) else maps, x, classes)
        with torch.no_grad():
            weights = unit_range(found)[:, None]
            seen = some.seen(x)
            blended = (seen * weights + some.shown(x) * (1 - weights)).to(x.dtype)
            outputs = [removal.classify(y) for y in (seen, blended)]
        check_classes(classes, outputs[0].shape[1])
        parts.append([probabilities.gather(1, classes[:, None])[:, 0] for probabilities in outputs])
    before, after = (torch.cat(scores) for scores in zip(*parts, strict=True))
    return ConfidenceChange(before, after)
