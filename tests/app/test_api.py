"""The endpoints as programs use them, and what strangers may not do through them."""

import json
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from drawn_faces import draw_face
from PIL import Image

from timm_interpretable.app.engine import Choice
from timm_interpretable.app.images import read_picture
from timm_interpretable.attr import methods_for
from timm_interpretable.data.images import eval_transform

from .conftest import SAMPLES

httpx = pytest.importorskip("httpx", reason="no httpx: pip install 'timm-interpretable[test]'")
Client, handle_file = (
    getattr(pytest.importorskip("gradio_client", reason="no gradio: pip install 'timm-interpretable[test]'"), name)
    for name in ("Client", "handle_file")
)

GOLF = handle_file(str(SAMPLES["golf ball"]))


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    return Client(served.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_a_picture_alone_is_enough_to_explain(client):
    told, overlay = client.predict(GOLF, api_name="/explain")
    model = timm.create_model("facnn_hybrid_efficientnet_lite0.in1k", pretrained=True).eval()
    with torch.no_grad():
        logits = model(eval_transform(model)(Image.open(SAMPLES["golf ball"]).convert("RGB"))[None])[0]
    assert told["model"] == "facnn_hybrid_efficientnet_lite0.in1k"
    assert told["method"] == "class_map"
    assert told["target"] == "golf ball"
    assert told["completeness"] == "exact"
    np.testing.assert_allclose([told["logit"], told["sum"]], [logits.max(), logits.max() - logits.mean()], rtol=1e-3)
    np.testing.assert_allclose(told["probabilities"]["golf ball"], logits.softmax(0).max(), rtol=1e-3)
    assert Image.open(overlay).size == (320, 320)


def test_every_option_of_explain(client):
    told, _ = client.predict(
        GOLF, "coda_net_m.imagenette", "contributions", "9", "orange and purple", True, True, api_name="/explain"
    )
    values = np.array(told["map"])
    assert told["target"] == "parachute"
    assert values.shape == (96, 96) == tuple(told["size"])
    np.testing.assert_allclose(values.sum(), told["sum"], atol=0.02)


def test_a_picture_alone_is_enough_to_compare(client):
    told, gallery = client.predict(GOLF, api_name="/compare")
    assert [(one["model"].partition("_")[0], one["method"]) for one in told] == [
        ("facnn", "class_map"), ("bcos", "contributions"), ("bcos", "grad_cam")
    ]  # fmt: skip
    assert len(gallery) == 3
    assert gallery[0]["caption"] == "EfficientNet with class maps, ImageNet: class map"
    told, _ = client.predict(
        GOLF, ["facnn_resnet18.cifar10", "coda_net_s.cifar10:grad_cam"], "ship", api_name="/compare"
    )
    assert [one["target"] for one in told] == ["ship"] * 2


def test_methods_are_those_of_the_catalogue(client, served):
    listed = client.predict(api_name="/methods")
    assert [one["model"] for one in listed] == [entry.name for entry in served.service.engine.models.entries]
    for one in listed:
        methods = methods_for(timm.create_model(one["model"]))
        assert [(m["key"], m["title"], m["cost"]) for m in one["methods"]] == [
            (key, method.title, method.cost.value) for key, method in methods.items()
        ]


def test_two_pictures_are_enough_to_verify(client, tmp_path):
    files = []
    for person in (1, 2):
        draw_face(person, 1).save(tmp_path / f"{person}.png")
        files.append(handle_file(str(tmp_path / f"{person}.png")))
    told, gallery = client.predict(*files, "corr_rise", api_name="/verify")
    assert -1 <= told["cosine"] <= 1
    assert told["same_person"] == (told["cosine"] >= told["threshold"])
    assert [one["caption"] for one in gallery] == [
        "similar, first", "dissimilar, first", "similar, second", "dissimilar, second"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(model="resnet50"), "There is no model 'resnet50'; expected one of facnn_hybrid_efficientnet_lite0.in1k"),
        (dict(method="lime"), "has no method 'lime'; expected one of class_map"),
        (dict(target="unicorn"), "There is no class 'unicorn'; expected one of tench"),
        (dict(palette="jet"), "There is no palette 'jet'; expected one of red and blue"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(client, arguments, said):
    with pytest.raises(Exception, match=re.escape(said)):
        client.predict(GOLF, api_name="/explain", **arguments)


def test_too_many_and_wrong_explanations(client):
    for wrong in (["facnn_resnet18.cifar10"] * 7, [1, 2], "fame"):
        with pytest.raises(Exception, match="expected a list of at most 6 names"):
            client.predict(GOLF, wrong, api_name="/compare")


def test_every_endpoint_is_documented(served):
    endpoints = httpx.get(f"{served.url}/gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {"/methods", "/explain", "/compare", "/verify"}
    for name, endpoint in endpoints.items():
        assert "Returns" in endpoint["description"]
        pictures = {"/verify": 2, "/methods": 0}.get(name, 1)
        assert all(p["parameter_has_default"] for p in endpoint["parameters"][pictures:])


# --- what is refused


def call(served, path: str | None = None, url: str | None = None) -> str:
    """What the server answers to a picture given by a path or address of the caller's choice."""
    file = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, "", "", "", "red and blue", False, False]}
    answer = httpx.post(f"{served.url}/gradio_api/call/explain", json=body, timeout=30)
    if answer.status_code != 200:
        return answer.text
    return httpx.get(f"{served.url}/gradio_api/call/explain/{answer.json()['event_id']}", timeout=30).text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "file:///etc/passwd",
        "README.md",
        str(SAMPLES["cat"]),
        "\0",
        "~/.bashrc",
    ],
)
def test_files_that_were_not_sent_are_not_read(served, path):
    answer = call(served, path)
    assert "event: error" in answer
    assert "root:" not in answer
    assert "event: complete" not in answer


