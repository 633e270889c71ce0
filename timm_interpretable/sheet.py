"""A picture of a whole feature map: one panel per location, each with the map of what that location depends on."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor

from timm_interpretable.viz import overlay

__all__ = ["location_sheet"]

_CELL = "#22d3ee"


def location_sheet(image: np.ndarray[Any, Any] | Tensor, maps: np.ndarray[Any, Any] | Tensor, title: str) -> Figure:
    """All locations of a feature map in their places; in each panel the cell that CAM would assign is outlined.

    Args:
        image: 8-bit RGB picture `(H, W, 3)`.
        maps: one map per location, `(h, w, H', W')`, from `FAME.feature_locations`.
        title: above the sheet.

    Raises:
        ValueError: maps of another rank.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps of shape {tuple(maps.shape)}, expected (h, w, H, W).")
    h, w = maps.shape[:2]
    panel = min(1.5, 14 / max(h, w))  # inches
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    fig = Figure(figsize=(panel * w, panel * h + 0.6), dpi=110, layout=layout, facecolor="white")
    FigureCanvasAgg(fig)
    fig.suptitle(title, fontsize=12).set_parse_math(False)
    height, width = image.shape[:2]
    for (row, col), ax in np.ndenumerate(fig.subplots(h, w, squeeze=False)):
        ax.imshow(overlay(image, maps[row, col]), extent=(0, width, height, 0))
        corner = (col * width / w, row * height / h)
        ax.add_patch(Rectangle(corner, width / w, height / h, fill=False, edgecolor=_CELL, linewidth=1.4))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return fig
