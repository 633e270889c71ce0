"""`timm-interpretable app`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_any, pick_device
from timm_interpretable.cli.explainer import with_class_maps

if TYPE_CHECKING:
    from timm_interpretable.app.models import Entry


def app(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 7860,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of timm, or the folder of a model or a run, beside the released ones; several times."
        ),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also through a public address of gradio's.")] = False,
    max_megabytes: Annotated[int, typer.Option(min=1, max=100, help="Largest picture file.")] = 10,
    keep_minutes: Annotated[float, typer.Option(min=0.1, help="How long results are remembered.")] = 15.0,
) -> None:
    """Compare explanations in the browser, as the Space does."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        fail("the app needs gradio: pip install 'timm-interpretable[space]'")
    from timm_interpretable.app.page import serve
    from timm_interpretable.app.settings import Settings

    settings = Settings(max_bytes=max_megabytes * 2**20, keep_seconds=60 * keep_minutes)
    entries = _entries(model or [])
    try:
        serve(settings, entries=entries, server_name=host, server_port=port or None, share=share, quiet=False)
    except OSError as error:  # the port is taken
        fail(str(error))


def _entries(names: list[str]) -> "list[Entry] | None":
    """These models, loaded so that errors come now, before the released ones; None where there are none."""
    from timm_interpretable.app.models import Entry, released_entries

    if not names:
        return None
    released = released_entries()
    entries: list[Entry] = []
    for name in names:
        net, _ = with_class_maps(load_any(name, None, pick_device("cpu")))
        short = Path(name).name if Path(name).is_dir() else name
        if short in {entry.name for entry in (*released, *entries)}:
            fail(f"--model {name}: the page has a model {short!r} already")
        if not net.num_classes:
            fail(f"--model {name} has no classes; the page compares classifiers")
        entries.append(Entry(short, short, f"{net.num_classes} classes", partial(_same, net)))
    return [*entries, *released]


def _same(net: Any) -> Any:
    return net
