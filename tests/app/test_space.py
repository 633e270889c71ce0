"""The folder that is deployed: complete, and enough on its own."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from timm_interpretable.data.images import sample_images
from timm_interpretable.models.weights import released
from tools.release.publish import space_upload

httpx = pytest.importorskip("httpx", reason="no httpx: pip install 'timm-interpretable[test]'")

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "spaces_app"


def test_front_matter():
    data = RepoCard.load(SPACE / "README.md").data.to_dict()
    assert data["sdk"] == "gradio"
    assert (SPACE / data["app_file"]).is_file()
    assert re.fullmatch(r"6\.\d+\.\d+", data["sdk_version"])
    assert len(data["short_description"]) <= 60
    assert {name.partition("/")[2] for name in data["models"]} <= set(released())


def test_examples_are_the_pictures_of_the_package():
    samples = {sample.file: sample.path.read_bytes() for sample in sample_images()}
    assert {path.name: path.read_bytes() for path in (SPACE / "examples").iterdir()} == samples
    readme = (SPACE / "README.md").read_text(encoding="utf-8")
    assert all(name in readme for name in samples)


def test_it_can_be_published():
    files = space_upload("org").files
    assert {"README.md", "app.py", "requirements.txt", "examples/golf_ball.jpg"} <= set(files)


@pytest.mark.slow
def test_the_folder_alone_starts(tmp_path):
    """Copied elsewhere, with its requirements and nothing else of this project, it answers."""
    gradio_client = pytest.importorskip("gradio_client", reason="no gradio: pip install 'timm-interpretable[test]'")
    wheels, folder = tmp_path / "wheels", tmp_path / "space"
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=ROOT, check=True)
    shutil.copytree(SPACE, folder)
    # what the package stands on is taken from this environment: only the package itself must come from the wheel
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    outer = next(path for path in sys.path if path.endswith("site-packages"))
    (inner,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (inner / "outer.pth").write_text(outer + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--ignore-installed",
        "--no-deps",
        "--find-links",
        str(wheels),
    ]
    subprocess.run([str(python), *install, "-r", "requirements.txt"], cwd=folder, env=environment, check=True)
    environment |= {"GRADIO_SERVER_PORT": "7895", "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    where = "import timm_interpretable; print(timm_interpretable.__file__)"
    found = subprocess.run([str(python), "-c", where], cwd=folder, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
    with subprocess.Popen([str(python), "app.py"], cwd=folder, env=environment) as process:
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if httpx.get("http://127.0.0.1:7895/", timeout=5).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.5)
            client = gradio_client.Client(
                "http://127.0.0.1:7895", verbose=False, download_files=str(tmp_path / "downloads")
            )
            told, _ = client.predict(
                gradio_client.handle_file(str(folder / "examples" / "golf_ball.jpg")), api_name="/explain"
            )
            assert told["target"] == "golf ball"
        finally:
            process.terminate()
