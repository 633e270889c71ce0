"""Remove the pixels that a map calls most or least important, and watch the prediction."""

from collections.abc import Generator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np
import torch

from timm_interpretable.app import render, words
from timm_interpretable.app.engine import Choice, Engine
from timm_interpretable.app.images import Picture, PictureError
from timm_interpretable.app.methods import METHODS
from timm_interpretable.app.service import Service, session_of
from timm_interpretable.app.sidebar import SHOWN, Sidebar, empty
from timm_interpretable.metrics.removal import removal_rank
from timm_interpretable.viz import Array

FRACTIONS = np.linspace(0, 1, 21)
_ORDERS = [("the most important", "most"), ("the least important", "least")]


@dataclass(frozen=True, eq=False)
class Removal:
    """rank: when each pixel goes, the most important first, `(H, W)`. probs: by order and fraction, `(2, 21, K)`."""

    seen: Array
    rank: Array
    probs: Array
    target: int

    @property
    def nbytes(self) -> int:
        return self.seen.nbytes + self.rank.nbytes + self.probs.nbytes


def removal(engine: Engine, picture: Picture, choice: Choice, target: str | None) -> Removal:
    """The whole of both curves, so that the slider asks the model nothing."""
    found = engine.explain(picture, choice, target)
    model = engine.models.get(choice.model)

    def compute(tick: Any) -> Removal:
        x = model.inputs(picture.rgb)
        values = torch.tensor(found.values, device=model.device)[None, None]
        large = torch.nn.functional.interpolate(values, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        rank = removal_rank(large, most_important_first=True)
        count, probs = rank.numel(), []
        with torch.no_grad():
            for order in (rank, count - 1 - rank):
                rows = []
                for i, fraction in enumerate(FRACTIONS):
                    tick(i, 2 * len(FRACTIONS))
                    altered = torch.where((order < round(fraction * count))[:, None], model.black[None], x)
                    rows.append(model.probabilities(model.net(altered)[0].float()))
                probs.append(torch.stack(rows))
        return Removal(found.look.seen, rank[0].cpu().numpy(), torch.stack(probs).cpu().numpy(), found.target)

    key = (picture.digest, choice.model, choice.method, found.target, "removal")
    with engine.desk.asking(key, compute, "fast") as job:
        return job.future.result()


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """A slider over the share of pixels that are gone."""
    quick = [c for c in service.engine.choices() if METHODS[c.method].lane != "slow"]
    labels = [(f"{service.engine.models.entry(c.model).title}: {METHODS[c.method].title}", str(c)) for c in quick]
    with gr.Row(elem_classes="ti-controls"):
        explanation = gr.Dropdown(labels, value=str(quick[0]), label="By the map of", filterable=False)
        order = gr.Radio(_ORDERS, value="most", label="Remove first", elem_id="ti-order")
        share = gr.Slider(0, 100, value=10, step=5, label="Pixels removed, %", elem_id="ti-share", buttons=[])
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(text: str, which: str, percent: float, target: str, request: gr.Request) -> Generator[str]:
        try:
            picture = service.shelf.get(session_of(request))
        except PictureError as error:
            yield empty(str(error))
            return
        choice = service.engine.choice(text)
        found = removal(service.engine, picture, choice, target or None)
        names = service.engine.models.get(choice.model).class_names
        yield _drawn(found, names, which, min(max(float(percent) / 100, 0.0), 1.0))

    inputs = [explanation, order, share, side.target]
    side.on_example(explanation, lambda data: str(service.engine.defaults(data)[0]))
    side.show("removal", tab, draw, inputs, [result], [explanation, order, share], **SHOWN)


def _drawn(found: Removal, names: tuple[str, ...], which: str, fraction: float) -> str:
    row = 0 if which == "most" else 1
    step = int(np.abs(FRACTIONS - fraction).argmin())
    order = found.rank if which == "most" else found.rank.size - 1 - found.rank
    picture = found.seen.copy()
    picture[order < round(FRACTIONS[step] * order.size)] = 0
    name, probs = names[found.target], found.probs[row, step]
    gone, first = f"{100 * FRACTIONS[step]:.0f} %", "most" if which == "most" else "least"
    alt = f"The picture without the {gone} of its pixels that are {first} important for {name}; they are black"
    tenth = [words.percent(float(found.probs[i, 2, found.target])) for i in (0, 1)]
    label = (
        f"Probability of {name} while pixels go. With 10 % gone, the most important first: {tenth[0]}; "
        f"the least important first: {tenth[1]}"
    )
    lines = [
        ("the most important first", "ti-most", found.probs[0, :, found.target]),
        ("the least important first", "ti-least", found.probs[1, :, found.target]),
    ]
    image = render.address(render.nearest(picture))
    return (
        f'<div class="ti-pair"><div><img class="ti-removed" src="{image}" alt="{escape(alt)}">'
        f'<p class="ti-foot">{gone} of the pixels are black</p></div><div>'
        '<p class="ti-lead">A good map makes the probability fall early when its most important pixels go, and hold '
        "long when its least important ones do. Black pixels are themselves something that the model has hardly seen."
        f"</p>{render.bars(probs, names, found.target, picked=False)}"
        f"{render.curve(lines, FRACTIONS, float(FRACTIONS[step]), label)}</div></div>"
    )
