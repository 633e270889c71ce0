"""What made a number, and numbers as Markdown"""

import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["made_by", "markdown_table", "provenance", "repeatable"]

_PACKAGES = ("timm-interpretable", "torch", "timm", "captum", "grad-cam")


def provenance(seed: int, device: "torch.device", program: str = "timm-interpretable") -> dict[str, Any]:
    """The command to repeat it (`program` with `repeatable` arguments), on what it ran, and the packages' versions."""
    return dict(
        command=f"{program} {repeatable(sys.argv[1:])}",
        seed=seed,
        hardware=_hardware(device),
        versions=_versions(),
    )


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


def repeatable(arguments: Sequence[str], here: Path | None = None, home: Path | None = None) -> str:
    """Arguments as a command line that others can repeat, and that does not tell how this machine's folders are named.

    Relative paths stay. Absolute ones become relative to the working directory where they are inside it, begin with `~`
    where they are in the home directory, and keep their last two parts behind `…` elsewhere.

    Args:
        arguments: words; a path may be one, or follow a comma or an equals sign, as in `name=/folder/file`.
        here, home: instead of the directories of this process.
    """
    here, home = here or Path.cwd(), home or Path.home()
    shown = (
        re.sub(r"(?<![^=,])/[^,=]+", lambda found: _without_folders(Path(found[0]), here, home), word)
        for word in arguments
    )
    return " ".join(word if re.fullmatch(r"[^\s\"'$`\\\\;&|<>()*?!#]+", word) else shlex.quote(word) for word in shown)


def _without_folders(path: Path, here: Path, home: Path) -> str:
    if path.is_relative_to(here):
        return path.relative_to(here).as_posix()
    if path.is_relative_to(home):
        return f"~/{path.relative_to(home).as_posix()}"
    return "/".join(["…", *path.parts[1:][-2:]])


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
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
