"""Pictures of faces, one folder per person, such as the ORL faces."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from timm_interpretable.data.datasets import open_split

__all__ = ["ORL_TRAINING", "ORL_VERIFICATION", "load_people", "people_range"]


def people_range(first: int, last: int) -> tuple[str, ...]:
    """Names of the ORL folders `s<first>` to `s<last>`."""
    return tuple(f"s{i}" for i in range(first, last + 1))


ORL_TRAINING = people_range(1, 30)
ORL_VERIFICATION = people_range(31, 40)


def load_people(data_dir: Path, people: Sequence[str]) -> tuple[list[Image], Tensor]:
    """All pictures of the named people, and who each is of: an index into `people`, `(N,)`.

    Args:
        data_dir: holds `faces.tar` or the folder `faces/`, with one folder per person.
        people: folder names.

    Raises:
        FileNotFoundError: there is no such tar or folder.
        ValueError: a person is missing.
    """
    dataset, folders = open_split(data_dir, "faces")
    pictures = (dataset[i] for i in range(len(dataset)))  # type: ignore[arg-type]
    missing = [name for name in people if name not in folders]
    if missing:
        raise ValueError(f"The faces in {data_dir} have no folder {missing[0]}, expected {people[0]} to {people[-1]}.")
    number = {folders.index(name): i for i, name in enumerate(people)}
    chosen = [(picture, number[label]) for picture, label in pictures if label in number]
    return [picture for picture, _ in chosen], torch.tensor([label for _, label in chosen])
