"""A model small enough for the commands to run in seconds."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import timm_interpretable  # noqa: F401  registers the models


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a tiny FA-CNN, beside them what a training run writes."""
    args = dict(trunk_width=48, stem_stride=4, layers=[1, 1], branch_widths=[8, 8], pools=[1])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("facnn_resnet18", num_classes=2, **args)
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    save_file(model.state_dict(), file)
    recipe = dict(eval_size=32, mean=[0.5] * 3, std=[0.25] * 3, num_classes=2, model_args=args, epochs=3)
    result = dict(recipe=recipe, classes=["blue", "red"], eval_accuracy=0.625)
    file.with_name("result.json").write_text(json.dumps(result))
    return file


@pytest.fixture
def in_two_processes():
    """Runs a command as `torchrun` would in two processes; what each of them said. None stays behind."""

    def in_two_processes(*args: object) -> list[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        # what `torchrun` says to the processes that it starts
        world = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "timm_interpretable.cli", *map(str, args), "--device", "cpu"],
                env={**os.environ, **world, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )
            for rank in ("0", "1")
        ]  # fmt: skip
        try:
            said = [process.communicate()[0] for process in processes]
            assert [process.returncode for process in processes] == [0, 0], said
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return said

    return in_two_processes
