"""`timm-interpretable explain`."""

from pathlib import Path
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail, load_any, make_folder, pick_device, say
from timm_interpretable.cli.explainer import Explainer, FitChoice
from timm_interpretable.cli.stems import Stems

_DEFAULT_MODEL = "facnn_hybrid_efficientnet_lite0"


def explain(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="A model of `timm-interpretable list` or of timm, or the folder of a model or a run."),
    ] = _DEFAULT_MODEL,
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file for --model, instead of its released weights.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="Class to explain: its name, id or index, or top1 for the predicted one.")
    ] = "top1",
    versus: Annotated[str | None, typer.Option(help="Another class: draw why the target rather than this one.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Explanations of the catalogue, such as grad_cam, with commas between for several in one figure.",
            show_default="the model's own, else its exact class map, else grad_cam",
        ),
    ] = None,
    fit: Annotated[
        FitChoice | None,
        typer.Option(help="How a picture is brought to the input size.", show_default="as the model was evaluated"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("explanations"),
    raw: Annotated[bool, typer.Option("--raw", help="Also save the signed maps as safetensors.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="the best there is")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Explain the pictures that ship with the package.")] = False,
) -> None:
    """Show which parts of a picture speak for a class.

    The default model knows the thousand classes of ImageNet. The figure shows the picture in its own shape, and says
    what the model saw of it.
    """
    if not images and not sample:
        fail("no images given; name image files or folders, or try --sample")
    if batch_size < 1:
        fail(f"--batch-size is {batch_size}, expected at least 1")

    from timm_interpretable.data.images import ImageError, list_images, sample_images

    skipped: list[str] = []
    try:
        work = [(found.path, found.relative) for found in list_images(images or [], skipped)]
    except ImageError as error:
        fail(str(error))
    work += [(entry.path, Path(entry.path.name)) for entry in sample_images()] if sample else []

    net = load_any(model, weights, pick_device(device))
    explainer = Explainer(model, net, method, target, raw, versus, fit)
    make_folder(out)
    for line in skipped:
        say(f"skipped: {line}", error=True)
    say(f"explained by: {explainer.about}", error=True)

    from tqdm import tqdm

    failed, stems = 0, Stems(out)
    with tqdm(total=len(work), unit="image", disable=len(work) == 1) as progress:
        for start in range(0, len(work), batch_size):
            chunk = work[start : start + batch_size]
            failed += explainer.run([path for path, _ in chunk], [stems.of(*pair) for pair in chunk])
            progress.update(len(chunk))
    if len(work) > 1 or skipped:
        say(f"{len(work) - failed} explained, {failed} failed, {len(skipped)} skipped", error=True)
    if failed:
        raise typer.Exit(2)
