"""The engine: resumable to the bit, independent of the number of workers and processes, clear about bad input."""

import csv
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import timm_interpretable  # noqa: F401
from timm_interpretable.train.engine import Trainer, load_initial
from timm_interpretable.train.pipeline import EpochBatches, SeededImages
from timm_interpretable.train.recipes import RECIPES, Recipe

START = RECIPES["facnn_resnet18_start.cifar10"]
SMALL = {**START.model_args, "trunk_width": 48, "layers": (1, 1), "branch_widths": (8, 8), "pools": (1,)}


def small_recipe(**changes) -> Recipe:
    args = dict(num_classes=3, epochs=2, batch_size=8, sizes=((0, 16), (1, 32)), eval_every=1, model_args=SMALL)
    return replace(START, **{**args, **changes})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Three classes of noisy flat colours."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train-0", 8), ("train-1", 5), ("test", 6)):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for label, colour in (("blue", (40, 40, 200)), ("green", (40, 200, 40)), ("red", (200, 40, 40))):
                for i in range(count):
                    pixels = np.clip(rng.normal(colour, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                    buffer = BytesIO()
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    info = tarfile.TarInfo(f"{label}/{i}.jpg")
                    info.size = buffer.tell()
                    tar.addfile(info, BytesIO(buffer.getvalue()))
    return root


def final_state(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "last.pt", weights_only=True)
    return {f"{part}.{k}": v for part in ("model", "ema") for k, v in state[part].items()}


def read_log(out: Path) -> list[dict[str, str]]:
    with open(out / "log.csv") as file:
        return list(csv.DictReader(file))


def test_resumes_to_the_bit_with_any_number_of_workers(data_dir, tmp_path):
    recipe = small_recipe(model_args={**SMALL, "drop_path_rate": 0.2, "drop_rate": 0.1})
    Trainer(recipe, data_dir, tmp_path / "whole", workers=0, cpu=True, precision="fp32").run()
    begun = Trainer(recipe, data_dir, tmp_path / "parts", workers=0, cpu=True, precision="fp32")
    assert begun.run(stop_after=1) is None
    Trainer(recipe, data_dir, tmp_path / "parts", workers=2, cpu=True).run()
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_run_that_ends_early_leaves_its_weights(data_dir, tmp_path):
    trainer = Trainer(small_recipe(), data_dir, tmp_path, workers=0, cpu=True, precision="fp32")
    assert trainer.run(stop_after=1) is None
    accuracy = trainer.export()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["epochs"] == 1 < result["recipe"]["epochs"]
    assert result["eval_accuracy"] == accuracy
    model = timm.create_model(result["recipe"]["model"], num_classes=result["recipe"]["num_classes"], **SMALL)
    load_initial(model, tmp_path / "model.safetensors")


def test_a_resumed_run_keeps_its_precision(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("timm_interpretable.train.engine.cheaper_precision", lambda *args: ("bf16", "bf16 is faster"))
    begun = Trainer(small_recipe(), data_dir, tmp_path, workers=0, cpu=True)
    begun.run(stop_after=1)
    monkeypatch.setattr("timm_interpretable.train.engine.cheaper_precision", lambda *args: ("fp32", "fp32 is faster"))
    assert Trainer(small_recipe(), data_dir, tmp_path, workers=0, cpu=True).precision == "bf16" == begun.precision


def test_learns_and_leaves_a_complete_run(data_dir, tmp_path):
    accuracy = Trainer(small_recipe(epochs=12, lr=1e-2, ema_decay=0.9), data_dir, tmp_path, workers=0, cpu=True).run()
    assert accuracy is not None
    assert accuracy > 0.9
    rows = read_log(tmp_path)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert Image.open(tmp_path / "curves.png").size[0] > 400
    weights = load_file(tmp_path / "model.safetensors")
    assert all(v.dtype == (torch.float16 if v.ndim > 1 else v.dtype) for v in weights.values())
    assert weights["stages.0.blocks.0.branch.0.bn.running_var"].dtype == torch.float32
    timm.create_model("facnn_resnet18.cifar10", num_classes=3, **SMALL).load_state_dict(weights)


def test_two_processes_equal_one(data_dir, tmp_path):
    """Same global batch, group norm in place of batch norm (whose statistics belong to each process)."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from timm.layers import GroupNorm1\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_engine import SMALL, small_recipe\n"
        "from timm_interpretable.train.engine import Trainer\n"
        "torch.set_num_threads(1)\n"
        "recipe = small_recipe(model_args={**SMALL, 'norm_layer': 'groupnorm1'})\n"
        "Trainer(recipe, Path(sys.argv[1]), Path(sys.argv[2]), workers=0, cpu=True, precision='fp32').run()\n"
    )
    for processes in ("1", "2"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, script]
        arguments = [data_dir, tmp_path / processes, Path(__file__).parent]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{processes} process" in json.loads((tmp_path / processes / "result.json").read_text())["hardware"]
    one, two = final_state(tmp_path / "1"), final_state(tmp_path / "2")
    assert max((one[key].float() - two[key].float()).abs().max() for key in one) < 1e-4
    log = [read_log(tmp_path / n) for n in "12"]
    assert float(log[0][-1]["train_loss"]) == pytest.approx(float(log[1][-1]["train_loss"]), abs=1e-4)
    assert log[0][-1]["eval_accuracy"] == log[1][-1]["eval_accuracy"]


def test_shares_of_a_global_batch_are_disjoint_and_complete():
    whole = list(EpochBatches(20, 8, seed=1))
    halves = [list(EpochBatches(20, 8, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(whole) == 2
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
    with pytest.raises(ValueError, match="batch_size=8 must be a multiple of the number of processes, 3"):
        EpochBatches(20, 8, seed=1, world_size=3)


def test_augmentation_depends_on_epoch_and_index_only(data_dir):
    images = SeededImages(data_dir, small_recipe())
    first = images[0, 5][0]
    torch.rand(3)
    assert torch.equal(first, images[0, 5][0])
    assert images[0, 5][0].shape[-1] == 16
    assert images[1, 5][0].shape[-1] == 32
    state = torch.get_rng_state()
    images[0, 6]
    assert torch.equal(state, torch.get_rng_state())


def test_a_run_goes_on_from_the_weights_of_another(data_dir, tmp_path):
    first, second = small_recipe(), small_recipe(name="next", follows="facnn_resnet18_start.cifar10", lr=0.0, epochs=1)
    Trainer(first, data_dir, tmp_path / "1", workers=0, cpu=True).run()
    weights = tmp_path / "1" / "model.safetensors"
    Trainer(second, data_dir, tmp_path / "2", workers=0, cpu=True, initial=weights, compile=True).run()
    before, after = load_file(weights), load_file(tmp_path / "2" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before if "bn.running" not in k and "num_batches" not in k)
    previous = json.loads((tmp_path / "2" / "result.json").read_text())["previous"]
    assert previous["recipe"]["name"] == "facnn_resnet18_start.cifar10"
    with pytest.raises(ValueError, match=r"goes on from facnn_resnet18_start\.cifar10; give the weights"):
        Trainer(second, data_dir, tmp_path / "3", workers=0, cpu=True)
    with pytest.raises(ValueError, match=r"trained by facnn_resnet18_start\.cifar10, expected no initial weights"):
        Trainer(first, data_dir, tmp_path / "3", workers=0, cpu=True, initial=weights)


def test_anneal_ends_at_the_models_own_logits():
    recipe = small_recipe(anneal=(100.0, 0.5))
    assert [recipe.logit_factor(p) for p in (0, 0.25, 0.5, 0.9)] == pytest.approx([100, 10, 1, 1])
    assert small_recipe().logit_factor(0) == 1


def test_a_coda_net_learns_from_a_low_temperature(data_dir, tmp_path):
    args = dict(channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(4, 4, 4), temperature=100.0)
    changes = dict(model="coda_net_s", model_args=args, loss="bce", smoothing=0.0, epochs=12, lr=1e-2, ema_decay=0.9)
    losses = {}
    for anneal in (None, (1e4, 1.0)):
        recipe = small_recipe(**changes, anneal=anneal, sizes=((0, 16),))
        accuracy = Trainer(recipe, data_dir, tmp_path / str(anneal), workers=0, cpu=True).run()
        losses[anneal] = float(read_log(tmp_path / str(anneal))[4]["train_loss"])
    assert accuracy is not None
    assert accuracy > 0.9
    assert losses[1e4, 1.0] < 0.8 * losses[None]  # at its own temperature it has hardly begun by then


def test_bad_input_is_named(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train\.tar"):
        Trainer(small_recipe(), tmp_path, tmp_path / "out", workers=0, cpu=True)
    with pytest.raises(ValueError, match="has 3 classes, expected 10"):
        Trainer(small_recipe(num_classes=10), data_dir, tmp_path / "out", workers=0, cpu=True)
    Trainer(small_recipe(), data_dir, tmp_path / "out", workers=0, cpu=True).run(stop_after=1)
    with pytest.raises(ValueError, match=r"another recipe \(different: lr\)"):
        Trainer(small_recipe(lr=1.0), data_dir, tmp_path / "out", workers=0, cpu=True).run()
