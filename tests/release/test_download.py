"""`pretrained=True` and the other routes to the Hub, through its real client, against a server on 127.0.0.1."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from timm_interpretable.models.download import pinned_revision
from timm_interpretable.models.weights import HUB_ORG, card_folder, released

NAME = "facnn_resnet18.cifar10"
REPO, FILE = f"{HUB_ORG}/{NAME}", "model.safetensors"
PIN = pinned_revision(released()[NAME])
FILES = {path.name: path.read_bytes() for path in card_folder(NAME).iterdir()}
GET = f"GET /{REPO}/resolve/{PIN}/{FILE}"


@pytest.fixture
def published(hub):
    hub.put(REPO, FILES, tag=PIN)
    return hub


@pytest.fixture(scope="module")
def expected(worker):
    """What the bundled weights give."""
    return worker.ask("load", NAME, env={"TIMM_INTERPRETABLE_WEIGHTS": "bundled"})


def load(worker, cache: Path, **kwargs):
    return worker.ask("load", NAME, cache_dir=cache, **kwargs)


def error(answer) -> str:
    assert answer.get("error") == "WeightsError", answer
    return answer["message"]


def test_the_pinned_revision_is_downloaded_once_and_then_not_asked_for(published, worker, expected, tmp_path):
    published.put(REPO, {"README.md": b"a later commit, without weights"})
    source = worker.ask("source", NAME, cache_dir=tmp_path)
    assert source == dict(kind="hub", location=f"{published.endpoint}/{REPO}/resolve/{PIN}/{FILE}")
    assert load(worker, tmp_path) == expected
    assert published.count(GET) == 1
    before = list(published.asked)
    assert load(worker, tmp_path) == expected
    assert load(worker, tmp_path, offline=True) == expected
    assert published.asked == before
    source = worker.ask("source", NAME, cache_dir=tmp_path)
    assert source["kind"] == "cache"
    assert Path(source["location"]).is_relative_to(tmp_path)  # cache_dir was obeyed


def test_auto_takes_the_bundled_file_and_asks_nobody(published, worker, expected, tmp_path):
    auto = {"TIMM_INTERPRETABLE_WEIGHTS": "auto"}
    assert worker.ask("load", NAME, cache_dir=tmp_path, env=auto) == expected
    assert worker.ask("source", NAME, env=auto) == dict(kind="bundled", location=str(card_folder(NAME) / FILE))
    assert not published.asked
    assert not list(tmp_path.iterdir())


def test_a_cut_download_is_resumed_where_it_was_cut(published, worker, expected, tmp_path):
    published.faults.cut_after = 2**20
    assert load(worker, tmp_path) == expected
    assert [request for request in published.asked if request.startswith("GET")] == [GET, f"{GET} bytes={2**20}-"]


def test_a_truncated_file_is_refused(published, worker, expected, tmp_path):
    published.faults.short_by = 1000
    assert f"Downloading {REPO}@{PIN} failed" in error(load(worker, tmp_path))
    assert load(worker, tmp_path) == expected  # and nothing of it stays


def test_an_altered_file_is_refused(hub, worker, tmp_path):
    altered = FILES[FILE][:-1] + bytes([FILES[FILE][-1] ^ 1])
    hub.put(REPO, FILES | {FILE: altered}, tag=PIN)
    message = error(load(worker, tmp_path))
    assert f"{REPO}@{PIN} is not the released weight file" in message
    assert released()[NAME] in message


def test_a_file_damaged_in_the_cache_is_downloaded_again(published, worker, expected, tmp_path):
    assert load(worker, tmp_path) == expected
    file = Path(worker.ask("source", NAME, cache_dir=tmp_path)["location"])
    file.write_bytes(b"damaged")
    assert "failed" in error(load(worker, tmp_path, offline=True))
    assert load(worker, tmp_path) == expected
    assert published.count("GET") == 2


def test_a_pickle_under_the_name_is_refused(hub, worker, tmp_path):
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, buffer)
    hub.put(REPO, FILES | {FILE: buffer.getvalue()}, tag=PIN)
    assert "is not the released weight file" in error(load(worker, tmp_path))


def test_a_pickle_instead_of_the_file_is_refused(hub, worker, tmp_path):
    hub.put(REPO, {"config.json": FILES["config.json"], "pytorch_model.bin": pickle.dumps({})}, tag=PIN)
    assert f"{REPO}@{PIN} has no {FILE}. Other formats, pickles among them, are not loaded" in error(
        load(worker, tmp_path)
    )
    assert not any(".bin" in request for request in hub.asked)


def test_no_network_and_nothing_cached(published, worker, tmp_path):
    message = error(load(worker, tmp_path, offline=True))
    for part in (f"{REPO}@{PIN}", str(tmp_path), published.endpoint, "HF_HUB_OFFLINE is set", "come with the package"):
        assert part in message
    assert not published.asked


def test_unknown_repository(hub, worker, tmp_path):
    message = error(load(worker, tmp_path))
    assert f"The Hub at {hub.endpoint} has no repository {REPO}" in message
    assert "not published yet; the weights come with the package" in message


def test_revision_gone(hub, worker, tmp_path):
    hub.put(REPO, FILES)
    assert f"{REPO} has no revision {PIN}" in error(load(worker, tmp_path))


def test_unknown_choice(worker):
    answer = worker.ask("load", NAME, env={"TIMM_INTERPRETABLE_WEIGHTS": "Hub"})
    assert error(answer) == "TIMM_INTERPRETABLE_WEIGHTS is 'Hub', expected auto, bundled or hub."


def test_hf_hub_route(hub, worker, expected, tmp_path):
    hub.put("somebody/mine", FILES, tag="v1")
    for name in ("hf-hub:somebody/mine", "hf-hub:somebody/mine@v1"):
        assert worker.ask("load", name, cache_dir=tmp_path) == expected
    assert worker.ask("load", "hf-hub:somebody/mine", cache_dir=tmp_path, offline=True) == expected


def test_hf_hub_route_refuses_pickles(hub, worker, tmp_path):
    state = io.BytesIO()
    torch.save(load_file(card_folder(NAME) / FILE), state)
    config = {"config.json": FILES["config.json"]}
    hub.put("somebody/pickles", config | {"pytorch_model.bin": state.getvalue()})
    assert f"has no {FILE}" in error(worker.ask("load", "hf-hub:somebody/pickles", cache_dir=tmp_path))
    hub.put("somebody/disguised", config | {FILE: state.getvalue()})
    assert "is a pickle" in error(worker.ask("load", "hf-hub:somebody/disguised", cache_dir=tmp_path))


def test_local_dir_route(worker, expected, tmp_path):
    assert worker.ask("load", f"local-dir:{card_folder(NAME)}") == expected
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    torch.save(load_file(card_folder(NAME) / FILE), tmp_path / "pytorch_model.bin")
    assert f"{tmp_path} has no {FILE}" in error(worker.ask("load", f"local-dir:{tmp_path}"))
    (tmp_path / FILE).write_bytes(FILES[FILE][:-10])
    assert "is not a whole safetensors file" in error(worker.ask("load", f"local-dir:{tmp_path}"))


def test_fine_tuned_weights_of_two_classes_come_back_from_another_repository(hub, worker, tmp_path):
    config = json.loads(FILES["config.json"])
    for part in (config, config["model_args"], config["pretrained_cfg"]):
        part.update(num_classes=2)
    config["label_names"] = config["pretrained_cfg"]["label_names"] = ["cat", "dog"]
    state = load_file(card_folder(NAME) / FILE)  # the head has no weights: any number of classes fits
    hub.put("somebody/two", {"config.json": json.dumps(config).encode(), FILE: save(state)})
    assert len(worker.ask("load", "hf-hub:somebody/two", cache_dir=tmp_path)["logits"]) == 2
