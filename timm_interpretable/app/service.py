"""What all tabs and the API share: the engine and the open pages."""

import contextlib
import os
import threading
import time
from pathlib import Path

from timm_interpretable.app.engine import Engine
from timm_interpretable.app.memory import give_back
from timm_interpretable.app.models import Models
from timm_interpretable.app.sessions import Sessions
from timm_interpretable.app.settings import Settings

FILE_SECONDS = 600  # how long files stay at most


class Service:
    """One per process; arguments as those of `Engine`."""

    def __init__(self, settings: Settings | None = None, models: Models | None = None) -> None:
        self.settings = settings or Settings()
        self.engine = Engine(self.settings, models)
        self.sessions = Sessions(self.settings.session_bytes, self.settings.keep_seconds)
        self._stop = threading.Event()
        threading.Thread(target=self._sweep, name="sweeper", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self.engine.close()

    def _sweep(self) -> None:
        while not self._stop.wait(min(30.0, self.settings.keep_seconds / 2)):
            self.engine.cache.sweep()
            self.sessions.pictures.sweep()
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
