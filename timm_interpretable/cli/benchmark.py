"""`timm-interpretable benchmark`: methods against models against metrics, with intervals, tables and plots."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, pick_device
from timm_interpretable.cli.loading import (
    box_masks,
    described_model,
    evenly_spaced,
    load_any,
    normalisation,
    open_images,
    whole_image,
)
from timm_interpretable.cli.results import make_folder
from timm_interpretable.results import provenance

if TYPE_CHECKING:
    import torch

    from timm_interpretable.benchmark import BenchmarkModel, MethodSettings, Shard, Unit

_SHEET = 4  # pictures on a contact sheet


def benchmark(
    data_dir: Annotated[Path, typer.Option(help="Folder with the images; for boxes also boxed and boxed_boxes.csv.")],
    models: Annotated[str, typer.Option(help="With commas between: models of `list`, or NAME=FILE.safetensors.")],
    methods: Annotated[str | None, typer.Option(help="With commas between; all that a model has by default.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Of boxes, removal, insertion, road, completeness, grids; by default all but "
            "boxes where there are none, and grids."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the images; val or test, whichever is there.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of the split that lose pixels, evenly spaced.")] = 500,
    boxed: Annotated[int, typer.Option(min=1, help="Images with boxes, evenly spaced.")] = 250,
    grids: Annotated[int, typer.Option(min=1, help="Grids of confident images.")] = 500,
    grid_side: Annotated[int, typer.Option(min=2, max=3, help="Images per row and column of a grid.")] = 3,
    costly: Annotated[int, typer.Option(min=1, help="Of the images, how many costly methods and metrics take.")] = 50,
    costly_grids: Annotated[int, typer.Option(min=1, help="Of the grids, likewise.")] = 10,
    ig_steps: Annotated[int, typer.Option(min=1, help="Of integrated gradients.")] = 20,
    masks: Annotated[int, typer.Option(min=1, help="Of RISE.")] = 500,
    fame_steps: Annotated[int, typer.Option(min=1, help="Of FAME.")] = 50,
    reference: Annotated[
        str | None, typer.Option(help="Compared with the others; Grad-CAM by default, else the first method.")
    ] = None,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="bfloat16 where images that lose pixels are classified.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of random maps, masks, ties, noise, grids and the bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results; a run found there goes on.")] = Path("benchmark"),
) -> None:
    """Compare attributions: where they point, what the model loses without what they mark, and what they cost.

    Writes results.json, results.csv, results.md and figures. Several processes share a run: `accelerate launch`, on
    CPUs `torchrun`, with `-m timm_interpretable.cli benchmark …`. A cell that fails is reported, does not stop the
    others, and is tried again by the next run. The true class of every image is explained.
    """
    from timm_interpretable.benchmark import METHODS, MethodSettings, run_units

    shard, target = _process(device)
    names = [name.strip() for name in models.split(",")]
    wanted_methods, wanted_metrics = _methods(methods), _metrics(metrics, data_dir)
    reference = _reference(reference, wanted_methods or list(METHODS))
    settings = MethodSettings(ig_steps=ig_steps, masks=masks, fame_steps=fame_steps, bf16=bf16, seed=seed)
    make_folder(out)
    counts = dict(images=images, boxed=boxed, grids=grids, costly=costly, costly_grids=costly_grids, side=grid_side)
    opener = _Opener(data_dir, split, wanted_metrics, counts, seed, target)
    try:
        opened = {model.name: model for model in map(opener.open, names)}  # all, before any work
        if len(opened) < len(names):
            raise ValueError(f"--models has a model twice, expected different ones: {models}")
        units = _planned(opened, wanted_methods, wanted_metrics, settings)
        few = _photographs(next(iter(opened.values()))).costly
        sheet = few[:: max(1, len(few) // _SHEET)][:_SHEET]
        run_units(units, opened, settings, out / "units", sheet, shard)
    except (ImportError, OSError, ValueError) as error:
        fail(str(error))
    if _wait_for_all(shard):
        results = provenance(seed, target)
        _report(out, units, opened, reference, dict(provenance=results, settings={**counts, **vars(settings)}), sheet)


def _process(device: str) -> "tuple[Shard, torch.device]":
    """Which share of the run is this process's, and where it computes."""
    from timm_interpretable.benchmark import Shard

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Shard(), pick_device(device)
    from datetime import timedelta

    from accelerate import PartialState

    # the last process may have hours more to do than the first
    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=timedelta(days=7))
    return Shard(state.process_index, state.num_processes), state.device


