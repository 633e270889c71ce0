"""What a model says about itself, so that nothing else has to guess its family

A model of this package has these things besides timm's contract:

* `explanation`: the key of its own explanation in `timm_interpretable.attr.catalogue`, such as `"class_map"`;
* `output`: what turns its logits into probabilities, `"softmax"` or `"sigmoid"` (one yes-or-no question per class);
* `maps_through_depth`, False where its explanation is one map and has no earlier stages;
* where it encodes its images first, `encoding`, a module, and `forward_encoded`, the rest of the network;
* where it is a linear map of that encoding for every image, `dynamic_weights`, from images to a `LinearMap`, and
  `dynamic_layers`, the layers that the map goes through.

Ordinary timm models have none of them, and the functions below answer for those too.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = [
    "LinearMap", "class_probabilities", "encode", "explanation_of", "forward_encoded", "has_encoding",
    "has_maps_through_depth", "is_yes_or_no", "plain_model",
]  # fmt: skip


class LinearMap(Protocol):
    """The linear map that a network is for each image of one batch, with the weights that it has chosen for it.

    inputs: the encoded images `(N, C', H, W)` and the output of every layer of `dynamic_layers()`, the last `(N, K, h,
        w)`. The logits less their bias are linear in each of them.
    nbytes: how much memory the map holds.
    """

    inputs: list[Tensor]

    @property
    def nbytes(self) -> int: ...

    def logits(self) -> Tensor:
        """The logits less their bias, `(N, K)`, in at least fp32."""
        ...

    def rows(self, combination: Tensor, depth: int = 0) -> Tensor:
        """The rows of all classes, combined with coefficients `(N, K)`, in the shape of `inputs[depth]`.

        Times that input they add up to the same combination of the logits less their bias.
        """
        ...

    def rows_by_depth(self, combination: Tensor, depth: int = 0) -> Iterator[Tensor]:
        """`rows` at every depth, from the output of the last layer down to `inputs[depth]`."""
        ...

    def class_rows(self, classes: Tensor, depth: int = 0) -> Tensor:
        """The rows of classes `(N, n)`, `(N, n, *inputs[depth].shape[1:])`."""
        ...


def plain_model(model: Any) -> Any:
    """The module behind `torch.compile`, `DataParallel` and `DistributedDataParallel`; anything else as it is."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:  # torch.compile
            model = model._orig_mod
        else:
            return model


def explanation_of(model: Any) -> str | None:
    """The key of the model's own explanation in the catalogue; None for a model that has none."""
    return getattr(plain_model(model), "explanation", None)


def class_probabilities(model: Any, logits: Tensor) -> Tensor:
    """Probabilities of logits `(..., K)`: a sigmoid for each class, or the softmax over all, as the model says."""
    return logits.sigmoid() if is_yes_or_no(model) else logits.softmax(-1)


def is_yes_or_no(model: Any) -> bool:
    """Whether each class is a yes-or-no question of its own, so that probabilities do not add up to one."""
    return getattr(plain_model(model), "output", "softmax") == "sigmoid"


def has_maps_through_depth(model: Any) -> bool:
    """Whether the model's own explanation has a map after every block or layer."""
    plain = plain_model(model)
    return explanation_of(plain) is not None and bool(getattr(plain, "maps_through_depth", True))


def has_encoding(model: Any) -> bool:
    """Whether the network sees an encoding of its images, in which an absent pixel is zero in every channel."""
    return getattr(plain_model(model), "encoding", None) is not None


def encode(model: Any, images: Tensor) -> Tensor:
    """What the network sees of images `(B, C, H, W)`: its encoding `(B, C', H, W)`, or the images themselves."""
    encoded: Tensor = plain_model(model).encoding(images) if has_encoding(model) else images
    return encoded


def forward_encoded(model: Any, encoded: Tensor) -> Tensor:
    """Logits `(B, K)` of what `encode` gives. With it, `forward_encoded(model, encode(model, x))` is `model(x)`."""
    logits: Tensor = plain_model(model).forward_encoded(encoded) if has_encoding(model) else model(encoded)
    return logits
