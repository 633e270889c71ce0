"""`python -m tools.release publish`, with the Hub's real client, against a server on 127.0.0.1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from timm_interpretable import __version__
from timm_interpretable.models.download import WeightsError, pinned_revision
from timm_interpretable.models.weights import HUB_ORG, card_folder, released
from tools.release.publish import PublishError, model_upload, space_upload

from .conftest import Worker, clean_environment
from .server import READ_ONLY, TOKEN, Hub

NAME = "facnn_resnet18.cifar10"
KEY, FOLDER = f"models/org/{NAME}", card_folder(NAME)
PIN = pinned_revision(released()[NAME])
FILES = {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def publish(worker, *args: str, code: int = 0, **kwargs) -> str:
    """The command's output, both streams."""
    answer = worker.ask("run", "publish", "--namespace", "org", *args, **kwargs)
    assert answer.get("code") == code, answer
    return answer["output"]


def writes(hub) -> list[str]:
    return [request for request in hub.asked if request.startswith(("POST", "PUT"))]


def test_one_commit_tagged_and_nothing_the_second_time(hub, worker):
    assert "create the repository; upload" in publish(worker, NAME)
    repo = hub.repos[KEY]
    assert repo.commits[1:] == [FILES]
    assert repo.tags == {PIN: 1}
    hub.asked.clear()
    assert "nothing to do; downloaded and checked" in publish(worker, NAME)
    assert not writes(hub)


def test_only_what_changed_is_sent_and_strangers_are_deleted(hub, worker):
    publish(worker, NAME)
    repo = hub.repos[KEY]
    repo.commits.append(
        FILES | {"README.md": b"---\nold: true\n---\n", "pytorch_model.bin": b"x", ".gitattributes": b""}
    )
    hub.asked.clear()
    output = publish(worker, NAME, "--revision-tag")
    assert "upload README.md (" in output
    assert f"delete pytorch_model.bin; tag v{__version__}" in output
    assert repo.commits[3:] == [FILES | {".gitattributes": b""}]
    assert repo.tags == {PIN: 1, f"v{__version__}": 3}  # the pin of the weights stays
    assert hub.count("PUT /_lfs/") == 0
    repo.commits.append(FILES | {"README.md": b"---\nolder: true\n---\n"})
    output = publish(worker, NAME, "--revision-tag", code=2)
    assert f"has v{__version__} at another state; a published version does not move" in output


def test_dry_run_only_tells(hub, worker):
    output = publish(worker, NAME, "--dry-run", env={"HF_TOKEN": ""})
    assert "would create the repository; upload README.md (" in output
    assert f"tag {PIN}" in output
    assert not writes(hub)
    publish(worker, NAME)
    hub.asked.clear()
    assert "nothing to do" in publish(worker, NAME, "--dry-run")
    assert not writes(hub)


@pytest.mark.parametrize("fault", ["refuse_commit", "refuse_tag"])
def test_half_finished_upload_resumes(hub, worker, fault):
    setattr(hub.faults, fault, True)
    output = publish(worker, NAME, code=2)
    assert output.startswith("error: org/")
    assert output.count("\n") == 1
    sent = hub.count("PUT /_lfs/")
    assert sent > 0
    assert len(hub.repos[KEY].commits) == (1 if fault == "refuse_commit" else 2)
    assert not hub.repos[KEY].tags
    publish(worker, NAME)
    assert hub.count("PUT /_lfs/") == sent  # nothing is sent twice
    assert hub.repos[KEY].commits[1:] == [FILES]
    assert hub.repos[KEY].tags == {PIN: 1}


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "No Hugging Face token: run `hf auth login` or set HF_TOKEN"),
        ("hf_wrong", "the token is not valid (HTTP 401"),
        (READ_ONLY, f"the token may not write to org/{NAME} (HTTP 403"),
    ],
)
def test_without_a_token_that_may_write_there_is_one_line(hub, worker, token, message):
    output = publish(worker, NAME, code=2, env={"HF_TOKEN": token})
    assert message in output
    assert output.count("\n") == 1
    assert not hub.repos


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing to publish; name models, or give --all or --space"),
        (
            ("facnn_resnet18.imagenet",),
            f"'facnn_resnet18.imagenet' is not a released model; expected one of {sorted(released())[0]}",
        ),
        ((NAME, "facnn_resnet34"), "'facnn_resnet34' is not a released model"),
    ],
)
def test_wrong_arguments_send_nothing(hub, worker, args, message):
    output = publish(worker, *args, code=2)
    assert message in " ".join(output.split())
    assert not hub.asked


def test_a_hub_that_gives_back_other_weights_is_noticed(hub, worker):
    publish(worker, NAME)
    repo = hub.repos[KEY]
    broken = dict(FILES)
    broken["model.safetensors"] = FILES["model.safetensors"][:-4] + b"\0\0\0\1"
    repo.commits.append(broken)
    repo.tags[PIN] = 2
    assert "is not the released weight file" in publish(worker, NAME, code=2)


def test_all_are_every_released_model(hub, worker):
    output = publish(worker, "--all", "--dry-run")
    assert sorted(line.split(":")[0] for line in output.splitlines()) == sorted(f"org/{name}" for name in released())


