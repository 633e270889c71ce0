"""The run folder of a released model that was not trained here but converted from published weights"""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from timm_interpretable.models.weights import sha256
from timm_interpretable.train.engine import released_state

__all__ = ["convert"]


def convert(name: str, weights: Path, origin: str, out: Path) -> None:
    """Fill `out` like a training run: `model.safetensors` of the hybrid `arch.tag`, and `result.json`.

    Args:
        weights: the state dict of the plain timm network.
        origin: where the file was published.

    Raises:
        OSError: the file cannot be read.
        RuntimeError: it is of another network.
    """
    net: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(weights)))
    out.mkdir(parents=True, exist_ok=True)
    save_file(released_state(net), out / "model.safetensors")
    architecture = net.backbone.pretrained_cfg["architecture"]
    result = dict(
        converted=dict(architecture=architecture, origin=origin, sha256=sha256(weights)),
        timm=timm.__version__,
    )
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
