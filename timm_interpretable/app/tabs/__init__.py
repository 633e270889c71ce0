"""One file per tab of the page; each builds its part inside the tab and connects it."""

from collections.abc import Callable
from typing import NamedTuple

import gradio as gr

from timm_interpretable.app.models import Models
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import Sidebar
from timm_interpretable.app.tabs import about, compare, contrast, depth, faces, removal


class Tab(NamedTuple):
    """Its title, what builds it, and whether there is a model for it."""

    title: str
    build: Callable[[Service, Sidebar, gr.Tab], None]
    possible: Callable[[Models], bool] = lambda models: True


def _explains_itself(models: Models) -> bool:
    return bool(models.self_explaining())


TABS: dict[str, Tab] = {
    "compare": Tab("Compare", compare.tab),
    "depth": Tab("Through depth", depth.tab, lambda models: bool(models.with_depth())),
    "contrast": Tab("Why A rather than B", contrast.tab, _explains_itself),
    "removal": Tab("Remove pixels", removal.tab),
    "faces": Tab("Faces", faces.tab, lambda models: models.faces is not None),
    "about": Tab("About", about.tab),
}
