"""What the benchmark shows to the models: boxed images, images that lose pixels, and grids of confident images"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from timm_interpretable.metrics import confident_grids
from timm_interpretable.models import class_probabilities

__all__ = ["Batch", "BenchmarkModel", "Grids", "Photographs", "in_turn"]

_BATCH = 64


class Batch(NamedTuple):
    """images `(B, C, H, W)` and labels `(B,)`; boxes, bool `(B, H, W)`, where there are any."""

    images: Tensor
    labels: Tensor
    boxes: Tensor | None = None

    def part(self, kept: Sequence[int]) -> "Batch":
        """Some of them."""
        kept = list(kept)
        return Batch(self.images[kept], self.labels[kept], self.boxes[kept] if self.boxes is not None else None)


@dataclass
class Photographs:
    """Some images of a data set.

    Args:
        data: map-style, `(image, label)`; the label is the index of the model's class.
        chosen: indices of those that every method explains.
        costly: of those, the ones that costly methods and slow metrics take.
        boxes: bool masks of all images of `data`, `(N, H, W)`.
    """

    data: Any
    chosen: Sequence[int]
    costly: Sequence[int]
    device: torch.device
    boxes: Tensor | None = None

    def load(self, indices: Sequence[int]) -> Batch:
        some = [self.data[i] for i in indices]
        images = torch.stack([image for image, _ in some]).to(self.device)
        labels = torch.tensor([label for _, label in some], device=self.device)
        boxes = self.boxes[list(indices)].to(self.device) if self.boxes is not None else None
        return Batch(images, labels, boxes)


@dataclass
class Grids:
    """Grids of confidently and correctly classified images, as in the CoDA-Net paper; every image is in one at most.

    Args:
        data: map-style, `(image, label)`; all of it is classified once.
        net: decides which images it is confident of.
        count: grids for every method; `costly_count`, of those, for costly ones.
        side: images per row and column.
        min_confidence: probability that an image needs to be taken; the paper asks for one half.
    """

    data: Any
    net: Any
    count: int
    costly_count: int
    side: int
    device: torch.device
    seed: int = 0
    min_confidence: float = 0.0
    _places: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def chosen(self) -> Sequence[int]:
        return range(self.count)

    @property
    def costly(self) -> Sequence[int]:
        return range(self.costly_count)

    def choose(self, step: Callable[[str], None] = lambda text: None) -> Tensor:
        """Which image goes where, `(count, side * side)`. The first call classifies all images.

        Args:
            step: told how far the first call is.

        Raises:
            ValueError: too few images are classified correctly and with confidence.
        """
        if self._places is None:
            labels, probs, total = [], [], len(self.data)
            with torch.inference_mode():
                for start in range(0, total, _BATCH):
                    step(f"classifying images for the grids, {start}/{total}")
                    part = Subset(self.data, range(start, min(start + _BATCH, total)))
                    x, y = next(iter(DataLoader(part, batch_size=_BATCH)))
                    probs.append(class_probabilities(self.net, self.net(x.to(self.device)).float()).cpu())
                    labels.append(y)
            self._places = confident_grids(
                torch.cat(labels), torch.cat(probs), self.side, self.count, self.seed, self.min_confidence
            )
        return self._places

    def load(self, indices: Sequence[int]) -> Batch:
        """images `(G, side * side, C, h, w)` and labels `(G, side * side)`."""
        found = [[self.data[i] for i in self.choose()[g].tolist()] for g in indices]
        images = torch.stack([torch.stack([image for image, _ in grid]) for grid in found])
        labels = torch.tensor([[label for _, label in grid] for grid in found])
        return Batch(images.to(self.device), labels.to(self.device))


@dataclass
class BenchmarkModel:
    """A model with what it is shown.

    Args:
        net: in evaluation mode; its `pretrained_cfg` says how its images are normalised.
        sha256: of its weights.
        sets: by name: 'boxed' and 'split' are `Photographs`, 'grids' are `Grids`.
    """

    name: str
    net: Any
    sha256: str | None
    sets: dict[str, Photographs | Grids]

    @property
    def input_size(self) -> tuple[int, ...]:
        """`(C, H, W)` of the images; maps and boxes are compared at this size."""
        return tuple(next(iter(self.sets.values())).data[0][0].shape)

    @property
    def photographs(self) -> Photographs | None:
        """The first set that is not made of grids."""
        return next((images for images in self.sets.values() if isinstance(images, Photographs)), None)


def in_turn(names: Sequence[str], count: int) -> list[int]:
    """Indices of the first images of every class folder in turn: the first of each, then the second of each.

    Data sets in class folders have lost the order in which their classes were mixed; the order within a class is what
    is left of it.

    Args:
        names: `folder/name` of every image.
        count: images that are wanted; all where there are fewer.
    """
    order = sorted(range(len(names)), key=lambda i: PurePath(names[i]).as_posix())
    places: dict[PurePath, int] = {}
    keys = []
    for i in order:
        folder = PurePath(names[i]).parent
        places[folder] = places.get(folder, -1) + 1
        keys.append((places[folder], folder.as_posix(), i))
    return [i for _, _, i in sorted(keys)[:count]]
