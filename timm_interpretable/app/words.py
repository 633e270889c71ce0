"""What is said about an explanation: what its map adds up to, and what its picture shows, in words."""

import numpy as np

from timm_interpretable.app.engine import Explanation
from timm_interpretable.viz import Array, is_flat

YES_OR_NO = "one yes-or-no question per class"
"""What the probabilities of a model with a sigmoid are; they need not add up to 100 %."""

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
_EXACT = 1e-4  # of the score, or of 1 where that is more: rounding


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign, and without one before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def completeness(found: Explanation) -> tuple[str, str]:
    """Whether the map adds up to what its method says: 'exact', 'approximate' or 'none', and a sentence with numbers.

    The numbers are those of this picture: a method is called exact where its map is.
    """
    values, score = found.map.values, found.map.score
    if is_flat(values):
        return "none", "The map is the same everywhere, so there is nothing to see."
    if found.method.sums_to is None or score is None:
        return "none", "The values of this map do not add up to anything in particular."
    total, words = float(values.sum(dtype=np.float64)), found.method.sums_to.words
    if is_exact(total, score):
        return "exact", f"The map sums to {number(total)}. This is {words}."
    return "approximate", (
        f"The map sums to {number(total)}. It should be {number(score)}, {words}, and is off by "
        f"{number(total - score)}."
    )


def is_exact(total: float, score: float) -> bool:
    """Whether two numbers are the same to rounding."""
    return abs(total - score) <= _EXACT * max(1.0, abs(score))


def classes(found: Explanation) -> str:
    """How many classes the model knows, and what its probabilities are where they need a word."""
    count = len(found.model.class_names)
    return f"{count} classes, {YES_OR_NO}" if found.model.yes_or_no else f"{count} classes"


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
    values, probability = found.map.values, float(found.prediction.probs[found.target])
    text = f"{found.title}, for {found.target_name} at {percent(probability)}. "
    if is_flat(values):
        return f"{text}The map is the same everywhere."
    text += f"The map is strongest at the {place(values)}"
    share = spread(values)
    if share is not None:
        text += f"; half of what speaks for the class lies in {percent(share)} of the picture"
    if values.min() < 0:
        text += f"; what speaks against it is strongest at the {place(-values)}"
    return f"{text}."


def summary(found: Explanation) -> dict[str, object]:
    """The explanation as numbers for a program, without its map."""
    kind, sentence = completeness(found)
    prediction, names = found.prediction, found.model.class_names
    order = np.argsort(-prediction.probs, kind="stable")
    return {
        "model": found.choice.model,
        "method": found.choice.method,
        "title": found.title,
        "target": found.target_name,
        "target_index": found.target,
        "logit": float(prediction.logits[found.target]),
        "probability": float(prediction.probs[found.target]),
        "probabilities": {names[k]: float(prediction.probs[k]) for k in order},
        "sum": float(found.map.values.sum(dtype=np.float64)),
        "completeness": kind,
        "completeness_text": sentence,
        "size": list(found.map.values.shape),
        "seconds": found.map.seconds,
        "description": alt_text(found),
    }
