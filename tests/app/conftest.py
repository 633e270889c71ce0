"""One application per test run, served on 127.0.0.1 as `timm-interpretable app` serves it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from timm_interpretable.app.images import Picture, read_picture
from timm_interpretable.app.models import Models
from timm_interpretable.app.settings import Settings
from timm_interpretable.data.images import sample_images

SAMPLES = {sample.label: sample.path for sample in sample_images()}


@dataclass
class Served:
    url: str
    service: Any  # timm_interpretable.app.service.Service
    cache: Path  # gradio's files
    page: Any  # gr.Blocks


def start(settings: Settings, models: Models | None = None):
    """A generator: the served application, closed at the end."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
    from timm_interpretable.app.examples import bundled_examples
    from timm_interpretable.app.page import build, launch_options, private_cache
    from timm_interpretable.app.service import Service

    cache = private_cache()
    service = Service(settings, models)
    examples = bundled_examples()
    page = build(service, examples)
    _, url, _ = page.launch(
        prevent_thread_lock=True, server_name="127.0.0.1", **launch_options(service, examples)
    )  # fmt: skip
    yield Served(url.rstrip("/"), service, cache, page)
    page.close(verbose=False)
    service.close()


@pytest.fixture(scope="session")
def served():
    yield from start(Settings(fast_workers=2, slow_workers=1))


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings()


@pytest.fixture
def golf_ball(settings) -> Picture:
    return read_picture(SAMPLES["golf ball"], settings)
