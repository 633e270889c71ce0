"""Open pages: what each shows, the files that it has sent, and which run of each tab is the latest

Gradio would keep this in a `gr.State` for an hour after a page is closed, without a bound of bytes.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

import gradio as gr

from timm_interpretable.app.cache import Cache
from timm_interpretable.app.components import Sent
from timm_interpretable.app.images import Picture, PictureError

FIRST_TAB = "compare"
_IN_TRANSIT = 20.0  # seconds in which another page may still be about to read an equal file


class Run:
    """What a tab computes for a page, until it is stopped or a newer run takes its place."""

    def __init__(self) -> None:
        self.stopped = False


class Session:
    """What the server knows of one open page."""

    def __init__(self, key: str, pictures: Cache[Picture]) -> None:
        self.key, self._pictures = key, pictures
        self.open_tab = FIRST_TAB
        self.files: set[str] = set()
        self._places: set[str] = set()
        self._runs: dict[str, Run] = {}

    def show(self, sent: Sent | None, place: str = "picture") -> None:
        """The page shows that picture in a place ('picture', 'first', 'second'), or none any more."""
        if sent is None:
            self._pictures.drop((self.key, place))
            return
        self._places.add(place)
        self._pictures.put((self.key, place), sent.picture)
        if sent.file is not None:
            self.files.add(sent.file)

    def picture(self, place: str = "picture") -> Picture:
        """Raises: PictureError: nothing there, or no longer."""
        picture = self._pictures.get((self.key, place))
        if picture is None:
            raise PictureError("There is no picture, or it has been here unused for too long: please choose one.")
        return picture

    def has_picture(self) -> bool:
        return self._pictures.get((self.key, "picture")) is not None

    def begin(self, tab: str) -> Run:
        """A new run of that tab; the earlier one is overtaken."""
        run = self._runs[tab] = Run()
        return run

    def overtaken(self, tab: str, run: Run) -> bool:
        return self._runs.get(tab) is not run

    def stop(self, tab: str) -> None:
        """End the latest run without a new one."""
        if tab in self._runs:
            self._runs[tab].stopped = True

    def close(self) -> None:
        """The page is gone: so are its pictures, and its runs end."""
        self._runs.clear()
        for place in self._places:
            self._pictures.drop((self.key, place))


class Sessions:
    """The open pages by gradio's session; their pictures stay in memory within a bound of bytes and of time."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self.pictures: Cache[Picture] = Cache(max_bytes, seconds)
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        key = str(getattr(request, "session_hash", None) or "")
        with self._lock:
            return self._open.setdefault(key, Session(key, self.pictures))

    def close(self, request: gr.Request) -> None:
        """Forget a page, and delete its files unless another page has sent the same.

        Equal files of two pages are one file. One that is quite new may have been sent by another page that has not
        read it yet: it is left to gradio, which deletes all files after some minutes.
        """
        session = self.of(request)
        with self._lock:
            del self._open[session.key]
            shared = set().union(*(other.files for other in self._open.values()))
        session.close()
        for file in session.files - shared:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - Path(file).stat().st_ctime >= _IN_TRANSIT:
                    os.remove(file)
