"""Checkpoints at their authors' own place: downloaded, resumed, checked and kept, against a server on 127.0.0.1"""

import hashlib
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from torch.testing import assert_close

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.models.download import WeightsError, linked_file, linked_weights
from timm_interpretable.models.weights import sha256


class Place:
    """A server of files; `cut_after` ends the next download after so many bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut_after: int | None = None
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, wanted = self.path[1:], self.headers.get("Range") or ""
                place.asked.append(f"{name} {wanted}".strip())
                if name not in place.files:
                    return self.send_error(404)
                start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
                content = place.files[name][start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content)))
                if start:
                    total = len(place.files[name])
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.end_headers()
                if place.cut_after is not None:
                    content, place.cut_after = content[: place.cut_after], None
                    self.close_connection = True
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, name: str, content: bytes) -> str:
        """The address of the file, whose name carries the start of its sha256."""
        full = f"{name}-{hashlib.sha256(content).hexdigest()[:10]}.pth"
        self.files[full] = content
        return f"http://127.0.0.1:{self.server.server_port}/{full}"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = Place()
    yield found
    found.server.shutdown()
    found.server.server_close()


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


STATE = {"a.linear.weight": torch.arange(2000.0), "b": torch.ones(2)}


def test_downloaded_once_and_kept_as_safetensors(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = place.put("net", saved(STATE))
    file = linked_weights(url, tmp_path)
    assert file == linked_file(url, tmp_path)
    assert_close(timm.models.load_state_dict(str(file)), STATE)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors", ".sha256"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert linked_weights(url, tmp_path) == file
    assert len(place.asked) == 1


def test_a_damaged_copy_is_made_anew(place: Place, tmp_path: Path) -> None:
    url = place.put("net", saved(STATE))
    file = linked_weights(url, tmp_path)
    right = sha256(file)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert sha256(linked_weights(url, tmp_path)) == right


def test_a_cut_download_goes_on(place: Place, tmp_path: Path) -> None:
    url = place.put("net", saved(STATE))
    name = url.rpartition("/")[2]
    (tmp_path / f"{name}.incomplete").write_bytes(place.files[name][:1000])
    linked_weights(url, tmp_path)
    assert place.asked == [f"{name} bytes=1000-"]


def test_a_connection_that_breaks_is_asked_again(place: Place, tmp_path: Path) -> None:
    url = place.put("net", saved(STATE))
    place.cut_after = 500
    try:
        linked_weights(url, tmp_path)
    except WeightsError:  # the HTTP library may give up; the next call goes on then
        linked_weights(url, tmp_path)
    assert_close(timm.models.load_state_dict(str(linked_file(url, tmp_path))), STATE)


def test_another_file_is_refused_and_forgotten(place: Place, tmp_path: Path) -> None:
    url = place.put("net", saved(STATE))
    name = url.rpartition("/")[2]
    right, place.files[name] = place.files[name], saved({"a": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"is not the file that its name says: sha256 \w{64}, expected \w{10}…"):
        linked_weights(url, tmp_path)
    place.files[name] = right
    linked_weights(url, tmp_path)


@pytest.mark.parametrize("value", [[1, 2], {"a": "no tensor"}, STATE.keys])
def test_what_is_no_state_dict_is_refused(place: Place, tmp_path: Path, value: Any) -> None:
    with pytest.raises(WeightsError, match=r"is not a (state dict|checkpoint) of tensors"):
        linked_weights(place.put("net", saved(value)), tmp_path)


def test_a_file_that_is_not_there(place: Place, tmp_path: Path) -> None:
    url = place.put("net", saved(STATE))
    place.files.clear()
    with pytest.raises(WeightsError, match=f"Downloading {url} failed: .*404"):
        linked_weights(url, tmp_path)


def test_offline(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"net-\w+\.pth is not in the cache .*HF_HUB_OFFLINE is set"):
        linked_weights(place.put("net", saved(STATE)), tmp_path)


def test_a_network_of_the_authors_is_loaded_by_its_entrypoint(place: Place, tmp_path: Path) -> None:
    """The file is one that their own code makes, with their names."""
    models = pytest.importorskip("bcos.models.pretrained", reason="the authors' code, pip install bcos, is not here")
    torch.manual_seed(0)
    theirs = models.resnet18().eval()
    url = place.put("resnet_18", saved(theirs.state_dict()))
    overlay = dict(url=url)
    model: Any = timm.create_model("bcos_resnet18", True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path).eval()
    x = torch.rand(1, 3, 64, 64)
    assert_close(model(x), theirs(torch.cat([x, 1 - x], 1)))
    assert model.pretrained_cfg["label_names"][0] == "n01440764"
    few: Any = timm.create_model(
        "bcos_resnet18", True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path, num_classes=3, in_chans=1
    )
    assert few(x[:, :1]).shape == (1, 3)
    assert len(place.asked) == 1
