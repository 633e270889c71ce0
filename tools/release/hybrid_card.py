"""The model card of a hybrid whose weights were published by others and converted here"""

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from timm_interpretable.data.images import sample_of
from timm_interpretable.models.weights import HUB_ORG, HUB_PUBLISHED
from tools.release.benchmarks import benchmark_of, benchmark_section, model_index
from tools.release.other_sizes import sizes_section
from tools.release.texts import CITATIONS, dataset_of
from tools.release.training import PICTURE, Release

__all__ = ["hybrid_card"]


def hybrid_card(name: str, release: Release, folder: Path) -> tuple[ModelCardData, str, dict[str, Any]]:
    """Front matter, template, and what the template needs, formatted."""
    evaluation, converted = release.model.evaluation, release.model.result["converted"]
    dataset, found = dataset_of(name), benchmark_of(name, evaluation["sha256"])
    config: Any = timm.get_pretrained_cfg(name)
    sample = sample_of(config.label_descriptions.values())
    accuracy = EvalResult(
        task_type="image-classification", dataset_type="frgfm/imagenette",
        dataset_name=f"{dataset.name} ({dataset.measured})", metric_type="accuracy",
        metric_value=round(100 * evaluation["accuracy"], 2), metric_name="top-1 accuracy over 1,000 classes",
    )  # fmt: skip
    data = ModelCardData(
        model_name=name, library_name="timm", pipeline_tag="image-classification", license="apache-2.0",
        tags=["timm", "interpretability", "explainability", "captum"], datasets=[dataset.id],
        base_model=f"timm/{converted['architecture']}.{name.split('.')[1]}",
        eval_results=[accuracy, *(model_index(found, name) if found else [])],
    )  # fmt: skip
    values = dict(
        architecture=converted["architecture"],
        origin=converted["origin"],
        weights_hash=converted["sha256"],
        size="{} x {}".format(*config.input_size[1:]),
        count=f"{config.num_classes:,}",
        published=HUB_PUBLISHED,
        repository=f"{HUB_ORG}/{name}",
        picture=f"`{sample.file}`: {sample.source}" if (folder / PICTURE).is_file() else None,
        accuracy=f"{100 * evaluation['accuracy']:.2f} %",
        parameters=f"{evaluation['parameters'] / 1e6:.2f} M",
        split=evaluation["split"],
        dataset=dataset,
        benchmark=benchmark_section(found, name) if found else "",
        sizes=sizes_section(name, evaluation["sha256"]),
        citation=CITATIONS["hybrid"],
    )
    return data, "hybrid_card_template.md", values
