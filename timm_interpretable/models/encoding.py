"""Images in [0, 1] to `[x, 1 - x]`, for networks without biases, so that dark pixels count as much as bright ones"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

__all__ = ["ColourEncoding"]


@register_notrace_module  # branches on the input's shape
class ColourEncoding(nn.Module):
    """Images in [0, 1] to `[x, 1 - x]`: every colour twice, once as what is there and once as what is missing.

    Source: section 3.2 of `Convolutional Dynamic Alignment Networks for Interpretable Classifications` (Moritz Böhle,
    Mario Fritz, Bernt Schiele, CVPR 2021) - https://arxiv.org/abs/2104.00032.

    `(B, in_chans, H, W)` to `(B, 2 in_chans, H, W)`; a grey image of a model for `in_chans=1` becomes three equal ones.
    """

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.copies = 3 if in_chans == 1 else 1

    @property
    def out_chans(self) -> int:
        return 2 * self.in_chans * self.copies

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_chans:
            raise ValueError(f"Input has {x.shape[1]} channels, expected in_chans={self.in_chans}.")
        x = x.expand(x.shape[0], self.in_chans * self.copies, x.shape[2], x.shape[3])
        return torch.cat([x, 1 - x], dim=1).contiguous(memory_format=torch.channels_last)

    def decode(self, contributions: Tensor) -> Tensor:
        """Contributions `(..., 2 channels, H, W)` to `(..., in_chans, H, W)`: the encodings and copies of a colour."""
        first, second = contributions.chunk(2, dim=-3)
        paired = first + second
        return paired.sum(-3, keepdim=True) if self.copies > 1 else paired


def adapted_weight(weight: Tensor, in_chans: int, copies: int) -> Tensor:
    """The weight `(..., 2 colours, k, k)` of a first layer for another number of colours.

    As timm does, colours are repeated cyclically and scaled. A grey image needs no other weight.
    """
    wanted = 2 * in_chans * copies
    if weight.shape[-3] == wanted:
        return weight
    halves = weight.chunk(2, dim=-3)
    index = torch.arange(wanted // 2) % halves[0].shape[-3]
    scale = 2 * halves[0].shape[-3] / wanted
    return torch.cat([half.index_select(-3, index) * scale for half in halves], dim=-3)
