"""What is said about an explanation: how exact it is, and what its picture shows, in words."""

import numpy as np

from timm_interpretable.app.engine import Explanation
from timm_interpretable.app.methods import smoothing
from timm_interpretable.viz import Array

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign."""
    return f"{value + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def exactness(found: Explanation) -> tuple[str, str]:
    """Whether the map accounts for the logit: 'exact', 'approximate' or 'none', and a sentence with the numbers."""
    logit, total = float(found.look.logits[found.target]), float(found.values.sum(dtype=np.float64))
    facts = found.facts
    match found.choice.method:
        case "class_map":
            return "exact", f"The map sums to {number(total)} = the logit {number(logit)}."
        case "contrast":
            mean = float((found.look.probs * found.look.logits).sum())
            return "exact", (
                f"The map sums to {number(total)} = the logit {number(logit)} less {number(mean)}, "
                "the mean of all logits by probability."
            )
        case "contributions":
            constant = found.look.constant
            return "exact", (
                f"Contributions sum to {number(total)}; with the constant {number(constant)} that is "
                f"the logit {number(logit)}."
            )
        case "contributions_smoothed":
            side, sharp = smoothing(found.values), logit - found.look.constant
            return "approximate", (
                f"Means over {side} × {side} pixels; they sum to {number(total)}, the contributions themselves to "
                f"{number(sharp)}, exactly."
            )
        case "integrated_gradients":
            wanted = logit - facts["logit_of_black"]
            return "approximate", (
                f"The map sums to {number(total)}; the logit is {number(wanted)} above that of a black picture: "
                f"off by {number(total - wanted)}."
            )
        case "fame":
            return "none", (
                f"Nothing to add up. {facts['steps']:.0f} steps took the logit from {number(facts['before'])} "
                f"to {number(facts['after'])}; the map is what they changed."
            )
        case "rise":
            return "none", (
                f"Nothing to add up: the mean of {facts['masks']:.0f} random masks, each times the probability "
                "of the class behind it."
            )
        case _:
            if found.values.size == 1:
                return "none", "Nothing to see: the last feature map has one position at this size of the image."
            if found.entry.family == "FA-CNN":
                return "none", "No scale of its own; here it is the positive part of the class map times a constant."
            return "none", "Nothing to add up: positive parts only, on no scale."


def place(values: Array) -> str:
    """Where in a picture a map is largest, such as 'upper left'."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    height, width = values.shape
    name = f"{_ROWS[min(2, 3 * int(row) // height)]} {_COLUMNS[min(2, 3 * int(column) // width)]}"
    return "centre" if name == "middle centre" else name


def spread(values: Array) -> float | None:
    """The share of the picture that holds half of the positive part of a map; None without a positive part."""
    positive = np.sort(values.clip(min=0).ravel())[::-1]
    if positive.sum() <= 0:
        return None
    return float((np.searchsorted(np.cumsum(positive), positive.sum() / 2) + 1) / positive.size)


def alt_text(found: Explanation) -> str:
    """The overlay for those who cannot see it."""
    text = f"{found.title}, for {found.target_name} at {percent(float(found.look.probs[found.target]))}. "
    if found.values.min() == found.values.max():
        return f"{text}The same everywhere."
    text += f"Strongest at the {place(found.values)}"
    share = spread(found.values)
    if share is not None:
        text += f"; half of what speaks for it lies in {percent(share)} of the picture"
    if found.values.min() < 0:
        text += f"; what speaks against it is strongest at the {place(-found.values)}"
    return f"{text}."


def summary(found: Explanation) -> dict[str, object]:
    """The explanation as numbers for a program, without its map."""
    kind, sentence = exactness(found)
    order = np.argsort(-found.look.probs, kind="stable")
    return {
        "model": found.choice.model,
        "method": found.choice.method,
        "target": found.target_name,
        "target_index": found.target,
        "logit": float(found.look.logits[found.target]),
        "probability": float(found.look.probs[found.target]),
        "probabilities": {found.class_names[k]: float(found.look.probs[k]) for k in order},
        "sum": float(found.values.sum(dtype=np.float64)),
        "completeness": kind,
        "completeness_text": sentence,
        "size": list(found.values.shape),
        "seconds": found.seconds,
        "description": alt_text(found),
    }
