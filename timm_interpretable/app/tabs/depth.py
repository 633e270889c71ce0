"""The class map of an FA-CNN, or the contributions of a CoDA-Net, after every block."""

from collections.abc import Generator
from dataclasses import dataclass
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
    "FA-CNN": "Every block keeps the channels in order, so the map of a class exists after each of them. Only the last "
    "one adds up to the logit.",
    "CoDA-Net": "What every position of each layer’s output contributes to the logit. At every depth the contributions "
    "add up to the logit less its constant.",
}
_UNIT = {"FA-CNN": "block", "CoDA-Net": "layer"}


@dataclass(frozen=True)
class _Film:
    """Thumbnails and the animation, as addresses."""

    thumbnails: tuple[str, ...]
    animation: str

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.thumbnails)) + len(self.animation)


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """A slider over the blocks, all of them in a strip, and an animation."""
    entries = [e for e in service.engine.models.entries if e.family in _LEAD]
    with gr.Row(elem_classes="ti-controls"):
        model = gr.Dropdown([(e.title, e.name) for e in entries], label="Model", filterable=False, scale=1)
        block = gr.Slider(1, 8, value=8, step=1, label="After block", elem_id="ti-depth", scale=2, buttons=[])
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(
        name: str, number: float, target: str, palette: str, view: str, request: gr.Request
    ) -> Generator[list[Any]]:
        style = Style(palette, view == "positive")
        try:
            picture = service.shelf.get(session_of(request))
        except PictureError as error:
            yield [empty(str(error)), gr.skip()]
            return
        family = service.engine.models.entry(name).family
        look, index, maps = service.engine.depth(picture, name, target or None)
        # the number comes from a page that may have shown another model
        at = min(max(int(number), 1), len(maps))
        key, kept = (picture.digest, name, "film", index, style), service.engine.kept
        film = kept.get(key)
        if film is None:
            film = _film(look.seen, maps, style)
            kept.put(key, film)
        class_name = service.engine.models.get(name).class_names[index]
        html = _drawn(family, look.seen, class_name, maps, at, style, film)
        yield [html, gr.update(maximum=len(maps), value=at, label=f"After {_UNIT[family]}")]

    inputs = [model, block, side.target, side.palette, side.view]
    side.show("depth", tab, draw, inputs, [result, block], [model, block], **SHOWN)
    side.on_example(model, lambda data: next(e.name for e in entries if e.data == data))


def _film(seen: Array, maps: list[Array], style: Style) -> _Film:
    frames = [render.laid_over(seen, one, style) for one in maps]
    thumbnails = tuple(render.address(np.ascontiguousarray(frame[::2, ::2])) for frame in frames)
    return _Film(thumbnails, render.data_url(render.animation(frames), "image/gif"))


def _drawn(family: str, seen: Array, name: str, maps: list[Array], at: int, style: Style, film: _Film) -> str:
    unit, values = _UNIT[family], maps[at - 1]
    alt = f"Map of {name} after {unit} {at} of {len(maps)}; strongest at the {words.place(values)}"
    panels = "".join(
        f'<li class="{"ti-now" if i == at else ""}"><figure><img src="{picture}" alt="">'
        f"<figcaption>{unit} {i}</figcaption></figure></li>"
        for i, picture in enumerate(film.thumbnails, start=1)
    )
    total = words.number(float(values.sum(dtype=np.float64)))
    height, width = values.shape
    return (
        f'<div class="ti-pair"><div><div class="ti-view">{render.stack(seen, values, style, alt)}</div>'
        f"{render.scale(values, style)}"
        f'<p class="ti-foot">{escape(name)}, after {unit} {at}: {width} × {height} values, sum {total}</p></div>'
        f'<div><p class="ti-lead">{_LEAD[family]}</p><ol class="ti-strip" aria-label="All depths">{panels}</ol>'
        f'<div class="ti-film"><img src="{film.animation}" alt="The maps one after the other, as an animation">'
        f'<a class="ti-download" download="through-depth.gif" href="{film.animation}">Download the animation (GIF)</a>'
        "</div></div></div>"
    )