def test_nothing_is_fetched_from_the_web(served):
    for address in ("http://example.com/a.png", "https://127.0.0.1:1/a.png"):
        assert "send the picture itself" in call(served, address)
        assert httpx.get(f"{served.url}/gradio_api/file={address}").status_code == 403
        assert httpx.get(f"{served.url}/gradio_api/proxy={address}").status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "..%2f..%2f..%2fetc/passwd", "/proc/self/environ", "README.md", "pyproject.toml", "//etc/passwd",
        str(Path(__file__).resolve()), str(SAMPLES["cat"].parent / "SOURCES.md"), "%00", "C:/Windows/win.ini",
    ],
)  # fmt: skip
def test_no_file_outside_is_served(served, path):
    assert httpx.get(f"{served.url}/gradio_api/file={path}").status_code in (400, 403, 404)


def test_a_name_cannot_leave_the_upload_folder(served):
    name = "../../../../tmp/escaped.png"
    files = {"files": (name, SAMPLES["cat"].read_bytes(), "image/png")}
    (path,) = httpx.post(f"{served.url}/gradio_api/upload", files=files).json()
    assert Path(path).resolve().is_relative_to(served.cache.resolve())
    assert not Path("/tmp/escaped.png").exists()


@pytest.mark.parametrize(("content", "said"), [(b"hello", "not an image"), (b"GIF89a" + b"\0" * 20, "cannot be used")])
def test_bad_uploads_get_a_sentence(client, tmp_path, content, said):
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(Exception, match=said):
        client.predict(handle_file(str(tmp_path / "file.png")), api_name="/explain")


def test_uploads_have_a_limit(served, settings):
    files = {"files": ("big.png", b"\0" * (settings.max_bytes + 1), "image/png")}
    answer = httpx.post(f"{served.url}/gradio_api/upload", files=files)
    assert answer.status_code == 413
    assert str(settings.max_bytes) in answer.text
    answer = httpx.post(f"{served.url}/gradio_api/upload", content=b"\0" * (2 * settings.max_bytes))
    assert answer.status_code == 413
    assert "too large" in answer.json()["detail"]


def test_a_picture_inside_the_request(served):
    import base64

    body = base64.b64encode(SAMPLES["golf ball"].read_bytes()).decode()
    assert '"target": "golf ball"' in call(served, url=f"data:image/jpeg;base64,{body}")
    assert "no picture in base64" in call(served, url="data:image/png;base64,@@@")


# --- what is kept


def test_results_are_the_same_for_everyone_and_computed_once(client, served, monkeypatch):
    from timm_interpretable.app import engine

    calls = []
    real = engine.predict
    monkeypatch.setattr(engine, "predict", lambda *a: calls.append(1) or real(*a))
    picture = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    path = served.cache.parent / f"mandelbrot-{os.getpid()}.png"
    picture.save(path)
    jobs = [client.submit(handle_file(str(path)), api_name="/explain") for _ in range(8)]
    results = [job.result(timeout=60)[0] for job in jobs]
    path.unlink()
    assert all(result == results[0] for result in results)
    assert len(calls) == 1


