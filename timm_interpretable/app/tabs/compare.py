"""Two or three explanations of one picture, side by side."""

from collections.abc import Generator, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from timm_interpretable.app import render, words
from timm_interpretable.app.engine import Explanation, State, Waiting
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.methods import METHODS
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service, session_of
from timm_interpretable.app.sidebar import Sidebar, empty

NONE = ""
OWN = ""  # every model's own first class
COLUMNS = 3

_ON_LOAD = """
element.addEventListener('click', event => {
  const bar = event.target.closest('[data-class]');
  if (bar) trigger('pick', {name: bar.dataset.class});
  if (event.target.closest('[data-stop]')) trigger('stop', {});
  const swap = event.target.closest('[data-swap]');
  if (swap) {
    const column = swap.closest('.ti-result');
    column.classList.toggle('ti-swapped');
    swap.setAttribute('aria-pressed', column.classList.contains('ti-swapped'));
  }
});
"""

_OPACITY = (
    '<label class="ti-opacity"><span>Heat</span>'
    '<input type="range" min="0" max="100" value="85" aria-label="Opacity of the heat in column {n}"></label>'
)

_BLANK = '<div class="ti-empty"></div>'


def labelled(service: Service, none: bool = False) -> list[tuple[str, str]]:
    """Every model and method for a list to choose from."""
    engine = service.engine
    some = [(f"{engine.models.entry(c.model).title}: {METHODS[c.method].title}", str(c)) for c in engine.choices()]
    return [("(no third column)", NONE), *some] if none else some


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """The three columns with their choices."""
    pickers, results = _columns(service)
    inputs = [*pickers, side.target, side.palette, side.view]
    outputs = [*results, side.target]

    def compare(
        first: str, second: str, third: str, target: str, palette: str, view: str, request: gr.Request
    ) -> Generator[list[Any]]:
        yield from run(service, [first, second, third], target, Style(palette, view == "positive"), request)

    def pick(
        first: str, second: str, third: str, palette: str, view: str, request: gr.Request, event: gr.EventData
    ) -> Generator[list[Any]]:
        name = str(event._data.get("name", "")) if isinstance(event._data, dict) else ""
        yield from run(service, [first, second, third], name, Style(palette, view == "positive"), request)

    def stop(request: gr.Request) -> list[Any]:
        """End what runs; what is there stays."""
        service.turns.stop(session_of(request), "compare")
        return [gr.skip()] * COLUMNS

    options: dict[str, Any] = dict(concurrency_limit=16, concurrency_id="compare", trigger_mode="multiple")
    side.show("compare", tab, compare, inputs, outputs, pickers, busy=False, **options)
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")
    for result in results:  # events of our own, which `gr.on` does not take
        result.pick(pick, [*pickers, side.palette, side.view], outputs, api_name="page_pick", **options, **quiet)
        result.stop(stop, None, results, queue=False, api_name="page_stop", **quiet)
    for i, picker in enumerate(pickers):
        side.on_example(picker, partial(_default, service, i))


def _columns(service: Service) -> tuple[list[gr.Dropdown], list[gr.HTML]]:
    pickers, results = [], []
    with gr.Row(elem_id="ti-columns", equal_height=False):
        for i in range(COLUMNS):
            with gr.Column(elem_classes="ti-column", min_width=260):
                pickers.append(
                    gr.Dropdown(
                        labelled(service, none=i == COLUMNS - 1), value=_default(service, i), container=False,
                        label=f"Explanation {i + 1}", filterable=False, elem_classes="ti-picker",
                    )
                )  # fmt: skip
                results.append(
                    gr.HTML(
                        empty() if i == 0 else _BLANK,
                        js_on_load=_ON_LOAD,
                        apply_default_css=False,
                        elem_classes="ti-result",
                    )
                )
                gr.HTML(_OPACITY.format(n=i + 1), js_on_load=None, apply_default_css=False, elem_classes="ti-under")
    return pickers, results


def _default(service: Service, column: int, data: str | None = None) -> str:
    choices = service.engine.defaults(data)
    return str(choices[column]) if column < len(choices) else NONE


