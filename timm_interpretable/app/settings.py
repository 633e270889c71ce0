"""The limits of the application in one place."""

import os
from dataclasses import dataclass, field

from timm_interpretable.attr import MethodSettings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is tried on a file that a stranger has sent; Pillow knows many more, some of which start other programs."""


@dataclass(frozen=True)
class Settings:
    """Every bound is per process.

    Args:
        max_bytes: of a file, also of a request.
        max_pixels: of a picture, before it is decoded.
        side: pixels to which the longer side of a larger picture is reduced.
        keep_seconds: how long maps, and pictures of pages that are not used, stay in memory.
        cache_bytes: of predictions and maps.
        session_bytes: of the pictures of open pages.
        fast_workers, slow_workers: computations at the same time, of few passes and of many.
        queue_size: events that wait, before others are told to come again later.
        sessions: pages and calls whose state gradio keeps, those used last; about .3 MiB each.
        methods: the options of every method; fewer passes than the papers take, so that a map is there in seconds.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 40_000_000
    side: int = 1024
    keep_seconds: float = 900
    cache_bytes: int = 192 * 2**20
    session_bytes: int = 192 * 2**20
    fast_workers: int = max(2, os.cpu_count() or 1)
    slow_workers: int = max(1, (os.cpu_count() or 1) // 2)
    queue_size: int = 200
    sessions: int = 300
    methods: MethodSettings = field(
        default_factory=lambda: MethodSettings(ig_steps=50, n_samples=300, perturbations_per_eval=5)
    )
