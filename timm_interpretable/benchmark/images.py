"""What the benchmark shows to the models: boxed images, images that lose pixels, and grids of confident images"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timm_interpretable.benchmark.methods import probabilities
from timm_interpretable.metrics import confident_grids

__all__ = ["Batch", "BenchmarkModel", "Grids", "Photographs"]


class Batch(NamedTuple):
    """images `(B, C, H, W)` and labels `(B,)`; boxes, bool `(B, H, W)`, where there are any."""

    images: Tensor
    labels: Tensor
    boxes: Tensor | None = None


@dataclass
class Photographs:
    """Some images of a data set.

    Args:
        data: map-style, `(image, label)`.
        chosen: indices of those that every method explains.
        costly: of those, the ones that costly methods and metrics take.
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
    """Grids of confidently and correctly classified images, as in the CoDA-Net paper; every image in at most one.

    Args:
        data: map-style, `(image, label)`; all of it is classified once.
        net: decides which images it is confident of.
        count: grids for every method; `costly`, of those, for costly ones.
        side: images per row and column.
    """

    data: Any
    net: Any
    count: int
    costly_count: int
    side: int
    device: torch.device
    seed: int = 0

    @property
    def chosen(self) -> Sequence[int]:
        return range(self.count)

    @property
    def costly(self) -> Sequence[int]:
        return range(self.costly_count)

    @cached_property
    def _grids(self) -> Tensor:
        predict, labels, probs = probabilities(self.net), [], []
        with torch.no_grad():
            for x, y in torch.utils.data.DataLoader(self.data, batch_size=64):
                probs.append(predict(x.to(self.device)).cpu())
                labels.append(y)
        return confident_grids(torch.cat(labels), torch.cat(probs), self.side, self.count, self.seed)

    def load(self, indices: Sequence[int]) -> Batch:
        """images `(G, side * side, C, H, W)` and labels `(G, side * side)`."""
        found = [[self.data[i] for i in self._grids[g].tolist()] for g in indices]
        images = torch.stack([torch.stack([image for image, _ in grid]) for grid in found])
        labels = torch.tensor([[label for _, label in grid] for grid in found])
        return Batch(images.to(self.device), labels.to(self.device))


@dataclass
class BenchmarkModel:
    """A model with what it is shown.

    Args:
        net: in evaluation mode.
        black, white: what these are to the model, `(C, 1, 1)`.
        sha256: of its weights.
        sets: by name: 'boxed' and 'val' are `Photographs`, 'grids' are `Grids`.
    """

    name: str
    net: Any
    black: Tensor
    white: Tensor
    sha256: str | None
    input_size: tuple[int, ...]
    sets: dict[str, Photographs | Grids]
