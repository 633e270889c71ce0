"""What made a number, and numbers as Markdown"""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["made_by", "markdown_table", "provenance"]

_PACKAGES = ("timm-interpretable", "torch", "timm", "captum", "grad-cam")


def provenance(seed: int, device: "torch.device") -> dict[str, Any]:
    """The command as it was typed (of a path its last part), on what it ran, and the versions of the packages."""
    return dict(command=_command(sys.argv), seed=seed, hardware=_hardware(device), versions=_versions())


def made_by(made: Mapping[str, Any]) -> list[str]:
    """Two lines of a `provenance`: the command; seed, hardware and versions."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return [made["command"], f"Seed {made['seed']}. {made['hardware']}. {versions}."]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Numbers with three digits after the point; nothing for None."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _command(argv: Sequence[str]) -> str:
    shown = (Path(word).name if os.sep in word else word for word in argv[1:])
    return " ".join(["timm-interpretable", *shown])


def _hardware(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
