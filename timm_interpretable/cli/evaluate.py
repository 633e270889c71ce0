"""`timm-interpretable evaluate`: the accuracy of any timm model, and whether its maps look at the object."""

import json
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_model, pick_device
from timm_interpretable.models.weights import sha256

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader

BOX_FRAME = 224  # boxed_boxes.csv is in pixels of the image at this size


class MeanStd(str, Enum):
    imagenet = "imagenet"
    none = "none"


def evaluate(
    data_dir: Annotated[Path, typer.Option(help="Folder with SPLIT.tar, SPLIT-*.tar or SPLIT/, one folder per class.")],
    model: Annotated[str, typer.Option(help="A model of `list`; with --weights any timm model.")] = "facnn_resnet18",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    split: Annotated[str, typer.Option(help="Images that decide the accuracy.")] = "val",
    boxes: Annotated[bool, typer.Option(help="Also localisation on boxed.tar with boxed_boxes.csv.")] = False,
    grids: Annotated[int, typer.Option(min=0, help="Also grid localisation, 3 x 3, on so many grids.")] = 0,
    removal: Annotated[int, typer.Option(min=0, help="Also pixel removal, on so many images, evenly spaced.")] = 0,
    costly: Annotated[int, typer.Option(min=1, help="Grids or images for methods of many passes.")] = 20,
    input_size: Annotated[int | None, typer.Option(help="Side of the input, instead of the model's own.")] = None,
    mean_std: Annotated[MeanStd | None, typer.Option(help="Normalisation, instead of the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
) -> None:
    """Top-1 accuracy of a model on a folder of images; with --boxes, whether its maps look at the object.

    --grids and --removal are the tests of the CoDA-Net paper, for the model's own maps and for other methods.

    Every model sees the whole image, squashed to its input size. What the command line does not say comes from
    config.json or a training run's result.json next to the weights, then from timm.
    """
    if json_file is not None and not json_file.parent.is_dir():
        fail(f"--json {json_file}: there is no folder {json_file.parent}")
    try:
        target = pick_device(device)
        net, settings = _load(model, weights, target)
        transform = _transform(net, settings, input_size, mean_std)
        images, classes = _open(data_dir, split, transform, net)
        logits, labels = _logits(net, _loader(images, batch_size, workers), target)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        typer.echo(f"{model}: top-1 {100 * accuracy:.2f} % of the {len(images)} images of {split}")
        report: dict[str, Any] = dict(model=model, split=split, images=len(images), accuracy=accuracy)
        report |= dict(input_size=list(images[0][0].shape), parameters=sum(p.numel() for p in net.parameters()))
        report |= dict(sha256=sha256(weights) if weights else None)
        if boxes:
            report["boxes"] = _localisation(net, data_dir, classes, transform, batch_size, workers, target)
            _print_localisation(report["boxes"])
        if grids or removal:
            report |= _faithfulness(net, _loader(images, batch_size, workers), logits, grids, removal, costly, target)
            _print_faithfulness(report)
    except (OSError, ValueError) as error:
        fail(str(error))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# --- the model


def _load(name: str, weights: Path | None, device: "torch.device") -> tuple[Any, dict[str, Any]]:
    """The model in evaluation mode, and the settings found next to its weights."""
    if weights is None:
        return load_model(name, device).eval(), {}
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = _settings_beside(weights)
    try:
        state = load_file(weights)
        num_classes = _num_classes(name, state, settings)
        net = timm.create_model(name, num_classes=num_classes, **settings.get("model_args", {}))
        net.load_state_dict(state)
    # an unknown model, shapes or model_args of another one, a broken file
    except (RuntimeError, TypeError, SafetensorError) as error:
        fail(f"{weights} does not load into {name}: {error}")
    return net.to(device).eval(), settings


def _settings_beside(weights: Path) -> dict[str, Any]:
    """num_classes, model_args, input_size, mean, std, as far as a file beside the weights tells; flat."""
    config, result = weights.with_name("config.json"), weights.with_name("result.json")
    if config.is_file():  # timm's layout
        found = json.loads(config.read_text(encoding="utf-8"))
        return {**found.get("pretrained_cfg", {}), **{k: v for k, v in found.items() if k != "pretrained_cfg"}}
    if result.is_file():  # a training run of this package
        recipe = json.loads(result.read_text(encoding="utf-8"))["recipe"]
        return {**recipe, "input_size": [3, recipe["eval_size"], recipe["eval_size"]]}
    return {}


def _num_classes(name: str, state: dict[str, "Tensor"], settings: dict[str, Any]) -> int:
    import timm

    if "num_classes" in settings:
        return int(settings["num_classes"])
    cfg = timm.get_pretrained_cfg(name)
    classifier = f"{cfg.classifier}.weight" if cfg is not None else ""
    if classifier in state:
        return int(state[classifier].shape[0])
    return cfg.num_classes if cfg is not None else 1000


# --- the images


def _transform(
    net: Any, settings: dict[str, Any], input_size: int | None, mean_std: MeanStd | None
) -> Callable[[Any], "Tensor"]:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from timm_interpretable.data.images import squash_transform

    known = {**net.pretrained_cfg, **settings}
    mean, std = known["mean"], known["std"]
    if mean_std is MeanStd.imagenet:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    elif mean_std is MeanStd.none:
        mean, std = (0.0,) * 3, (1.0,) * 3
    height, width = (input_size, input_size) if input_size else known["input_size"][-2:]
    # the whole image, also where timm would crop: boxes are in its coordinates
    return squash_transform((height, width), mean, std)


def _open(data_dir: Path, split: str, transform: Callable[[Any], "Tensor"], net: Any) -> tuple[Any, list[str]]:
    from timm_interpretable.data.datasets import open_split

    images, classes = open_split(data_dir, split, transform)
    if len(classes) != net.num_classes:
        raise ValueError(f"{split} in {data_dir} has {len(classes)} classes, but the model has {net.num_classes}.")
    return images, classes


def _loader(images: Any, batch_size: int, workers: int) -> "DataLoader[Any]":
    from torch.utils.data import DataLoader

    return DataLoader(images, batch_size=batch_size, num_workers=workers)


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
    net: Any, loader: "DataLoader[Any]", logits: "Tensor", grids: int, removal: int, costly: int, device: "torch.device"
) -> dict[str, Any]:
    import torch

    from timm_interpretable.metrics import COSTLY, comparison_methods, grid_report, removal_report

    parts = list(loader)
    images, labels = (torch.cat([part[i] for part in parts]).to(device) for i in (0, 1))
    methods, report = comparison_methods(net), {}
    # a CoDA-Net is trained with one binary cross-entropy per class
    probs_of = torch.sigmoid if hasattr(net, "dynamic_weights") else partial(torch.softmax, dim=1)
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

    images, found = _open(data_dir, "boxed", transform, net)
    if found != classes:
        raise ValueError(f"boxed in {data_dir} has the classes {found}, expected {classes}.")
    masks = _masks(images, data_dir / "boxed_boxes.csv")
    batches = tqdm(_loader(images, batch_size, workers), desc="boxes", leave=False, disable=None)
    return localisation_report(net, ((x.to(device), labels.to(device)) for x, labels in batches), masks.to(device))


def _masks(images: Any, file: Path) -> "Tensor":
    """The boxes of every image in the order of the data set, bool `(N, BOX_FRAME, BOX_FRAME)`."""
    import torch

    from timm_interpretable.data.boxes import box_mask, load_boxes

    boxes = load_boxes(file)
    shards = getattr(images, "datasets", [images])
    names = [name for shard in shards for name in shard.filenames()]
    without = [name for name in names if name not in boxes]
    if without:
        raise ValueError(f"{file} has no box for {len(without)} of {len(names)} images, e.g. {without[0]}.")
    return torch.stack([box_mask(boxes[name], BOX_FRAME, BOX_FRAME) for name in names])


def _print_localisation(report: dict[str, Any]) -> None:
    typer.echo(f"\n{report['images']} boxed images, true class; chance level (box area) {report['chance']:.3f}\n")
    typer.echo(f"{'map':<12} {'energy':>7} {'pointing':>9}")
    for name, row in report["maps"].items():
        typer.echo(f"{name:<12} {row['energy']:>7.3f} {row['pointing']:>9.3f}")
    if "gradcam_depth_correlation" in report:
        values = " ".join(f"{value:.3f}" for value in report["gradcam_depth_correlation"])
        typer.echo(f"\nGrad-CAM against the class map, first block to last: {values}")
