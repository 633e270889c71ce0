"""In which precision the networks add up"""

import torch
from timm.models import register_notrace_function
from torch import Tensor

__all__ = ["at_least_float32"]


@register_notrace_function  # branches on the type
def at_least_float32(x: Tensor) -> Tensor:
    """Sums over many values want more digits and a wider range than half precision has."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x
