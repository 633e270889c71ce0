"""`timm-interpretable card`."""

from pathlib import Path
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail


def card(
    name: Annotated[str, typer.Argument(help="arch.tag, e.g. facnn_resnet18.imagenette.")],
    run: Annotated[Path, typer.Option(help="Folder of the finished training run.")],
    evaluation: Annotated[Path, typer.Option(help="What `evaluate --json`, for faces `evaluate-faces --json`, wrote.")],
    baseline_run: Annotated[Path | None, typer.Option(help="Folder of the baseline's finished run.")] = None,
    baseline_evaluation: Annotated[Path | None, typer.Option(help="`evaluate --json` of the baseline.")] = None,
    out: Annotated[Path, typer.Option(help="Parent of the model's folder.")] = Path("hub_cards"),
) -> None:
    """Write the folder of a released model: weights, config.json and model card."""
    from timm_interpretable.hub.cards import Trained, write_card
    from timm_interpretable.hub.face_cards import write_face_card

    if (baseline_run is None) != (baseline_evaluation is None):
        fail("--baseline-run and --baseline-evaluation go together")
    try:
        baseline = Trained.load(baseline_run, baseline_evaluation) if baseline_run and baseline_evaluation else None
        write = write_face_card if name.startswith("face_") else write_card
        write(name, Trained.load(run, evaluation), out / name, baseline)
    except (OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    typer.echo(f"{out / name}")
