"""The command line: one file per command, each a thin call into the rooms of the package."""

from typing import Annotated

import typer

from timm_interpretable import __version__
from timm_interpretable.cli import (
    app as app_command,
    bench,
    bench_coda,
    bench_fame,
    bench_metrics,
    benchmark,
    card,
    evaluate,
    evaluate_faces,
    explain,
    list_models,
    publish,
    study,
    train,
    verify,
)

__all__ = ["app"]

app = typer.Typer(name="timm-interpretable", no_args_is_help=True, add_completion=False)


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


# one import above and one line here per command; what only a command needs is imported inside it
app.command("list")(list_models.list_models)
app.command("explain")(explain.explain)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("card")(card.card)
app.command("publish")(publish.publish)
app.command("verify")(verify.verify)
app.command("benchmark")(benchmark.benchmark)
app.command("app")(app_command.app)
app.command("evaluate-faces")(evaluate_faces.evaluate_faces)
bench.bench_app.command("coda")(bench_coda.coda)
bench.bench_app.command("fame")(bench_fame.fame)
bench.bench_app.command("metrics")(bench_metrics.metrics)
app.add_typer(bench.bench_app, name="bench")
app.add_typer(study.study_app, name="study")
