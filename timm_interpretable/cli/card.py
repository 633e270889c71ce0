"""`timm-interpretable card`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail


def card(
    name: Annotated[str, typer.Argument(help="arch.tag, e.g. facnn_resnet18.imagenette.")],
    run: Annotated[Path, typer.Option(help="Folder of the finished training run.")],
    evaluation: Annotated[Path, typer.Option(help="What `evaluate --json` wrote for its weights.")],
    baseline_run: Annotated[Path, typer.Option(help="Folder of the baseline's finished run.")],
    baseline_evaluation: Annotated[Path, typer.Option(help="What `evaluate --json` wrote for the baseline.")],
    out: Annotated[Path, typer.Option(help="Parent of the model's folder.")] = Path("hub_cards"),
) -> None:
    """Write the folder of a released model: weights, config.json and model card."""
    from timm_interpretable.hub.cards import write_card

    try:
        numbers, baseline_numbers = (json.loads(file.read_text()) for file in (evaluation, baseline_evaluation))
        write_card(name, run, numbers, baseline_run, baseline_numbers, out / name)
    except (OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    typer.echo(f"{out / name}")
