"""The class map of an FA-CNN, or the contributions of a CoDA-Net, after every block."""

from collections.abc import Generator
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from timm_interpretable.app import render, words
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service, session_of
from timm_interpretable.app.sidebar import SHOWN, Sidebar, empty
from timm_interpretable.viz import Array

_LEAD = {
    "FA-CNN": "Every block keeps the channels in order, so the map of a class exists after each of them. Only the last one "
    "adds up to the logit.",
    "CoDA-Net": "Contributions of every layer’s output to the logit, from the picture to the last layer. At every depth they "
    "add up to the logit less its constant.",
}
_UNIT = {"FA-CNN": "block", "CoDA-Net": "layer"}


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """A slider over the blocks, all of them in a strip, and an animation."""
    entries = [e for e in service.engine.models.entries if e.family in _LEAD]
    with gr.Row(elem_classes="ti-controls"):
        model = gr.Dropdown([(e.title, e.name) for e in entries], label="Model", filterable=False, scale=1)
        block = gr.Slider(1, 8, value=8, step=1, label="After block", elem_id="ti-depth", scale=2, buttons=[])
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False)

    def draw(name: str, number: float, target: str, palette: str, view: str, request: gr.Request) -> Generator[Any]:
        style = Style(palette, view == "positive")
        try:
            picture = service.shelf.get(session_of(request))
        except PictureError as error:
            yield empty(str(error)), gr.skip()
            return
        entry = service.engine.models.entry(name)
        look, index, maps = service.engine.depth(picture, name, target or None)
        names = service.engine.models.get(name).class_names
        # the number comes from a page that may have shown another model
        at = min(max(int(number), 1), len(maps))
        html = _drawn(entry.family, look.seen, names[index], maps, at, style)
        yield html, gr.update(maximum=len(maps), value=at, label=f"After {_UNIT[entry.family]}")

    inputs = [model, block, side.target, side.palette, side.view]
    side.show("depth", tab, draw, inputs, [result, block], [model, block], **SHOWN)


def _drawn(family: str, seen: Array, name: str, maps: list[Array], at: int, style: Style) -> str:
    unit, values = _UNIT[family], maps[at - 1]
    alt = f"Map of {name} after {unit} {at} of {len(maps)}; strongest at the {words.place(values)}"
    frames = [render.laid_over(seen, one, style) for one in maps]
    panels = "".join(
        f'<li class="{"ti-now" if i == at else ""}"><figure><img src="{render.address(_small(frame))}" alt="">'
        f"<figcaption>{unit} {i}</figcaption></figure></li>"
        for i, frame in enumerate(frames, start=1)
    )
    gif = render.data_url(render.animation(frames), "image/gif")
    total = words.number(float(values.sum(dtype=np.float64)))
    return (
        f'<div class="ti-pair"><div><div class="ti-view">{render.stack(seen, values, style, alt)}</div>'
        f"{render.scale(values, style)}"
        f'<p class="ti-foot">{escape(name)}, after {unit} {at}: {values.shape[1]} × {values.shape[0]} values, sum {total}</p></div>'
        f'<div><p class="ti-lead">{_LEAD[family]}</p><ol class="ti-strip" aria-label="All depths">{panels}</ol>'
        f'<p><a class="ti-download" download="through-depth.gif" href="{gif}">Download the animation (GIF)</a></p></div></div>'
    )


def _small(frame: Array) -> Array:
    return np.ascontiguousarray(frame[::2, ::2])
