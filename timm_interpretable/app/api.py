"""The named endpoints for programs: `/explain`, `/compare` and `/verify`.

They keep nothing of a caller but what the cache of results holds; the pictures that they return lie in gradio's cache
until its next cleaning.
"""

from collections.abc import Generator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from timm_interpretable.app import faces, render, words
from timm_interpretable.app.components import PictureInput, Sent
from timm_interpretable.app.engine import Explanation, UnknownChoice
from timm_interpretable.app.render import PALETTES, Style
from timm_interpretable.app.service import Service

EXPLAIN = """One explanation of one picture.

image: a file of at most 10 MiB. model: `arch.tag`; the FA-CNN of Imagenette if empty. method: one of class_map,
contrast, contributions, contributions_smoothed, grad_cam, integrated_gradients, fame, rise; the model's own if empty.
target: a class by name or number; the likeliest if empty. palette: the colours. positive: leave out
what speaks against the class. with_map: add the numbers.

Returns a dictionary (model, method, target, logit, probability, probabilities, sum, completeness,
completeness_text, size, seconds, description, notes, and map, rows of numbers in units of the logit where the
method has them) and the map laid over the picture, PNG."""

COMPARE = """Several explanations of one picture.

image: as in /explain. explanations: a list of at most six `model:method` (a model alone for its own method); if
empty, the class map of the FA-CNN, the contributions of the CoDA-Net, and the class map less the other classes.
target, palette, positive: as in /explain; a model that does not know the class explains its own first.

Returns a list of dictionaries as /explain does, and a gallery of the maps laid over the picture in the same
order."""

VERIFY = """Two pictures of faces: how similar, and which parts speak for it and against it.

first, second: one upright face each, as large as in a portrait. method: fame or corr_rise.

Returns a dictionary (cosine, threshold, same_person, method, seconds) and a gallery: similar and dissimilar parts
of the first picture, then of the second."""

MOST = 6  # explanations of one call


def endpoints(service: Service) -> None:
    """Add them to the page that is being built; they have no visible part."""

    def explain(
        image: Sent, model: str, method: str, target: str, palette: str, positive: bool, with_map: bool
    ) -> Generator[list[Any]]:
        choice = _known(service, model or str(service.engine.defaults()[0].model), method)
        style = _style(palette, positive)
        for found in _run(service, image, [choice], target):
            if found is None:
                yield [gr.skip(), gr.skip()]
            else:
                yield [_told(found[0], image, with_map), _drawn(found[0], style)]

    def compare(
        image: Sent, explanations: list[str], target: str, palette: str, positive: bool
    ) -> Generator[list[Any]]:
        wanted = explanations or [str(choice) for choice in service.engine.defaults()]
        if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted) or len(wanted) > MOST:
            raise gr.Error(
                f"explanations is {wanted!r}, expected a list of at most {MOST} names such as 'model:method'."
            )
        style = _style(palette, positive)
        for found in _run(service, image, wanted, target):
            if found is None:
                yield [gr.skip(), gr.skip()]
            else:
                yield [[_told(one, image, False) for one in found], [(_drawn(one, style), one.title) for one in found]]

    def verify(first: Sent, second: Sent, method: str) -> Generator[list[Any]]:
        for state in faces.run(service.engine, _given(first), _given(second), method or "fame"):
            if isinstance(state, faces.Comparison):
                yield [state.told(), [(picture, text) for text, picture in state.drawn(Style())]]
            else:
                yield [gr.skip(), gr.skip()]

    with gr.Group(visible=False):
        image = PictureInput(service.settings, label="image")
        model, method, target = (gr.Textbox("", label=name) for name in ("model", "method", "target"))
        palette = gr.Textbox(next(iter(PALETTES)), label="palette")
        positive, with_map = gr.Checkbox(False, label="positive"), gr.Checkbox(False, label="with_map")
        several = gr.JSON([], label="explanations")
        told, drawn = gr.JSON(label="explanation"), gr.Image(label="overlay", format="png")
        all_told, all_drawn = gr.JSON(label="explanations"), gr.Gallery(label="overlays", format="png")
        limits: dict[str, Any] = dict(concurrency_limit=8, concurrency_id="api")
        gr.Button().click(
            explain, [image, model, method, target, palette, positive, with_map], [told, drawn],
            api_name="explain", api_description=EXPLAIN, **limits,
        )  # fmt: skip
        gr.Button().click(
            compare, [image, several, target, palette, positive], [all_told, all_drawn],
            api_name="compare", api_description=COMPARE, **limits,
        )  # fmt: skip
        if service.engine.models.faces is not None:
            first, second = (PictureInput(service.settings, label=name) for name in ("first", "second"))
            both_told, both_drawn = gr.JSON(label="verification"), gr.Gallery(label="maps", format="png")
            gr.Button().click(
                verify, [first, second, method], [both_told, both_drawn],
                api_name="verify", api_description=VERIFY, **limits,
            )  # fmt: skip


def _known(service: Service, model: str, method: str) -> str:
    return f"{model}:{method}" if method else model


def _run(service: Service, sent: Sent, choices: list[str], target: str) -> Generator[list[Explanation] | None]:
    """None as long as something is missing."""
    picture = _given(sent)
    try:
        chosen = [service.engine.choice(text) for text in choices]
    except UnknownChoice as error:
        raise gr.Error(str(error), print_exception=False) from error
    if target and not any(service.engine.models.get(c.model).class_index(target) is not None for c in chosen):
        names = dict.fromkeys(name for c in chosen for name in service.engine.models.get(c.model).class_names)
        raise gr.Error(f"There is no class {target!r}; expected one of {', '.join(names)}.", print_exception=False)
    for states in service.engine.run(picture, chosen, target or None):
        done = [state for state in states if isinstance(state, Explanation)]
        yield done if len(done) == len(states) else None


def _given(sent: Sent | None) -> Any:
    if sent is None:
        raise gr.Error("There is no picture; please send one.", print_exception=False)
    return sent.picture


def _style(palette: str, positive: bool) -> Style:
    if palette not in PALETTES:
        raise gr.Error(
            f"There is no palette {palette!r}; expected one of {', '.join(PALETTES)}.", print_exception=False
        )
    return Style(palette, bool(positive))


def _told(found: Explanation, sent: Sent, with_map: bool) -> dict[str, Any]:
    told: dict[str, Any] = {**words.summary(found), "notes": list(sent.picture.notes)}
    if with_map:
        told["map"] = np.asarray(found.values, dtype=np.float64).round(6).tolist()
    return told


def _drawn(found: Explanation, style: Style) -> Image.Image:
    return Image.fromarray(render.laid_over(found.look.seen, found.values, style))
