"""`timm-interpretable app`."""

from typing import Annotated

import typer

from timm_interpretable.cli.common import fail


def app(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 7860,
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
    try:
        serve(settings, server_name=host, server_port=port or None, share=share, quiet=False)
    except OSError as error:  # the port is taken
        fail(str(error))
