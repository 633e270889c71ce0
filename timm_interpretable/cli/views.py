"""What `explain` shows of each family of models: the attribution, the maps through depth, and how to label them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from timm_interpretable.cli.common import fail

if TYPE_CHECKING:
    from torch import Tensor, nn

    from timm_interpretable.viz import Array

LAYERS = ("penultimate", "average", "top_half")


@dataclass(frozen=True)
class Options:
    """Which maps are asked for, the same for every image."""

    layers: str
    contrast: bool


class View(Protocol):
    """How one family explains a batch; `tensors` has the batch as first dimension."""

    map_label: str
    depth_label: str

    def tensors(self, x: "Tensor", logits: "Tensor", target: "Tensor") -> "dict[str, Tensor]":
        """`attribution` of the images' shape, and what else `--raw` saves."""

    def depth(self, tensors: "dict[str, Tensor]", target: int) -> "list[Tensor]":
        """Maps `(h_l, w_l)` of one image, first depth to last, from its entry of `tensors`."""

    def weights(self, tensors: "dict[str, Tensor]") -> "Array | None":
        """The picture of the weights of one image, or None where there is none."""


class ClassMapView:
    """FA-CNN: the class maps after every block."""

    depth_label = "block"

    def __init__(self, model: Any, options: Options) -> None:
        from timm_interpretable.attr import ClassMap

        self.model, self.options, self.attribution = model, options, ClassMap(model)
        kind = {"penultimate": "", "average": ", average of all blocks", "top_half": ", average of the last blocks"}
        against = ", less the other classes" if options.contrast else ""
        self.map_label = f"contribution to the logit, per pixel{kind[options.layers]}{against}"

    def tensors(self, x: "Tensor", logits: "Tensor", target: "Tensor") -> "dict[str, Tensor]":
        import torch

        with torch.inference_mode():
            maps: list[Tensor] = self.model.class_maps(x)
        attribution = self.attribution.attribute(
            x, target=target, layers=self.options.layers, contrast=self.options.contrast
        )
        return {"attribution": attribution} | {f"class_maps.{block}": m for block, m in enumerate(maps, start=1)}

    def depth(self, tensors: "dict[str, Tensor]", target: int) -> "list[Tensor]":
        return [value[target] for key, value in tensors.items() if key.startswith("class_maps.")]

    def weights(self, tensors: "dict[str, Tensor]") -> "Array | None":
        return None


class ContributionView:
    """CoDA-Net: the contributions of the pixels and of every layer's output, and the weights as a picture."""

    depth_label = "layer"
    map_label = "contribution to the logit, per pixel"

    def __init__(self, model: Any, options: Options) -> None:
        from timm_interpretable.attr import InputContribution

        if options != Options("penultimate", False):
            fail("--layers and --contrast choose among the class maps of an FA-CNN; this model has none")
        self.encoding, self.attribution = model.encoding, InputContribution(model)

    def tensors(self, x: "Tensor", logits: "Tensor", target: "Tensor") -> "dict[str, Tensor]":
        maps = self.attribution.through_depth(x, target)[1:]
        weights: Any = self.attribution.effective_weights(x, target)
        tensors = {"attribution": self.encoding.decode(weights * self.encoding(x)), "weights": weights}
        return tensors | {f"contributions.{layer}": m for layer, m in enumerate(maps, start=1)}

    def depth(self, tensors: "dict[str, Tensor]", target: int) -> "list[Tensor]":
        return [value[0] for key, value in tensors.items() if key.startswith("contributions.")]

    def weights(self, tensors: "dict[str, Tensor]") -> "Array | None":
        from timm_interpretable.viz import weight_picture

        return weight_picture(tensors["weights"], tensors["attribution"].sum(0))


def view_of(name: str, model: "nn.Module", options: Options) -> View:
    """The view for this model; `fail` where it has nothing to show."""
    if hasattr(model, "class_maps"):
        return ClassMapView(model, options)
    if hasattr(model, "dynamic_weights"):
        return ContributionView(model, options)
    fail(f"model {name!r} has neither class maps nor contributions to explain images with")
