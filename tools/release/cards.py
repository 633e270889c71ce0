"""`hub_cards/<arch>.<tag>/`, the folder of a released model: weights, what made them, and the card rendered from that.

`training.json` in it holds the results of the training run and of the evaluation, so that a card can be written anew at
any time. Every number about maps comes from the benchmark's results in `docs/results`.
"""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models._hub import save_config_for_hf

from timm_interpretable.attr import own_method
from timm_interpretable.data.images import sample_of
from timm_interpretable.models import explanation_of
from timm_interpretable.models.weights import CARD_FOLDERS, HUB_ORG, HUB_PUBLISHED, RELEASED_FILE, released, sha256
from tools.release.benchmarks import benchmark_of, benchmark_section, model_index
from tools.release.face_cards import face_card
from tools.release.hybrid_card import hybrid_card
from tools.release.other_sizes import sizes_section
from tools.release.texts import CITATIONS, dataset_of, family_of
from tools.release.training import PICTURE, Release, Trained, epochs_of

__all__ = ["write_card", "write_folder"]


def write_folder(name: str, run: Path, release: Release, folder: Path) -> None:
    """Fill `folder` with the released model `arch.tag`: weights of the run, `config.json`, `training.json`, card.

    In the package's own `hub_cards/<name>` also record the hash of the weights, which `pretrained=True` checks.

    Raises:
        ValueError: the model was evaluated on other images than the baseline, or at another size than its own.
    """
    net: Any = timm.create_model(name)
    evaluation, baseline = release.model.evaluation, release.baseline
    if tuple(evaluation["input_size"]) != net.pretrained_cfg["input_size"]:
        raise ValueError(
            f"{name} was evaluated at {evaluation['input_size']}, expected its {net.pretrained_cfg['input_size']}."
        )
    if baseline and any(evaluation[key] != baseline.evaluation[key] for key in ("split", "images")):
        raise ValueError(f"{name} and its baseline were evaluated on different images.")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "model.safetensors", folder / "model.safetensors")
    if release.model.is_face:
        verification = dict(equal_error_rate=evaluation["eer"]["model"], threshold=evaluation["threshold"])
        config: dict[str, Any] = dict(verification=verification)
        arguments: dict[str, Any] = dict(num_classes=0, in_chans=1)
    else:
        labels = {key: net.pretrained_cfg.get(key) for key in ("label_names", "label_descriptions")}
        config = {key: value if key != "label_names" else list(value) for key, value in labels.items() if value}
        arguments = dict(getattr(net, "pretrained_model_args", {}))
    save_config_for_hf(net, str(folder / "config.json"), model_config=config, model_args=arguments)
    release.save(folder)
    if folder.resolve().parent in CARD_FOLDERS:
        hashes = {**released(), name: sha256(folder / "model.safetensors")}
        RELEASED_FILE.write_text(json.dumps(dict(sorted(hashes.items())), indent=2) + "\n", encoding="utf-8")
    write_card(folder)


def write_card(folder: Path) -> None:
    """The card of the released model whose folder this is, from `training.json`, the notes and the results.

    Raises:
        OSError: there is no `training.json`.
        ValueError: nothing is known about the model's data set.
    """
    name, release = folder.name, Release.load(folder)
    make = face_card if release.model.is_face else hybrid_card if release.model.is_converted else _classifier_card
    data, template, values = make(name, release, folder)
    notes = resources.files(__package__) / "notes" / f"{name}.md"
    text = (resources.files(__package__) / template).read_text(encoding="utf-8")
    values |= dict(name=name, notes=notes.read_text(encoding="utf-8") if notes.is_file() else "")
    card = ModelCard.from_template(data, template_str=text, **values)
    (folder / "README.md").write_text(f"{str(card).rstrip()}\n", encoding="utf-8")


