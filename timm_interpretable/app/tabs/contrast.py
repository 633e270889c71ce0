"""Why one class rather than another: the difference of their maps, which adds up to the difference of their logits."""

from collections.abc import Generator
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from timm_interpretable.app import render, words
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.methods import Look
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service, session_of
from timm_interpretable.app.sidebar import SHOWN, Sidebar, empty
from timm_interpretable.viz import Array


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """Two classes, their maps, and the difference."""
    entries = [e for e in service.engine.models.entries if e.family in ("FA-CNN", "CoDA-Net")]
    names = _class_names(service, entries[0].name)
    with gr.Row(elem_classes="ti-controls"):
        model = gr.Dropdown([(e.title, e.name) for e in entries], label="Model", filterable=False)
        first = gr.Dropdown(
            [("the likeliest", ""), *names], value="", label="Why …", filterable=False, elem_id="ti-why"
        )
        second = gr.Dropdown(
            [("the second", ""), *names], value="", label="… rather than", filterable=False, elem_id="ti-rather"
        )
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(name: str, why: str, rather: str, palette: str, view: str, request: gr.Request) -> Generator[str]:
        try:
            picture = service.shelf.get(session_of(request))
        except PictureError as error:
            yield empty(str(error))
            return
        loaded = service.engine.models.get(name)
        look = service.engine.look(picture, name)
        order = [int(k) for k in np.argsort(-look.logits, kind="stable")]
        a = loaded.class_index(why)
        a = order[0] if a is None else a
        b = loaded.class_index(rather)
        b = next(k for k in order if k != a) if b is None else b
        yield _drawn(look, loaded.class_names, a, b, Style(palette, view == "positive"))

    def choose_model(name: str) -> list[Any]:
        classes = _class_names(service, name)
        return [
            gr.update(choices=[("the likeliest", ""), *classes], value=""),
            gr.update(choices=[("the second", ""), *classes], value=""),
        ]

    inputs = [model, first, second, side.palette, side.view]
    side.show("contrast", tab, draw, inputs, [result], [first, second], **SHOWN)
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")

    def suited(data: str) -> str:
        return next(e.name for e in entries if e.data == data)

    side.on_example(model, suited)
    side.on_example(first, lambda data: choose_model(suited(data))[0])
    side.on_example(second, lambda data: choose_model(suited(data))[1])
    choice = model.input(choose_model, [model], [first, second], api_name="page_classes", **quiet)
    choice.then(draw, inputs, [result], api_name="page_contrast", **SHOWN, **quiet)


def _class_names(service: Service, model: str) -> list[tuple[str, str]]:
    return [(name, name) for name in service.engine.models.class_names(model)]


def _drawn(look: Look, names: tuple[str, ...], a: int, b: int, style: Style) -> str:
    maps, logits = look.depth[-1], look.logits
    difference = maps[a] - maps[b]
    total = float(difference.sum(dtype=np.float64))
    gap = float(logits[a] - logits[b])

    def part(title: str, values: Array, sentence: str) -> str:
        alt = f"{title}: strongest at the {words.place(values)}"
        return (
            f'<section><h3>{escape(title)}</h3><div class="ti-view">{render.stack(look.seen, values, style, alt)}</div>'
            f'{render.scale(values, style)}<p class="ti-sum">{sentence}</p></section>'
        )

    one = [f"logit {words.number(float(logits[k]))}, {words.percent(float(look.probs[k]))}" for k in (a, b)]
    sentence = (
        f"<b>exact</b> The difference sums to {words.number(total)} = {words.number(float(logits[a]))} less "
        f"{words.number(float(logits[b]))}, which is {words.number(gap)}."
    )
    return (
        '<div class="ti-triple">'
        + part(names[a], maps[a], one[0])
        + part(names[b], maps[b], one[1])
        + part(f"{names[a]} rather than {names[b]}", difference, sentence).replace("ti-sum", "ti-sum ti-exact")
        + "</div>"
    )
