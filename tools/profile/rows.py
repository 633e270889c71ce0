"""What the profiles share: rows of things to time, their measurement, and the table of it."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import torch
import typer

from timm_interpretable.cli.common import fail, pick_device

Size = Annotated[int, typer.Option(min=1, help="Side of the images.")]
BatchSize = Annotated[int, typer.Option(min=1)]
Repeats = Annotated[int, typer.Option(min=1, help="Timings per row; the median counts.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads, instead of torch's choice.")]
CpuTime = Annotated[
    bool, typer.Option("--cpu-time", help="Seconds of the CPU, not of the clock: for a busy machine without a GPU.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]


@dataclass(frozen=True)
class Row:
    """One thing to time. `versus` names the row that its ratio divides by."""

    name: str
    versus: str
    run: Callable[[], object]


def prepared_device(device: str, threads: int | None, cpu_time: bool = False) -> torch.device:
    """The device by its name, after setting the threads and the seed; `fail` where it cannot be measured so."""
    target = pick_device(device)
    if cpu_time and target.type != "cpu":
        fail(f"--cpu-time says nothing about {target}, expected --device cpu with it")
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    return target


def measure(
    rows: list[Row], repeats: int, context: Callable[[], AbstractContextManager[Any]], device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:  # fmt: skip
    """Median seconds of every row; the repeats are interleaved, so that other load hits all rows alike."""
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for repeat in range(-1, repeats):  # the first round warms up
        for row in rows:
            start = clock()
            with context():
                row.run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[row.name].append(clock() - start)
    return {name: median(values) for name, values in seconds.items()}


def heading(batch_size: int, size: int, device: torch.device, repeats: int) -> str:
    """What was measured, on which device and how often, and an empty line."""
    where = f"{device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    return f"{batch_size} images of {size}x{size}, {where}; median of {repeats} interleaved repeats\n"


def table(rows: list[Row], seconds: dict[str, dict[str, float]], batch_size: int) -> str:
    """Milliseconds per image and ratios, one column pair per precision; `-` where a row was not measured."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}" + "".join(f" {f'{p} ms/image':>14} {'ratio':>6}" for p in seconds) + "  ratio to"]
    for row in rows:
        cells = ""
        for values in seconds.values():
            if row.name in values:
                time_ms = 1000 * values[row.name] / batch_size
                cells += f" {time_ms:>14.2f} {values[row.name] / values[row.versus]:>6.2f}"
            else:
                cells += f" {'-':>14} {'-':>6}"
        lines.append(f"{row.name:<{width}}{cells}  {row.versus}")
    return "\n".join(lines)
