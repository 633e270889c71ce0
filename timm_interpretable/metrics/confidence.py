"""Drop and increase in confidence: what the model says of an image that is darkened where a map is low.

Source: `Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks` (Chattopadhyay, Sarkar, Howlader,
Balasubramanian, WACV 2018), section 4.1 - https://arxiv.org/abs/1710.11063. pytorch-grad-cam has them too, as
`DropInConfidence`, which is not relative, and `IncreaseInConfidence`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from timm_interpretable.metrics.localisation import unit_range
from timm_interpretable.metrics.maps import MapSource, maps_of
from timm_interpretable.metrics.removal import check_removal

__all__ = ["ConfidenceChange", "confidence_change"]


class ConfidenceChange(NamedTuple):
    """Probabilities of the class, `(B,)` each, fp32.

    before: of the image.
    after: of the image times its map.
    """

    before: Tensor
    after: Tensor

    @property
    def drop(self) -> Tensor:
        """What is lost, as a share of the probability, `(B,)` in [0, 1]; 0 where nothing is. The lower, the better."""
        return ((self.before - self.after) / self.before.where(self.before > 0, 1)).clamp_min(0)

    @property
    def increase(self) -> Tensor:
        """Whether the model is more confident than before, bool `(B,)`. Its mean: the higher, the better."""
        return self.after > self.before


def confidence_change(
    predict: Callable[[Tensor], Tensor], images: Tensor, maps: MapSource, target: Tensor, batch_size: int | None = None
) -> ConfidenceChange:
    """The probability of a class before and after the image is multiplied with its map.

    Args:
        predict, images, target: as in `removal_curves`. The product is taken in the units of the images, as
            pytorch-grad-cam does: 0 is black for images in [0, 1], the mean colour for standardised ones.
        maps: as in `removal_curves`; only their positive part counts, stretched to [0, 1] (`unit_range`).
        batch_size: images per call of `predict`; None as in `removal_curves`.

    Raises:
        ValueError: shapes that do not match, or a batch size below 1.
    """
    size = check_removal(images, maps, target, (0,), batch_size)
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            x, classes = images[part], target[part]
            weights = unit_range(maps_of(maps[part] if isinstance(maps, Tensor) else maps, x, classes))
            seen = (x * weights[:, None]).to(x.dtype)
            parts.append([predict(shown).float().gather(1, classes[:, None])[:, 0] for shown in (x, seen)])
    before, after = (torch.cat(scores) for scores in zip(*parts, strict=True))
    return ConfidenceChange(before, after)
