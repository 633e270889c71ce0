"""How accurate and how calibrated are the released classifiers at sizes that they were not trained for?

python -m tools.sizes MODEL... --data-dir DIR --split val
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from timm_interpretable.cli.common import (
    evenly_spaced,
    fail,
    image_loader,
    load_any,
    normalisation,
    open_images,
    pick_device,
)
from timm_interpretable.cli.evaluate import logits_of
from timm_interpretable.data.images import squash_transform
from timm_interpretable.models import class_probabilities
from timm_interpretable.models.weights import released
from timm_interpretable.results import provenance

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "sizes.json"
TIMES = (0.5, 1, 1.5, 2, 3)
_BINS = 15


def sizes(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Released classifiers of the same data.")],
    data_dir: Annotated[Path, typer.Option(help="Folder with the images.")],
    split: Annotated[str, typer.Option(help="Which of them.")],
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced.")] = 250,
    out: Annotated[Path, typer.Option(help="A JSON file; models that it has and that are not named stay.")] = RESULTS,
) -> None:
    """Accuracy, calibration error and mean logit of the true class at multiples of the native size."""
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    unknown = [name for name in models if name not in released()]
    if unknown:
        fail(f"{', '.join(unknown)}: no released model; expected some of {', '.join(released())}")
    device = pick_device("cpu")
    for name in models:
        net = load_any(name, None, device)
        side = int(net.pretrained_cfg["input_size"][-1])
        rows = []
        for times in tqdm(TIMES, desc=name, disable=None):
            size = round(times * side)
            shown = open_images(data_dir, split, squash_transform((size, size), *normalisation(net)), net)
            chosen = Subset(shown, evenly_spaced(min(images, len(shown)), len(shown)))
            rows.append(
                dict(times=times, size=size, **scores(net, *logits_of(net, image_loader(chosen, 10, 0), device)))
            )
        about = dict(split=split, images=len(chosen), sha256=released()[name])
        found[name] = about | dict(rows=rows, **provenance(0, device, "python -m tools.sizes"))
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def scores(net: Any, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy; expected calibration error of the predicted class; mean logit of the true class."""
    confidence, predicted = class_probabilities(net, logits).max(1)
    right = predicted == labels
    return dict(
        accuracy=right.float().mean().item(),
        calibration_error=calibration_error(confidence, right),
        true_logit=logits.gather(1, labels[:, None]).mean().item(),
    )


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Mean distance between confidence and accuracy over 15 bins of equal width, weighted by how many fall into each.

    Source: `On Calibration of Modern Neural Networks` (Chuan Guo et al.) - https://arxiv.org/abs/1706.04599, eq. 3.

    Args:
        confidence: probabilities of the predicted classes, `(N,)`.
        right: whether they are the true ones, bool `(N,)`.
    """
    bins = (confidence * _BINS).ceil().clamp(1, _BINS).long() - 1
    gaps = torch.zeros(_BINS, dtype=torch.float64).scatter_add_(0, bins, confidence.double() - right.double())
    return gaps.abs().sum().item() / len(confidence)


if __name__ == "__main__":
    typer.run(sizes)
