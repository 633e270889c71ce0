"""The model card of a face embedding network, from its training run, `evaluate --json` and `tools.face_maps`"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from tools.release.benchmarks import RESULTS
from tools.release.training import Release, Trained


def face_card(name: str, release: Release, folder: Path) -> tuple[ModelCardData, str, dict[str, Any]]:
    """Front matter, template, and what the template needs, formatted."""
    model, baseline = release.model, release.baseline
    evaluation, result = model.evaluation, model.result
    data = ModelCardData(
        model_name=name,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        license="apache-2.0",
        tags=["timm", "interpretability", "explainability", "captum", "face-verification"],
    )
    values = dict(
        size="{2} x {1}".format(*evaluation["input_size"]),
        threshold=f"{evaluation['threshold']:.3f}",
        eer={key: _percent(rate) for key, rate in evaluation["eer"].items()},
        parameters=f"{evaluation['parameters'] / 1e6:.2f} M",
        images=evaluation["images"],
        pairs=f"{evaluation['genuine_pairs'] + evaluation['impostor_pairs']:,}",
        baseline=dict(eer=_percent(baseline.evaluation["eer"]["model"]), **_cost(baseline)) if baseline else None,
        **_cost(model),
        maps=_maps(name, evaluation["sha256"]),
        commands=[*model.commands, *(baseline.commands if baseline else [])],
        training=_settings(result["recipe"], result["pictures"]),
        hardware=result["hardware"],
        versions=f"torch {result['torch']}, timm {result['timm']}",
    )
    return data, "face_card_template.md", values


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _cost(run: Trained) -> dict[str, Any]:
    return dict(epochs=run.result["recipe"]["epochs"], cpu_minutes=f"{run.result['cpu_minutes']:.1f}")


def _settings(recipe: dict[str, Any], pictures: int) -> str:
    return (
        f"{pictures} pictures; CosFace (margin {recipe['margin']:g}, scale {recipe['scale']:g}), {recipe['opt']}, "
        f"learning rate {recipe['lr']:g} with {recipe['warmup_epochs']:g} warm-up epochs and cosine decay, weight "
        f"decay {recipe['weight_decay']:g}, batch {recipe['batch_size']}, averaged weights ({recipe['ema_decay']:g}), "
        f"fp32; random resized crops of {100 * recipe['crop'][0]:.0f} to {100 * recipe['crop'][1]:.0f} % of the area, "
        f"mirrored with probability {recipe['hflip']:g}, brightness and contrast {recipe['jitter']:g}, a black "
        f"rectangle with probability {recipe['erasing']:g}; seed {recipe['seed']}."
    )


def _maps(name: str, digest: str) -> dict[str, Any] | None:
    """What `docs/results/faces_<name>.json` says of these weights; None where nobody measured their maps."""
    file = RESULTS / f"faces_{name}.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if report.get("sha256") != digest:
        return None
    genuine, impostor = report["pairs"]
    return dict(
        genuine=genuine, impostor=impostor, steps=report["fame_steps"], masks=report["corrrise_masks"],
        command=report["command"], hardware=report["hardware"], table=maps_table(report["maps"]),
        versions=", ".join(f"{package} {version}" for package, version in report["versions"].items()),
    )  # fmt: skip


def maps_table(maps: dict[str, dict[str, Any]]) -> str:
    """Markdown, one row per method; without times, which are those of the machine and of what else it did."""
    columns = (
        "method", "deletion ↓", "insertion ↑", "deletion, strict ↓", "insertion, strict ↑", "change e+", "change e-",
        "empty",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in maps.items():
        places = [(rule, kind) for rule in ("ties", "strict") for kind in ("deletion", "insertion")]
        areas = " | ".join(f"{row[rule][kind]:.2f}" for rule, kind in places)
        change = " | ".join(
            f"{row['change'][part]['genuine']:+.3f}, {row['change'][part]['impostor']:+.3f}"
            for part in ("similar", "dissimilar")
        )
        empty = "{genuine}, {impostor}".format(**row["empty"]["similar"])
        lines.append(f"| {name} | {areas} | {change} | {empty} |")
    return "\n".join(lines)
