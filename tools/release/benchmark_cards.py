"""What a benchmark found, in the cards of its models and in the README: written by a script, not by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.benchmark.tables import failures, short_table
from tools.release.cards import DATASETS

__all__ = ["insert_into_card", "insert_into_readme"]

_OWN = ("class map", "contributions", "Grad-CAM")
_INDEXED = ("energy", "pointing", "grids", "removal_least", "removal_most", "road_least", "road_most")
_SETS = {"boxes": "images with boxes", "removal": "images", "road": "images", "grids": "grids"}
_README_METHODS = (
    "class map", "class map (average)", "class map (contrast)", "contributions", "contributions (smoothed)",
    "Grad-CAM", "HiResCAM", "input x gradient", "integrated gradients", "occlusion", "patch permutation", "RISE",
    "FAME", "random",
)  # fmt: skip
_LEGEND = (
    "Chance: {chance}. Removed: mean probability of the true class while a quarter of the pixels turn black, the least "
    "or the most important first; ROAD: while nine tenths are imputed. Scattered black pixels break the prediction "
    "whatever they hit, as `random` shows: where maps are noisy, removal says little. Maps without negative values, "
    "such as those of RISE, spread over boxes and grids by construction. In bold the best of those measured on all "
    "images; images: of pixel removal, of boxes or grids, and of costly methods and ROAD."
)


def insert_into_card(folder: Path, results: Mapping[str, Any], where: str) -> None:
    """Section `Benchmark` and entries of the model index; those of an earlier benchmark go.

    Args:
        folder: `hub_cards/<arch>.<tag>`, whose model is among the results.
        results: of `results.json`.
        where: path of the whole results in the project; a card on the Hub has no such file beside it.

    Raises:
        ValueError: the card has no section before which the new one belongs.
    """
    file, name = folder / "README.md", folder.name
    card = ModelCard.load(file)
    text = _without(card.text, "## Benchmark")
    at = text.find("\n## Training\n")
    if at < 0:
        raise ValueError(f"{file} has no heading Training.")
    more = f"All numbers with intervals, figures and cost: `{where}` of the project."
    section = f"\n## Benchmark\n\n{_body(results, name)}\n\n{more}\n"
    card.text = text[:at] + section + text[at:]
    card.data.eval_results = [r for r in card.data.eval_results or [] if r.metric_type == "accuracy"]
    card.data.eval_results += _eval_results(results, name)
    card.save(file)


def insert_into_readme(file: Path, results: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    """Between the marks `<!-- benchmark -->` and `<!-- /benchmark -->`: a short table per model.

    Args:
        results: per benchmark a heading, `results.json`, and where the whole results are.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = "<!-- benchmark -->", "<!-- /benchmark -->"
    text = file.read_text(encoding="utf-8")
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{file} has no marks {begin} and {end}.")
    parts = []
    for heading, found, link in results:
        tables = [f"`{model}`\n\n{short_table(found, model, _README_METHODS)}" for model in found["models"]]
        parts += [f"### {heading}", *tables, f"{_legend(found)} [All results]({link})."]
        parts += [f"Failed: {line}" for line in failures(found)]
    inside = "\n\n".join(parts)
    file.write_text(
        f"{text[: text.find(begin) + len(begin)]}\n\n{inside}\n\n{text[text.find(end) :]}", encoding="utf-8"
    )


def _body(results: Mapping[str, Any], name: str) -> str:
    return f"    {results['provenance']['command']}\n\n{short_table(results, name)}\n\n{_legend(results)}"


def _legend(results: Mapping[str, Any]) -> str:
    levels = [f"{NUMBERS[name].label} {value:.3f}" for name, value in results["chance"].items()]
    return _LEGEND.format(chance=", ".join(levels))


def _without(text: str, heading: str) -> str:
    """Less the section of that heading."""
    at = text.find(f"\n{heading}\n")
    if at < 0:
        return text
    after = text.find("\n## ", at + 1)
    return text[:at] + (text[after:] if after >= 0 else "")


def _eval_results(results: Mapping[str, Any], name: str) -> list[EvalResult]:
    """Of the model's own maps, and of Grad-CAM beside them."""
    dataset = DATASETS[name.split(".")[1]]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset["id"],
            dataset_name=f"{dataset['name']}, {row['images']} {_SETS[NUMBERS[row['number']].metric]}",
            dataset_split=f"{row['images']} {_SETS[NUMBERS[row['number']].metric]}",
            metric_type=row["number"],
            metric_value=round(row["mean"], 4),
            metric_name=f"{NUMBERS[row['number']].label}, {row['method']}",
        )
        for row in results["rows"]
        if row["model"] == name and "mean" in row and row["number"] in _INDEXED and row["method"].startswith(_OWN)
    ]
