"""The limits of the application in one place."""

import os
from dataclasses import dataclass

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is tried on a file that a stranger has sent; Pillow knows many more, some of which start other programs."""


@dataclass(frozen=True)
class Settings:
    """Every bound is per process."""

    max_bytes: int = 10 * 2**20  # of a file, also of a request
    max_pixels: int = 40_000_000  # before a picture is decoded
    side: int = 1024  # to which the longer side of a larger picture is reduced
    keep_seconds: float = 900  # how long maps, and pictures of pages that are not used, stay in memory
    cache_bytes: int = 192 * 2**20  # of maps
    shelf_bytes: int = 192 * 2**20  # of pictures of open pages
    fast_workers: int = max(2, os.cpu_count() or 1)
    slow_workers: int = max(1, (os.cpu_count() or 1) // 2)
    queue_size: int = 200  # events that wait, before others are told to come again later
    sessions: int = 300  # pages and calls whose state gradio keeps, those used last
