"""`timm-interpretable study attribution`: every method on images with boxes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, pick_device
from timm_interpretable.cli.loading import (
    MeanStd,
    box_masks,
    described_model,
    evenly_spaced,
    load_any,
    normalisation,
    open_images,
    whole_image,
)
from timm_interpretable.cli.results import make_folder, write_results
from timm_interpretable.results import markdown_table, provenance

if TYPE_CHECKING:
    import torch

    from timm_interpretable.metrics import BoxedBatch
    from timm_interpretable.metrics.methods import NamedMaps

_COLUMNS = (
    "iou_.3", "iou_.5", "iou_.7", "iou_first_.3", "iou_first_.5", "iou_first_.7", "energy", "pointing", "deletion",
    "correlation", "seconds", "cpu_seconds",
)  # fmt: skip


def attribution(
    data_dir: Annotated[Path, typer.Option(help="Folder with boxed.tar and boxed_boxes.csv.")],
    model: Annotated[str, typer.Option(help="A model of `list`; with --weights any timm model.")] = "facnn_resnet18",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced over the classes.")] = 25,
    input_size: Annotated[int | None, typer.Option(help="Side of the input, instead of the model's own.")] = None,
    mean_std: Annotated[MeanStd | None, typer.Option(help="Normalisation, instead of the model's own.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this one, such as FAME or RISE; may be given several times.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Of FAME, ascending.")] = "25,50,100,200,500",
    masks: Annotated[int, typer.Option(min=1, help="Of RISE.")] = 1000,
    ig_steps: Annotated[int, typer.Option(min=1, help="Of integrated gradients.")] = 50,
    seed: Annotated[int, typer.Option(help="Of RISE and of the random map.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("study"),
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Overlap with the boxes, energy, pointing, deletion and time of every method, FAME after more and more steps.

    The true class of every image is explained.
    """
    import torch

    chosen_device = pick_device(device)
    counts = _steps(steps)
    make_folder(out)
    try:
        from timm_interpretable.metrics import attribution_methods, attribution_report

        net, settings = load_any(model, weights, chosen_device)
        mean, std = (
            torch.tensor(v, device=chosen_device)[:, None, None] for v in normalisation(net, settings, mean_std)
        )
        black = -mean / std
        found, _ = open_images(data_dir, "boxed", whole_image(net, settings, input_size, mean_std), net)
        chosen = evenly_spaced(images, len(found))
        batches = _Batches(found, data_dir / "boxed_boxes.csv", chosen, batch_size, chosen_device)
        methods = _chosen(attribution_methods(net, black, counts, masks, ig_steps, seed), method or [])
        rows = attribution_report(methods, net, batches, black)
    except (ImportError, OSError, ValueError) as error:
        fail(str(error))
    report = provenance(seed, chosen_device) | dict(
        model=described_model(model, weights, net), images=images, input_size=list(found[0][0].shape),
        right=batches.right(net), area=batches.area(), rise_masks=masks, ig_steps=ig_steps, maps=rows,
    )  # fmt: skip
    table = _table(rows)
    write_results(out / "attribution", report, f"Attributions of {report['model']['name']}", [_note(report), table])
    typer.echo(f"{_note(report)}\n\n{table}\n\nwritten to {out / 'attribution'}.json and .md")


class _Batches:
    """Some of the boxed images, as often as asked for."""

    def __init__(self, images: Any, boxes: Path, chosen: list[int], batch_size: int, device: "torch.device") -> None:
        size = images[0][0].shape[-1]
        self.images, self.chosen, self.batch_size, self.device = images, chosen, batch_size, device
        self.boxes, self.first = (box_masks(images, boxes, size, first)[chosen] for first in (False, True))

    def __iter__(self) -> Iterator["BoxedBatch"]:
        import torch
        from tqdm import tqdm

        from timm_interpretable.metrics import BoxedBatch

        with tqdm(total=len(self.chosen), unit="image", disable=None) as bar:
            for start in range(0, len(self.chosen), self.batch_size):
                part = slice(start, start + self.batch_size)
                some = [self.images[i] for i in self.chosen[part]]
                x, labels = torch.stack([image for image, _ in some]), torch.tensor([label for _, label in some])
                parts = (x, labels, self.boxes[part], self.first[part])
                yield BoxedBatch(*(tensor.to(self.device) for tensor in parts))
                bar.update(len(some))

    def right(self, net: Any) -> int:
        """How many of them the model classifies correctly."""
        import torch

        with torch.inference_mode():
            return sum(int((net(batch.images).argmax(1) == batch.labels).sum()) for batch in self)

    def area(self) -> float:
        return float(self.boxes.float().mean())


def _chosen(methods: Mapping[str, "NamedMaps"], names: list[str]) -> dict[str, "NamedMaps"]:
    unknown = [name for name in names if name not in methods]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}, expected one of: {'; '.join(methods)}")
    return {name: maps for name, maps in methods.items() if name in (names or methods)}


def _steps(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--steps is {text!r}, expected numbers such as 25,50,100")
    if counts != sorted(set(counts)) or counts[0] < 1:
        fail(f"--steps is {text!r}, expected ascending numbers from 1 on")
    return counts


def _note(report: Mapping[str, Any]) -> str:
    side = report["input_size"][-1]
    return (
        f"{report['model']['name']}: {report['images']} boxed images at {side} x {side} pixels, true class, "
        f"{report['right']} of them classified correctly. Area of the boxes, the chance level of energy and pointing: "
        f"{report['area']:.3f}. RISE with {report['rise_masks']} masks, integrated gradients with "
        f"{report['ig_steps']} steps. Numbers are of the positive parts, stretched to [0, 1]. Deletion: mean "
        "loss of the raw logit, the more the better. Correlation: of the map with that of the last number of steps. "
        "Seconds: per image, for the map alone, by the clock and of the CPU; on a busy machine compare the second."
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    names = ["IoU .3", "IoU .5", "IoU .7", "first box .3", ".5", ".7", *_COLUMNS[6:-1], "CPU seconds"]
    return markdown_table(["map", *names], [[name, *(row.get(key) for key in _COLUMNS)] for name, row in rows.items()])
