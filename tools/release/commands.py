"""`python -m tools.release`: write and publish the folders of released models."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import timm
import typer
from huggingface_hub import HfApi
from PIL import Image

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import own_method
from timm_interpretable.cli.common import fail
from timm_interpretable.cli.explain import Explainer
from timm_interpretable.data.classes import class_names
from timm_interpretable.data.images import sample_of
from timm_interpretable.models.weights import released
from tools.release.benchmarks import RESULTS, write_results_page
from tools.release.cards import write_card, write_folder
from tools.release.convert import convert as convert_weights
from tools.release.publish import (
    Changes,
    Upload,
    changes,
    model_upload,
    publish as upload_to_hub,
    require_token,
    space_upload,
)
from tools.release.regression import write_regression
from tools.release.training import PICTURE, TRAINING_FILE, Release, Trained

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Write the folders of released models, and bring them to the Hub."""


@app.command()
def card(
    name: Annotated[str, typer.Argument(help="arch.tag, e.g. facnn_resnet18.imagenette.")],
    run: Annotated[Path | None, typer.Option(help="Folder of the finished training run.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="What `evaluate --json` wrote.")] = None,
    baseline_run: Annotated[Path | None, typer.Option(help="Folder of the baseline's finished run.")] = None,
    baseline_evaluation: Annotated[Path | None, typer.Option(help="`evaluate --json` of the baseline.")] = None,
    out: Annotated[Path, typer.Option(help="Parent of the model's folder.")] = Path("hub_cards"),
    picture: Annotated[bool, typer.Option("--picture", help="Also draw the picture of maps anew.")] = False,
    regression: Annotated[bool, typer.Option("--regression", help="Also write regression.safetensors anew.")] = False,
) -> None:
    """Write the folder of a released model, or only its card.

    With --run and --evaluation: weights, config.json, training.json, card, picture and regression outputs. The baseline
    of a folder that is there stays unless another one is given. Without them
    the card of a folder that is there is rendered anew from its training.json and from docs/results.
    """
    if (run is None) != (evaluation is None) or (baseline_run is None) != (baseline_evaluation is None):
        fail("--run and --evaluation go together, as do --baseline-run and --baseline-evaluation")
    if baseline_run and not run:
        fail("--baseline-run is for the card of a new run; give --run and --evaluation too")
    folder = out / name
    try:
        if run and evaluation:
            baseline = Trained.load(baseline_run, baseline_evaluation) if baseline_run and baseline_evaluation else None
            if baseline is None and (folder / TRAINING_FILE).is_file():
                baseline = Release.load(folder).baseline  # new weights do not change what they are compared with
            write_folder(name, run, Release(Trained.load(run, evaluation), baseline), folder)
        if run or regression:
            write_regression(folder)
        if run or picture:
            _draw(name, folder)
        write_card(folder)
    except (OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    typer.echo(f"{folder}")


def _draw(name: str, folder: Path) -> None:
    """The figure of `explain` for a sample picture, as JPEG; nothing for a model without maps of its own."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if own_method(model) is None:
        return
    sample = sample_of(class_names(model))
    with TemporaryDirectory() as temporary:
        stem = Path(temporary) / "maps"
        Explainer(name, model, None, "top1", raw=False).run([sample.path], [stem])
        with Image.open(stem.with_suffix(".png")) as figure:
            figure.convert("RGB").save(folder / PICTURE, quality=80)


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help="arch.tag of a hybrid, e.g. facnn_hybrid_efficientnet_lite0.in1k.")],
    weights: Annotated[Path, typer.Option(help="The state dict of the plain timm network, as .safetensors.")],
    origin: Annotated[str, typer.Option(help="Where that file was published, for the card.")],
    out: Annotated[Path, typer.Option(help="Folder like that of a training run, for `card --run`.")],
) -> None:
    """Turn published weights of an ordinary timm network into those of its hybrid."""
    try:
        convert_weights(name, weights, origin, out)
    except (OSError, ValueError, RuntimeError) as error:
        fail(str(error))
    typer.echo(f"{out}")


@app.command()
def benchmark_cards() -> None:
    """Write what docs/results/benchmark_* say into all cards and into docs/results/README.md."""
    root = RESULTS.parents[1]
    try:
        for name in released():
            write_card(root / "hub_cards" / name)
        write_results_page()
    except (OSError, ValueError) as error:
        fail(str(error))


@app.command()
def publish(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="arch.tag, e.g. facnn_resnet18.imagenette.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Organisation or user on the Hub.")] = ...,  # type: ignore[assignment]
    all_models: Annotated[bool, typer.Option("--all", help="Every released model.")] = False,
    space: Annotated[bool, typer.Option("--space", help="The Space, from spaces_app.")] = False,
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel of this version that the Space installs, while it is not on PyPI.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    revision_tag: Annotated[
        bool, typer.Option("--revision-tag", help="Also tag with the version of this package.")
    ] = False,
) -> None:
    """Upload released models and the Space where they differ from their Hub repositories."""
    if not (models or all_models or space):
        fail("nothing to publish; name models, or give --all or --space")
    if wheel is not None and not space:
        fail("--wheel is for the Space; give --space too")
    try:
        if not dry_run:
            require_token()
        # everything is checked before anything is sent
        uploads = [model_upload(name, namespace, revision_tag) for name in (released() if all_models else models or ())]
        uploads += [space_upload(namespace, revision_tag, wheel)] if space else []
        api = HfApi()
        for each in uploads:
            done = changes(api, each) if dry_run else upload_to_hub(api, each)
            typer.echo(f"{each.repo_id}: {_told(each, done, dry_run)}")
    except (RuntimeError, OSError, ValueError) as error:
        fail(str(error))


def _told(upload: Upload, done: Changes, dry_run: bool) -> str:
    if not done:
        return "nothing to do" if dry_run else "nothing to do; downloaded and checked"
    parts = ["create the repository"] * (done.head is None)
    parts += [f"{_sizes(upload, done.upload)}"] * bool(done.upload)
    parts += [f"delete {', '.join(done.delete)}"] * bool(done.delete)
    parts += [f"tag {', '.join(done.tags)}"] * bool(done.tags)
    return f"would {'; '.join(parts)}" if dry_run else f"{'; '.join(parts)}; done, downloaded and checked"


def _sizes(upload: Upload, files: list[str]) -> str:
    sizes = (f"{file} ({(upload.folder / file).stat().st_size / 1e3:,.0f} kB)" for file in files)
    return f"upload {', '.join(sizes)}"
