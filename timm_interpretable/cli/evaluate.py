"""`timm-interpretable evaluate`: the accuracy of any timm model, and whether its maps look at the object."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, pick_device
from timm_interpretable.cli.loading import MeanStd, box_masks, image_loader, load_any, open_images, whole_image
from timm_interpretable.models.weights import sha256

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader

    from timm_interpretable.metrics import MapsOfClasses


def evaluate(
    data_dir: Annotated[Path, typer.Option(help="Folder with SPLIT.tar, SPLIT-*.tar or SPLIT/, one folder per class.")],
    model: Annotated[str, typer.Option(help="A model of `list`; with --weights any timm model.")] = "facnn_resnet18",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    split: Annotated[str, typer.Option(help="Images that decide the accuracy.")] = "val",
    boxes: Annotated[bool, typer.Option(help="Also localisation on boxed.tar with boxed_boxes.csv.")] = False,
    grids: Annotated[int, typer.Option(min=0, help="Also grid localisation, 3 x 3, on so many grids.")] = 0,
    removal: Annotated[int, typer.Option(min=0, help="Also pixel removal, on so many images, evenly spaced.")] = 0,
    smooth: Annotated[int, typer.Option(min=1, help="Average maps over so many pixels squared for these two.")] = 1,
    costly: Annotated[int, typer.Option(min=1, help="Grids or images for methods of many passes.")] = 20,
    input_size: Annotated[int | None, typer.Option(help="Side of the input, instead of the model's own.")] = None,
    mean_std: Annotated[MeanStd | None, typer.Option(help="Normalisation, instead of the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
) -> None:
    """Top-1 accuracy of a model on a folder of images; with --boxes, whether its maps look at the object.

    --grids and --removal are the tests of the CoDA-Net paper, for the model's own maps and for other methods. A map
    whose sign changes from pixel to pixel shows where it points once it is averaged over --smooth pixels squared.

    Every model sees the whole image, squashed to its input size. What the command line does not say comes from
    config.json or a training run's result.json next to the weights, then from timm.
    """
    if smooth % 2 == 0:
        fail(f"--smooth {smooth}: expected an odd number of pixels, 1 for maps as they are")
    if json_file is not None and not json_file.parent.is_dir():
        fail(f"--json {json_file}: there is no folder {json_file.parent}")
    try:
        target = pick_device(device)
        net, settings = load_any(model, weights, target)
        transform = whole_image(net, settings, input_size, mean_std)
        images, classes = open_images(data_dir, split, transform, net)
        logits, labels = _logits(net, image_loader(images, batch_size, workers), target)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        typer.echo(f"{model}: top-1 {100 * accuracy:.2f} % of the {len(images)} images of {split}")
        report: dict[str, Any] = dict(model=model, split=split, images=len(images), accuracy=accuracy)
        report |= dict(input_size=list(images[0][0].shape), parameters=sum(p.numel() for p in net.parameters()))
        report |= dict(sha256=sha256(weights) if weights else None)
        if boxes:
            report["boxes"] = _localisation(net, data_dir, classes, transform, batch_size, workers, target)
            _print_localisation(report["boxes"])
        if grids or removal:
            report |= _faithfulness(
                net, image_loader(images, batch_size, workers), logits, grids, removal, costly, smooth, target
            )
            _print_faithfulness(report)
    except (OSError, ValueError) as error:
        fail(str(error))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _logits(net: Any, loader: "DataLoader[Any]", device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """Of all images, with their labels, on the CPU."""
    import torch
    from tqdm import tqdm

    logits, targets = [], []
    with torch.inference_mode():
        for x, labels in tqdm(loader, desc="accuracy", leave=False, disable=None):
            logits.append(net(x.to(device)).float().cpu())
            targets.append(labels)
    return torch.cat(logits), torch.cat(targets)


# --- the tests of the CoDA-Net paper


def _faithfulness(
    net: Any, loader: "DataLoader[Any]", logits: "Tensor", grids: int, removal: int, costly: int, smooth: int,
    device: "torch.device",
) -> dict[str, Any]:  # fmt: skip
    import torch

    from timm_interpretable.metrics import COSTLY, comparison_methods, grid_report, removal_report
    from timm_interpretable.models import class_probabilities

    parts = list(loader)
    images, labels = (torch.cat([part[i] for part in parts]).to(device) for i in (0, 1))
    methods = {name: _smooth(maps, smooth) for name, maps in comparison_methods(net).items()}
    report: dict[str, Any] = dict(smooth=smooth)
    probs_of = partial(class_probabilities, net)
    if grids:
        counts = {name: min(grids, costly) if name in COSTLY else grids for name in methods}
        report["grids"] = grid_report(_shown(methods, "grids"), images, labels, probs_of(logits), counts)
    if removal:
        for name, maps in methods.items():
            count = min(removal, costly if name in COSTLY else removal, len(images))
            some = torch.arange(count, device=device) * len(images) // count  # of every class
            one = _shown({name: maps}, "removal")
            found = removal_report(one, lambda x: probs_of(net(x)), images[some], labels[some])
            report.setdefault("removal", {}).update(found)
    return report


def _smooth(maps: "MapsOfClasses", size: int) -> "MapsOfClasses":
    from timm_interpretable.metrics import smoothed

    return lambda images, classes: smoothed(maps(images, classes), size) if size > 1 else maps(images, classes)


def _shown(methods: dict[str, Any], what: str) -> dict[str, Any]:
    """The same methods, each with a bar that counts images."""
    from tqdm import tqdm

    def shown(name: str, maps: Any) -> Any:
        bar = tqdm(desc=f"{what}, {name}", unit="image", leave=False, disable=None)

        def counted(images: "Tensor", classes: "Tensor") -> "Tensor":
            found: Tensor = maps(images, classes)
            bar.update(len(images))
            return found

        return counted

    return {name: shown(name, maps) for name, maps in methods.items()}


def _print_faithfulness(report: dict[str, Any]) -> None:
    if "grids" in report:
        typer.echo(f"\n{'3 x 3 grids':<22} {'mean':>7} {'median':>7} {'sem':>7} {'grids':>6}   chance 0.111\n")
        for name, row in report["grids"].items():
            typer.echo(f"{name:<22} {row['mean']:>7.3f} {row['median']:>7.3f} {row['sem']:>7.3f} {row['grids']:>6}")
    if "removal" in report:
        typer.echo(f"\n{'pixel removal':<22} {'area':>7} {'images':>7}\n")
        for name, row in report["removal"].items():
            typer.echo(f"{name:<22} {row['area']:>7.3f} {row['images']:>7}")


# --- the boxes


def _localisation(
    net: Any, data_dir: Path, classes: list[str], transform: Callable[[Any], "Tensor"],
    batch_size: int, workers: int, device: "torch.device",
) -> dict[str, Any]:  # fmt: skip
    from tqdm import tqdm

    from timm_interpretable.metrics import localisation_report

    images, found = open_images(data_dir, "boxed", transform, net)
    if found != classes:
        raise ValueError(f"boxed in {data_dir} has the classes {found}, expected {classes}.")
    masks = box_masks(images, data_dir / "boxed_boxes.csv")
    batches = tqdm(image_loader(images, batch_size, workers), desc="boxes", leave=False, disable=None)
    return localisation_report(net, ((x.to(device), labels.to(device)) for x, labels in batches), masks.to(device))


def _print_localisation(report: dict[str, Any]) -> None:
    typer.echo(f"\n{report['images']} boxed images, true class; chance level (box area) {report['chance']:.3f}\n")
    typer.echo(f"{'map':<12} {'energy':>7} {'pointing':>9}")
    for name, row in report["maps"].items():
        typer.echo(f"{name:<12} {row['energy']:>7.3f} {row['pointing']:>9.3f}")
    if "gradcam_depth_correlation" in report:
        values = " ".join(f"{value:.3f}" for value in report["gradcam_depth_correlation"])
        typer.echo(f"\nGrad-CAM against the class map, first block to last: {values}")
