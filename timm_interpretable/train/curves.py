"""The picture of a training run."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save_curves(history: list[dict[str, Any]], title: str, path: Path) -> None:
    """Training loss and evaluation accuracy by epoch, as a PNG."""
    figure = Figure(figsize=(7, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    right = left.twinx()
    left.plot([r["epoch"] for r in history], [r["train_loss"] for r in history], color="tab:grey")
    scored = [r for r in history if r["eval_accuracy"] != ""]
    right.plot(
        [r["epoch"] for r in scored], [100 * r["eval_accuracy"] for r in scored], "o-", color="tab:blue", markersize=3
    )
    left.set(xlabel="epoch", ylabel="training loss", title=title)
    right.set_ylabel("evaluation accuracy (%)", color="tab:blue")
    figure.savefig(path)