def test_a_client_that_dies_frees_its_place(served, tmp_path):
    """A stream that is cut off in the middle of a slow method: the computation ends, and the lane is free."""
    jobs = served.service.engine.jobs
    picture = Image.effect_noise((48, 48), 90).convert("RGB")
    picture.save(tmp_path / "noise.png")
    files = {"files": ("noise.png", (tmp_path / "noise.png").read_bytes(), "image/png")}
    (path,) = httpx.post(f"{served.url}/gradio_api/upload", files=files).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, "facnn_resnet18.imagenette", "rise", "", "red and blue", False, False]}
    event = httpx.post(f"{served.url}/gradio_api/call/explain", json=body).json()["event_id"]
    with httpx.stream("GET", f"{served.url}/gradio_api/call/explain/{event}", timeout=30) as stream:
        for line in stream.iter_lines():  # signs of life
            if "generating" in line and jobs.busy():
                break
    deadline = time.monotonic() + 30
    while jobs.busy() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs.busy() == 0
    key = (read_picture(tmp_path / "noise.png", served.service.settings).digest, "facnn_resnet18.imagenette", "rise")
    assert not any(k[:3] == key for k in served.service.engine.cache._values)  # it did not run to its end
    found = served.service.engine.explain(
        read_picture(tmp_path / "noise.png", served.service.settings), Choice("facnn_resnet18.cifar10", "class_map")
    )
    assert np.isfinite(found.map.values).all()


def test_nothing_escapes_the_cleaning(client, served):
    """Every half minute gradio deletes old files that it knows of, and the service what it has drawn."""
    from gradio.route_utils import delete_files_created_by_app

    from timm_interpretable.app.service import clean_drawn

    client.predict(GOLF, api_name="/explain")
    client.predict(GOLF, api_name="/compare")
    files = [path for path in served.cache.rglob("*") if path.is_file()]
    assert len(files) >= 4
    clean_drawn(served.cache, 600)
    assert [path for path in served.cache.rglob("*") if path.is_file()] == files  # none is old
    delete_files_created_by_app(served.page, age=None)
    clean_drawn(served.cache, 0)
    left = {path.read_bytes() for path in served.cache.rglob("*") if path.is_file()}
    ours = {path.read_bytes() for path in SAMPLES["cat"].parent.rglob("*.*g")}
    assert left <= ours  # the pictures on the buttons of examples


def test_what_the_page_does_not_use_is_not_there(served):
    assert httpx.post(f"{served.url}/gradio_api/process_recording", files={"video": b"x"}).status_code == 404
    assert httpx.get(f"{served.url}/gradio_api/deep_link").status_code == 404
    assert httpx.get(f"{served.url}/monitoring").status_code in (403, 404)


def test_files_go_with_the_page_that_sent_them(served, tmp_path, monkeypatch):
    """As a page does it: a heartbeat that ends tells the server that the page was closed."""
    Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "mine.png")
    files = {"files": ("mine.png", (tmp_path / "mine.png").read_bytes(), "image/png")}
    (path,) = httpx.post(f"{served.url}/gradio_api/upload", files=files).json()
    config = httpx.get(f"{served.url}/config").json()
    read = next(d["id"] for d in config["dependencies"] if d["api_name"] == "page_read")
    session, service = "session-of-a-test", served.service
    ended = threading.Event()

    def page() -> None:
        with httpx.stream("GET", f"{served.url}/gradio_api/heartbeat/{session}", timeout=60) as stream:
            for _ in stream.iter_lines():
                if ended.is_set():
                    return

    beat = threading.Thread(target=page)
    beat.start()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file], "fn_index": read, "session_hash": session}
    httpx.post(f"{served.url}/gradio_api/queue/join", json=body)
    with httpx.stream("GET", f"{served.url}/gradio_api/queue/data?session_hash={session}", timeout=30) as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                assert json.loads(line[6:])["success"]
                break
    assert service.sessions.pictures.get((session, "picture")).rgb.size == (40, 40)
    assert Path(path).exists()
    monkeypatch.setattr("timm_interpretable.app.sessions._IN_TRANSIT", 0.0)
    ended.set()
    beat.join()
    deadline = time.monotonic() + 30
    while Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(path).exists()
    assert (session, "picture") not in service.sessions.pictures