def _classifier_card(name: str, release: Release, folder: Path) -> tuple[ModelCardData, str, dict[str, Any]]:
    """Front matter, template, and what the template needs, formatted."""
    model, baseline = release.model, release.baseline
    dataset, found = dataset_of(name), benchmark_of(name, model.evaluation["sha256"])
    net: Any = timm.create_model(name)
    own, config = own_method(net), net.pretrained_cfg
    sample = sample_of(config["label_names"])
    accuracy = EvalResult(
        task_type="image-classification",
        dataset_type=dataset.id,
        dataset_name=f"{dataset.name} ({dataset.measured})",
        metric_type="accuracy",
        metric_value=round(100 * model.evaluation["accuracy"], 2),
        metric_name="top-1 accuracy",
    )
    data = ModelCardData(
        model_name=name,
        library_name="timm",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["timm", "interpretability", "explainability", "captum"],
        datasets=[dataset.id],
        eval_results=[accuracy, *(model_index(found, name) if found else [])],
    )
    values = dict(
        tag=name.split(".")[1],
        family=explanation_of(net),
        is_bcos=family_of(name) == "bcos",
        sums_to=own.sums_to.words if own is not None and own.sums_to is not None else "",
        size="{} x {}".format(*config["input_size"][1:]),
        classes=", ".join(config["label_names"]),
        published=HUB_PUBLISHED,
        bundled=not name.startswith("baseline_"),
        repository=f"{HUB_ORG}/{name}",
        picture=f"`{sample.file}`: {sample.source}" if (folder / PICTURE).is_file() else None,
        model=_row(model),
        baseline=_row(baseline) if baseline else None,
        difference=_difference(model, baseline) if baseline else "",
        dataset=dataset,
        split=model.evaluation["split"],
        benchmark=benchmark_section(found, name) if found else "",
        sizes=sizes_section(name, model.evaluation["sha256"]),
        commands=[*model.commands, *(baseline.commands if baseline else [])],
        training=_training(model),
        baseline_training=_training(baseline) if baseline else "",
        hardware="; then ".join(str(run["hardware"]) for run in model.runs),
        versions=f"torch {model.result['torch']}, timm {model.result['timm']}",
        citation=CITATIONS[family_of(name)],
    )
    return data, "card_template.md", values


def _row(trained: Trained) -> dict[str, str]:
    evaluation, runs = trained.evaluation, trained.runs
    return dict(
        model=runs[-1]["recipe"]["model"],
        accuracy=f"{100 * evaluation['accuracy']:.2f} %",
        size="{} x {}".format(*evaluation["input_size"][1:]),
        parameters=f"{evaluation['parameters'] / 1e6:.2f} M",
        epochs=" + ".join(str(epochs_of(run)) for run in runs),
        minutes=" + ".join(map(_minutes, runs)),
    )


def _minutes(run: dict[str, Any]) -> str:
    """How long a run took: minutes of a CPU, or of a GPU by the clock."""
    on_gpu = "NVIDIA" in run["hardware"]
    return f"{run['minutes']:.0f} (GPU)" if on_gpu else f"{run['cpu_minutes']:.0f}"


def _difference(model: Trained, baseline: Trained) -> str:
    points = 100 * (model.evaluation["accuracy"] - baseline.evaluation["accuracy"])
    return f"The difference is {points:+.2f} points, with one seed each."


def _training(trained: Trained) -> str:
    return "; then ".join(map(_settings, trained.runs))


def _settings(run: dict[str, Any]) -> str:
    """What a run was trained with; results from before runs recorded their precision are of bf16."""
    recipe, precision, ended = run["recipe"], run.get("precision", "bf16"), epochs_of(run)
    early = f", ended after epoch {ended} of {recipe['epochs']}" if ended < recipe["epochs"] else ""
    sizes = ", ".join(f"{size} px from epoch {start + 1}" for start, size in recipe["sizes"])
    loss = {
        "ce": "cross-entropy",
        "bce": "binary cross-entropy",
        "bce_off_label": "binary cross-entropy (target 1/K off the label)",
    }[recipe["loss"]]
    if recipe.get("anneal"):
        factor, end = recipe["anneal"]
        loss += f" (logits less their bias {factor:g} times as large at first, themselves after {end:.0%} of the run)"
    return (
        f"{recipe['opt']}, learning rate {recipe['lr']:g} with {recipe['warmup_epochs']:g} warm-up epochs and cosine "
        f"decay{early}, weight decay {recipe['weight_decay']:g}, batch {recipe['batch_size']}, {loss}, label smoothing "
        f"{recipe['smoothing']:g}, averaged weights ({recipe['ema_decay']:g}), "
        f"{'bf16 autocast' if precision == 'bf16' else precision}; {sizes}; seed {recipe['seed']}"
    )
