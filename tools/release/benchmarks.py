"""What the benchmarks found, as the cards and the page of results show it: tables, footnotes, the model index"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.benchmark.tables import conditions, failures, number_label, short_table
from tools.release.texts import dataset_of

__all__ = [
    "PAGE",
    "RESULTS",
    "Benchmark",
    "all_benchmarks",
    "benchmark_of",
    "benchmark_section",
    "model_index",
    "write_results_page",
]

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
"""Where `benchmark` and `tools.face_maps` have left what the cards show."""
PAGE = RESULTS / "README.md"
"""The page of results; its prose is written by hand."""

_BEGIN, _END = "<!-- benchmark -->", "<!-- /benchmark -->"
_INDEXED = ("energy", "pointing", "grids", "removal_least", "removal_most", "road_least", "road_most")
# what each column of the table says
_FOOTNOTES = {
    "energy": "Energy in box: share of the positive attribution inside the bounding boxes.",
    "pointing": "Pointing: share of the images whose highest value lies inside a bounding box.",
    "grids": "Grid localisation: share of the positive attribution to a class that lies on the image of that class, in "
    "grids of confidently and correctly classified images.",
    "removal_least": "Least and most important removed: mean probability of the true class while up to a quarter of "
    "the pixels is removed in that order. Scattered holes break a prediction whatever they hit, as `random` shows.",
    "road_least": "ROAD: the same while up to nine tenths of the pixels are imputed from their neighbours.",
}


class Benchmark(NamedTuple):
    """The results of a benchmark, and their folder as a path in the project."""

    results: Mapping[str, Any]
    folder: str


def all_benchmarks() -> list[Benchmark]:
    """Every `docs/results/benchmark_*`, those of larger images first."""
    root = RESULTS.parents[1]
    found = [
        Benchmark(json.loads(file.read_text(encoding="utf-8")), file.parent.relative_to(root).as_posix())
        for file in sorted(RESULTS.glob("benchmark_*/results.json"))
    ]
    return sorted(found, key=lambda one: -max(about["input_size"][-1] for about in one.results["models"].values()))


def benchmark_of(name: str, digest: str) -> Benchmark | None:
    """The benchmark that has the model `arch.tag` with these very weights; None where there is none.

    digest: sha256 of the weights.
    """
    for benchmark in all_benchmarks():
        if benchmark.results["models"].get(name, {}).get("sha256") == digest:
            return benchmark
    return None


def benchmark_section(benchmark: Benchmark, name: str) -> str:
    """For the card of one model: command, table, footnotes, and where the rest is."""
    results, folder = benchmark
    made = results["provenance"]["command"]
    more = f"All numbers with intervals, figures and cost are in `{folder}/results.md` of the project."
    return "\n\n".join([f"    {made}", short_table(results, name), _footnotes(results, [name]), more])


def write_results_page(file: Path = PAGE) -> None:
    """Write between the marks `<!-- benchmark -->` and `<!-- /benchmark -->`: a short table per model.

    Raises:
        ValueError: the marks are not there.
    """
    text = file.read_text(encoding="utf-8")
    begin, end = text.find(_BEGIN) + len(_BEGIN), text.find(_END)
    if not len(_BEGIN) <= begin <= end:
        raise ValueError(f"{file} has no marks {_BEGIN} and {_END}.")
    parts = []
    for results, folder in all_benchmarks():
        names = list(results["models"])
        tables = [f"`{name}`\n\n{short_table(results, name)}" for name in names]
        failed = [f"Failed: {line}" for line in failures(results)]
        link = f"All numbers with intervals, figures and cost: [{Path(folder).name}]({Path(folder).name}/results.md)."
        parts += [f"### {dataset_of(names[0]).name}", *tables, _footnotes(results, names), *failed, link]
    inside = "\n\n".join(parts)
    file.write_text(f"{text[:begin]}\n\n{inside}\n\n{text[end:]}", encoding="utf-8")


def _footnotes(results: Mapping[str, Any], names: list[str]) -> str:
    """One for each column of the tables of these models."""
    measured = {row["number"] for row in results["rows"] if row["model"] in names}
    levels = [f"{NUMBERS[number].label} {value:.3f}" for number, value in results["chance"].items()]
    lines = [text for number, text in _FOOTNOTES.items() if number in measured]
    lines += [f"Chance: {', '.join(levels)}."] if levels else []
    lines += [
        "Maps without negative values, such as those of RISE, spread over boxes and grids by construction.",
        "Forward passes: CPU time of one map, as a multiple of that of one forward pass.",
        "A number in brackets says how many images there were where they were fewer; they are among the others. The "
        "best number of those on all images is bold.",
    ]
    lines += (
        dict.fromkeys(conditions(results, name) for name in names)
        if len(names) == 1
        else [f"`{name}`: {conditions(results, name)}" for name in names]
    )
    lines += results.get("notes", [])
    return "\n".join(f"- {line}" for line in lines)


def model_index(benchmark: Benchmark, name: str) -> list[EvalResult]:
    """The numbers of the model's own maps, and those of Grad-CAM beside them."""
    results, dataset = benchmark.results, dataset_of(name)
    found = []
    for row in results["rows"]:
        number, key = row["number"], row["method"]
        if row["model"] != name or "mean" not in row or number not in _INDEXED:
            continue
        if key != "grad_cam" and not results["methods"][key]["own"]:
            continue
        images = f"{row['images']} {'grids' if number == 'grids' else 'images'}"
        images += " with boxes" if NUMBERS[number].metric == "boxes" else ""
        label = number_label(number, results["models"][name])
        found.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset.id,
                dataset_name=f"{dataset.name}, {images}",
                dataset_split=images,
                metric_type=number,
                metric_value=round(row["mean"], 4),
                metric_name=f"{label}, {results['methods'][key]['title']}",
            )
        )
    return found
