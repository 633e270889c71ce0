"""Training images: augmentation that depends on nothing but (seed, epoch, index)."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from timm_interpretable.data.datasets import open_split
from timm_interpretable.train.recipes import Recipe


def train_transform(recipe: Recipe, size: int) -> Callable[[Any], Tensor]:
    """PIL image to an augmented, normalised `(3, size, size)` tensor."""
    if recipe.crop == "rrc":
        return create_transform(
            size, is_training=True, scale=recipe.scale, hflip=recipe.hflip, color_jitter=recipe.color_jitter,
            auto_augment=recipe.auto_augment, interpolation="bilinear",
            mean=recipe.mean, std=recipe.std,
        )  # fmt: skip
    if recipe.crop != "pad":
        raise ValueError(f"crop={recipe.crop!r} is unknown, expected 'rrc' or 'pad'.")
    steps = [
        transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.RandomCrop(size, padding=size // 8, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(recipe.hflip),
        transforms.Normalize(recipe.mean, recipe.std),
    ]
    return transforms.Compose(steps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that torchvision and timm draw from, and restore them."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` also visits CUDA, which costs more than the crop
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


class SeededImages(Dataset[tuple[Tensor, int]]):
    """Images keyed by (epoch, index), each augmented by random numbers of its own.

    An epoch is then the same whatever the number of workers and processes, and after a resume.
    """

    def __init__(self, data_dir: Path, recipe: Recipe) -> None:
        self.images, self.classes = open_split(data_dir, "train")
        self.recipe = recipe
        self.transforms = {size: train_transform(recipe, size) for _, size in recipe.sizes}

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        image, label = self.images[index]
        with seeded(hash((self.recipe.seed, epoch, index)) % 2**63):  # integers only: the same in every process
            return self.transforms[self.recipe.size_at(epoch)](image), label


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of every global batch of an epoch, as (epoch, index) keys; a last partial one is dropped."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size != 0:
            raise ValueError(f"batch_size={batch_size} must be a multiple of the number of processes, {world_size}.")
        if batch_size > length:
            raise ValueError(f"batch_size={batch_size} is more than the {length} training images.")
        self.length, self.batch_size, self.seed, self.rank, self.world_size = length, batch_size, seed, rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        order = torch.randperm(self.length, generator=generator).tolist()
        for i in range(len(self)):
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield [(self.epoch, index) for index in batch[self.rank :: self.world_size]]


def train_loader(images: SeededImages, rank: int, world_size: int, workers: int) -> DataLoader[Any]:
    batches = EpochBatches(len(images), images.recipe.batch_size, images.recipe.seed, rank, world_size)
    return DataLoader(images, batch_sampler=batches, num_workers=workers)