def test_the_whole_way(tmp_path):
    """Publish one model of each kind; then, with a new environment and an empty cache, the same outputs from the Hub.

    And when the Hub is gone, from the cache, or else an error that says so.
    """
    hub, names = Hub(), (NAME, "coda_net_s.cifar10", "face_resnet10.orl")
    command = [sys.executable, "-m", "tools.release", "publish", *names, "--namespace", HUB_ORG]
    env = clean_environment(hub.endpoint, tmp_path / "publisher", HF_TOKEN=TOKEN)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)
    hub.asked.clear()

    env = clean_environment(hub.endpoint, tmp_path / "user", HF_TOKEN="", TIMM_INTERPRETABLE_WEIGHTS="hub")
    user = Worker(env, tmp_path / "log")
    try:
        for name in names:
            from_hub = user.ask("load", name)
            assert from_hub["logits"]
            assert from_hub == user.ask("load", name, env={"TIMM_INTERPRETABLE_WEIGHTS": "bundled"})
            assert hub.count(f"GET /{HUB_ORG}/{name}/resolve/weights-") == 1
            assert Path(user.ask("source", name)["location"]).is_relative_to(tmp_path / "user")
        assert not [request for request in hub.asked if not request.startswith(("GET", "HEAD"))]
        hub.stop()
        assert user.ask("load", name) == from_hub
        answer = user.ask("load", name, cache_dir=tmp_path / "empty")
        assert answer["error"] == "WeightsError"
        # huggingface_hub 1.20 closes its session after a refused connection and says only that
        assert f"{HUB_ORG}/{name}@weights-" in answer["message"]
        assert f"Hub at {hub.endpoint}" in answer["message"]
    finally:
        user.close()


@pytest.fixture
def space(tmp_path, monkeypatch):
    """The folder of the Space in a clone of its own; the package looks for it beside `hub_cards`."""
    folder = tmp_path / "spaces_app"
    folder.mkdir()
    monkeypatch.setattr("tools.release.publish.CARD_FOLDERS", (tmp_path / "hub_cards",))
    return folder


def test_space_folder(space):
    with pytest.raises(PublishError, match="There is no Space to publish"):
        space_upload("org")
    (space / "README.md").write_text("---\nsdk: streamlit?\n---\n")
    with pytest.raises(PublishError, match="names the sdk 'streamlit\\?'"):
        space_upload("org")
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    (space / "app.py").write_text("")
    (space / "__pycache__").mkdir()
    (space / "__pycache__" / "app.pyc").write_text("")
    upload = space_upload("org", version_tag=True)
    assert (upload.repo_id, upload.repo_type, upload.sdk) == ("org/timm-interpretable", "space", "gradio")
    assert upload.files == ("README.md", "app.py")
    assert upload.tags == (f"v{__version__}",)
    (space / "weights.pt").write_text("")
    with pytest.raises(PublishError, match=r"holds weights\.pt; weights are published as safetensors only"):
        space_upload("org")


def test_space_brings_its_wheel(space, tmp_path):
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    (space / "requirements.txt").write_text("timm-interpretable[space]\n")
    wheel = tmp_path / f"timm_interpretable-{__version__}-py3-none-any.whl"
    with pytest.raises(PublishError, match="is not the wheel of this version"):
        space_upload("org", wheel=wheel)
    wheel.write_bytes(b"PK")
    upload = space_upload("org", wheel=wheel)
    assert upload.files == ("README.md", "requirements.txt", wheel.name)
    (line,) = (upload.folder / "requirements.txt").read_text().splitlines()
    assert line.startswith("timm-interpretable[space] @ http")
    assert line.endswith(f"/spaces/org/timm-interpretable/resolve/main/{wheel.name}")
    assert (space / "requirements.txt").read_text() == "timm-interpretable[space]\n"  # the folder itself stays


def test_space_is_published(hub, worker, space, tmp_path):
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    (space / "app.py").write_text("print('hello')\n")
    args = ("--space", "--revision-tag")
    assert "upload README.md" in publish(worker, *args, clone=tmp_path)
    repo = hub.repos["spaces/org/timm-interpretable"]
    assert set(repo.commits[-1]) == {"README.md", "app.py"}
    assert repo.tags == {f"v{__version__}": 1}


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """A copy of a released model's folder, in place of the package's own."""
    folder = tmp_path / "hub_cards" / NAME
    folder.mkdir(parents=True)
    for file, data in FILES.items():
        (folder / file).write_bytes(data)
    monkeypatch.setattr("timm_interpretable.models.weights.CARD_FOLDERS", (tmp_path / "hub_cards",))
    return folder


def test_folder_of_a_model(cards):
    assert model_upload(NAME, "org").files == tuple(sorted(FILES))
    (cards / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PublishError, match=r"holds README\.md, .*pytorch_model\.bin"):
        model_upload(NAME, "org")
    os.remove(cards / "pytorch_model.bin")
    (cards / "README.md").write_text("no front matter")
    with pytest.raises(PublishError, match="has no front matter"):
        model_upload(NAME, "org")
    (cards / "model.safetensors").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="is not the released weight file"):
        model_upload(NAME, "org")
    os.remove(cards / "regression.safetensors")
    with pytest.raises(PublishError, match="expected README"):
        model_upload(NAME, "org")
