"""Why one class rather than another: the difference of their maps."""

from collections.abc import Generator
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

_FIRST, _SECOND = ("the likeliest", ""), ("the second", "")


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """Two classes, their maps, and the difference."""
    engine = service.engine
    entries = engine.models.self_explaining()

    def names(model: str) -> list[tuple[str, str]]:
        return [(name, name) for name in engine.models.class_names(model)]

    known = names(entries[0].name)
    with gr.Row(elem_classes="ti-controls"):
        model = gr.Dropdown([(e.title, e.name) for e in entries], label="Model", filterable=False)
        first = gr.Dropdown([_FIRST, *known], value="", label="Why …", elem_id="ti-why")
        second = gr.Dropdown([_SECOND, *known], value="", label="… rather than", elem_id="ti-rather")
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(name: str, why: str, rather: str, palette: str, view: str, request: gr.Request) -> Generator[str]:
        try:
            picture = service.sessions.of(request).picture()
        except PictureError as error:
            yield empty(str(error))
            return
        choice, loaded = engine.choice(name), engine.models.get(name)
        order = [int(k) for k in np.argsort(-engine.predict(picture, name).logits, kind="stable")]
        a = loaded.class_index(why)
        a = order[0] if a is None else a
        b = loaded.class_index(rather)
        b = next((k for k in order if k != a), a) if b is None else b
        both = [engine.explain(picture, choice, k) for k in (a, b)]
        yield _drawn(both[0], both[1], Style(palette, view == "positive"))

    def choose_model(name: str) -> list[Any]:
        return [gr.update(choices=[none, *names(name)], value="") for none in (_FIRST, _SECOND)]

    inputs = [model, first, second, side.palette, side.view]
    side.show("contrast", tab, draw, inputs, [result], [first, second], **SHOWN)
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")

    def suited(data: str) -> str:
        return of_data(entries, data)[0].name

    side.on_example(model, suited)
    side.on_example(first, lambda data: choose_model(suited(data))[0])
    side.on_example(second, lambda data: choose_model(suited(data))[1])
    choice = model.input(choose_model, [model], [first, second], api_name="page_classes", **quiet)
    choice.then(draw, inputs, [result], api_name="page_contrast", **SHOWN, **quiet)


def _drawn(one: Explanation, other: Explanation, style: Style) -> str:
    prediction = one.prediction
    difference = one.map.values - other.map.values
    total = float(difference.sum(dtype=np.float64))
    gap = float(prediction.logits[one.target] - prediction.logits[other.target])
    exact = words.is_exact(total, gap)

    def part(title: str, values: Array, sentence: str, kind: str = "") -> str:
        alt = f"{title}: strongest at the {words.place(values)}"
        view = render.stack(prediction.seen, values, style, alt)
        return (
            f'<section><h3>{escape(title)}</h3><div class="ti-view">{view}</div>'
            f'{render.scale(values, style)}<p class="ti-sum {kind}">{sentence}</p></section>'
        )

    def alone(found: Explanation) -> str:
        logit, probability = (float(of[found.target]) for of in (prediction.logits, prediction.probs))
        text = f"The logit is {words.number(logit)}, the probability {words.percent(probability)}."
        return part(found.target_name, found.map.values, text)

    sums, gaps = words.number(total), words.number(gap)
    sentence = (
        f"<b>exact</b> The difference of the maps sums to {sums}. This is the difference of the two logits."
        if exact
        else f"The difference of the maps sums to {sums}, that of the two logits is {gaps}."
    )
    title = f"{one.target_name} rather than {other.target_name}"
    both = part(title, difference, sentence, "ti-exact" if exact else "")
    return f'<div class="ti-triple">{alone(one)}{alone(other)}{both}</div>'
