"""FA-CNNs, hybrids and B-cos networks as files that give logits and maps without this package, and without PyTorch"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from timm_interpretable.models.interface import is_yes_or_no, plain_model

__all__ = ["LogitsAndMaps", "export_onnx", "export_program", "has_maps"]

_TOLERANCE = 1e-3  # of the largest value: runtimes add up in another order


class LogitsAndMaps(nn.Module):
    """Images to `(logits, maps)`, both from one forward pass.

    `logits` is `(B, K)`. `maps` is `(B, K, h, w)`, before anything enlarges them: the class maps of an FA-CNN or a
    hybrid, the head maps of a B-cos network. The mean of a map of a model with sigmoids is its logit less the model's
    bias. The mean of a map of a softmax model is its logit less the mean of all logits. The difference of two maps says
    why one class rather than another.

    Args:
        model: an FA-CNN, a hybrid or a B-cos network, in evaluation mode.

    Raises:
        TypeError: the model has no such maps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        plain: Any = plain_model(model)
        if not has_maps(plain):
            name = type(plain).__name__
            raise TypeError(f"{name} has no class maps, expected an FA-CNN, a hybrid or a B-cos network.")
        self.model = plain
        self.centred = not is_yes_or_no(plain) and plain.num_classes > 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self.model, "class_maps"):
            maps = self.model.head.class_maps(self.model.forward_features(images)) * self.model.head.temperature
        else:
            maps = self.model.head_maps(images)
        logits = maps.mean((2, 3)) + self.model.logit_bias
        return logits, maps - maps.mean(1, keepdim=True) if self.centred else maps


def has_maps(model: nn.Module) -> bool:
    """Whether a forward pass of the model gives a map of every class."""
    plain = plain_model(model)
    return hasattr(plain, "class_maps") or hasattr(plain, "head_maps")


def has_fixed_size(model: nn.Module) -> bool:
    """Whether an exported file takes images of one size only.

    The padding of timm's `Same` layers depends on the size of their input, and tracing it for any size takes minutes.
    """
    return any(type(module).__name__.endswith(("Same", "SameExport")) for module in plain_model(model).modules())


def export_program(model: nn.Module, file: Path) -> float:
    """Write a `.pt2` file, which `torch.export.load` reads, for any batch, and any size unless `has_fixed_size`.

    Returns:
        The largest difference between its outputs and those of the model, as a share of the largest value.

    Raises:
        RuntimeError: the file gives other outputs than the model.
        TypeError: the model has no class maps.
    """
    pair = LogitsAndMaps(model).eval()
    torch.export.save(_program(pair), file)
    loaded = torch.export.load(file).module()
    return _largest_difference(pair, loaded, file)


def export_onnx(model: nn.Module, file: Path, metadata: Mapping[str, str] | None = None) -> float:
    """Write an ONNX file with the input `images` and the outputs `logits` and `maps`; needs the extra `export`.

    Args:
        metadata: written into the file as its properties.

    Returns, raises: as `export_program`, with the outputs of onnxruntime.
    """
    import onnxruntime

    pair = LogitsAndMaps(model).eval()
    names = dict(input_names=["images"], output_names=["logits", "maps"])
    converted: Any = torch.onnx.export(_program(pair), (), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    converted.model.metadata_props.update(metadata or {})
    converted.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(one) for one in session.run(None, {"images": images.numpy()}))

    return _largest_difference(pair, run, file)


@torch.no_grad()
def _program(pair: LogitsAndMaps) -> ExportedProgram:
    images = _images(pair, batch=2)
    dynamic = {0: Dim.DYNAMIC} if has_fixed_size(pair.model) else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return torch.export.export(pair, (images,), dynamic_shapes=(dynamic,))


def _images(pair: LogitsAndMaps, batch: int, wider: int = 0) -> Tensor:
    first = next(pair.model.parameters())
    channels, height, width = pair.model.pretrained_cfg["input_size"]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, height, width + wider, generator=generator).to(first.device, first.dtype)


@torch.no_grad()
def _largest_difference(pair: LogitsAndMaps, exported: Any, file: Path) -> float:
    largest = 0.0
    for batch, wider in ((3, 0), (1, 0 if has_fixed_size(pair.model) else 32)):
        images = _images(pair, batch, wider)
        for own, other in zip(pair(images), exported(images), strict=True):
            largest = max(largest, float((own - other).abs().max() / own.abs().max()))
    if not largest <= _TOLERANCE:
        raise RuntimeError(f"{file} is off by {largest:.2g} of the largest value, expected at most {_TOLERANCE}.")
    return largest
