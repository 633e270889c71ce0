"""Which precision this machine is fast in, and what its optimiser costs: CPUs differ by a factor of ten"""

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["PRECISIONS", "StepCost", "cheaper_precision", "optimizer_share", "step_costs"]

PRECISIONS = ("auto", "fp32", "bf16")
_PIXELS = 2**16  # of all images together: enough to tell the two apart, few enough for a second
_FEW, _MANY = 4, 64  # images
_REPEATS = 2
_GAIN = 0.8  # bf16 is less exact, so it has to take this share of fp32's time at most


@dataclass(frozen=True)
class StepCost:
    """Seconds of forward and backward pass for that many images, by precision."""

    seconds: dict[str, float]
    images: int

    @property
    def cheaper(self) -> str:
        """bf16 where it is clearly faster; a tie goes to fp32, which is more exact."""
        return "bf16" if self.seconds["bf16"] <= _GAIN * self.seconds["fp32"] else "fp32"

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1000 * value / self.images:.1f} ms" for name, value in self.seconds.items())
        return f"forward and backward pass of an image: {times}"


def step_costs(model: nn.Module, size: int, device: torch.device) -> StepCost:
    """How long forward and backward pass take here in fp32 and under bf16 autocast; the model is left as it is.

    Args:
        model: takes images `(B, in_chans, size, size)`.
    """
    private = copy.deepcopy(model).train()
    channels = int(getattr(model, "in_chans", 3))
    # with a few small images a step is mostly overhead, in which precisions do not differ
    images = min(_MANY, max(_FEW, _PIXELS // size**2))
    x = torch.rand(images, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)
    return StepCost({name: _seconds(private, x, name == "bf16") for name in ("fp32", "bf16")}, images)


def cheaper_precision(model: nn.Module, size: int, device: torch.device) -> tuple[str, str]:
    """bf16 where it is clearly faster on this device, else fp32, and a line that says what was measured."""
    costs = step_costs(model, size, device)
    return costs.cheaper, f"{costs}; training in {costs.cheaper}"


def optimizer_share(optimizer_seconds: float, step_seconds: float) -> str:
    """A line about what the optimiser takes of a training step."""
    share = optimizer_seconds / step_seconds if step_seconds > 0 else 0.0
    advice = "; another optimiser would train faster here" if share > 0.5 else ""
    return f"the optimiser takes {100 * share:.0f} % of a training step{advice}"


def _seconds(model: nn.Module, x: Tensor, bf16: bool) -> float:
    """The fastest of a few passes, after one that warms up."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    times = []
    for _ in range(1 + _REPEATS):
        start = _now(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            outputs: Tensor = model(x)
        torch.autograd.grad(outputs.float().square().sum(), parameters, allow_unused=True)
        times.append(_now(x.device) - start)
    return min(times[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
