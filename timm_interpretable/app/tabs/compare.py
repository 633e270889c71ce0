"""Two or three explanations of one picture, side by side."""

from collections.abc import Generator, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from timm_interpretable.app import render, words
from timm_interpretable.app.engine import Explanation, Failure, Progress, State
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service
from timm_interpretable.app.sessions import Session
from timm_interpretable.app.sidebar import LIKELIEST, Sidebar, empty

NONE = ("(no third column)", "")
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


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """The three columns with their choices."""
    pickers, results = _columns(service)
    inputs = [*pickers, side.target, side.palette, side.view]
    outputs = [*results, side.target]

    def compare(
        first: str, second: str, third: str, target: str, palette: str, view: str, request: gr.Request
    ) -> Generator[list[Any]]:
        style = Style(palette, view == "positive")
        yield from run(service, service.sessions.of(request), [first, second, third], target, style)

    def pick(
        first: str, second: str, third: str, palette: str, view: str, request: gr.Request, event: gr.EventData
    ) -> Generator[list[Any]]:
        name = str(event._data.get("name", "")) if isinstance(event._data, dict) else ""
        style = Style(palette, view == "positive")
        yield from run(service, service.sessions.of(request), [first, second, third], name, style)

    def stop(request: gr.Request) -> list[Any]:
        """End what runs; what is there stays."""
        service.sessions.of(request).stop("compare")
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
    choices = [(service.engine.title(choice), str(choice)) for choice in service.engine.choices()]
    pickers, results = [], []
    with gr.Row(elem_id="ti-columns", equal_height=False):
        for i in range(COLUMNS):
            with gr.Column(elem_classes="ti-column", min_width=260):
                pickers.append(
                    gr.Dropdown(
                        [NONE, *choices] if i == COLUMNS - 1 else choices, value=_default(service, i),
                        container=False, label=f"Explanation {i + 1}", filterable=False, elem_classes="ti-picker",
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
    """What a column begins with; where there is less to compare, the first explanation again."""
    choices = service.engine.defaults(data)
    if column < len(choices):
        return str(choices[column])
    return NONE[1] if column == COLUMNS - 1 else str(choices[0])


def run(service: Service, session: Session, texts: Sequence[str], target: str, style: Style) -> Generator[list[Any]]:
    """The columns as HTML and the classes to choose from, as they become known."""
    this = session.begin("compare")
    try:
        picture = session.picture()
    except PictureError as error:
        yield [empty(str(error)), _BLANK, _BLANK, gr.skip()]
        return
    chosen = [service.engine.choice(text) for text in texts if text]
    shown: list[State | None] = [None] * COLUMNS
    classes_shown = False
    for states in service.engine.run(picture, chosen, target):
        update: list[Any] = [gr.skip()] * (COLUMNS + 1)
        if session.overtaken("compare", this):
            # the columns belong to a newer run; what is yielded last, gradio sends again at the end
            yield update
            return
        if this.stopped:
            update[: len(states)] = [_stopped(s) if isinstance(s, Progress) else gr.skip() for s in states]
            yield update
            return
        for i, state in enumerate(states):
            if state != shown[i]:
                update[i], shown[i] = column(state, style, picture.notes), state
        update[len(states) : COLUMNS] = [_BLANK] * (COLUMNS - len(states))
        if isinstance(states[0], Explanation) and not classes_shown:
            update[COLUMNS], classes_shown = gr.update(choices=classes(states[0]), value=target), True
        yield update


def classes(found: Explanation) -> list[tuple[str, str]]:
    """For the class picker: the likeliest classes of a model, and the one that is explained."""
    names, probs = found.model.class_names, found.prediction.probs
    best = [int(k) for k in probs.argsort()[::-1][:5]]
    shown = best if found.target in best or found.unknown else [*best, found.target]
    return [LIKELIEST, *((f"{names[k]}  {words.percent(float(probs[k]))}", names[k]) for k in shown)]


def column(state: State, style: Style, notes: tuple[str, ...] = ()) -> str:
    if isinstance(state, Progress):
        return _waiting(state)
    if isinstance(state, Failure):
        return empty(f"{state.title} could not be computed. {state.error}")
    values, prediction = state.map.values, state.prediction
    kind, sentence = words.completeness(state)
    height, width = prediction.seen.shape[:2]
    unknown = f"<b>“{escape(state.unknown)}” is not a class of this model.</b> " if state.unknown else ""
    weights = _weights(state) if state.map.weights is not None else ""
    extra = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<article aria-label="{escape(state.title)}">'
        f'<div class="ti-view">{render.stack(prediction.seen, values, style, words.alt_text(state))}{weights}</div>'
        f"{render.scale(values, style)}"
        f'<p class="ti-sum ti-{kind}"><b>{kind if kind != "none" else "no sum"}</b> {sentence}</p>'
        f"{render.bars(prediction.probs, state.model.class_names, state.target)}"
        f'<p class="ti-foot">{words.classes(state)}<br>{unknown}{width} × {height} pixels, '
        f"{words.number(prediction.seconds + state.map.seconds)} s</p>"
        f"{f'<ul class=ti-notes>{extra}</ul>' if extra else ''}</article>"
    )


def _weights(found: Explanation) -> str:
    """The picture of the weights, hidden behind a small one that shows it."""
    assert found.map.weights is not None
    picture = render.address(render.enlarged(found.map.weights))
    about = f"The weights for {escape(found.target_name)} as colours, on the pixels that speak for it"
    return (
        f'<img class="ti-weights" src="{picture}" alt="{about}">'
        f'<button type="button" class="ti-inset" data-swap aria-pressed="false" title="{about}">'
        f'<img src="{picture}" alt=""><span>weights</span></button>'
    )


def _waiting(state: Progress) -> str:
    name = escape(state.title)
    text = f"{name} waits for its turn" if state.queued else f"{name}: {100 * state.fraction:.0f} %"
    return (
        f'<div class="ti-wait"><p>{text}</p>'
        f'<progress max="1" value="{state.fraction:.3f}" aria-label="{name}"></progress>'
        '<button type="button" data-stop>Stop</button></div>'
    )


def _stopped(state: Progress) -> str:
    return f'<div class="ti-wait"><p>{escape(state.title)} was stopped at {100 * state.fraction:.0f} %.</p></div>'
