"""`timm-interpretable evaluate`: how often a classifier is right, or how often a face model mistakes people."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import (
    MeanStd,
    described_model,
    fail,
    image_loader,
    load_any,
    open_images,
    pick_device,
    whole_image,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader


def evaluate(
    data_dir: Annotated[
        Path,
        typer.Option(help="Folder with SPLIT.tar, SPLIT-*.tar or SPLIT/, one folder per class; or with faces.tar."),
    ],
    model: Annotated[str, typer.Option(help="A model of `list`; with --weights any timm model.")] = "facnn_resnet18",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    split: Annotated[str, typer.Option(help="Images that decide the accuracy.")] = "val",
    input_size: Annotated[int | None, typer.Option(help="Side of the input, instead of the model's own.")] = None,
    mean_std: Annotated[MeanStd | None, typer.Option(help="Normalisation, instead of the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
) -> None:
    """Top-1 accuracy of a classifier, or the equal-error rate of a face model.

    Class folders are matched to the model's classes by WordNet id, label or description. Every classifier sees the
    whole image, squashed to its input size. What the command line does not say comes from config.json or a training
    run's result.json next to the weights, then from timm.

    A face model is measured on all pairs of the people s31 to s40 of the ORL faces, who are not in its training
    pictures; --split, --input-size and --mean-std are not for it.
    """
    if json_file is not None and not json_file.parent.is_dir():
        fail(f"--json {json_file}: there is no folder {json_file.parent}")
    target = pick_device(device)
    net = load_any(model, weights, target)
    try:
        if net.num_classes:
            report = _accuracy(net, data_dir, split, input_size, mean_std, batch_size, workers, target)
            lines = [f"top-1 {100 * report['accuracy']:.2f} % of the {report['images']} images of {split}"]
        elif (split, input_size, mean_std) == ("val", None, None):
            report = _equal_error(net, data_dir, batch_size, target)
            lines = _error_lines(report)
        else:
            raise ValueError(f"{model} is a face model; leave --split, --input-size and --mean-std out")
    except (OSError, ValueError) as error:
        fail(str(error))
    typer.echo("\n".join([f"{model}: {lines[0]}", *lines[1:]]))
    if json_file is not None:
        about = dict(model=model, sha256=described_model(model, weights, net)["sha256"])
        report = about | report | dict(parameters=sum(p.numel() for p in net.parameters()))
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _accuracy(
    net: Any, data_dir: Path, split: str, input_size: int | None, mean_std: MeanStd | None, batch_size: int,
    workers: int, device: "torch.device",
) -> dict[str, Any]:  # fmt: skip
    images = open_images(data_dir, split, whole_image(net, input_size, mean_std), net)
    logits, labels = logits_of(net, image_loader(images, batch_size, workers), device)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return dict(split=split, images=len(images), accuracy=accuracy, input_size=list(images[0][0].shape))


def logits_of(net: Any, loader: "DataLoader[Any]", device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """Of all images, with their labels, on the CPU."""
    import torch
    from tqdm import tqdm

    logits, targets = [], []
    with torch.inference_mode():
        for x, labels in tqdm(loader, desc="accuracy", leave=False, disable=None):
            logits.append(net(x.to(device)).float().cpu())
            targets.append(labels)
    return torch.cat(logits), torch.cat(targets)


def _equal_error(net: Any, data_dir: Path, batch_size: int, device: "torch.device") -> dict[str, Any]:
    """Of the model, and of what needs no training: the same network with random weights, and the pixels themselves."""
    import timm
    import torch
    import torch.nn.functional as F

    from timm_interpretable.data.faces import ORL_VERIFICATION, load_people
    from timm_interpretable.data.images import eval_transform
    from timm_interpretable.metrics import all_pairs, equal_error_rate

    pictures, people = load_people(data_dir, ORL_VERIFICATION)
    transform = eval_transform(net)
    images = torch.stack([transform(picture) for picture in pictures])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = timm.create_model(net.pretrained_cfg["architecture"]).eval().to(device)
    features = {
        "model": _features(net, images, batch_size, device),
        "same network, untrained": _features(untrained, images, batch_size, device),
        "pixels": images.flatten(1),
        "pixels less their mean": images.flatten(1) - images.flatten(1).mean(1, keepdim=True),
    }
    first, second, genuine = all_pairs(people)
    units = {name: F.normalize(one) for name, one in features.items()}
    errors = {name: equal_error_rate((unit @ unit.T)[first, second], genuine) for name, unit in units.items()}
    return dict(
        split=f"{ORL_VERIFICATION[0]}-{ORL_VERIFICATION[-1]}", images=len(images), input_size=list(images.shape[1:]),
        eer={name: error.rate for name, error in errors.items()}, threshold=errors["model"].threshold,
        genuine_pairs=int(genuine.sum()), impostor_pairs=int((~genuine).sum()),
    )  # fmt: skip


def _features(net: Any, images: "Tensor", batch_size: int, device: "torch.device") -> "Tensor":
    """Embeddings, on the CPU."""
    import torch

    with torch.inference_mode():
        return torch.cat([net(part.to(device)).float().cpu() for part in images.split(batch_size)])


def _error_lines(report: dict[str, Any]) -> list[str]:
    others = ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in report["eer"].items() if name != "model")
    return [
        f"equal-error rate {100 * report['eer']['model']:.2f} % at a cosine of {report['threshold']:.3f}, all pairs of "
        f"{report['images']} pictures of {report['split']} ({report['genuine_pairs']} genuine, "
        f"{report['impostor_pairs']} impostor)",
        f"for comparison: {others}",
    ]
