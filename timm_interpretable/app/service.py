"""What all tabs and the API share: the engine, the pictures of open pages, and who asked last."""

import contextlib
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from timm_interpretable.app.engine import Engine
from timm_interpretable.app.memory import give_back
from timm_interpretable.app.settings import Settings
from timm_interpretable.app.shelf import Shelf

FIRST_TAB = "compare"
FILE_SECONDS = 600  # how long files stay at most


class Turns:
    """Which tab each page shows; and of several runs for one page and one tab only the latest goes on."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, int]] = defaultdict(dict)
        self._open: dict[str, str] = {}
        self._stopped: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def begin(self, session: str, tab: str) -> int:
        """The number of a new run; earlier ones have had their turn."""
        with self._lock:
            turn = self._latest[session][tab] = self._latest[session].get(tab, 0) + 1
            return turn

    def over(self, session: str, tab: str, turn: int) -> bool:
        return self._latest[session].get(tab, 0) != turn

    def stop(self, session: str, tab: str) -> None:
        """End the run without a new one."""
        self._stopped[session, tab] = self.begin(session, tab)

    def stopped(self, session: str, tab: str) -> bool:
        """Whether the last run was ended by hand; else a newer one has taken its place."""
        return self._stopped.get((session, tab)) == self._latest[session].get(tab, 0)

    def open(self, session: str, tab: str) -> None:
        """The page shows this tab now."""
        with self._lock:
            self._open[session] = tab

    def opened(self, session: str) -> str:
        return self._open.get(session, FIRST_TAB)

    def forget(self, session: str) -> None:
        with self._lock:
            self._latest.pop(session, None)
            self._open.pop(session, None)
            for key in [key for key in self._stopped if key[0] == session]:
                del self._stopped[key]


@dataclass
class Service:
    """One per process."""

    settings: Settings = field(default_factory=Settings)
    engine: Engine = field(init=False)
    shelf: Shelf = field(init=False)
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings)
        self.shelf = Shelf(self.settings.shelf_bytes, self.settings.keep_seconds)
        self._stop = threading.Event()
        threading.Thread(target=self._sweep, name="sweeper", daemon=True).start()

    def forget(self, request: gr.Request) -> None:
        """A page was closed."""
        session = session_of(request)
        self.shelf.forget(session)
        self.turns.forget(session)

    def close(self) -> None:
        self._stop.set()
        self.engine.close()

    def _sweep(self) -> None:
        while not self._stop.wait(min(30.0, self.settings.keep_seconds / 2)):
            self.engine.sweep()
            self.shelf.sweep()
            if "GRADIO_TEMP_DIR" in os.environ:  # set by `page.private_cache`
                clean_drawn(Path(os.environ["GRADIO_TEMP_DIR"]), FILE_SECONDS)
            give_back()


def clean_drawn(folder: Path, older: float) -> None:
    """Delete the pictures that were drawn more than so many seconds ago: gradio keeps no list of all of them."""
    limit = time.time() - older
    for file in folder.glob("*/image.png"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime <= limit:
                file.unlink()


def session_of(request: gr.Request) -> str:
    return str(getattr(request, "session_hash", None) or "")
