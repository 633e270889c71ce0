"""Where the package has no weights of its own, timm's and the Hub's real client fetch them: against a local server."""

import hashlib
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import timm
from safetensors.torch import save_file

NAME, COMMIT = "facnn_resnet18.imagenette", "0" * 40

LOAD = f"""
import timm, timm_interpretable
from timm_interpretable.models import weights
weights.CARD_FOLDERS = ()
model = timm.create_model({NAME!r}, pretrained=True)
print(float(model.head.log_tau))
"""


@pytest.fixture
def hub(tmp_path):
    """A Hub with one repository and one file; gives its address and the paths that were asked for."""
    state = timm.create_model(NAME).state_dict()
    state["head.log_tau"].fill_(1.25)
    save_file(state, tmp_path / "model.safetensors")
    content, asked = (tmp_path / "model.safetensors").read_bytes(), []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            if self.answer():
                self.wfile.write(content)

        def answer(self) -> bool:
            asked.append(self.path)
            found = self.path.startswith(f"/timm-interpretable/{NAME}/resolve/") and self.path.endswith(".safetensors")
            found = found and "open_clip" not in self.path
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) if found else 0))
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return found

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_weights_come_from_the_hub_when_the_package_has_none(hub, tmp_path: Path):
    endpoint, asked = hub
    env = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    env |= dict(
        HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"
    )
    done = subprocess.run([sys.executable, "-c", LOAD], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.25)
    assert f"/timm-interpretable/{NAME}/resolve/main/model.safetensors" in asked
