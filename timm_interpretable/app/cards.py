"""Numbers from the models' cards, so that they stand in one place only."""

import json

from huggingface_hub import ModelCard

from timm_interpretable.models.weights import card_folder


def measured(name: str) -> str:
    """What the card of a released model says that it reaches, or '–'."""
    folder = card_folder(name)
    if folder is None:
        return "–"
    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=True)
    entries = card.data.eval_results or []
    results = [f"{r.metric_name} {r.metric_value} %, {r.dataset_name}" for r in entries if r.metric_type == "accuracy"]
    localised: dict[str, list[str]] = {}  # 'grid localisation, Grad-CAM'
    for entry in entries:
        if entry.metric_type in ("energy", "grids"):
            number, _, method = str(entry.metric_name).partition(", ")
            localised.setdefault(number, []).append(f"{method} {entry.metric_value:.3f}")
    results += [f"{number}: {', '.join(values)}" for number, values in localised.items()]
    rate = equal_error_rate(name)
    return "; ".join(results) or (f"equal-error rate {100 * rate:.2f} %" if rate is not None else "–")


def equal_error_rate(name: str) -> float | None:
    """Of a face model; it has no place in the front matter of a card."""
    folder = card_folder(name)
    if folder is None:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rate = config.get("verification", {}).get("equal_error_rate")
    return float(rate) if rate is not None else None
