"""Results files: numbers together with what made them, as JSON to compute with and Markdown to read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm_interpretable.cli.common import fail
from timm_interpretable.results import made_by


def make_folder(out: Path) -> None:
    """Before any work: the folder for the results, or `fail`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {out}: {error.strerror}")


def write_results(file: Path, report: Mapping[str, Any], title: str, text: Sequence[str]) -> None:
    """`file.json` with the report, and `file.md` with the title, what made it, and the paragraphs or tables of `text`.

    Args:
        file: without a suffix.
        report: with the entries of `provenance`.
    """
    command, conditions = made_by(report)
    made = [f"    {command}", conditions]
    try:
        for suffix, content in (
            (".json", json.dumps(report, indent=1)),
            (".md", "\n\n".join([f"# {title}", *made, *text])),
        ):
            file.with_name(file.name + suffix).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {file}: {error}")
