"""Write `hub_cards/<arch>.<tag>/` from a training run: weights, `config.json`, model card."""

import json
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models._hub import save_config_for_hf

from tools.release.sections import closing_sections, kind_of, use_section
from timm_interpretable.models.weights import CARD_FOLDERS, RELEASED_FILE, released, sha256

# dataset of a tag: id on the Hub, name, what our numbers were measured on, caveat
DATASETS = {
    "imagenette": dict(
        id="frgfm/imagenette",
        name="Imagenette",
        split="3,791-image val",
        caveat="224 x 224 copies, squashed to square. Not the standard split: the 250 validation images that have "
        "bounding boxes were taken out of it. ImageNet's "
        "terms apply to the images: non-commercial research and education.",
    ),
    "cifar10": dict(
        id="uoft-cs/cifar10",
        name="CIFAR-10, JPEG q75 copy",
        split="10,000-image test",
        caveat="a JPEG quality-75 (4:2:0) copy of CIFAR-10 (Krizhevsky, 2009), about 30 dB PSNR against the originals: "
        "accuracies are not strictly comparable to published ones.",
    ),
}


# grid localisation and pixel removal of the authors' S-CoDA-SQ with T = 1000, from their result files
_PUBLISHED = {
    "coda_net_s.cifar10": {
        "contributions": (".912", ".964"), "Grad-CAM": (".726", ".877"), "occlusion 9": (".842", ".957"),
        "occlusion 5": (".564", ".959"), "integrated gradients": (".155", ".574"), "input x gradient": (".144", ".562"),
    }
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A finished training run and the evaluation of its weights."""

    weights: Path
    result: dict[str, Any]
    evaluation: dict[str, Any]

    @classmethod
    def load(cls, run: Path, evaluation: Path) -> "Trained":
        """From the folder that `train` filled and the file that `evaluate --json` wrote.

        Raises:
            FileNotFoundError: the run is not complete, or there is no evaluation.
            ValueError: the evaluation is of other weights.
        """
        if not (run / "result.json").is_file():
            raise FileNotFoundError(f"{run} has no result.json; expected a run that was trained to its end.")
        weights = run / "model.safetensors"
        report = json.loads(evaluation.read_text(encoding="utf-8"))
        if report["sha256"] != sha256(weights):
            raise ValueError(f"{evaluation} is not of the weights in {run}.")
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        return cls(weights, result, report)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """`result.json` of every run that led to the weights, first to last."""
        runs = [self.result]
        while (previous := runs[0].get("previous")) is not None:
            runs.insert(0, previous)
        return runs


def write_card(name: str, trained: Trained, folder: Path, baseline: Trained | None = None) -> None:
    """Fill `folder` with the released model `arch.tag`.

    In the package's own `hub_cards/<name>` also record the hash of the weights, which `pretrained=True` checks.

    Raises:
        ValueError: the model was evaluated on other images than the baseline, or at another size than its own.
    """
    model, evaluation = evaluated_model(name, trained, baseline), trained.evaluation
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained.weights, folder / "model.safetensors")
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config=dict(label_names=list(model.pretrained_cfg["label_names"])),
        model_args=dict(model.pretrained_model_args),
    )
    card = ModelCard.from_template(
        _card_data(name, evaluation),
        template_str=(resources.files(__package__) / "card_template.md").read_text(encoding="utf-8"),
        **_values(name, trained, baseline),
    )
    card.save(folder / "README.md")
    if folder.resolve().parent in CARD_FOLDERS:
        _record_hash(name, folder / "model.safetensors")


def evaluated_model(name: str, trained: Trained, baseline: Trained | None, images: str = "images") -> Any:
    """The model `arch.tag`, after a look at whether the evaluations are of it, and comparable.

    Args:
        images: what to call them in an error.

    Raises:
        ValueError: the model was evaluated on other images than the baseline, or at another size than its own.
    """
    model, evaluation = timm.create_model(name), trained.evaluation
    if tuple(evaluation["input_size"]) != model.pretrained_cfg["input_size"]:
        raise ValueError(
            f"{name} was evaluated at {evaluation['input_size']}, expected its {model.pretrained_cfg['input_size']}."
        )
    if baseline and any(evaluation[key] != baseline.evaluation[key] for key in ("split", "images")):
        raise ValueError(f"{name} and its baseline were evaluated on different {images}.")
    return model


def _card_data(name: str, evaluation: dict[str, Any]) -> ModelCardData:
    dataset = DATASETS[name.split(".")[1]]
    return ModelCardData(
        model_name=name,
        library_name="timm",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["timm", "interpretability", "explainability", "captum"],
        datasets=[dataset["id"]],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset["id"],
                dataset_name=f"{dataset['name']} ({dataset['split']})",
                metric_type="accuracy",
                metric_value=round(100 * evaluation["accuracy"], 2),
                metric_name="top-1 accuracy",
            )
        ],
    )


def _values(name: str, trained: Trained, baseline: Trained | None) -> dict[str, Any]:
    """What the template needs, formatted."""
    tag = name.split(".")[1]
    notes = resources.files(__package__) / "notes" / f"{name}.md"
    return dict(
        name=name,
        tag=tag,
        **kind_of(name),
        use=use_section(name, picture=False),
        closing=closing_sections(name),
        dataset=DATASETS[tag]["name"],
        caveat=DATASETS[tag]["caveat"],
        split=DATASETS[tag]["split"],
        split_name=trained.evaluation["split"],
        model=_row(trained),
        baseline=_row(baseline) if baseline else None,
        commands=_commands(trained) + (_commands(baseline) if baseline else []),
        difference=_difference(name, trained, baseline),
        training=_training(trained),
        baseline_training=_training(baseline) if baseline else None,
        hardware=trained.result["hardware"],
        versions=f"torch {trained.result['torch']}, timm {trained.result['timm']}",
        boxed=trained.evaluation.get("boxes", {}).get("images"),
        localisation=_localisation(trained.evaluation, baseline.evaluation if baseline else {}),
        grids=_grids(trained.evaluation.get("grids"), _PUBLISHED.get(name, {})),
        removal=_removal(trained.evaluation.get("removal"), _PUBLISHED.get(name, {})),
        notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
    )


def _row(trained: Trained) -> dict[str, Any]:
    runs, evaluation = trained.runs, trained.evaluation
    return dict(
        model=runs[-1]["recipe"]["model"],
        accuracy=f"{100 * evaluation['accuracy']:.2f} %",
        size="{} x {}".format(*evaluation["input_size"][1:]),
        parameters=f"{evaluation['parameters'] / 1e6:.2f} M",
        epochs=" + ".join(str(run["recipe"]["epochs"]) for run in runs),
        cpu_minutes=" + ".join(f"{run['cpu_minutes']:.0f}" for run in runs),
    )


def _difference(name: str, trained: Trained, baseline: Trained | None) -> str:
    if baseline is None:
        return "It is a baseline itself." if kind_of(name)["baseline_net"] else "No baseline was trained for this card."
    points = 100 * (trained.evaluation["accuracy"] - baseline.evaluation["accuracy"])
    return f"Difference: {points:+.2f} points, one seed each."


def _commands(trained: Trained) -> list[str]:
    """The command of every run."""
    commands = []
    for run in trained.runs:
        recipe = run["recipe"]
        start = f" --initial runs/{recipe['follows']}/model.safetensors" if recipe.get("follows") else ""
        compile = " --compile" if run.get("compile") else ""
        commands.append(f"timm-interpretable train {recipe['name']} --data-dir DIR{start}{compile}")
    return commands


def _training(trained: Trained) -> str:
    return "; then ".join(_settings(run["recipe"]) for run in trained.runs)


def _settings(recipe: dict[str, Any]) -> str:
    sizes = ", ".join(f"{size} px from epoch {start + 1}" for start, size in recipe["sizes"])
    loss = {"ce": "cross-entropy", "bce": "binary cross-entropy"}[recipe["loss"]]
    if recipe.get("anneal"):
        factor, end = recipe["anneal"]
        loss += f" (logits less their bias {factor:g} times as large at first, themselves after {end:.0%} of the run)"
    return (
        f"{recipe['opt']}, learning rate {recipe['lr']:g} with {recipe['warmup_epochs']:g} warm-up epochs and cosine "
        f"decay, weight decay {recipe['weight_decay']:g}, batch {recipe['batch_size']}, {loss}, label smoothing "
        f"{recipe['smoothing']:g}, averaged weights ({recipe['ema_decay']:g}), bf16 autocast; {sizes}; seed "
        f"{recipe['seed']}"
    )


def _localisation(evaluation: dict[str, Any], baseline: dict[str, Any]) -> str:
    """A Markdown table of energy and pointing, or nothing where no boxes were evaluated."""
    if "boxes" not in evaluation:
        return ""
    boxes, base = evaluation["boxes"], baseline.get("boxes", {"maps": {}})["maps"]
    names = {
        "penultimate": "class map, penultimate", "top_half": "class maps, mean of the last half",
        "average": "class maps, mean of all blocks", "contrast": "class map, contrast",
        "contributions": "contributions", "gradcam": "Grad-CAM",
    }  # fmt: skip
    rows = [(label, boxes["maps"][key]) for key, label in names.items() if key in boxes["maps"]]
    rows += [("timm baseline: Grad-CAM", base["gradcam"])] if "gradcam" in base else []
    lines = [f"| {label} | {row['energy']:.3f} | {row['pointing']:.3f} |" for label, row in rows]
    table = ["| map of the true class | energy in box | pointing |", "|---|---|---|", *lines]
    table.append(f"| chance (area of the boxes) | {boxes['chance']:.3f} | {boxes['chance']:.3f} |")
    text = "\n".join(table)
    if "gradcam_depth_correlation" in boxes:
        values = ", ".join(f"{value:.3f}" for value in boxes["gradcam_depth_correlation"])
        text += (
            "\n\nCorrelation of Grad-CAM with the class map at the same block, first block to last "
            f"({boxes['images']} images): {values}. The identity of the two is claimed for the last block only."
        )
    return text


def _grids(report: dict[str, dict[str, float]] | None, published: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of grid localisation, or nothing where it was not measured."""
    if report is None:
        return ""
    lines = [
        "| method | mean | standard error | median | grids | published, authors' model |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report.items():
        numbers = f"{row['mean']:.3f} | {row['sem']:.3f} | {row['median']:.3f} | {row['grids']}"
        lines.append(f"| {name} | {numbers} | {published.get(name, ('', ''))[0]} |")
    return "\n".join(lines)


def _removal(report: dict[str, dict[str, Any]] | None, published: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of pixel removal, or nothing where it was not measured."""
    if report is None:
        return ""
    lines = ["| method | mean over the curve | at 25 % | images | published, authors' model |", "|---|---|---|---|---|"]
    for name, row in report.items():
        numbers = f"{row['area']:.3f} | {row['curve'][-1]:.3f} | {row['images']}"
        lines.append(f"| {name} | {numbers} | {published.get(name, ('', ''))[1]} |")
    return "\n".join(lines)


def _record_hash(name: str, file: Path) -> None:
    hashes = {**released(), name: sha256(file)}
    RELEASED_FILE.write_text(json.dumps(dict(sorted(hashes.items())), indent=2) + "\n", encoding="utf-8")
