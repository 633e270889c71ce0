"""The command line: one file per command, each a thin call into the parts of the package.

What only a command needs is imported inside it, so that a help text waits for nothing.
"""

from typing import Annotated

import typer

from timm_interpretable import __version__
from timm_interpretable.cli import (
    app as app_command,
    benchmark,
    evaluate,
    explain,
    export,
    list_models,
    train,
    verify,
)

__all__ = ["app"]

# plain help: rich would take half of the time that it needs
app = typer.Typer(name="timm-interpretable", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"timm-interpretable {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Image classifiers that explain themselves: look at them, train them, measure them."""


app.command("list")(list_models.list_models)
app.command("explain")(explain.explain)
app.command("evaluate")(evaluate.evaluate)
app.command("benchmark")(benchmark.benchmark)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("app")(app_command.app)
