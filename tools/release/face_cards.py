"""The model card of a face embedding network, from its training run and `evaluate-faces --json`."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from timm.models._hub import save_config_for_hf

from tools.release.cards import Trained, _record_hash, evaluated_model
from timm_interpretable.models.weights import CARD_FOLDERS


def write_face_card(name: str, trained: Trained, folder: Path, baseline: Trained | None = None) -> None:
    """Fill `folder` with the released face model `arch.tag`, as `write_card` does for classifiers.

    Raises:
        ValueError: the model was evaluated on other pictures than the baseline, or at another size than its own.
    """
    model, evaluation = evaluated_model(name, trained, baseline, "pictures"), trained.evaluation
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained.weights, folder / "model.safetensors")
    verification = dict(equal_error_rate=evaluation["eer"]["model"], threshold=evaluation["threshold"])
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config=dict(verification=verification),
        model_args=dict(num_classes=0, in_chans=1),
    )
    data = ModelCardData(
        model_name=name,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        license="apache-2.0",
        tags=["timm", "interpretability", "explainability", "captum", "face-verification"],
    )
    template = (resources.files(__package__) / "face_card_template.md").read_text(encoding="utf-8")
    ModelCard.from_template(data, template_str=template, **_values(name, trained, baseline)).save(folder / "README.md")
    if folder.resolve().parent in CARD_FOLDERS:
        _record_hash(name, folder / "model.safetensors")


def _values(name: str, trained: Trained, baseline: Trained | None) -> dict[str, Any]:
    """What the template needs, formatted."""
    evaluation, result = trained.evaluation, trained.result
    notes = resources.files(__package__) / "notes" / f"{name}.md"
    explained = ""
    if "maps" in evaluation:
        genuine, impostor = evaluation["pairs"]
        explained = (
            f"{genuine} genuine and {impostor} impostor pairs of the verification, FAME with "
            f"{evaluation['fame_steps']} steps, CorrRISE with {evaluation['corrrise_masks']} masks (Spearman):"
        )
    return dict(
        name=name,
        size="{2} x {1}".format(*evaluation["input_size"]),
        threshold=f"{evaluation['threshold']:.3f}",
        eer={key: _percent(rate) for key, rate in evaluation["eer"].items()},
        parameters=f"{evaluation['parameters'] / 1e6:.2f} M",
        images=evaluation["images"],
        pairs=f"{evaluation['genuine_pairs'] + evaluation['impostor_pairs']:,}",
        baseline=dict(eer=_percent(baseline.evaluation["eer"]["model"]), **_cost(baseline)) if baseline else None,
        **_cost(trained),
        explained=explained,
        maps=_maps(evaluation.get("maps")),
        command=evaluation["command"],
        hardware_maps=evaluation["hardware"],
        versions_maps=", ".join(f"{package} {version}" for package, version in evaluation["versions"].items()),
        commands=[
            f"timm-interpretable train {run.result['recipe']['name']} --data-dir DIR"
            for run in (trained, baseline)
            if run is not None
        ],
        training=_training(result["recipe"], result["pictures"]),
        hardware=result["hardware"],
        versions=f"torch {result['torch']}, timm {result['timm']}",
        notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _cost(run: Trained) -> dict[str, Any]:
    return dict(epochs=run.result["recipe"]["epochs"], cpu_minutes=f"{run.result['cpu_minutes']:.1f}")


def _training(recipe: dict[str, Any], pictures: int) -> str:
    loss = f"CosFace (margin {recipe['margin']:g}, scale {recipe['scale']:g})"
    return (
        f"{pictures} pictures; {loss}, {recipe['opt']}, learning rate {recipe['lr']:g} with "
        f"{recipe['warmup_epochs']:g} warm-up epochs and cosine decay, weight decay {recipe['weight_decay']:g}, batch "
        f"{recipe['batch_size']}, averaged weights ({recipe['ema_decay']:g}), fp32; random resized crops of "
        f"{100 * recipe['crop'][0]:.0f} to {100 * recipe['crop'][1]:.0f} % of the area, mirrored with probability "
        f"{recipe['hflip']:g}, brightness and contrast {recipe['jitter']:g}, a black rectangle with probability "
        f"{recipe['erasing']:g}; seed {recipe['seed']}."
    )


def _maps(report: dict[str, dict[str, Any]] | None) -> str:
    """A Markdown table, or nothing where no maps were evaluated."""
    if report is None:
        return ""
    # no times: they are those of the machine and of what else it did
    columns = (
        "method", "deletion", "insertion", "deletion, strict", "insertion, strict", "change e+", "change e-", "empty",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in report.items():
        places = [(rule, kind) for rule in ("ties", "strict") for kind in ("deletion", "insertion")]
        areas = " | ".join(f"{row[rule][kind]:.2f}" for rule, kind in places)
        change = " | ".join(
            f"{row['change'][part]['genuine']:+.3f}, {row['change'][part]['impostor']:+.3f}"
            for part in ("similar", "dissimilar")
        )
        empty = "{genuine}, {impostor}".format(**row["empty"]["similar"])
        lines.append(f"| {name} | {areas} | {change} | {empty} |")
    return "\n".join(lines)
