"""`timm-interpretable train`."""

from pathlib import Path
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail


def train(
    recipe: Annotated[str, typer.Argument(help="Name of the recipe, e.g. facnn_resnet18.imagenette.")],
    data_dir: Annotated[Path, typer.Option(help="Folder with train*.tar and val.tar or test.tar (or folders).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a run found there goes on.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's number of epochs.")] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(min=1, help="End after that epoch, with the weights as they are then; a later call goes on."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    initial: Annotated[
        Path | None, typer.Option(help="model.safetensors of the finished run that this recipe goes on from.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 2,
    cpu: Annotated[bool, typer.Option(help="Train on the CPU even where there is a GPU.")] = False,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto for the one that is faster here, measured before the run.")
    ] = "auto",
    compile: Annotated[bool, typer.Option(help="Run the training steps through torch.compile.")] = False,
) -> None:
    """Train a recipe, on one device or several.

    Several GPUs or machines: `accelerate launch -m timm_interpretable.cli train …`. Recipes of faces need a folder with
    faces.tar; they take minutes, run in fp32, and start anew when interrupted.
    """
    from dataclasses import replace

    from timm_interpretable.train.face_recipes import FACE_RECIPES
    from timm_interpretable.train.recipes import RECIPES

    if recipe not in RECIPES | FACE_RECIPES:
        fail(f"unknown recipe {recipe!r}, expected one of: {', '.join(RECIPES | FACE_RECIPES)}")
    try:
        from timm_interpretable.train.engine import Trainer
        from timm_interpretable.train.faces import FaceTrainer
    except ImportError as error:
        fail(f"training needs the extra `train`: pip install 'timm-interpretable[train]' ({error})")

    if recipe in FACE_RECIPES:
        if initial is not None or compile or stop_after is not None:
            fail(
                f"{recipe} starts from random weights and runs uncompiled to its end; "
                "leave --initial, --compile and --stop-after out"
            )
        given = FACE_RECIPES[recipe]
        faces = replace(given, epochs=epochs or given.epochs, seed=given.seed if seed is None else seed)
        folder = out or Path("runs") / recipe
        try:
            rate, _ = FaceTrainer(faces, data_dir, folder, cpu).run()
        except (OSError, ValueError, FloatingPointError) as error:
            fail(str(error))
        people = f"{faces.eval_people[0]}-{faces.eval_people[-1]}"
        typer.echo(f"{recipe}: equal-error rate {100 * rate:.2f} % on {people}; weights in {folder}")
        return
    chosen = RECIPES[recipe].with_epochs(epochs or RECIPES[recipe].epochs)
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    try:
        trainer = Trainer(chosen, data_dir, out or Path("runs") / recipe, workers, cpu, precision, initial, compile)
        accuracy = trainer.run(stop_after)
        if accuracy is None:
            accuracy = trainer.export()
    except (OSError, ValueError, FloatingPointError) as error:
        fail(str(error))
    if trainer.accelerator.is_main_process:
        typer.echo(f"{recipe}: {100 * accuracy:.2f} % on {chosen.eval_split}; weights in {trainer.out}")
    trainer.accelerator.end_training()
