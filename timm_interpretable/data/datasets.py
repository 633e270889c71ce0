"""Image classification splits in a folder: tars or folders of class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.data import create_dataset
from torch.utils.data import ConcatDataset, Dataset


def split_roots(data_dir: Path, split: str) -> list[Path]:
    """The tars or the folder that hold a split: `split.tar`, `split-*.tar`, or `split/`.

    Raises:
        FileNotFoundError: none of them is there.
    """
    roots = sorted(data_dir.glob(f"{split}.tar")) + sorted(data_dir.glob(f"{split}-*.tar"))
    if not roots and (data_dir / split).is_dir():
        roots = [data_dir / split]
    if not roots:
        raise FileNotFoundError(f"{data_dir} has no {split}.tar, {split}-*.tar or {split}/ with one folder per class.")
    return roots


def open_split(
    data_dir: Path, split: str, transform: Callable[[Any], Any] | None = None
) -> tuple[Dataset[Any], list[str]]:
    """A split as a map-style dataset of `(image, class index)`, and its class folders in index order.

    Raises:
        FileNotFoundError: the split is not there.
        ValueError: its shards do not hold the same classes.
    """
    shards = [create_dataset("", root=str(root), transform=transform) for root in split_roots(data_dir, split)]
    classes = _class_folders(shards[0])
    for shard in shards:
        if _class_folders(shard) != classes:
            raise ValueError(f"The shards of {split} in {data_dir} hold different classes; expected the same in each.")
    return (shards[0] if len(shards) == 1 else ConcatDataset(shards)), classes


def _class_folders(dataset: Any) -> list[str]:
    reader = dataset.reader  # timm's two readers name the mapping differently
    mapping = reader.class_to_idx if hasattr(reader, "class_to_idx") else reader.class_name_to_idx
    return sorted(mapping, key=mapping.get)
