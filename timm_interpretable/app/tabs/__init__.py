"""One file per tab of the page; each builds its part inside the tab and connects it."""

from collections.abc import Callable

import gradio as gr

from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import Sidebar
from timm_interpretable.app.tabs import about, compare, contrast, depth, faces, removal

TABS: dict[str, tuple[str, Callable[[Service, Sidebar, gr.Tab], None]]] = {
    "compare": ("Compare", compare.tab),
    "depth": ("Through depth", depth.tab),
    "contrast": ("Why A rather than B", contrast.tab),
    "removal": ("Remove pixels", removal.tab),
    "faces": ("Faces", faces.tab),
    "about": ("About", about.tab),
}
