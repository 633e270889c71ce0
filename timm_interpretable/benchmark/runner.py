"""Run the units of a benchmark: one bar, one file per unit, so that a stopped run goes on and processes can share it"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from timm_interpretable.attr.catalogue import MethodSettings
from timm_interpretable.benchmark.images import BenchmarkModel
from timm_interpretable.benchmark.progress import Progress
from timm_interpretable.benchmark.scores import Scoring
from timm_interpretable.benchmark.units import Unit, compute

__all__ = ["Shard", "read_maps", "read_unit", "run_units", "units_left"]


class Shard(NamedTuple):
    """This process among all that share a run."""

    rank: int = 0
    processes: int = 1


def run_units(
    units: Sequence[Unit],
    models: Mapping[str, BenchmarkModel],
    settings: MethodSettings,
    scoring: Scoring,
    folder: Path,
    kept_maps: Sequence[int] = (),
    shard: Shard = Shard(),  # noqa: B008  # a tuple
) -> None:
    """Compute this process's share of the units that have no result in `folder` yet.

    A unit that fails is recorded with its error, and the others go on; a later run tries it again. What an earlier run
    was in the middle of is computed anew.

    Args:
        units: the same in all processes.
        models: by name.
        folder: one file per unit.
        kept_maps: indices of photographs whose maps are kept beside the numbers, for pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = units_left(units[shard.rank :: shard.processes], folder)
    with Progress(sum(unit.steps for unit in mine), shown=shard.rank == 0) as progress:
        for unit in mine:
            progress.begin(str(unit))
            before = progress.done
            try:
                report, maps = compute(unit, models[unit.model], settings, scoring, progress)
            except Exception as error:  # any: the other cells must not pay for it
                message = " ".join(f"{type(error).__name__}: {error}".split())
                progress.say(f"{unit}: {message}")
                report, maps = dict(error=message), None
            _keep_maps(folder, unit, maps, kept_maps)
            _write(folder / f"{unit.file_name}.json", json.dumps(report).encode())
            progress.advance(unit.steps - (progress.done - before))


def units_left(units: Sequence[Unit], folder: Path) -> list[Unit]:
    """Those that have no result yet, or only an error."""
    return [unit for unit in units if "error" in read_unit(folder, unit)]


def read_unit(folder: Path, unit: Unit) -> dict[str, Any]:
    """The report of `units.compute`; `error` alone where it failed or is not there."""
    try:
        report: dict[str, Any] = json.loads((folder / f"{unit.file_name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return dict(error="not computed")
    except ValueError:
        return dict(error="the file of the result is damaged")
    return report


def read_maps(folder: Path, unit: Unit) -> dict[int, np.ndarray[Any, Any]]:
    """The kept maps of a unit, `(H, W)` by index."""
    file = folder / f"{unit.file_name}.npz"
    if not file.is_file():
        return {}
    with np.load(file) as arrays:
        return {int(index): arrays[index] for index in arrays.files}


def _keep_maps(folder: Path, unit: Unit, maps: Tensor | None, kept: Sequence[int]) -> None:
    if maps is None:
        return
    chosen: dict[str, Any] = {
        str(index): maps[i].cpu().numpy() for i, index in enumerate(unit.indices) if index in kept
    }
    if chosen:
        np.savez(folder / f"{unit.file_name}.npz", allow_pickle=False, **chosen)


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = file.with_suffix(f".part{os.getpid()}")
    part.write_bytes(content)
    part.replace(file)
