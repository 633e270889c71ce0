"""Many people at once: no error, nobody sees another's result, memory comes back, and how long it takes.

The server runs in a process of its own; every user is a thread that speaks to the queue as the page does, and compares
pictures of its own. `pytest tests/app/test_load.py -m slow -s` prints the numbers of the long run.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_interpretable.app.engine import Engine
from timm_interpretable.app.images import read_picture
from timm_interpretable.app.settings import Settings

pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
httpx = pytest.importorskip("httpx", reason="no httpx: pip install 'timm-interpretable[test]'")

SERVER = """
from timm_interpretable.app.page import serve
from timm_interpretable.app.settings import Settings
# gradio keeps about .3 MiB for each of the last `sessions` calls; with few of them, what grows later is a leak
serve(Settings(keep_seconds={keep}, sessions=64), server_name="127.0.0.1", server_port={port})
"""
BODY = [[], "", "red and blue", False]  # what /compare gets besides the picture


class Server:
    def __init__(self, port: int, keep: float) -> None:
        code = SERVER.format(port=port, keep=keep)
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                httpx.get(self.url, timeout=10)
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.2)
        raise AssertionError("the server did not answer")

    def memory(self) -> float:
        """Resident, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def picture(user: int, number: int, folder: Path) -> Path:
    """A smooth picture of its own for every user and number, 224 pixels wide."""
    chance = np.random.default_rng([user, number])
    small = chance.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    path = folder / f"{user}-{number}.png"
    Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC).save(path)
    return path


def compare(client: httpx.Client, url: str, path: Path) -> list[dict]:
    """One comparison through upload and queue; the server's answer, or an error."""
    files = {"files": (path.name, path.read_bytes(), "image/png")}
    (sent,) = client.post(f"{url}/gradio_api/upload", files=files).raise_for_status().json()
    body = {"data": [{"path": sent, "meta": {"_type": "gradio.FileData"}}, *BODY]}
    event = client.post(f"{url}/gradio_api/call/compare", json=body).raise_for_status().json()["event_id"]
    told, kind = None, ""
    with client.stream("GET", f"{url}/gradio_api/call/compare/{event}") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: ") and kind in ("generating", "complete", "error"):
                assert kind != "error", line
                data = json.loads(line[6:])
                told = data[0] if data and isinstance(data[0], list) else told
    assert told, "no result"
    return told


def load(users: int, seconds: float, pictures: int, folder: Path, port: int) -> dict[str, float]:
    """What the users saw, with so many pictures each; asserts that every result is that of the user's own picture."""
    paths = {(user, n): picture(user, n, folder) for user in range(users) for n in range(pictures)}
    engine, serial = Engine(), {}
    for key, path in paths.items():
        states: list = []
        for states in engine.run(read_picture(path, Settings()), engine.defaults()):  # noqa: B007
            pass
        serial[key] = [
            (one.target_name, float(one.prediction.logits.max()), float(one.map.values.sum())) for one in states
        ]
    engine.close()
    assert len({tuple(map(str, one)) for one in serial.values()}) == len(paths)  # a mix-up could not go unseen
    keep = 5.0
    server = Server(port, keep)
    times: list[float] = []
    problems: list[str] = []
    try:

        def use(user: int, end: float) -> None:
            try:
                with httpx.Client(timeout=120) as client:
                    number = 0
                    while number == 0 or time.monotonic() < end:
                        key = (user, number % pictures)
                        start = time.monotonic()
                        told = compare(client, server.url, paths[key])
                        times.append(time.monotonic() - start)
                        for one, (target, logit, total) in zip(told, serial[key], strict=True):
                            assert one["target"] == target
                            assert abs(one["logit"] - logit) < 1e-3 + 1e-4 * abs(logit)
                            assert abs(one["sum"] - total) < 1e-3 + 1e-4 * abs(total)
                        number += 1
            except Exception as error:
                problems.append(f"user {user}: {type(error).__name__}: {error}")

        def everybody(end: float) -> float:
            """All users at once; the most memory that was seen."""
            threads = [threading.Thread(target=use, args=(user, end)) for user in range(users)]
            for thread in threads:
                thread.start()
            most = 0.0
            while any(thread.is_alive() for thread in threads):
                most = max(most, server.memory())
                time.sleep(0.5)
            time.sleep(2 * keep + 1)  # results grow old
            return most

        everybody(0.0)  # once each: models are loaded, threads are there
        before = server.memory()
        times.clear()
        peak = everybody(time.monotonic() + seconds)
        after = server.memory()
    finally:
        server.close()
    assert not problems, problems[:3]
    return dict(
        comparisons=len(times), p50=float(np.percentile(times, 50)), p95=float(np.percentile(times, 95)),
        before=before, peak=peak, after=after, load=os.getloadavg()[0],
    )  # fmt: skip


def test_eight_users_for_ten_seconds(tmp_path):
    found = load(8, 10, 2, tmp_path, 7896)
    print(found)
    assert found["comparisons"] >= 8
    assert found["after"] < found["before"] + 100  # MiB


@pytest.mark.slow
def test_thirty_two_users_for_two_minutes(tmp_path):
    found = load(32, 120, 4, tmp_path, 7897)
    print(found)
    assert found["comparisons"] >= 64
    assert found["after"] < found["before"] + 100  # MiB
