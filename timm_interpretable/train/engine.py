"""The training loop: accelerate for devices and processes, timm for optimiser, schedule and averaging."""

import csv
import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from timm_interpretable.data.datasets import open_split
from timm_interpretable.data.images import squash_transform
from timm_interpretable.models.weights import sha256
from timm_interpretable.train.curves import save_curves
from timm_interpretable.train.losses import create_loss
from timm_interpretable.train.pipeline import SeededImages, train_loader
from timm_interpretable.train.precision import PRECISIONS, cheaper_precision, optimizer_share
from timm_interpretable.train.recipes import Recipe

_COLUMNS = ("epoch", "size", "lr", "train_loss", "eval_accuracy", "seconds", "cpu_seconds")


class Trainer:
    """One run of a recipe in `out`: `log.csv`, `curves.png`, `last.pt`; at the end `model.safetensors`, `result.json`.

    A run that finds `last.pt` goes on from it, to the same bits that an uninterrupted run would have reached on the
    same hardware and number of threads.

    initial: `model.safetensors` of the run that the recipe follows; its `result.json` lies beside it.
    compile: run training steps through `torch.compile`.
    precision: 'fp32', 'bf16' (autocast), or 'auto' for the one that a step measured here is faster in. A run that goes
        on keeps its choice.

    Raises:
        ValueError: recipe, data, initial weights or options do not belong together.
    """

    def __init__(
        self, recipe: Recipe, data_dir: Path, out: Path, workers: int = 2, cpu: bool = False, precision: str = "auto",
        initial: Path | None = None, compile: bool = False,
    ) -> None:  # fmt: skip
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is unknown, expected one of {', '.join(PRECISIONS)}.")
        self.recipe, self.data_dir, self.out = recipe, data_dir, out
        self.previous = previous_result(recipe, initial)
        self.accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        images = SeededImages(data_dir, recipe)
        if len(images.classes) != recipe.num_classes:
            raise ValueError(
                f"{data_dir} has {len(images.classes)} classes, expected {recipe.num_classes} for {recipe.name}."
            )
        self.classes = images.classes
        self.loader = train_loader(images, rank, world_size, workers)
        whole = squash_transform((recipe.eval_size, recipe.eval_size), recipe.mean, recipe.std)
        test, _ = open_split(data_dir, recipe.eval_split, whole)
        share = range(rank, len(test), world_size)  # type: ignore[arg-type]
        self.eval_loader: DataLoader[Any] = DataLoader(Subset(test, share), batch_size=128, num_workers=workers)

        torch.manual_seed(recipe.seed)
        model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **recipe.model_args)
        if initial is not None:
            load_initial(model, initial)
        model = model.to(self.accelerator.device, memory_format=torch.channels_last)
        if world_size > 1 and self.accelerator.device.type == "cuda":
            model = timm.layers.convert_sync_batchnorm(model)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
        self.criterion = create_loss(recipe.loss, smoothing=recipe.smoothing)
        optimizer = create_optimizer_v2(model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay)
        steps = len(self.loader)
        self.scheduler, _ = create_scheduler_v2(
            optimizer, sched="cosine", num_epochs=recipe.epochs, warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100, min_lr=recipe.lr / 1000, step_on_epochs=False, updates_per_epoch=steps,
        )  # fmt: skip
        self.precision = self._chosen_precision(precision, model)
        self.optimizer_seconds = self.step_seconds = 0.0
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.compile = compile
        self.train_forward = torch.compile(self.model) if compile else self.model
        self.epoch = 0
        self.history: list[dict[str, Any]] = []

    @property
    def _checkpoint(self) -> Path:
        return self.out / "last.pt"

    def _chosen_precision(self, asked: str, model: nn.Module) -> str:
        """What was asked for, what the run has chosen before, or what is faster here; the same in all processes."""
        if asked != "auto":
            return asked
        if self._checkpoint.is_file():
            return str(torch.load(self._checkpoint, map_location="cpu", weights_only=True)["precision"])
        found, line = cheaper_precision(model, self.recipe.size_at(0), self.accelerator.device)
        self._say(line)
        return str(broadcast_object_list([found])[0])

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def run(self, stop_after: int | None = None) -> float | None:
        """Train to the end of the recipe, or to epoch `stop_after`; the final accuracy, None when not yet there."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.is_file():
            self._load()
        epochs = self.recipe.epochs if stop_after is None else min(stop_after, self.recipe.epochs)
        while self.epoch < epochs:
            self._epoch()
            if self.accelerator.is_main_process:
                self._save()
                self._log()
            self.accelerator.wait_for_everyone()
        if self.epoch < self.recipe.epochs:
            return None
        accuracy = self.history[-1]["eval_accuracy"]
        if self.accelerator.is_main_process:
            self._export(accuracy)
        return float(accuracy)

    def _epoch(self) -> None:
        start, cpu_start = time.time(), time.process_time()
        self.loader.batch_sampler.epoch = self.epoch  # type: ignore[union-attr]
        # for dropout and stochastic depth, which differ between processes as they do between samples
        torch.manual_seed(hash((self.recipe.seed, self.epoch, self.accelerator.process_index)) % 2**63)
        self.model.train()
        updates = self.epoch * len(self.loader)
        total = torch.zeros((), device=self.accelerator.device)
        bar = tqdm(
            self.loader, desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}", leave=False, mininterval=5,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        for images, labels in bar:
            self.scheduler.step_update(updates)
            factor = self.recipe.logit_factor(updates / (self.recipe.epochs * len(self.loader)))
            total += self._step(images, labels, factor)
            updates += 1
            self.ema.update(self.accelerator.unwrap_model(self.model), step=updates)
        loss = self.accelerator.reduce(total, "mean").item() / len(self.loader)
        if not torch.isfinite(torch.tensor(loss)):
            raise FloatingPointError(f"The training loss became {loss} in epoch {self.epoch + 1}.")
        seconds, cpu_seconds = time.time() - start, time.process_time() - cpu_start
        if self.epoch == 0:
            self._say(optimizer_share(self.optimizer_seconds, self.step_seconds))
        self.epoch += 1
        due = self.epoch % self.recipe.eval_every == 0 or self.epoch == self.recipe.epochs
        row = (
            self.epoch, self.recipe.size_at(self.epoch - 1), self.optimizer.param_groups[0]["lr"], loss,
            self.evaluate() if due else "", seconds, cpu_seconds,
        )  # fmt: skip
        self.history.append(dict(zip(_COLUMNS, row, strict=True)))

    def _step(self, images: Tensor, labels: Tensor, factor: float) -> Tensor:
        images = images.to(self.accelerator.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.accelerator.device, non_blocking=True)
        start = time.perf_counter()
        with self._autocast():
            logits = self.train_forward(images).float()
        if factor != 1:
            bias = self.accelerator.unwrap_model(self.model).logit_bias
            logits = (logits - bias) * factor + bias
        loss = self.criterion(logits, labels)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        before = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer_seconds += time.perf_counter() - before
        self.step_seconds += time.perf_counter() - start
        return loss.detach()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Top-1 accuracy of the averaged weights on the evaluation split, over all processes."""
        # normalisation statistics of the first process: it exports the weights
        for buffer in self.ema.module.buffers():
            broadcast(buffer)
        counts = torch.zeros(2, device=self.accelerator.device)
        for images, labels in self.eval_loader:
            images = images.to(self.accelerator.device, memory_format=torch.channels_last)
            with self._autocast():
                correct = self.ema.module(images).argmax(1) == labels.to(self.accelerator.device)
            counts += torch.tensor([correct.sum(), len(labels)], device=counts.device)
        right, seen = self.accelerator.reduce(counts, "sum").tolist()
        return float(right / seen)

    def _state(self) -> dict[str, Any]:
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "epoch": self.epoch,
            "precision": self.precision,
            "history": self.history,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _save(self) -> None:
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(self._state(), partial)
        os.replace(partial, self._checkpoint)  # a run killed while saving keeps its previous checkpoint

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.accelerator.device, weights_only=True)
        ours, theirs = dataclasses.asdict(self.recipe), state["recipe"]
        changed = [key for key in ours if ours[key] != theirs.get(key)]
        if changed:
            raise ValueError(
                f"{self._checkpoint} belongs to another recipe (different: {', '.join(changed)}); "
                "give another --out, or remove it."
            )
        self.epoch, self.history = state["epoch"], state["history"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _log(self) -> None:
        with open(self.out / "log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.history)
        save_curves(self.history, self.recipe.name, self.out / "curves.png")

    def export(self) -> float:
        """Write the averaged weights as they are now, of a run that ends before its recipe does; their accuracy."""
        accuracy = self.evaluate()
        if self.accelerator.is_main_process:
            self._export(accuracy)
        return accuracy

    def _export(self, accuracy: float) -> None:
        save_file(released_state(self.ema.module), self.out / "model.safetensors", metadata={"format": "pt"})
        result = {
            "recipe": dataclasses.asdict(self.recipe),
            "epochs": self.epoch,
            "classes": self.classes,
            "eval_accuracy": accuracy,
            "minutes": sum(row["seconds"] for row in self.history) / 60,
            "cpu_minutes": sum(row["cpu_seconds"] for row in self.history) / 60,
            "compile": self.compile,
            "precision": self.precision,
            "hardware": hardware(self.accelerator),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "previous": self.previous,
        }
        (self.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def previous_result(recipe: Recipe, initial: Path | None) -> dict[str, Any] | None:
    """`result.json` of the run that `recipe` goes on from; None where it starts from random weights.

    Raises:
        ValueError: initial weights and recipe do not belong together.
    """
    if initial is None and recipe.follows is None:
        return None
    if initial is None:
        raise ValueError(f"{recipe.name} goes on from {recipe.follows}; give the weights of that run.")
    result: dict[str, Any] = json.loads((initial.parent / "result.json").read_text(encoding="utf-8"))
    result["sha256"] = sha256(initial)
    if result["recipe"]["name"] != recipe.follows:
        raise ValueError(
            f"{initial} was trained by {result['recipe']['name']}, expected {recipe.follows or 'no initial weights'}."
        )
    return result


def load_initial(model: nn.Module, weights: Path) -> None:
    """Load the weights of an earlier run; scalars that only this model has, such as a bias of its logits, stay.

    Raises:
        ValueError: the weights are those of another architecture.
    """
    result = model.load_state_dict(load_file(weights), strict=False)
    own = dict(model.named_parameters())
    missing = [name for name in result.missing_keys if name not in own or own[name].ndim > 0]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{weights} does not fit {type(model).__name__}: it lacks {missing or 'nothing'}, and has "
            f"{result.unexpected_keys or 'nothing'} that the model does not have."
        )


def released_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as released: matrices and kernels in fp16; vectors and scalars (norms, temperature) in fp32."""
    return {
        name: value.detach().cpu().half().contiguous() if value.ndim > 1 else value.detach().cpu().clone()
        for name, value in model.state_dict().items()
    }


def hardware(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name()}"
    return f"{accelerator.num_processes} process(es) x {torch.get_num_threads()} CPU threads, {platform.machine()}"
