"""What a released model gave when it was released: one image, its logits (or embedding), the map of its first class.

Kept next to the weights, so that no change of code and no other version of timm or torch changes a model unnoticed.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from timm_interpretable.attr import Context, own_method
from timm_interpretable.data.classes import class_names
from timm_interpretable.data.images import eval_transform, load_image, sample_of, to_picture

REGRESSION_FILE = "regression.safetensors"
# of the largest magnitude: other kernels and other orders of summation change less
TOLERANCE = 1e-4


def write_regression(folder: Path) -> Path:
    """Write `regression.safetensors` for the model in `folder`, from the first sample picture of a class it knows.

    Tensors: `pixels` `(C, H, W)`, 8-bit, as the model sees them; `logits` `(K,)`; `map` `(H, W)`, the attribution of
    the largest logit with the channels added up, where the model has one.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    sample = sample_of(class_names(model))
    pixels = to_picture(eval_transform(model)(load_image(sample.path)), model)
    channels = model.pretrained_cfg["input_size"][0]
    tensors = {"pixels": torch.from_numpy(pixels).permute(2, 0, 1)[:channels].contiguous()}
    file = folder / REGRESSION_FILE
    file.write_bytes(save(tensors | outputs(model, tensors["pixels"]), metadata={"picture": sample.file}))
    return file


def outputs(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """What is compared: logits or embedding, and the map where the model has one of its own."""
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    x = ((pixels / 255 - mean) / std)[None]
    with torch.no_grad():
        logits = model(x).float()
    result, own = {"logits": logits[0]}, own_method(model)
    if own is not None:
        result["map"] = own.maps(Context.of(model))(x, logits.argmax(1, keepdim=True))[0, 0]
    return result


def assert_unchanged(model: Any, file: Path) -> None:
    """Compare a model in evaluation mode with its release.

    Raises:
        AssertionError: it gives something else than `file` holds.
    """
    expected = load_file(file)
    found = outputs(model, expected.pop("pixels"))
    if set(found) != set(expected):
        raise AssertionError(f"{file} holds {sorted(expected)}, the model gives {sorted(found)}.")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise AssertionError(f"{name}: shape {tuple(found[name].shape)}, expected {tuple(value.shape)} ({file}).")
        error = float((found[name] - value).abs().max() / value.abs().max())
        if not error <= TOLERANCE:
            raise AssertionError(
                f"{name}: off by {error:.2g} of its largest magnitude, allowed {TOLERANCE:g} ({file})."
            )
