"""`timm-interpretable evaluate-faces`: the equal-error rate of an embedding network, and how good its face maps are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_embedder, pick_device
from timm_interpretable.models.weights import sha256
from timm_interpretable.results import provenance

if TYPE_CHECKING:
    from torch import Tensor


def evaluate_faces(
    data_dir: Annotated[Path, typer.Option(help="Folder with the ORL faces: faces.tar or faces/, folders s1 to s40.")],
    model: Annotated[str, typer.Option(help="A face model of `list`.")] = "face_resnet10",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released weights.")] = None,
    pairs: Annotated[int, typer.Option(min=0, help="Genuine pairs to explain, and as many impostor pairs.")] = 50,
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of FAME.")] = 100,
    n_masks: Annotated[int, typer.Option("--masks", min=2, help="Masks of CorrRISE.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the pairs, the masks, and the order of equal values.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
) -> None:
    """Equal-error rate over all pairs of s31 to s40, and deletion and insertion by the maps of some of them.

    Nobody of s31 to s40 is in the training pictures. The threshold of all curves is that of the equal-error rate.
    """
    if json_file is not None and not json_file.parent.is_dir():
        fail(f"--json {json_file}: there is no folder {json_file.parent}")
    import torch

    target = pick_device(device)
    net, file = load_embedder(model, target, weights)
    try:
        images, people = _open(data_dir, net)
    except (OSError, ValueError) as error:
        fail(str(error))
    with torch.inference_mode():
        embeddings = _embed(net, images.to(target), batch_size)
    report: dict[str, Any] = dict(model=model, split="s31-s40", images=len(images), input_size=list(images.shape[1:]))
    report |= dict(parameters=sum(p.numel() for p in net.parameters()), sha256=sha256(file) if file else None)
    report |= _errors(embeddings, images, people, _untrained(model, images, seed, batch_size))
    _print_errors(report)
    if pairs:
        report |= _explain(
            net, images, embeddings, people, report["threshold"], pairs, n_steps, n_masks, seed, batch_size
        )
        _print_maps(report)
    if json_file is not None:
        report |= provenance(seed, target)
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _open(data_dir: Path, net: Any) -> tuple["Tensor", "Tensor"]:
    import torch

    from timm_interpretable.data.faces import ORL_VERIFICATION, load_people
    from timm_interpretable.data.images import eval_transform

    pictures, people = load_people(data_dir, ORL_VERIFICATION)
    transform = eval_transform(net)
    return torch.stack([transform(picture) for picture in pictures]), people


def _embed(net: Any, images: "Tensor", batch_size: int) -> "Tensor":
    """Unit vectors, on the CPU."""
    import torch
    import torch.nn.functional as F

    return F.normalize(torch.cat([net(part).float().cpu() for part in images.split(batch_size)]))


def _untrained(model: str, images: "Tensor", seed: int, batch_size: int) -> "Tensor":
    import timm
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        return _embed(timm.create_model(model).eval(), images, batch_size)


# --- errors


def _errors(embeddings: "Tensor", images: "Tensor", people: "Tensor", untrained: "Tensor") -> dict[str, Any]:
    import torch.nn.functional as F

    from timm_interpretable.metrics import all_pairs, equal_error_rate

    first, second, genuine = all_pairs(people)
    rows = {
        "model": embeddings,
        "same network, untrained": untrained,
        "pixels": F.normalize(images.flatten(1)),
        "pixels less their mean": F.normalize(images.flatten(1) - images.flatten(1).mean(1, keepdim=True)),
    }
    errors = {name: equal_error_rate((unit[first] * unit[second]).sum(1), genuine) for name, unit in rows.items()}
    eer = {name: error.rate for name, error in errors.items()}
    counts = dict(genuine_pairs=int(genuine.sum()), impostor_pairs=int((~genuine).sum()))
    return dict(eer=eer, threshold=errors["model"].threshold, **counts)


def _print_errors(report: dict[str, Any]) -> None:
    typer.echo(
        f"{report['model']}: equal-error rate {100 * report['eer']['model']:.2f} % at a cosine of "
        f"{report['threshold']:.3f}, all pairs of {report['images']} pictures of {report['split']} "
        f"({report['genuine_pairs']} genuine, {report['impostor_pairs']} impostor)"
    )
    others = ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in report["eer"].items() if name != "model")
    typer.echo(f"for comparison: {others}")


# --- maps


def _explain(
    net: Any, images: "Tensor", embeddings: "Tensor", people: "Tensor", threshold: float, pairs: int, n_steps: int,
    n_masks: int, seed: int, batch_size: int,
) -> dict[str, Any]:  # fmt: skip
    import torch

    from timm_interpretable.metrics import all_pairs, face_methods, verification_report

    first, second, genuine = all_pairs(people)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for kind in (genuine, ~genuine):
        indices = kind.nonzero()[:, 0]
        chosen.append(indices[torch.randperm(len(indices), generator=generator)[:pairs]])
    few = torch.cat(chosen)
    device = next(net.parameters()).device
    probes, references, same = (t.to(device) for t in (images[first[few]], embeddings[second[few]], genuine[few]))
    methods = face_methods(net, n_steps, n_masks, seed, batch_size, show_progress=True)
    maps = verification_report(net, methods, probes, references, same, threshold, seed, batch_size)
    return dict(pairs=[len(part) for part in chosen], fame_steps=n_steps, corrrise_masks=n_masks, maps=maps)


def _print_maps(report: dict[str, Any]) -> None:
    genuine, impostor = report["pairs"]
    typer.echo(
        f"\n{genuine} genuine and {impostor} impostor pairs; area x 100 of the accuracy while the similar parts (e+) "
        "of one picture\ngo (deletion, lower is better) or come (insertion, higher is better); ties as in the paper, "
        "and strict;\nchange of the cosine where the top fifth of e+ and e- is black, genuine / impostor\n"
    )
    typer.echo(
        f"{'method':<10} {'deletion':>9} {'insertion':>9} {'del. strict':>12} {'ins. strict':>12} "
        f"{'change e+':>16} {'change e-':>16} {'empty e+':>9} {'s/pair':>7}"
    )
    for name, row in report["maps"].items():
        ties, strict = row["ties"], row["strict"]
        change = {part: f"{kinds['genuine']:+.3f}/{kinds['impostor']:+.3f}" for part, kinds in row["change"].items()}
        empty = "/".join(str(count) for count in row["empty"]["similar"].values())
        typer.echo(
            f"{name:<10} {ties['deletion']:>9.2f} {ties['insertion']:>9.2f} {strict['deletion']:>12.2f} "
            f"{strict['insertion']:>12.2f} {change['similar']:>16} {change['dissimilar']:>16} {empty:>9} "
            f"{row['seconds']:>7.3f}"
        )
