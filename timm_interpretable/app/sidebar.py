"""What all tabs share: the picture, the class, and how maps are drawn."""

from collections.abc import Callable, Generator, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from timm_interpretable.app.components import PictureInput, Sent
from timm_interpretable.app.examples import Example
from timm_interpretable.app.render import PALETTES
from timm_interpretable.app.service import Service

PRIVACY = """<p class="ti-privacy">Your picture stays in memory while this page is open; its file is deleted when you
close the page, at the latest after ten minutes.</p>"""


LIKELIEST = ("the likeliest of each model", "")
"""The first choice of a class: none in particular."""

SHOWN: dict[str, Any] = dict(concurrency_limit=4, concurrency_id="views", trigger_mode="always_last")
"""Options of the tabs whose views come quickly: of many moves of a slider the last counts."""


def empty(reason: str = "Choose a picture, or one of the examples.") -> str:
    """What stands in the place of an explanation where there is none."""
    return f'<div class="ti-empty"><p>{escape(reason)}</p></div>'


class Sidebar:
    """The left column; tabs say what they want to hear of."""

    def __init__(self, service: Service, examples: Sequence[Example]) -> None:
        self.service, self.examples = service, examples
        self._on_example: list[tuple[Any, Callable[[str], Any]]] = []
        self._on_picture: list[tuple[Callable[..., Any], list[Any], list[Any], dict[str, Any]]] = []
        with gr.Column(elem_id="ti-side", scale=0, min_width=272):
            # a page that opens with an answer says more than one that asks for a picture
            first = str(examples[0].path) if examples else None
            self.picture = PictureInput(
                service.settings, value=first, label="Picture", show_label=False,
                sources=["upload", "webcam", "clipboard"],
                height=210, elem_id="ti-picture", buttons=[], placeholder="Drop a picture here\n\nor click to choose",
                alt_text="The chosen picture",
            )  # fmt: skip
            with gr.Row(elem_id="ti-examples"):
                self.buttons = [
                    gr.Button(f"Example: {e.label}", icon=str(e.path), elem_classes="ti-example", min_width=0)
                    for e in examples
                ]
            # gradio's copies of the examples are shown on the buttons: they outlive the pages that have used them
            self._copies = {save_file_to_cache(e.path, cache_dir=self.picture.GRADIO_CACHE) for e in examples}
            self.picture.keep_in_cache |= self._copies
            self.target = gr.Radio([LIKELIEST], value="", label="Class to explain", elem_id="ti-classes")
            self.search = gr.Dropdown(
                service.engine.models.all_class_names(), value=None, label="Any other class", filterable=True,
                elem_id="ti-search",
            )  # fmt: skip
            self.view = gr.Radio(
                [("for and against", "signed"), ("only for", "positive")], value="signed", label="Evidence",
                elem_id="ti-evidence",
            )  # fmt: skip
            self.palette = gr.Dropdown(list(PALETTES), value="red and blue", label="Colours", filterable=False)
            gr.HTML(PRIVACY, js_on_load=None, apply_default_css=False, elem_classes="ti-plain")

    def show(
        self, name: str, tab: gr.Tab, draw: Callable[..., Generator[Any]], inputs: list[Any], outputs: list[Any],
        controls: Sequence[Any] = (), busy: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        """Let a tab draw itself when it is opened, by its controls, and when the picture or what tabs share changes.

        A tab that is not open draws nothing.

        Args:
            name, tab: which one.
            draw: a generator function of the inputs and `gr.Request`.
            inputs, outputs: components.
            controls: components of the tab itself whose changes by hand it follows.
            busy: say in the first output that something is computed while the tab is being opened.
            options: of the events.
        """
        sessions = self.service.sessions

        def every(first: Any) -> Any:
            # gradio takes the value of a single output as it is
            return first if len(outputs) == 1 else [first, *[gr.skip()] * (len(outputs) - 1)]

        def opened(request: gr.Request, *values: Any) -> Generator[Any]:
            session = sessions.of(request)
            session.open_tab = name
            if busy and session.has_picture():
                yield every(empty("Computing …"))
            yield from draw(*values, request=request)

        def changed(request: gr.Request, *values: Any) -> Generator[Any]:
            if sessions.of(request).open_tab == name:
                yield from draw(*values, request=request)
            else:
                yield every(gr.skip())

        options = dict(show_progress="hidden", api_visibility="private", api_name=f"page_{name}") | options
        tab.select(opened, inputs, outputs, **options)
        shared = [self.target.input, self.view.input, self.palette.input]
        gr.on([*shared, *(control.input for control in controls)], changed, inputs, outputs, **options)
        self._on_picture.append((changed, inputs, outputs, options))

    def on_example(self, component: Any, value: Callable[[str], Any]) -> None:
        """What a component becomes with an example of a data set, such as 'CIFAR-10'."""
        self._on_example.append((component, value))

    def connect(self, page: gr.Blocks) -> None:
        """After all tabs are there."""
        components = [component for component, _ in self._on_example]
        for button, example in zip(self.buttons, self.examples, strict=True):
            values = [str(example.path), *(value(example.data) for _, value in self._on_example)]
            button.click(
                lambda values=values: values, None, [self.picture, *components], queue=False, show_progress="hidden",
                api_visibility="private", api_name="page_example",
            )  # fmt: skip
        # the first picture is the component's own value: one that the server sent on loading would take the place of a
        # picture that somebody has chosen meanwhile
        read = gr.on(
            [page.load, self.picture.change], self._read, [self.picture], [self.target], show_progress="hidden",
            concurrency_limit=4, api_visibility="private", api_name="page_read",
        )  # fmt: skip
        found = self.search.input(
            self._choose, [self.search], [self.target], queue=False, show_progress="hidden", api_visibility="private",
            api_name="page_search",
        )  # fmt: skip
        for changed, inputs, outputs, options in self._on_picture:
            read.success(changed, inputs, outputs, **options)
            found.success(changed, inputs, outputs, **options)

    @staticmethod
    def _choose(name: str | None) -> Any:
        """Any class, as the one to explain."""
        return gr.update(choices=[LIKELIEST, name], value=name) if name else gr.skip()

    def _read(self, sent: Sent | None, request: gr.Request) -> Any:
        if sent is not None and sent.file in self._copies:
            sent = Sent(sent.picture, None)
        self.service.sessions.of(request).show(sent)
        return gr.update(choices=[LIKELIEST], value="")
