import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .server import TOKEN, Hub

ROOT = Path(__file__).parents[2]


def clean_environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """An environment without anything that this machine knows of the Hub."""
    dropped = ("HF_", "HUGGING", "TIMM_INTERPRETABLE_WEIGHTS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    env |= dict(HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    env |= dict(HF_HUB_ETAG_TIMEOUT="120", HF_HUB_DOWNLOAD_TIMEOUT="120")  # a busy machine is not a missing Hub
    return env | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), HF_HUB_DISABLE_PROGRESS_BARS="1") | more


class Worker:
    """`tests/release/worker.py` in a process of its own."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self.log = log.open("w")
        command = [sys.executable, str(Path(__file__).parent / "worker.py")]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.read()["file"].startswith(str(ROOT))

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        assert line, Path(self.log.name).read_text()
        return json.loads(line)

    def ask(self, do: str, *args: str, offline: bool = False, env: dict | None = None, **kwargs: Any) -> dict[str, Any]:
        kwargs = {key: str(value) if isinstance(value, Path) else value for key, value in kwargs.items()}
        request = dict(do=do, args=args, kwargs=kwargs, offline=offline, env=env or {})
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def hub(server: Hub) -> Hub:
    """An empty Hub."""
    server.repos.clear()
    server.objects.clear()
    server.asked.clear()
    return server


@pytest.fixture(scope="module")
def worker(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The real client, in front of the Hub of this module; the bundled weights are not used."""
    folder = tmp_path_factory.mktemp("worker")
    env = clean_environment(server.endpoint, folder / "hf", HF_TOKEN=TOKEN, TIMM_INTERPRETABLE_WEIGHTS="hub")
    worker = Worker(env, folder / "log")
    yield worker
    worker.close()
