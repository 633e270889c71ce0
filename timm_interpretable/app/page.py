"""The page, put together from its tabs, and how it is served."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# read by gradio when it is imported: it tells nobody that the application runs
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.middleware import Middleware

from timm_interpretable import __version__
from timm_interpretable.app.api import endpoints
from timm_interpretable.app.examples import Example, bundled_examples, face_examples
from timm_interpretable.app.guard import Guard
from timm_interpretable.app.memory import few_arenas
from timm_interpretable.app.models import Entry, Models
from timm_interpretable.app.service import FILE_SECONDS, Service
from timm_interpretable.app.settings import Settings
from timm_interpretable.app.sidebar import Sidebar
from timm_interpretable.app.tabs import TABS

TITLE = "Explanations, side by side"
_HERE = Path(__file__).resolve().parent
_CLEAN_EVERY = 30  # seconds

_HEADER = f"""<header class="ti-header"><h1>{TITLE}</h1>
<p>Image classifiers that explain themselves, next to methods that explain any classifier from outside.
timm-interpretable {__version__}</p>
</header>"""


def build(service: Service, examples: Sequence[Example] | None = None) -> gr.Blocks:
    """The page and its API; `serve` or `launch(**launch_options(…))` starts it."""
    examples = bundled_examples() if examples is None else list(examples)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(_CLEAN_EVERY, FILE_SECONDS)
    ) as page:
        gr.HTML(_HEADER, js_on_load=None, apply_default_css=False, elem_id="ti-head")
        with gr.Row(elem_id="ti-main", equal_height=False):
            side = Sidebar(service, examples)
            with gr.Column(elem_id="ti-work"), gr.Tabs(elem_id="ti-tabs"):
                for name, (title, tab, possible) in TABS.items():
                    if possible(service.engine.models):
                        with gr.Tab(title, id=name, elem_id=f"ti-tab-{name}") as opened:
                            tab(service, side, opened)
        side.connect(page)
        endpoints(service)
        page.unload(service.sessions.close)
    page.queue(max_size=service.settings.queue_size, default_concurrency_limit=8)
    return page


def launch_options(service: Service, examples: Sequence[Example]) -> dict[str, Any]:
    """What `launch` must be told so that the page is what it is meant to be, and safe."""
    limit = service.settings.max_bytes
    served = [*(example.path for example in examples), *{path for pair in face_examples().values() for path in pair}]
    return dict(
        theme=theme(), css=(_HERE / "style.css").read_text(encoding="utf-8"),
        head=f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
        # gradio keeps 150 KB of every page and every call, of 10,000 unless told otherwise
        state_session_capacity=service.settings.sessions,
        footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, mcp_server=False,
        max_file_size=limit, allowed_paths=[str(path.resolve()) for path in served],
        app_kwargs=dict(middleware=[Middleware(Guard, max_bytes=limit)]), strict_cors=True, quiet=True,
    )  # fmt: skip


def theme() -> gr.Theme:
    """System fonts: nothing is fetched from elsewhere."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Base(
        primary_hue="orange", neutral_hue="slate", radius_size="sm", spacing_size="sm", text_size="sm",
        font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"],
    )  # fmt: skip


def serve(
    settings: Settings | None = None,
    examples: Path | None = None,
    entries: Sequence[Entry] | None = None,
    **options: Any,
) -> Any:
    """Build and start; what gradio's `launch` returns.

    Args:
        settings: limits.
        examples: a folder with copies of the package's pictures.
        entries: the models to choose from; None for all released ones.
        options: of `launch`, such as `server_name`, `server_port`, `share`, `prevent_thread_lock`.
    """
    few_arenas()
    private_cache()
    service = Service(settings, Models(entries))
    some = bundled_examples(examples)
    page = build(service, some)
    return page.launch(**{**launch_options(service, some), **options})


def private_cache() -> Path:
    """A folder of this process for gradio's files, which ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="timm-interpretable-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