def _wait_for_all(shard: "Shard") -> bool:
    """Until every process is done; whether this is the one that writes."""
    if shard.processes > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    return shard.rank == 0


# --- what is asked for


def _methods(text: str | None) -> list[str] | None:
    from timm_interpretable.benchmark import METHODS

    return None if text is None else _listed("--methods", text, METHODS)


def _metrics(text: str | None, data_dir: Path) -> list[str]:
    from timm_interpretable.benchmark import METRICS

    if text is not None:
        return _listed("--metrics", text, METRICS)
    boxes = (data_dir / "boxed_boxes.csv").is_file()
    return [name for name in METRICS if name != "grids" and (name != "boxes" or boxes)]


def _reference(name: str | None, methods: Sequence[str]) -> str:
    if name is None:
        return "Grad-CAM" if "Grad-CAM" in methods else methods[0]
    if name not in methods:
        fail(f"--reference {name!r}: expected one of the methods that are measured: {', '.join(methods)}")
    return name


def _listed(option: str, text: str, known: Mapping[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            fail(f"{option} has {name!r}, expected some of: {', '.join(known)}")
    return names


def _planned(
    opened: "Mapping[str, BenchmarkModel]", methods: list[str] | None, metrics: Sequence[str],
    settings: "MethodSettings",
) -> "list[Unit]":  # fmt: skip
    from timm_interpretable.benchmark import methods_for, planned_units

    units = []
    for model in opened.values():
        found = methods_for(model.net, methods)
        if not found:
            raise ValueError(f"{model.name} has none of the methods {', '.join(methods or [])}.")
        units += planned_units(model, list(found), metrics, settings)
    return units


class _Opener:
    """Models with the images that they are shown, each at its own size."""

    def __init__(
        self, data_dir: Path, split: str | None, metrics: Sequence[str], counts: Mapping[str, int], seed: int,
        device: "torch.device",
    ) -> None:  # fmt: skip
        self.data_dir, self.counts, self.seed, self.device = data_dir, counts, seed, device
        self.split = split or ("val" if any(data_dir.glob("val*")) else "test")
        from timm_interpretable.benchmark import METRICS

        self.wanted = dict.fromkeys(METRICS[metric] for metric in metrics)

    def open(self, name: str) -> "BenchmarkModel":
        import torch

        from timm_interpretable.benchmark import BenchmarkModel, Grids, Photographs

        model, _, file = name.partition("=")
        weights = Path(file) if file else None
        net, settings = load_any(model, weights, self.device)
        net.requires_grad_(False).to(memory_format=torch.channels_last)  # faster on CPUs and GPUs
        transform = whole_image(net, settings, None, None)
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in normalisation(net, settings, None))
        sets: dict[str, Photographs | Grids] = {}
        for kind in self.wanted:
            data, _ = open_images(self.data_dir, "boxed" if kind == "boxed" else self.split, transform, net)
            if kind == "grids":
                sets[kind] = Grids(
                    data, net, self.counts["grids"], min(self.counts["grids"], self.counts["costly_grids"]),
                    self.counts["side"], self.device, self.seed,
                )  # fmt: skip
                continue
            chosen = evenly_spaced(min(self.counts["boxed" if kind == "boxed" else "images"], len(data)), len(data))
            few = [chosen[i] for i in evenly_spaced(min(self.counts["costly"], len(chosen)), len(chosen))]
            size = data[0][0].shape[-1]
            boxes = box_masks(data, self.data_dir / "boxed_boxes.csv", size) if kind == "boxed" else None
            sets[kind] = Photographs(data, chosen, few, self.device, boxes)
        shape = tuple(next(iter(sets.values())).data[0][0].shape)
        about = described_model(model, weights, net)
        return BenchmarkModel(about["name"], net, -mean / std, (1 - mean) / std, about["sha256"], shape, sets)


# --- what comes of it


def _report(
    out: Path, units: "Sequence[Unit]", opened: "Mapping[str, BenchmarkModel]", reference: str, made: dict[str, Any],
    sheet: Sequence[int],
) -> None:  # fmt: skip
    from timm_interpretable.benchmark import accuracy_of, read_unit, summarised, write_report

    results = summarised(
        units, [read_unit(out / "units", unit) for unit in units], reference, made["provenance"]["seed"]
    )
    results = made | dict(chance=_chance(opened, made["settings"]["side"]), models={}, **results)
    for model in opened.values():
        results["models"][model.name] = dict(
            sha256=model.sha256, input_size=list(model.input_size), accuracy=accuracy_of(results, model.name),
            parameters=sum(p.numel() for p in model.net.parameters()),
        )  # fmt: skip
    files = write_report(out, results, reference)
    files += [_sheet(out, units, model, sheet, results) for model in opened.values() if set(model.sets) - {"grids"}]
    failed = [row for row in results["rows"] if "error" in row]
    typer.echo(f"written to {out}: {', '.join(file.name for file in files)}")
    if failed:
        cells = f"{len(failed)} of {len(results['rows'])} cells"
        fail(f"{cells} failed, see {out / 'results.md'}; run again to try them again")


def _chance(opened: "Mapping[str, BenchmarkModel]", side: int) -> dict[str, float]:
    """What a map that does not look at the image reaches."""
    sets = next(iter(opened.values())).sets
    found: dict[str, float] = {}
    if "boxed" in sets:
        boxes: Any = sets["boxed"]
        found |= dict.fromkeys(("energy", "pointing"), boxes.boxes[list(boxes.chosen)].float().mean().item())
    return found | ({"grids": 1 / side**2} if "grids" in sets else {})


def _photographs(model: "BenchmarkModel") -> Any:
    """The first set that is not grids, or grids where there is nothing else."""
    return next((images for kind, images in model.sets.items() if kind != "grids"), model.sets.get("grids"))


def _sheet(
    out: Path, units: "Sequence[Unit]", model: "BenchmarkModel", indices: Sequence[int], results: Mapping[str, Any]
) -> Path:
    """The contact sheet of a model: its maps of a few photographs, all methods."""
    from timm_interpretable.benchmark import read_maps
    from timm_interpretable.benchmark.plots import contact_sheet
    from timm_interpretable.benchmark.report import made_with, save_figure

    kind = next(kind for kind in model.sets if kind != "grids")
    found: dict[str, dict[int, Any]] = {}
    for unit in units:
        if unit.model == model.name and unit.images == kind:
            found.setdefault(unit.method, {}).update(read_maps(out / "units", unit))
    maps = {method: [by[i] for i in indices] for method, by in found.items() if all(i in by for i in indices)}
    batch = model.sets[kind].load(indices)
    unit_range = (batch.images - model.black) / (model.white - model.black)
    pictures = [(255 * x.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy() for x in unit_range]
    labels = model.net.pretrained_cfg.get("label_names") or [str(k) for k in range(model.net.num_classes)]
    titles = [labels[label] for label in batch.labels.tolist()]
    made = made_with(results)
    fig = contact_sheet(model.name, pictures, maps, titles, " ".join(made[1:2]))
    return save_figure(fig, out / f"maps_{model.name}.png", made)
