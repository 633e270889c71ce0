"""The report of `explain`: one page with all pictures, and the same numbers as CSV."""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

_SHOWN = 5000  # rows of the page; a browser takes no more, and the CSV has them all
_TEMPLATE = Path(__file__).with_name("report.html")


class Row(NamedTuple):
    """One picture.

    Attributes:
        picture: its name, in its folder.
        figure: the path of its figure, as text.
        folder_class: the class that its folder names, empty where it names none.
        predicted, confidence: the first class, and its probability.
        explained: the class whose map is shown.
        positive_share: of the map's absolute values, the share that speaks for the class; None where no value is
            negative.
        thumbnail: a small overlay, a JPEG as a data URL; empty where no report shows it.
    """

    picture: str
    figure: str
    folder_class: str
    predicted: str
    confidence: float
    explained: str
    positive_share: float | None
    thumbnail: str

    @property
    def is_mistake(self) -> bool:
        return self.folder_class not in ("", self.predicted)


class Report:
    """Rows of all processes of a run, kept in files beside the report until it is written.

    A run that was stopped finds the rows of its earlier try there, so that it does not explain those pictures again.

    Args:
        file: the page; its numbers go beside it, with the suffix `.csv`.
        settings: what decides a row besides the picture; rows of other settings are not taken.
        rank: of this process.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.file, self.settings = file, json.dumps(settings, sort_keys=True)
        self.known = self._read()
        self._journal: IO[str] = open(self._journal_of(rank), "a", encoding="utf-8")  # noqa: SIM115  # kept open
        self._journal.write("\n")  # ends the last line of a process that was killed in the middle of it

    def row_of(self, picture: Path) -> Row | None:
        """What an earlier try found, where its figure is still there and the picture is the same."""
        row = self.known.get(self._key(picture))
        return row if row is not None and Path(row.figure).is_file() else None

    def add(self, picture: Path, row: Row) -> None:
        self._journal.write(json.dumps([self._key(picture), row]) + "\n")
        self._journal.flush()

    def close(self) -> None:
        self._journal.close()

    def write(self, pictures: Iterable[Path], about: str) -> tuple[int, Path]:
        """Page and CSV of these pictures, from the rows of all processes, which are then forgotten.

        Returns:
            The number of rows, and the CSV.
        """
        self.close()
        found = self._read()
        rows = [row for row in (found.get(self._key(picture)) for picture in pictures) if row is not None]
        table = self.file.with_suffix(".csv")
        with open(table, "w", newline="", encoding="utf-8") as stream:
            columns = [name for name in Row._fields if name != "thumbnail"]
            writer = csv.DictWriter(stream, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row._asdict() for row in rows)
        self.file.write_text(_page(rows, about, self.file.parent), encoding="utf-8")
        for journal in self._journals():
            journal.unlink()
        return len(rows), table

    def _key(self, picture: Path) -> str:
        try:
            status = picture.stat()
        except OSError:  # it cannot be read, and has no row
            return ""
        return f"{os.fsencode(picture.resolve())!r} {status.st_size} {status.st_mtime_ns} {self.settings}"

    def _journal_of(self, rank: int) -> Path:
        return self.file.with_name(f".{self.file.name}.{rank}.jsonl")

    def _journals(self) -> list[Path]:
        return sorted(self.file.parent.glob(f".{self.file.name}.*.jsonl"))

    def _read(self) -> dict[str, Row]:
        rows = {}
        for journal in self._journals():
            for line in journal.read_text(encoding="utf-8").splitlines():
                try:
                    key, values = json.loads(line)
                    rows[key] = Row(*values)
                except (TypeError, ValueError):  # the last line of a process that was killed
                    continue
        return rows


def _page(rows: list[Row], about: str, folder: Path) -> str:
    from jinja2 import Environment

    shown = sorted(rows, key=lambda row: (not row.is_mistake, row.confidence))[:_SHOWN]
    known = [row for row in rows if row.folder_class]
    environment = Environment(autoescape=True)
    environment.filters["link"] = lambda figure: quote(Path(os.path.relpath(figure, folder)).as_posix())
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        about=about, rows=shown, total=len(rows), known=len(known), right=sum(not row.is_mistake for row in known),
        classes=sorted({row.predicted for row in shown}),
    )  # fmt: skip
