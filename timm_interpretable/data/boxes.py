"""Bounding boxes of objects: from a table to masks."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Box", "box_mask", "load_boxes"]

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax, in pixels
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load_boxes(file: str | Path) -> dict[str, list[Box]]:
    """The boxes of every image in a CSV table with the columns `path,xmin,ymin,xmax,ymax`, one row per box.

    Raises:
        ValueError: a column is missing, or a row is not four finite numbers with `xmin < xmax` and `ymin < ymax`.
    """
    boxes: dict[str, list[Box]] = {}
    with open(file, newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in ("path", *_CORNERS) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{file} has no column {', '.join(missing)}; expected path,{','.join(_CORNERS)}.")
        for row in reader:
            try:
                box = _box(row)
            except (TypeError, ValueError):  # float(None): the row is too short
                raise ValueError(
                    f"{file}, line {reader.line_num}: expected path,{','.join(_CORNERS)} with finite numbers, "
                    f"xmin < xmax and ymin < ymax, got {','.join(str(row[k]) for k in ('path', *_CORNERS))}."
                ) from None
            boxes.setdefault(row["path"], []).append(box)
    return boxes


def _box(row: dict[str, str]) -> Box:
    xmin, ymin, xmax, ymax = (float(row[name]) for name in _CORNERS)
    if not (-math.inf < xmin < xmax < math.inf and -math.inf < ymin < ymax < math.inf):  # false for nan
        raise ValueError
    return xmin, ymin, xmax, ymax


def box_mask(boxes: Iterable[Box], height: int, width: int, scale: float | tuple[float, float] = 1.0) -> Tensor:
    """The union of the boxes as a bool mask `(height, width)`: true where the centre of a pixel is inside a box.

    scale: mask pixels per pixel of the image that the boxes were drawn on, down and across where they differ. What
        sticks out of the mask is cut off.
    """
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    y = torch.arange(height) + 0.5
    x = torch.arange(width) + 0.5
    mask = torch.zeros(height, width, dtype=torch.bool)
    for xmin, ymin, xmax, ymax in boxes:
        rows = (y >= ymin * down) & (y < ymax * down)
        columns = (x >= xmin * across) & (x < xmax * across)
        mask |= rows[:, None] & columns[None, :]
    return mask
