"""`timm-interpretable benchmark`: methods against models against metrics, with intervals, tables and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from timm_interpretable.cli.common import (
    box_masks,
    described_model,
    evenly_spaced,
    fail,
    load_any,
    make_folder,
    open_images,
    whole_image,
)
from timm_interpretable.cli.processes import share_of, wait_for_all
from timm_interpretable.results import provenance

if TYPE_CHECKING:
    import torch

    from timm_interpretable.attr import MethodSettings
    from timm_interpretable.benchmark import BenchmarkModel, Grids, Photographs, Scoring, Unit

_IMAGES, _PAPER_IMAGES = 500, 1024
_PAPER_CONFIDENCE = 0.5
_SHEET = 4  # pictures on a contact sheet


@dataclass(frozen=True)
class Counts:
    """How many images and grids there are, and how many of them costly methods take; None for a share of them.

    boxed: images with boxes; None for as many as of the others.
    """

    images: int
    boxed: int | None
    grids: int
    side: int
    costly: int | None
    costly_grids: int | None

    def few(self, images: int) -> int:
        return min(images, self.costly or max(_SHEET, images // 10))

    @property
    def few_grids(self) -> int:
        return min(self.grids, self.costly_grids or max(2, self.grids // 50))


def benchmark(
    data_dir: Annotated[Path, typer.Option(help="Folder with the images; for boxes also boxed and boxed_boxes.csv.")],
    models: Annotated[str, typer.Option(help="With commas between: models of `list`, or NAME=FILE.safetensors.")],
    methods: Annotated[
        str | None,
        typer.Option(help="Such as class_map,grad_cam; all that a model has by default. A wrong one lists them."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Some of boxes, removal, insertion, road, completeness, grids. The default is all but grids, without "
            "boxes where the data have none."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="The images; val or test by default, whichever is there.")] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Images of every kind, evenly spaced; all where there are fewer.", show_default="500"),
    ] = None,
    boxed: Annotated[
        int | None,
        typer.Option(min=1, help="Images with boxes, where that is another number.", show_default="--images"),
    ] = None,
    grids: Annotated[int, typer.Option(min=1, help="Grids of confident images.")] = 500,
    grid_side: Annotated[int, typer.Option(min=2, max=3, help="Images per row and column of a grid.")] = 3,
    costly: Annotated[
        int | None,
        typer.Option(min=1, help="Images for methods and metrics of many passes.", show_default="a tenth, at least 4"),
    ] = None,
    costly_grids: Annotated[
        int | None,
        typer.Option(min=1, help="Grids for methods of many passes.", show_default="a fiftieth, at least 2"),
    ] = None,
    fill: Annotated[
        Literal["absent", "black", "mean", "blur"] | None,
        typer.Option(
            help="What a removed pixel becomes.",
            show_default="absent for a network that encodes its images, else black",
        ),
    ] = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(
            help="The CoDA-Net paper's settings: 1,024 images, the first of every class in turn, 128 steps of pixel "
            "removal, grids of images with over 50 % confidence."
        ),
    ] = None,
    ig_steps: Annotated[int, typer.Option(min=1, help="Steps of integrated gradients.")] = 20,
    masks: Annotated[int, typer.Option(min=1, help="Masks of RISE.")] = 500,
    fame_steps: Annotated[int, typer.Option(min=1, help="Steps of FAME.")] = 50,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The method that the others are compared with.", show_default="grad_cam, else the first method"
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Classify altered images in bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random: maps, masks, ties, noise, grids, bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results; a run found there goes on.")] = Path("benchmark"),
) -> None:
    """Compare attributions: where they point, what the model loses without what they mark, and what they cost.

    Writes results.json, results.csv, results.md and figures, and prints a table per model. A cell that fails is
    reported, does not stop the others, and is tried again by the next run. The true class of every image is explained,
    at the size that the model takes.

    Several processes share a run: `accelerate launch`, on CPUs `torchrun`, with `-m timm_interpretable.cli benchmark`.
    """
    from timm_interpretable.attr import METHODS, MethodSettings
    from timm_interpretable.benchmark import METRICS, Scoring, run_units, units_left

    shard, target = share_of(device)
    wanted = _listed("--methods", methods, METHODS)
    chosen = _listed("--metrics", metrics, METRICS) or _default_metrics(data_dir, METRICS)
    reference = _reference(reference, wanted or list(METHODS))
    paper = preset is not None
    counts = Counts(images or (_PAPER_IMAGES if paper else _IMAGES), boxed, grids, grid_side, costly, costly_grids)
    settings = MethodSettings(ig_steps=ig_steps, n_samples=masks, fame_steps=fame_steps, seed=seed)
    scoring = Scoring(fill, paper, bf16)
    make_folder(out)
    units: list[Unit] = []
    try:
        opened = _opened(_Opener(data_dir, split, chosen, counts, scoring, seed, target), models)
        units = _planned(opened, wanted, chosen, settings, scoring)
        sheet = _for_the_sheet(opened)
        run_units(units, opened, settings, scoring, out / "units", sheet, shard)
    except (ImportError, OSError, ValueError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        done = len(units) - len(units_left(units, out / "units"))
        typer.echo(
            f"\nstopped: {done} of {len(units)} parts are kept in {out}; the same command goes on from there", err=True
        )
        raise typer.Exit(130) from None
    if wait_for_all(shard):
        about = {**vars(counts), **vars(settings), **vars(scoring)}
        _report(
            out, units, opened, scoring, reference, dict(provenance=provenance(seed, target), settings=about), sheet
        )


# --- what is asked for


def _listed(option: str, text: str | None, known: Mapping[str, Any]) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            fail(f"{option} has {name!r}, expected some of: {', '.join(known)}")
    return names


def _default_metrics(data_dir: Path, known: Mapping[str, Any]) -> list[str]:
    boxes = (data_dir / "boxed_boxes.csv").is_file()
    return [name for name in known if name != "grids" and (name != "boxes" or boxes)]


def _reference(key: str | None, methods: Sequence[str]) -> str:
    if key is None:
        return "grad_cam" if "grad_cam" in methods else methods[0]
    if key not in methods:
        fail(f"--reference {key!r}: expected one of the methods that are measured: {', '.join(methods)}")
    return key


def _planned(
    opened: "Mapping[str, BenchmarkModel]", methods: list[str] | None, metrics: Sequence[str],
    settings: "MethodSettings", scoring: "Scoring",
) -> "list[Unit]":  # fmt: skip
    from timm_interpretable.attr import methods_for
    from timm_interpretable.benchmark import planned_units

    units = []
    for model in opened.values():
        found = methods_for(model.net, methods)
        if not found:
            raise ValueError(f"{model.name} has none of the methods {', '.join(methods or [])}.")
        units += planned_units(model, list(found), metrics, settings, scoring)
    return units


def _opened(opener: "_Opener", models: str) -> "dict[str, BenchmarkModel]":
    """All models by name, before any work."""
    names = [name.strip() for name in models.split(",")]
    opened = {model.name: model for model in map(opener.open, names)}
    if len(opened) < len(names):
        raise ValueError(f"--models has a model twice, expected different ones: {models}")
    return opened


def _for_the_sheet(opened: "Mapping[str, BenchmarkModel]") -> list[int]:
    """Indices of the photographs on the contact sheets: some that every method explains."""
    photographs = next(iter(opened.values())).photographs
    few = photographs.costly if photographs is not None else []
    return list(few[:: max(1, len(few) // _SHEET)][:_SHEET])


class _Opener:
    """Models with the images that they are shown, each at its own size."""

    def __init__(
        self, data_dir: Path, split: str | None, metrics: Sequence[str], counts: Counts, scoring: "Scoring", seed: int,
        device: "torch.device",
    ) -> None:  # fmt: skip
        from timm_interpretable.benchmark import METRICS

        self.data_dir, self.counts, self.scoring, self.seed, self.device = data_dir, counts, scoring, seed, device
        self.split = split or ("val" if any(data_dir.glob("val*")) else "test")
        self.wanted = dict.fromkeys(METRICS[metric].images for metric in metrics)

    def open(self, name: str) -> "BenchmarkModel":
        import torch

        from timm_interpretable.benchmark import BenchmarkModel, pixels_of

        model, _, file = name.partition("=")
        weights = Path(file) if file else None
        net = load_any(model, weights, self.device)
        net.requires_grad_(False).to(memory_format=torch.channels_last)  # faster on CPUs and GPUs
        pixels_of(net, self.scoring)  # a fill that the model cannot have is an error now, not hours later
        about = described_model(model, weights, net)
        return BenchmarkModel(about["name"], net, about["sha256"], {kind: self._set(kind, net) for kind in self.wanted})

    def _set(self, kind: str, net: Any) -> "Photographs | Grids":
        from timm_interpretable.benchmark import Grids, Photographs

        counts = self.counts
        data = open_images(self.data_dir, "boxed" if kind == "boxed" else self.split, whole_image(net), net)
        if kind == "grids":
            confidence = _PAPER_CONFIDENCE if self.scoring.paper else 0.0
            return Grids(data, net, counts.grids, counts.few_grids, counts.side, self.device, self.seed, confidence)
        chosen = self._chosen(data, (counts.boxed if kind == "boxed" else None) or counts.images)
        few = [chosen[i] for i in evenly_spaced(counts.few(len(chosen)), len(chosen))]
        height, width = data[0][0].shape[-2:]
        boxes = box_masks(data, self.data_dir / "boxed_boxes.csv", height, width) if kind == "boxed" else None
        return Photographs(data, chosen, few, self.device, boxes)

    def _chosen(self, data: Any, count: int) -> list[int]:
        from timm_interpretable.benchmark import in_turn

        count = min(count, len(data))
        if self.scoring.paper:
            shards = getattr(data, "datasets", [data])
            return in_turn([name for shard in shards for name in shard.filenames()], count)
        return evenly_spaced(count, len(data))


# --- what comes of it


def _report(
    out: Path, units: "Sequence[Unit]", opened: "Mapping[str, BenchmarkModel]", scoring: "Scoring", reference: str,
    made: dict[str, Any], sheet: Sequence[int],
) -> None:  # fmt: skip
    from timm_interpretable.benchmark import (
        chance_levels,
        conditions,
        results_of,
        terminal_table,
        write_report,
        write_sheet,
    )

    results = results_of(units, opened, scoring, out / "units", reference, made)
    files = write_report(out, results)
    files += [file for model in opened.values() if (file := write_sheet(out, results, units, model, sheet))]
    for model in opened:
        typer.echo(f"\n{model}\n\n{terminal_table(results, model)}\n\n{conditions(results, model)}")
    if chance := chance_levels(results):
        typer.echo(chance)
    typer.echo(f"\nwritten to {out}: {', '.join(file.name for file in files)}")
    failed = [row for row in results["rows"] if "error" in row]
    if failed:
        cells = f"{len(failed)} of {len(results['rows'])} cells"
        fail(f"{cells} failed, see {out / 'results.md'}; run again to try them again")
