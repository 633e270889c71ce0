"""The named endpoints for programs: `/methods`, `/explain`, `/compare` and `/verify`.

They keep nothing of a caller but what the cache of results holds; the pictures that they return lie in gradio's cache
until its next cleaning.
"""

from collections.abc import Generator
from typing import Any

import gradio as gr
from PIL import Image

from timm_interpretable.app import faces, render, words
from timm_interpretable.app.components import PictureInput, Sent
from timm_interpretable.app.engine import Engine, Explanation, Failure, UnknownChoice
from timm_interpretable.app.images import Picture
from timm_interpretable.app.render import PALETTES, Style
from timm_interpretable.app.service import Service

METHODS = """The models of this page, and the explanation methods that each of them has.

Returns a list of dictionaries (model, title, classes, methods), each method a dictionary of key, title and cost
('forward pass', 'gradient' or 'many passes'). The model's own explanation comes first."""

EXPLAIN = """One explanation of one picture.

image: a file of at most 10 MiB. model: a name from /methods; the first if empty. method: a key of that model from
/methods; its first if empty. target: a class by name or number; the likeliest if empty. palette: the colours. positive:
leave out what speaks against the class. with_map: add the numbers.

Returns a dictionary (model, method, title, target, target_index, logit, probability, probabilities, sum, completeness,
completeness_text, size, seconds, description, notes, and with with_map also map, rows of numbers) and the map laid
over the picture, PNG."""

COMPARE = """Several explanations of one picture.

image: as in /explain. explanations: a list of at most six `model:method` (a model alone for its own method); if
empty, those that the page begins with. target, palette, positive: as in /explain; a model that does not know the class
explains its own first.

Returns a list of dictionaries as /explain does, and a gallery of the maps laid over the picture in the same
order."""

VERIFY = """Two pictures of faces: how similar, and which parts speak for it and against it.

first, second: one upright face each, as large as in a portrait. method: fame or corr_rise.

Returns a dictionary (cosine, threshold, same_person, method, seconds) and a gallery: similar and dissimilar parts
of the first picture, then of the second."""

MOST = 6  # explanations of one call


def endpoints(service: Service) -> None:
    """Add them to the page that is being built; they have no visible part."""
    engine = service.engine

    def explain(
        image: Sent, model: str, method: str, target: str, palette: str, positive: bool, with_map: bool
    ) -> Generator[list[Any]]:
        name, style = model or engine.models.entries[0].name, _style(palette, positive)
        for found in _run(engine, image, [f"{name}:{method}"], target):
            yield [gr.skip(), gr.skip()] if found is None else [
                _summary(found[0], image.picture, with_map), _drawn(found[0], style)
            ]  # fmt: skip

    def compare(
        image: Sent, explanations: list[str], target: str, palette: str, positive: bool
    ) -> Generator[list[Any]]:
        wanted = explanations or [str(choice) for choice in engine.defaults()]
        if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted) or len(wanted) > MOST:
            raise gr.Error(
                f"explanations is {wanted!r}, expected a list of at most {MOST} names such as 'model:method'."
            )
        style = _style(palette, positive)
        for found in _run(engine, image, wanted, target):
            yield [gr.skip(), gr.skip()] if found is None else [
                [_summary(one, image.picture) for one in found], [(_drawn(one, style), one.title) for one in found]
            ]  # fmt: skip

    def verify(first: Sent, second: Sent, method: str) -> Generator[list[Any]]:
        for state in faces.run(engine, _picture(first), _picture(second), method or "fame"):
            if isinstance(state, faces.Comparison):
                yield [state.summary(), [(picture, text) for text, picture in state.drawn(Style())]]
            else:
                yield [gr.skip(), gr.skip()]

    with gr.Group(visible=False):
        image = PictureInput(service.settings, label="image")
        model, method, target = (gr.Textbox("", label=name) for name in ("model", "method", "target"))
        palette = gr.Textbox(next(iter(PALETTES)), label="palette")
        positive, with_map = gr.Checkbox(False, label="positive"), gr.Checkbox(False, label="with_map")
        several = gr.JSON([], label="explanations")
        numbers, overlay = gr.JSON(label="explanation"), gr.Image(label="overlay", format="png")
        all_numbers, overlays = gr.JSON(label="explanations"), gr.Gallery(label="overlays", format="png")
        limits: dict[str, Any] = dict(concurrency_limit=8, concurrency_id="api")
        gr.Button().click(
            lambda: methods(engine), None, [gr.JSON(label="methods")], api_name="methods", api_description=METHODS,
            **limits,
        )  # fmt: skip
        gr.Button().click(
            explain, [image, model, method, target, palette, positive, with_map], [numbers, overlay],
            api_name="explain", api_description=EXPLAIN, **limits,
        )  # fmt: skip
        gr.Button().click(
            compare, [image, several, target, palette, positive], [all_numbers, overlays],
            api_name="compare", api_description=COMPARE, **limits,
        )  # fmt: skip
        if engine.models.faces is not None:
            first, second = (PictureInput(service.settings, label=name) for name in ("first", "second"))
            both_numbers, maps = gr.JSON(label="verification"), gr.Gallery(label="maps", format="png")
            gr.Button().click(
                verify, [first, second, method], [both_numbers, maps],
                api_name="verify", api_description=VERIFY, **limits,
            )  # fmt: skip


def methods(engine: Engine) -> list[dict[str, Any]]:
    """What there is to choose from, from the catalogue."""
    return [
        {
            "model": entry.name,
            "title": entry.title,
            "classes": len(engine.models.class_names(entry.name)),
            "methods": [
                {"key": m.key, "title": m.title, "cost": m.cost.value}
                for m in engine.models.methods(entry.name).values()
            ],
        }
        for entry in engine.models.entries
    ]


def _run(engine: Engine, sent: Sent | None, choices: list[str], target: str) -> Generator[list[Explanation] | None]:
    """None as long as something is missing."""
    picture = _picture(sent)
    try:
        chosen = [engine.choice(text) for text in choices]
    except UnknownChoice as error:
        raise gr.Error(str(error), print_exception=False) from error
    models = [engine.models.get(choice.model) for choice in chosen]
    if target and all(model.class_index(target) is None for model in models):
        names = list(dict.fromkeys(name for model in models for name in model.class_names))
        more = f" … ({len(names)} in all)" if len(names) > 20 else ""
        raise gr.Error(
            f"There is no class {target!r}; expected one of {', '.join(names[:20])}{more}.", print_exception=False
        )
    for states in engine.run(picture, chosen, target):
        for state in states:
            if isinstance(state, Failure):
                raise gr.Error(f"{state.title} could not be computed. {state.error}", print_exception=False)
        done = [state for state in states if isinstance(state, Explanation)]
        yield done if len(done) == len(states) else None


def _picture(sent: Sent | None) -> Picture:
    if sent is None:
        raise gr.Error("There is no picture; please send one.", print_exception=False)
    return sent.picture


def _style(palette: str, positive: bool) -> Style:
    if palette not in PALETTES:
        raise gr.Error(
            f"There is no palette {palette!r}; expected one of {', '.join(PALETTES)}.", print_exception=False
        )
    return Style(palette, bool(positive))


def _summary(found: Explanation, picture: Picture, with_map: bool = False) -> dict[str, Any]:
    numbers = {**words.summary(found), "notes": list(picture.notes)}
    if with_map:
        numbers["map"] = [[float(f"{value:.6g}") for value in row] for row in found.map.values.tolist()]
    return numbers


def _drawn(found: Explanation, style: Style) -> Image.Image:
    return Image.fromarray(render.laid_over(found.prediction.seen, found.map.values, style))
