"""What a training run minimises: timm's losses, and the one of B-cos networks"""

import torch.nn.functional as F
from timm.loss import create_classification_loss
from torch import Tensor, nn

__all__ = ["OffLabelBinaryCrossEntropy", "create_loss"]


class OffLabelBinaryCrossEntropy(nn.Module):
    """One binary cross-entropy per class with target 1 for the class of the image and 1/K for every other.

    Source: `B-cos Alignment for Inherently Interpretable CNNs and Vision Transformers` (TPAMI 2024) -
    https://arxiv.org/abs/2306.10898. 1/K is the probability of an image that no unit responds to, so that nothing has
    to speak against the other classes.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over images and classes, for logits `(B, K)` and labels `(B,)`."""
        one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        targets = one_hot.clamp_min(1 / logits.shape[1])
        return F.binary_cross_entropy_with_logits(logits, targets)


def create_loss(name: str, smoothing: float = 0.0) -> nn.Module:
    """The loss of that name: 'bce_off_label', or a name of timm's.

    Raises:
        ValueError: label smoothing for 'bce_off_label', whose targets are fixed.
    """
    if name != "bce_off_label":
        loss: nn.Module = create_classification_loss(name, smoothing=smoothing)
        return loss
    if smoothing:
        raise ValueError(f"smoothing={smoothing} is not for bce_off_label, expected 0.")
    return OffLabelBinaryCrossEntropy()
