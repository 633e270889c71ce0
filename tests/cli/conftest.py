"""A model small enough for the commands to run in seconds."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import timm_interpretable  # noqa: F401  registers the models


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a tiny FA-CNN, beside them what a training run writes."""
    args = dict(trunk_width=48, stem_stride=4, layers=[1, 1], branch_widths=[8, 8], pools=[1])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    save_file(model.state_dict(), file)
    recipe = dict(eval_size=32, mean=[0.5] * 3, std=[0.25] * 3, num_classes=2, model_args=args, epochs=3)
    result = dict(recipe=recipe, classes=["blue", "red"], eval_accuracy=0.625)
    file.with_name("result.json").write_text(json.dumps(result))
    return file
