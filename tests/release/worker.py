"""A process with the real Hub client: one JSON request a line on stdin, one JSON answer a line on stdout.

A process of its own, because the client reads its environment when it is imported; one for many requests, because
importing torch takes seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

import timm
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

import timm_interpretable
from tools.release import publish
from tools.release.commands import app
from tools.release.regression import outputs

torch.set_num_threads(1)

STANDING = {key: os.environ[key] for key in ("HF_TOKEN", "TIMM_INTERPRETABLE_WEIGHTS")}


def load(name: str, **kwargs) -> dict:
    model = timm.create_model(name, pretrained=True, **kwargs).eval()
    channels = model.pretrained_cfg["input_size"][0]
    x = torch.linspace(0, 255, channels * 32 * 32).reshape(channels, 32, 32)
    return {key: value.flatten()[:64].tolist() for key, value in outputs(model, x).items()}


def source(name: str, **kwargs) -> dict:
    return timm_interpretable.weights_source(name, **kwargs)._asdict()


def run(*args: str, clone: str | None = None) -> dict:
    """The command line; `spaces_app` is looked for in the folder `clone`."""
    folders = publish.CARD_FOLDERS
    if clone is not None:
        publish.CARD_FOLDERS = (Path(clone) / "hub_cards",)
    result = CliRunner().invoke(app, args)
    publish.CARD_FOLDERS = folders
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return {"code": result.exit_code, "output": result.output}


def answer(request: dict) -> dict:
    os.environ.update(STANDING | request.get("env", {}))
    constants.HF_HUB_OFFLINE = request.get("offline", False)
    try:
        return {"load": load, "source": source, "run": run}[request["do"]](*request["args"], **request["kwargs"])
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # nothing else may write into the answers
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # the client waits long between its attempts
    constants.DOWNLOAD_CHUNK_SIZE = 2**16  # it resumes at whole pieces: of 10 MB, more than a file of the tests has
    print(json.dumps({"file": timm_interpretable.__file__}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)