def run(service: Service, texts: Sequence[str], target: str, style: Style, request: gr.Request) -> Generator[list[Any]]:
    """The columns as HTML and the classes to choose from, as they become known."""
    session = session_of(request)
    turn = service.turns.begin(session, "compare")
    try:
        picture = service.shelf.get(session)
    except PictureError as error:
        yield [empty(str(error)), _BLANK, _BLANK, gr.skip()]
        return
    chosen = [service.engine.choice(text) for text in texts if text]
    shown: list[State | None] = [None] * COLUMNS
    classes_shown = False
    for states in service.engine.run(picture, chosen, target or None):
        update: list[Any] = [gr.skip()] * (COLUMNS + 1)
        for i, state in enumerate(states):
            if state != shown[i]:
                update[i], shown[i] = column(state, style, picture.notes), state
        update[len(states) : COLUMNS] = [_BLANK] * (COLUMNS - len(states))
        if isinstance(states[0], Explanation) and not classes_shown:
            update[COLUMNS], classes_shown = gr.update(choices=classes(states[0]), value=target), True
        if service.turns.over(session, "compare", turn):
            # the columns belong to a newer run, if there is one; what is yielded last, gradio sends again at the end
            last: list[Any] = [gr.skip()] * (COLUMNS + 1)
            if service.turns.stopped(session, "compare"):
                last[: len(states)] = [_stopped(s) if isinstance(s, Waiting) else gr.skip() for s in states]
            yield last
            return
        yield update


def classes(found: Explanation) -> list[tuple[str, str]]:
    """The likeliest classes of a model, for the class picker."""
    order = found.look.probs.argsort()[::-1][:5]
    likely = [
        (f"{found.class_names[k]}  {words.percent(float(found.look.probs[k]))}", found.class_names[k]) for k in order
    ]
    return [("each model’s own first", OWN), *likely]


def column(state: State, style: Style, notes: tuple[str, ...] = ()) -> str:
    if isinstance(state, Waiting):
        return _waiting(state)
    look = state.look
    alt = words.alt_text(state)
    kind, sentence = words.exactness(state)
    height, width = look.seen.shape[:2]
    asked = f"<b>“{escape(state.asked)}” is not a class of this model.</b> " if state.asked else ""
    weights, inset = "", ""
    if state.choice.method == "contributions" and state.weights is not None:
        picture = render.address(render.enlarged(state.weights))
        about = f"The weights for {escape(state.target_name)} as colours, on the pixels that speak for it"
        weights = f'<img class="ti-weights" src="{picture}" alt="{about}">'
        inset = (
            f'<button type="button" class="ti-inset" data-swap aria-pressed="false" title="{about}">'
            f'<img src="{picture}" alt=""><span>weights</span></button>'
        )
    extra = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<article aria-label="{escape(state.title)}">'
        f'<div class="ti-view">{render.stack(look.seen, state.values, style, alt)}{weights}{inset}</div>'
        f"{render.scale(state.values, style)}"
        f'<p class="ti-sum ti-{kind}"><b>{kind if kind != "none" else "no sum"}</b> {sentence}</p>'
        f"{render.bars(look.probs, state.class_names, state.target)}"
        f'<p class="ti-foot">{asked}{words.number(state.seconds)} s, {width} × {height} pixels</p>'
        f"{f'<ul class=ti-notes>{extra}</ul>' if extra else ''}</article>"
    )


def _waiting(state: Waiting) -> str:
    name = METHODS[state.method].title
    text = f"{name} waits for its turn" if state.queued else f"{name}: {100 * state.fraction:.0f} %"
    return (
        f'<div class="ti-wait"><p>{text}</p>'
        f'<progress max="1" value="{state.fraction:.3f}" aria-label="{name}"></progress>'
        '<button type="button" data-stop>Stop</button></div>'
    )


def _stopped(state: Waiting) -> str:
    return (
        f'<div class="ti-wait"><p>{METHODS[state.method].title} was stopped at {100 * state.fraction:.0f} %.</p></div>'
    )
