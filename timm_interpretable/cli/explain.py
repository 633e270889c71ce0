"""`timm-interpretable explain`."""

from pathlib import Path
from typing import Annotated

import typer

from timm_interpretable.cli.common import fail, load_any, make_folder, say
from timm_interpretable.cli.explainer import Explainer, FitChoice
from timm_interpretable.cli.processes import share_of, wait_for_all
from timm_interpretable.cli.report import Report
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
    regions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Draw what about so many superpixels contribute, which adds up as the map does (extra `regions`).",
            show_default="none: every pixel",
        ),
    ] = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write this page with all pictures, which needs no other file, and a CSV beside it."),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Explain the pictures that ship with the package.")] = False,
) -> None:
    """Show which parts of a picture speak for a class.

    The default model knows the thousand classes of ImageNet. The figure shows the picture in its own shape, and says
    what the model saw of it.

    With --report, a run that was stopped goes on where it was, and several processes can share one:
    `accelerate launch`, on CPUs `torchrun`, with `-m timm_interpretable.cli explain`. A picture whose folder bears the
    name of a class counts as a mistake where the model says another.
    """
    if not images and not sample:
        fail("no images given; name image files or folders, or try --sample")
    if batch_size < 1:
        fail(f"--batch-size is {batch_size}, expected at least 1")

    from importlib.util import find_spec

    from timm_interpretable.data.images import ImageError, list_images, sample_images

    if regions and find_spec("skimage") is None:
        fail("--regions needs scikit-image: pip install 'timm-interpretable[regions]'")

    skipped: list[str] = []
    try:
        work = [(found.path, found.relative) for found in list_images(images or [], skipped)]
    except ImageError as error:
        fail(str(error))
    work += [(entry.path, Path(entry.path.name)) for entry in sample_images()] if sample else []

    shard, target_device = share_of(device)
    if shard.processes > 1 and report is None:
        fail("several processes share a run only with --report")
    net = load_any(model, weights, target_device)
    explainer = Explainer(model, net, method, target, raw, versus, fit, regions, thumbnails=report is not None)
    make_folder(out)
    if report is not None:
        make_folder(report.parent)
    if shard.rank == 0:
        for line in skipped:
            say(f"skipped: {line}", error=True)
        say(f"explained by: {explainer.about}", error=True)

    stems = Stems(out)
    # before anything is written, so that all processes choose the same
    named = [(path, stems.of(path, relative)) for path, relative in work]
    settings: dict[str, object] = dict(
        model=model, weights=str(weights), method=method, target=target, versus=versus, fit=fit
    )
    settings |= dict(raw=raw, regions=regions)
    pages = None if report is None else Report(report, settings, shard.rank)
    mine = named[shard.rank :: shard.processes]
    failed = _explained(explainer, mine, batch_size, pages, shard.rank == 0)
    if shard.processes > 1:
        say(f"process {shard.rank}: {len(mine) - failed} explained, {failed} failed", error=True)
    elif len(work) > 1 or skipped:
        say(f"{len(work) - failed} explained, {failed} failed, {len(skipped)} skipped", error=True)
    if pages is not None:
        pages.close()
        if wait_for_all(shard):
            count, table = pages.write([path for path, _ in named], explainer.about)
            say(f"report of {count} pictures -> {report}, {table}")
    if failed:
        raise typer.Exit(2)


def _explained(
    explainer: Explainer, work: list[tuple[Path, Path]], batch_size: int, report: Report | None, shown: bool
) -> int:
    """Explain pictures in batches; the number that failed."""
    from tqdm import tqdm

    left = work if report is None else [(path, stem) for path, stem in work if report.row_of(path) is None]
    if len(left) < len(work):
        say(f"{len(work) - len(left)} pictures were explained before", error=True)
    failed = 0
    with tqdm(total=len(left), unit="image", disable=len(left) <= 1 or not shown) as progress:
        for start in range(0, len(left), batch_size):
            chunk = left[start : start + batch_size]
            rows = explainer.run([path for path, _ in chunk], [stem for _, stem in chunk])
            for (path, _), row in zip(chunk, rows, strict=True):
                failed += row is None
                if report is not None and row is not None:
                    report.add(path, row)
            progress.update(len(chunk))
    return failed
