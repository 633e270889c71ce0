"""Remove the pixels that a map calls most or least important, and watch the prediction."""

from collections.abc import Generator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np
import torch

from timm_interpretable.app import render, words
from timm_interpretable.app.engine import Engine, Explanation
from timm_interpretable.app.images import Picture, PictureError
from timm_interpretable.app.jobs import Tick
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import SHOWN, Sidebar, empty
from timm_interpretable.attr import Cost
from timm_interpretable.metrics.fills import Removal
from timm_interpretable.metrics.removal import removal_rank
from timm_interpretable.viz import Array

FRACTIONS = np.linspace(0, 1, 21)
_ORDERS = [("the most important", "most"), ("the least important", "least")]
_FILLS = {
    "absent": "Removed pixels are absent: the network is told of each that it is neither dark nor bright.",
    "black": "Removed pixels are black. Black pixels are themselves something that the model has hardly seen.",
}
"""What the metrics' fills mean, by their names."""


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of a prediction while pixels go.

    rank: when each pixel goes, the most important first, `(H, W)`. probs: by order and fraction, `(2, 21, K)`. fill:
    the name of what a removed pixel becomes.
    """

    rank: Array
    probs: Array
    fill: str

    @property
    def nbytes(self) -> int:
        return self.rank.nbytes + self.probs.nbytes


def curves(engine: Engine, picture: Picture, found: Explanation) -> Curves:
    """Both curves as a whole, so that the slider asks the model nothing."""

    def compute(tick: Tick) -> Curves:
        x = found.model.inputs(picture.rgb)
        removal = Removal(found.model.net)
        rank = removal_rank(torch.tensor(found.map.values, device=x.device)[None], most_important_first=True)
        count = rank.numel()
        probs: list[torch.Tensor] = []
        with torch.no_grad():
            seen, shown = removal.seen(x), removal.shown(x)
            for order in (rank, count - 1 - rank):
                for fraction in FRACTIONS:
                    tick(len(probs), 2 * len(FRACTIONS))
                    gone = (order < round(fraction * count))[:, None]
                    probs.append(removal.classify(torch.where(gone, shown, seen))[0].cpu())
        return Curves(rank[0].cpu().numpy(), torch.stack(probs).unflatten(0, (2, -1)).numpy(), removal.name)

    key = (picture.digest, found.choice.model, found.choice.method, found.target, "removal")
    result: Curves = engine.jobs.result(key, compute, "fast")
    return result


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """A slider over the share of pixels that are gone."""
    engine = service.engine
    quick = [c for c in engine.choices() if engine.method(c).cost is not Cost.MANY_PASSES]
    with gr.Row(elem_classes="ti-controls"):
        explanation = gr.Dropdown(
            [(engine.title(c), str(c)) for c in quick], value=str(quick[0]), label="By the map of", filterable=False
        )
        order = gr.Radio(_ORDERS, value="most", label="Remove first", elem_id="ti-order")
        share = gr.Slider(0, 100, value=10, step=5, label="Pixels removed, %", elem_id="ti-share", buttons=[])
    result = gr.HTML(empty(), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def draw(text: str, which: str, percent: float, target: str, request: gr.Request) -> Generator[str]:
        try:
            picture = service.sessions.of(request).picture()
        except PictureError as error:
            yield empty(str(error))
            return
        found = engine.explain(picture, engine.choice(text), target)
        yield drawn(found, curves(engine, picture, found), which, min(max(float(percent) / 100, 0.0), 1.0))

    def suited(data: str) -> str:
        return str(([c for c in engine.defaults(data) if c in quick] or quick)[0])

    inputs: list[Any] = [explanation, order, share, side.target]
    side.on_example(explanation, suited)
    side.show("removal", tab, draw, inputs, [result], [explanation, order, share], **SHOWN)


def drawn(found: Explanation, removed: Curves, which: str, fraction: float) -> str:
    """The picture without its pixels, the prediction, and both curves."""
    row = 0 if which == "most" else 1
    step = int(np.abs(FRACTIONS - fraction).argmin())
    order = removed.rank if which == "most" else removed.rank.size - 1 - removed.rank
    # black, or a hole for what is absent
    left = np.where(order < round(FRACTIONS[step] * order.size), 0, 255).astype(np.uint8)[..., None]
    seen = found.prediction.seen
    picture = np.concatenate([seen, left], -1) if removed.fill == "absent" else seen & left
    name, probs = found.target_name, removed.probs[row, step]
    gone, first = f"{100 * FRACTIONS[step]:.0f} %", "most" if which == "most" else "least"
    alt = f"The picture without the {gone} of its pixels that are {first} important for {name}"
    tenth = [words.percent(float(removed.probs[i, 2, found.target])) for i in (0, 1)]
    label = (
        f"Probability of {name} while pixels go. With 10 % gone, the most important first: {tenth[0]}; "
        f"the least important first: {tenth[1]}"
    )
    lines = [
        ("the most important first", "ti-most", removed.probs[0, :, found.target]),
        ("the least important first", "ti-least", removed.probs[1, :, found.target]),
    ]
    image = render.address(render.nearest(picture))
    return (
        f'<div class="ti-pair"><div><img class="ti-removed" src="{image}" alt="{escape(alt)}">'
        f'<p class="ti-foot">{gone} of the pixels are {escape(removed.fill)}</p></div><div>'
        '<p class="ti-lead">A good map makes the probability fall early when its most important pixels go, and hold '
        f"long when its least important ones do. {_FILLS.get(removed.fill, '')}</p>"
        f"{render.bars(probs, found.model.class_names, found.target, picked=False)}"
        f'<p class="ti-foot">{words.classes(found)}</p>'
        f"{render.curve(lines, FRACTIONS, float(FRACTIONS[step]), label)}</div></div>"
    )
