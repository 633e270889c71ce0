"""What one forward pass of a self-explaining model says: its logits, and the maps of any class

The explanation of such a model is part of its forward pass, so the pass is run once and read as often as needed: for
another class, for the maps through depth, for a picture of the weights.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Evidence", "Explanation"]


class Explanation(NamedTuple):
    """What speaks for one class per image, in units of the logit.

    attribution: signed, of the shape of the images `(B, C, H, W)`.
    depth: signed maps `(B, h, w)` after each block or layer, first to last.
    weights: the weights of the linear map that the network is for each image, `(B, C', H, W)`; None where there are
        none.
    depth_label: what an entry of `depth` comes after, such as 'block' or 'layer'.
    """

    attribution: Tensor
    depth: list[Tensor]
    weights: Tensor | None = None
    depth_label: str = "layer"


class Evidence(Protocol):
    """One forward pass of a batch of images `(B, C, H, W)`.

    logits: `(B, K)`, in at least fp32.
    nbytes: how much memory the pass holds.
    """

    @property
    def logits(self) -> Tensor: ...

    @property
    def nbytes(self) -> int: ...

    def maps(self, classes: Tensor) -> Tensor:
        """Signed maps `(B, n, H, W)` of classes `(B, n)`, channels added up, in units of the logit."""
        ...

    def explanation(self, classes: Tensor) -> Explanation:
        """Everything about one class per image, `(B,)`."""
        ...
