"""Two pictures of faces: how similar, and which parts speak for it and against it."""

from collections.abc import Callable, Generator
from typing import Any

import gradio as gr

from timm_interpretable.app import faces, render, words
from timm_interpretable.app.cards import equal_error_rate
from timm_interpretable.app.components import PictureInput, Sent
from timm_interpretable.app.engine import Progress
from timm_interpretable.app.examples import face_examples
from timm_interpretable.app.images import PictureError
from timm_interpretable.app.models import FACES
from timm_interpretable.app.render import Style
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import Sidebar

_LEAD = """<p class="ti-lead">A small network of grey portraits, trained on 30 people: it is here to be explained,
not to identify anybody{rate}. No face is looked for: each picture should show one upright face that fills it.
</p>"""
_PLACES = ("first", "second")
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
    rate = f", and errs on {100 * eer:.0f} % of the pairs of people whom it has not seen" if eer is not None else ""
    gr.HTML(_LEAD.format(rate=rate), js_on_load=None, apply_default_css=False, elem_classes="ti-plain")
    with gr.Row(elem_id="ti-face-inputs", equal_height=False):
        pictures = {
            place: PictureInput(
                service.settings, label=f"{place} face".capitalize(), height=210, buttons=[],
                elem_id=f"ti-face-{place}", sources=["upload", "webcam", "clipboard"],
                placeholder="Drop a portrait here", alt_text=f"The {place} face",
            )
            for place in _PLACES
        }  # fmt: skip
        with gr.Column(min_width=220, elem_id="ti-face-side"):
            method = gr.Radio([(title, key) for key, title in faces.METHODS.items()], value="fame", label="Method")
            go = gr.Button("Compare the faces", variant="primary", size="md")
            examples = [gr.Button(f"Example: {name}", size="sm") for name in face_examples()]
    result = gr.HTML("", js_on_load=_ON_LOAD, apply_default_css=False, elem_classes="ti-plain")

    def reader(place: str) -> Callable[..., None]:
        def read(sent: Sent | None, request: gr.Request) -> None:
            service.sessions.of(request).show(sent, place)

        return read

    def compare(which: str, palette: str, request: gr.Request) -> Generator[Any]:
        session = service.sessions.of(request)
        this = session.begin("faces")
        try:
            both = [session.picture(place) for place in _PLACES]
        except PictureError:
            yield '<p class="ti-lead">Two pictures of faces are needed. Please choose both.</p>'
            return
        for state in faces.run(service.engine, both[0], both[1], which):
            if this.stopped or session.overtaken("faces", this):
                # as in `compare.run`
                yield '<p class="ti-lead">The comparison was stopped.</p>' if this.stopped else gr.skip()
                return
            yield _waiting(state) if isinstance(state, Progress) else _drawn(state, Style(palette))

    def stop(request: gr.Request) -> Any:
        service.sessions.of(request).stop("faces")
        return gr.skip()

    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")
    for place, picture in pictures.items():
        picture.change(reader(place), [picture], None, concurrency_limit=4, api_name="page_face", **quiet)
    for button, paths in zip(examples, face_examples().values(), strict=True):
        button.click(
            lambda paths=paths: list(map(str, paths)), None, list(pictures.values()), queue=False,
            api_name="page_face_example", **quiet,
        )  # fmt: skip
    go.click(
        compare, [method, side.palette], [result], concurrency_limit=4, trigger_mode="once", api_name="page_faces",
        **quiet,
    )  # fmt: skip
    result.stop(stop, None, [result], queue=False, api_name="page_stop", **quiet)


def _waiting(state: Progress) -> str:
    name = state.title
    text = f"{name} waits for its turn" if state.queued else f"{name}: {100 * state.fraction:.0f} %"
    return (
        f'<div class="ti-wait ti-wide"><p>{text}</p>'
        f'<progress max="1" value="{state.fraction:.3f}" aria-label="{name}"></progress>'
        '<button type="button" data-stop>Stop</button></div>'
    )


def _drawn(found: faces.Comparison, style: Style) -> str:
    sign = "\N{GREATER-THAN OR EQUAL TO}" if found.same else "<"
    decision = "the same person" if found.same else "different people"
    figures = "".join(
        f'<figure><img class="ti-face" src="{render.address(picture)}" '
        f'alt="{_TEXTS[part].capitalize()}; strongest at the {words.place(values)}">'
        f"<figcaption>{_TEXTS[part]}</figcaption></figure>"
        for (part, picture), values in zip(found.drawn(style), found.maps, strict=True)
    )
    method, seconds = faces.METHODS[found.method], words.number(found.seconds, 1)
    return (
        f'<p class="ti-decision">Cosine {words.number(found.cosine, 3)} {sign} {words.number(found.threshold, 3)}: '
        f"taken for <b>{decision}</b>.</p>"
        f'<div class="ti-faces">{figures}</div>'
        f'<p class="ti-foot">{method}, {seconds} s; every map on its own scale</p>'
    )
