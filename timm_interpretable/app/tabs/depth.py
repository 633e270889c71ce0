"""The map of a class after every layer of a network that explains itself."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from timm_interpretable.app import render, words
from timm_interpretable.app.engine import Explanation
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.models import of_data
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import SHOWN, Sidebar, empty
from timm_interpretable.viz import Array

_LEAD = (
    "What speaks for the class after every layer of the network, from the first to the last. The number below each map "
    "is what the map adds up to."
)


@dataclass(frozen=True)
class _Film:
    """Thumbnails and the animation, as addresses."""

    thumbnails: tuple[str, ...]
    animation: str

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.thumbnails)) + len(self.animation)


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """A slider over the layers, all of them in a strip, and an animation."""
    engine = service.engine
    entries = engine.models.with_depth()
    with gr.Row(elem_classes="ti-controls"):
        model = gr.Dropdown([(e.title, e.name) for e in entries], label="Model", filterable=False, scale=1)
        layer = gr.Slider(1, 8, value=8, step=1, label="After block or layer", elem_id="ti-depth", scale=2, buttons=[])
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(
        name: str, number: float, target: str, palette: str, view: str, request: gr.Request
    ) -> Generator[list[Any]]:
        style = Style(palette, view == "positive")
        try:
            picture = service.sessions.of(request).picture()
        except PictureError as error:
            yield [empty(str(error)), gr.skip()]
            return
        found = engine.explain(picture, engine.choice(name), target)
        maps = found.map.depth
        if not maps:
            yield [empty(f"{found.model.entry.title} has no maps after its layers."), gr.skip()]
            return
        # the number comes from a page that may have shown another model
        at = min(max(int(number), 1), len(maps))
        key = (picture.digest, name, "film", found.target, style)
        film = engine.cache.get(key)
        if film is None:
            film = _film(found.prediction.seen, maps, style)
            engine.cache.put(key, film)
        yield [_drawn(found, at, style, film), gr.update(maximum=len(maps), value=at)]

    inputs = [model, layer, side.target, side.palette, side.view]
    side.show("depth", tab, draw, inputs, [result, layer], [model, layer], **SHOWN)
    side.on_example(model, lambda data: of_data(entries, data)[0].name)


def _film(seen: Array, maps: Sequence[Array], style: Style) -> _Film:
    frames = [render.laid_over(seen, one, style, _signed(maps)) for one in maps]
    thumbnails = tuple(render.address(np.ascontiguousarray(frame[::2, ::2])) for frame in frames)
    return _Film(thumbnails, render.data_url(render.animation(frames), "image/gif"))


def _signed(maps: Sequence[Array]) -> bool:
    """A colour means the same after every layer."""
    return any(bool(one.min() < 0) for one in maps)


def _drawn(found: Explanation, at: int, style: Style, film: _Film) -> str:
    seen, name, maps = found.prediction.seen, found.target_name, found.map.depth
    label = found.map.depth_label
    values, sums = maps[at - 1], [words.number(float(one.sum(dtype=np.float64))) for one in maps]
    alt = f"Map of {name} after {label} {at} of {len(maps)}; strongest at the {words.place(values)}"
    panels = "".join(
        f'<li class="{"ti-now" if i == at else ""}"><figure><img src="{picture}" alt="">'
        f"<figcaption>{label} {i}<br>{total}</figcaption></figure></li>"
        for i, (picture, total) in enumerate(zip(film.thumbnails, sums, strict=True), start=1)
    )
    height, width = values.shape
    signed = _signed(maps)
    return (
        f'<div class="ti-pair"><div><div class="ti-view">{render.stack(seen, values, style, alt, signed)}</div>'
        f"{render.scale(values, style, signed)}"
        f'<p class="ti-foot">{escape(name)}, after {label} {at}: {width} × {height} values, which add up to '
        f"{sums[at - 1]}</p></div>"
        f'<div><p class="ti-lead">{_LEAD}</p><ol class="ti-strip" aria-label="All {label}s">{panels}</ol>'
        f'<div class="ti-film"><img src="{film.animation}" alt="The maps one after the other, as an animation">'
        f'<a class="ti-download" download="through-depth.gif" href="{film.animation}">Download the animation (GIF)</a>'
        "</div></div></div>"
    )
