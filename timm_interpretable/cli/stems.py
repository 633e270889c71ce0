"""Names of results, so that no input overwrites the result of another, and names of files as text."""

import hashlib
import os
from pathlib import Path


class Stems:
    """Names of results: inputs from a folder keep their place in it, and no input overwrites the result of another.

    A result says in its metadata which file it came from, so that a second run replaces what the first one wrote of
    the same file and nothing else.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.taken: dict[str, str] = {}  # by the name in lower case, which some file systems take for the same

    def of(self, path: Path, relative: Path) -> Path:
        """Where the result for `path` goes, without its suffix; `relative` is the place of the image in its folder."""
        mark, number = self.mark(path), 1
        first = self.out / relative.parent / relative.stem
        stem = first
        while self._source(stem) not in (None, mark):
            number += 1
            stem = first.with_name(f"{first.name}-{number}")
        self.taken[str(stem).casefold()] = mark
        return stem

    def _source(self, stem: Path) -> str | None:
        """The mark of the file whose result has this name; None where the name is free."""
        if (known := self.taken.get(str(stem).casefold())) is not None:
            return known
        picture = stem.with_name(stem.name + ".png")
        try:
            if not picture.exists():
                return None
            from PIL import Image

            with Image.open(picture) as image:
                return str(image.info.get("Source", ""))
        except OSError:  # a name that is too long, or a picture of somebody else: writing will say more
            return None if not picture.is_file() else ""

    @staticmethod
    def mark(path: Path) -> str:
        return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def shown_name(path: Path, whole: bool = False) -> str:
    """A file's name as text: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path if whole else path.name).decode("utf-8", errors="replace")
