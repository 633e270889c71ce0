"""Two pictures of faces: how similar, and which parts speak for it and against it."""

from collections.abc import Generator
from html import escape
from typing import Any

import gradio as gr

from timm_interpretable.app import faces, render, words
from timm_interpretable.app.cards import equal_error_rate
from timm_interpretable.app.components import PictureInput, Sent
from timm_interpretable.app.engine import Waiting
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.models import FACES
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service, session_of
from timm_interpretable.app.sidebar import Sidebar

_LEAD = """<p class="ti-lead">A small network of grey portraits, trained on 30 people: it is here to be explained, not to
identify anybody{rate}. No face is looked for: each picture should show one upright face that fills it.</p>"""
_TEXTS = {
    "similar, first": "similar parts of the first",
    "dissimilar, first": "dissimilar parts of the first",
    "similar, second": "similar parts of the second",
    "dissimilar, second": "dissimilar parts of the second",
}
_ON_LOAD = (
    "element.addEventListener('click', event => { if (event.target.closest('[data-stop]')) trigger('stop', {}); });"
)


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    """Two pictures, a method, and four maps."""
    eer = equal_error_rate(FACES.name)
    rate = f", and errs on {eer:.0%} of the pairs of people whom it has not seen" if eer is not None else ""
    gr.HTML(_LEAD.format(rate=rate), js_on_load=None, apply_default_css=False)
    with gr.Row(elem_id="ti-face-inputs", equal_height=True):
        pictures = [
            PictureInput(
                service.settings, label=f"{name} face", sources=["upload", "webcam", "clipboard"], height=230, buttons=[],
                elem_id=f"ti-face-{name.lower()}", placeholder="Drop a portrait here", alt_text=f"The {name.lower()} face",
            )
            for name in ("First", "Second")
        ]  # fmt: skip
        with gr.Column(min_width=200):
            method = gr.Radio([(title, key) for key, title in faces.METHODS.items()], value="fame", label="Method")
            go = gr.Button("Compare the faces", variant="primary")
    result = gr.HTML("", js_on_load=_ON_LOAD, apply_default_css=False)

    def compare(
        first: Sent | None, second: Sent | None, which: str, palette: str, request: gr.Request
    ) -> Generator[str]:
        session = session_of(request)
        turn = service.turns.begin(session, "faces")
        try:
            both = [_kept(service, session, place, sent) for place, sent in (("first", first), ("second", second))]
        except PictureError as error:
            yield f'<div class="ti-empty"><p>{escape(str(error))}</p></div>'
            return
        for state in faces.run(service.engine, both[0], both[1], which):
            if service.turns.over(session, "faces", turn):
                yield '<p class="ti-lead">Stopped.</p>'
                return
            yield _waiting(state) if isinstance(state, Waiting) else _drawn(state, Style(palette))

    def stop(request: gr.Request) -> Any:
        service.turns.begin(session_of(request), "faces")
        return gr.skip()

    go.click(
        compare, [*pictures, method, side.palette], [result], show_progress="hidden", concurrency_limit=4,
        trigger_mode="once", api_visibility="private", api_name="page_faces",
    )  # fmt: skip
    result.stop(
        stop, None, [result], queue=False, show_progress="hidden", api_visibility="private", api_name="page_stop"
    )


def _kept(service: Service, session: str, place: str, sent: Sent | None) -> Any:
    if sent is None:
        raise PictureError("Two pictures of faces are needed.")
    service.shelf.put(session, place, sent.picture, sent.file)
    return sent.picture


def _waiting(state: Waiting) -> str:
    name = faces.METHODS[state.method]
    text = f"{name} waits for its turn" if state.queued else f"{name}: {state.fraction:.0%}"
    return (
        f'<div class="ti-wait ti-wide"><p>{text}</p><progress max="1" value="{state.fraction:.3f}" aria-label="{name}">'
        '</progress><button type="button" data-stop>Stop</button></div>'
    )


def _drawn(found: faces.Comparison, style: Style) -> str:
    sign = "\N{GREATER-THAN OR EQUAL TO}" if found.same else "<"
    decision = "the same person" if found.same else "different people"
    figures = "".join(
        f'<figure><img class="ti-face" src="{render.address(picture)}" alt="{_TEXTS[part].capitalize()}; strongest at the '
        f'{words.place(values)}"><figcaption>{_TEXTS[part]}</figcaption></figure>'
        for (part, picture), values in zip(found.drawn(style), found.maps, strict=True)
    )
    return (
        f'<p class="ti-decision">Cosine {words.number(found.cosine, 3)} {sign} {words.number(found.threshold, 3)}: '
        f"taken for <b>{decision}</b>.</p>"
        f'<div class="ti-faces">{figures}</div>'
        f'<p class="ti-foot">{faces.METHODS[found.method]}, {words.number(found.seconds, 1)} s; every map on its own scale</p>'
    )
