"""`timm-interpretable study`: questions to a model that take minutes to hours, answered in a results file."""

import typer

from timm_interpretable.cli import study_attribution, study_locality

study_app = typer.Typer(no_args_is_help=True, help="Measure attributions, and write the numbers with what made them.")


@study_app.callback()
def _study() -> None:
    """Measure attributions, and write the numbers with what made them."""


study_app.command("attribution")(study_attribution.attribution)
study_app.command("locality")(study_locality.locality)
