"""`training.json` of a released model: what made its weights, and how good they are"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm_interpretable.models.weights import sha256

__all__ = ["PICTURE", "TRAINING_FILE", "Release", "Trained"]

PICTURE = "maps.jpg"
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class Trained:
    """What a finished training run and the evaluation of its weights say: `result.json` and `evaluate --json`."""

    result: dict[str, Any]
    evaluation: dict[str, Any]

    @classmethod
    def load(cls, run: Path, evaluation: Path) -> "Trained":
        """From the folder that `train` filled and the file that `evaluate --json` wrote.

        Raises:
            FileNotFoundError: the run is not complete, or there is no evaluation.
            ValueError: the evaluation is that of other weights.
        """
        if not (run / "result.json").is_file():
            raise FileNotFoundError(f"{run} has no result.json; expected a run that was trained to its end.")
        report = json.loads(evaluation.read_text(encoding="utf-8"))
        if report["sha256"] != sha256(run / "model.safetensors"):
            raise ValueError(f"{evaluation} is not of the weights in {run}.")
        return cls(json.loads((run / "result.json").read_text(encoding="utf-8")), report)

    @property
    def is_face(self) -> bool:
        return "eer" in self.evaluation

    @property
    def is_converted(self) -> bool:
        """Whether the weights were published by others and converted here, instead of trained."""
        return "converted" in self.result

    @property
    def runs(self) -> list[dict[str, Any]]:
        """`result.json` of every run that led to the weights, first to last."""
        runs = [self.result]
        while (previous := runs[0].get("previous")) is not None:
            runs.insert(0, previous)
        return runs

    @property
    def commands(self) -> list[str]:
        """The command of every run."""
        commands = []
        for run in self.runs:
            recipe = run["recipe"]
            start = f" --initial runs/{recipe['follows']}/model.safetensors" if recipe.get("follows") else ""
            compile = " --compile" if run.get("compile") else ""
            stop = f" --stop-after {run['epochs']}" if epochs_of(run) < recipe["epochs"] else ""
            commands.append(f"timm-interpretable train {recipe['name']} --data-dir DIR{start}{compile}{stop}")
        return commands


def epochs_of(run: dict[str, Any]) -> int:
    """How many epochs a run had: those of its recipe, unless it ended before."""
    return int(run.get("epochs", run["recipe"]["epochs"]))


@dataclass(frozen=True)
class Release:
    """A released model and the baseline that its card compares it with, where there is one."""

    model: Trained
    baseline: Trained | None = None

    @classmethod
    def load(cls, folder: Path) -> "Release":
        """From `training.json` in the folder of a released model."""
        found = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
        baseline = found.get("baseline")
        return cls(Trained(**found["model"]), Trained(**baseline) if baseline else None)

    def save(self, folder: Path) -> None:
        text = json.dumps({key: value for key, value in asdict(self).items() if value}, indent=1)
        (folder / TRAINING_FILE).write_text(text + "\n", encoding="utf-8")
