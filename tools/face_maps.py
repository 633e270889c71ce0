"""How good the maps of a face model are: deletion, insertion and change of similarity, method by method

    python -m tools.face_maps --data-dir DIR

writes `docs/results/faces_<arch>.<tag>.json`, from which `tools.release` takes the table of the card.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from timm_interpretable.attr.faces import face_methods
from timm_interpretable.benchmark.faces import verification_report
from timm_interpretable.cli.common import described_model, fail, load_any, pick_device
from timm_interpretable.data.faces import ORL_VERIFICATION, load_people
from timm_interpretable.data.images import eval_transform
from timm_interpretable.metrics import all_pairs, equal_error_rate
from timm_interpretable.results import provenance
from tools.release.benchmarks import RESULTS
from tools.release.face_cards import maps_table


def face_maps(
    data_dir: Annotated[Path, typer.Option(help="Folder with the ORL faces: faces.tar or faces/, folders s1 to s40.")],
    model: Annotated[str, typer.Option(help="A face model of `list`.")] = "face_resnet10",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Genuine pairs to explain, and as many impostor pairs.")] = 50,
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of FAME.")] = 100,
    n_masks: Annotated[int, typer.Option("--masks", min=2, help="Masks of CorrRISE.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the pairs, the masks, and the order of equal values.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Deletion and insertion by the maps of some pairs of s31 to s40, who are not in the training pictures.

    The threshold of all curves is that of the equal-error rate over all pairs.
    """
    target = pick_device(device)
    net = load_any(model, weights, target)
    if net.num_classes:
        fail(f"model {model!r} is a classifier, expected one of faces, such as face_resnet10")
    if not out.is_dir():
        fail(f"--out {out}: there is no such folder")
    try:
        pictures, people = load_people(data_dir, ORL_VERIFICATION)
    except (OSError, ValueError) as error:
        fail(str(error))
    transform = eval_transform(net)
    images = torch.stack([transform(picture) for picture in pictures]).to(target)
    about = described_model(model, weights, net)
    report: dict[str, Any] = dict(
        model=about["name"], sha256=about["sha256"], fame_steps=n_steps, corrrise_masks=n_masks
    )
    report |= measured(net, images, people, pairs, n_steps, n_masks, seed, batch_size)
    report |= provenance(seed, target, "python -m tools.face_maps")
    file = out / f"faces_{about['name']}.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"{maps_table(report['maps'])}\n\nwritten to {file}")


def measured(
    net: Any, images: Tensor, people: Tensor, pairs: int, n_steps: int, n_masks: int, seed: int, batch_size: int
) -> dict[str, Any]:
    """`pairs` (genuine and impostor, how many), `threshold`, and `maps`, the report of every method."""
    with torch.inference_mode():
        embeddings = F.normalize(torch.cat([net(part).float().cpu() for part in images.split(batch_size)]))
    first, second, genuine = all_pairs(people)
    threshold = equal_error_rate((embeddings @ embeddings.T)[first, second], genuine).threshold
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for kind in (genuine, ~genuine):
        indices = kind.nonzero()[:, 0]
        chosen.append(indices[torch.randperm(len(indices), generator=generator)[:pairs]])
    few = torch.cat(chosen)
    probes, references, same = images[first[few]], embeddings[second[few]].to(images), genuine[few].to(images.device)
    methods = face_methods(net, n_steps, n_masks, seed, batch_size)
    maps = verification_report(net, methods, probes, references, same, threshold, seed, batch_size)
    return dict(pairs=[len(part) for part in chosen], threshold=threshold, maps=maps)


if __name__ == "__main__":
    typer.run(face_maps)
