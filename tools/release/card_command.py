"""`timm-interpretable card`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail


def card(
    name: Annotated[str, typer.Argument(help="arch.tag, e.g. facnn_resnet18.imagenette.")],
    run: Annotated[Path | None, typer.Option(help="Folder of the finished training run.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="What `evaluate --json`, for faces `evaluate-faces --json`, wrote.")
    ] = None,
    baseline_run: Annotated[Path | None, typer.Option(help="Folder of the baseline's finished run.")] = None,
    baseline_evaluation: Annotated[Path | None, typer.Option(help="`evaluate --json` of the baseline.")] = None,
    out: Annotated[Path, typer.Option(help="Parent of the model's folder.")] = Path("hub_cards"),
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Of a folder that is there, only what depends on no run.")
    ] = False,
    regression: Annotated[
        bool, typer.Option("--regression", help="With --refresh: also regression.safetensors, from the weights.")
    ] = False,
) -> None:
    """Write the folder of a released model: weights, config.json, model card, picture and regression outputs."""
    if refresh == bool(run or evaluation):
        fail("give either --run and --evaluation or --refresh")
    if bool(run) != bool(evaluation) or (baseline_run is None) != (baseline_evaluation is None):
        fail("--run and --evaluation go together, as do --baseline-run and --baseline-evaluation")
    from tools.release.cards import Trained, write_card
    from tools.release.face_cards import write_face_card
    from tools.release.regression import write_regression
    from tools.release.sections import refresh_card

    folder, face = out / name, name.startswith("face_")
    try:
        if run and evaluation:
            baseline = Trained.load(baseline_run, baseline_evaluation) if baseline_run and baseline_evaluation else None
            write = write_face_card if face else write_card
            write(name, Trained.load(run, evaluation), folder, baseline)
        if run or regression:
            write_regression(folder)
        if not face:  # its card has no part that depends on no run
            _draw(name, folder)
            refresh_card(folder)
    except (OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    typer.echo(f"{folder}")


def _draw(name: str, folder: Path) -> None:
    """The figure of `explain` for a sample picture, as JPEG; nothing for a model without maps."""
    import timm
    from PIL import Image

    from timm_interpretable.cli.explain import Explainer
    from timm_interpretable.cli.views import Options
    from timm_interpretable.data.images import sample_of
    from tools.release.sections import PICTURE

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if not (hasattr(model, "class_maps") or hasattr(model, "dynamic_weights")):
        return
    sample = sample_of(model.pretrained_cfg.get("label_names") or ())
    with TemporaryDirectory() as temporary:
        stem = Path(temporary) / "maps"
        Explainer(name, model, Options("penultimate", False), "top1", raw=False).run([sample.path], [stem])
        with Image.open(stem.with_suffix(".png")) as figure:
            figure.convert("RGB").save(folder / PICTURE, quality=80)
