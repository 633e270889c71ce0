"""Seconds and memory of a call"""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

__all__ = ["Seconds", "measured", "peak_bytes"]

T = TypeVar("T")


class Seconds(NamedTuple):
    """seconds by the clock; cpu_seconds of all threads of the process, which other load on the machine changes less."""

    seconds: float
    cpu_seconds: float


def measured(call: Callable[[], T], device: torch.device) -> tuple[T, Seconds]:
    """What the call gives, and its time."""
    _wait(device)
    clock, cpu = time.perf_counter(), time.process_time()
    result = call()
    _wait(device)
    return result, Seconds(time.perf_counter() - clock, time.process_time() - cpu)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that the call had at once beyond what was there before; None where that cannot be told.

    On CUDA of the tensors, on Linux of the process's resident memory.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if not (sys.platform == "linux" and device.type == "cpu"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: memory that is kept would not count again
    if trim is None:
        return None
    trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest memory counts from here
    except OSError:  # some containers do not let a process do so
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _status(key: str) -> int:
    """A number of bytes that Linux keeps about this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
