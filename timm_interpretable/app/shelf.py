"""Pictures of open pages, and the files they came in: both go when the page does."""

import contextlib
import os
import threading
import time
from pathlib import Path

from timm_interpretable.app.cache import Kept
from timm_interpretable.app.images import Picture, PictureError

_IN_TRANSIT = 20.0  # seconds in which another page may still be about to read the same file


class Shelf:
    """What each page shows, by session and place ('picture', 'first', 'second'), in memory."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._pictures: Kept[Picture] = Kept(max_bytes, seconds)
        self._places: dict[str, set[str]] = {}
        self._files: dict[str, set[str]] = {}  # file to the sessions that have sent it
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._pictures)

    def put(self, session: str, place: str, picture: Picture, file: str | None = None) -> None:
        self._pictures.put((session, place), picture)
        with self._lock:
            self._places.setdefault(session, set()).add(place)
            if file is not None:
                self._files.setdefault(file, set()).add(session)

    def get(self, session: str, place: str = "picture") -> Picture:
        """Raises: PictureError: nothing there, or no longer."""
        picture = self._pictures.get((session, place))
        if picture is None:
            raise PictureError("There is no picture, or it has been here unused for too long: please choose one.")
        return picture

    def has(self, session: str, place: str = "picture") -> bool:
        return self._pictures.get((session, place)) is not None

    def take(self, session: str, place: str) -> None:
        """The page shows no picture in this place any more."""
        self._pictures.drop((session, place))

    def forget(self, session: str) -> None:
        """The page is closed: its pictures, and their files unless another page has sent the same."""
        with self._lock:
            places = self._places.pop(session, set())
            alone = []
            for file, sessions in list(self._files.items()):
                sessions.discard(session)
                if not sessions:
                    alone.append(file)
                    del self._files[file]
        for place in places:
            self._pictures.drop((session, place))
        for file in alone:
            self._remove(file)

    def sweep(self) -> None:
        self._pictures.sweep()

    def _remove(self, file: str) -> None:
        """Equal files of two pages are one file: the other page may have sent it and not yet read it."""
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - Path(file).stat().st_ctime
            if age < _IN_TRANSIT:
                timer = threading.Timer(_IN_TRANSIT - age + 0.1, self._remove_unless_sent_again, (file,))
                timer.daemon = True
                timer.start()
            else:
                os.remove(file)

    def _remove_unless_sent_again(self, file: str) -> None:
        with self._lock:
            used = file in self._files
        if not used:
            self._remove(file)
