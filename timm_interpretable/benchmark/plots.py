"""The results of a benchmark as pictures; figures without pyplot, as in `viz`"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timm_interpretable.benchmark.scores import NUMBERS
from timm_interpretable.benchmark.tables import number_label
from timm_interpretable.viz import overlay

__all__ = ["contact_sheet", "localisation_figure", "method_colors", "removal_figure", "scatter_figure"]

_GREY = "#9aa0a6"
_CHEAP = 10  # forward passes
_NAME = 22  # characters of a name on a line


def method_colors(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Maps that are part of a model in warm colours, other methods in cool ones, random in grey: in every figure alike.

    Args:
        methods: `methods` of the results, by key.
    """
    own = [key for key, about in methods.items() if about["own"]]
    others = [key for key, about in methods.items() if not about["own"] and key != "random"]
    warm = colormaps["autumn"](np.linspace(0.0, 0.7, max(len(own), 1)))
    cool = colormaps["viridis"](np.linspace(0.0, 0.9, max(len(others), 1)))
    colors = dict(zip(own, warm, strict=False)) | dict(zip(others, cool, strict=False))
    return colors | {"random": _GREY}


def localisation_figure(results: Mapping[str, Any], number: str, footer: str) -> Figure:
    """How a number of all images is spread: one panel per model, one box per method, its mean as a point.

    Args:
        number: one of `NUMBERS`; where the results know its chance level, a line shows it.
    """
    chance, methods = results["chance"].get(number), results["methods"]
    found = [row for row in results["values"] if row["number"] == number]
    models = list(dict.fromkeys(row["model"] for row in found))
    tallest = max(sum(row["model"] == model for row in found) for model in models)
    fig = _figure(4.6 * len(models) + 1.2, 0.42 * tallest + 1.5)
    colors = method_colors(methods)
    for ax, model in zip(np.atleast_1d(fig.subplots(1, len(models), sharex=True)), models, strict=True):
        rows = [row for row in found if row["model"] == model][::-1]
        titles = [f"{methods[row['method']]['title']}  ({len(row['values'])})" for row in rows]
        boxes = ax.boxplot(
            [row["values"] for row in rows], orientation="horizontal", widths=0.6, showfliers=False, showmeans=True,
            patch_artist=True, tick_labels=titles,
            medianprops=dict(color="black", linewidth=1),
            meanprops=dict(marker="D", markerfacecolor="white", markeredgecolor="black", markersize=5),
            whiskerprops=dict(color=_GREY), capprops=dict(color=_GREY), boxprops=dict(linewidth=0),
        )  # fmt: skip
        for box, row in zip(boxes["boxes"], rows, strict=True):
            box.set(facecolor=colors[row["method"]], alpha=0.75)
        if chance is not None:
            ax.axvline(chance, color="black", linestyle=":", linewidth=1)
            ax.text(chance, len(rows) + 0.55, "chance", ha="center", va="bottom", fontsize=8)
        height, width = results["models"][model]["input_size"][1:]
        ax.set_title(f"{model}\n{height} x {width} pixels", fontsize=10, pad=16)
        better = ", more is better" if NUMBERS[number].more_is_better else ""
        ax.set_xlabel(f"{number_label(number, results['models'][model])}{better}")
        _plain(ax)
    return _with_footer(
        fig, f"Diamond: mean; line: median; box: the middle half of the images (their number). {footer}"
    )


def removal_figure(results: Mapping[str, Any], model: str, footer: str) -> Figure | None:
    """What becomes of the probability while pixels disappear, with the 95 % band of the mean; None without curves."""
    names = ("removal_least", "removal_most")
    found = [row for row in results["curves"] if row["model"] == model and row["curve"] in names]
    if not found:
        return None
    fig = _figure(11, 4.6)
    colors, pixels = method_colors(results["methods"]), results["models"][model]["fill"]
    titles = ("least important pixels removed first: should stay", "most important pixels removed first: should fall")
    axes = fig.subplots(1, 2, sharey=True)
    for ax, name, title in zip(axes, names, titles, strict=True):
        for row in (row for row in found if row["curve"] == name):
            x = [100 * fraction for fraction in row["fractions"]]
            style = dict(color=colors[row["method"]], linestyle="--" if row["method"] == "random" else "-")
            ax.plot(
                x,
                row["mean"],
                linewidth=1.8,
                label=f"{results['methods'][row['method']]['title']} ({row['images']})",
                **style,
            )
            ax.fill_between(x, row["low"], row["high"], color=colors[row["method"]], alpha=0.12, linewidth=0)
        ax.set(title=title, xlabel=f"pixels removed ({pixels}), %", ylim=(0, 1))
        ax.margins(x=0)
        _plain(ax)
    axes[0].set_ylabel("probability of the true class")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    fig.suptitle(model, fontsize=12)
    return _with_footer(fig, footer)


def scatter_figure(results: Mapping[str, Any], number: str, footer: str) -> Figure | None:
    """What a map costs against a number, method by method: one panel per model, its accuracy in the title."""
    cost = {(row["model"], row["method"]): row["forward_passes"] for row in results["cost"]}
    rows = [
        row
        for row in results["rows"]
        if row["number"] == number and "mean" in row and (row["model"], row["method"]) in cost
        and row["method"] != "random"  # costs nothing, which has no place on a logarithmic axis
    ]  # fmt: skip
    if not rows:
        return None
    models = list(dict.fromkeys(row["model"] for row in rows))
    fig = _figure(4.4 * len(models) + 0.8, 5.0)
    axes = np.atleast_1d(fig.subplots(1, len(models), sharex=True, sharey=True))
    colors = method_colors(results["methods"])
    for ax, model in zip(axes, models, strict=True):
        for row in (row for row in rows if row["model"] == model):
            mean, color = row["mean"], colors[row["method"]]
            errors = [[mean - row["low"]], [row["high"] - mean]]
            ax.errorbar(cost[model, row["method"]], mean, errors, fmt="o", color=color, elinewidth=0.8)
        about = results["models"][model]
        ax.set_title(f"{model}\naccuracy {about['accuracy']:.1%}" if about["accuracy"] else model, fontsize=10)
        ax.set(xscale="log", xlabel="cost of a map, forward passes", ylabel=number_label(number, about))
        _plain(ax)
    low, high = min(cost[row["model"], row["method"]] for row in rows), max(cost.values())
    axes[0].set_xlim(low / 1.6, high * 25)  # room for the names
    for ax, model in zip(axes, models, strict=True):
        points = {row["method"]: (cost[model, row["method"]], row["mean"]) for row in rows if row["model"] == model}
        for group in ({k: v for k, v in points.items() if (v[0] < _CHEAP) == cheap} for cheap in (True, False)):
            _name(ax, {key: (results["methods"][key]["title"], *at) for key, at in group.items()}, colors)
    return _with_footer(fig, f"Points: means with 95 % intervals. {footer}")


def _name(ax: Axes, points: Mapping[str, tuple[str, float, float]], colors: Mapping[str, Any]) -> None:
    """Titles in a column right of the points, each as near to its own as the others let it."""
    if not points:
        return
    bottom, top = ax.get_ylim()
    titles = {key: fill(title, _NAME) for key, (title, _, _) in points.items()}
    lines = 1 + max(title.count("\n") for title in titles.values())
    gap = (0.018 + 0.024 * lines) * (top - bottom)
    heights = _apart(np.array([y for _, _, y in points.values()]), gap)
    heights += max(0, bottom + gap / 2 - heights.min()) - max(0, heights.max() + gap / 2 - top)  # inside the panel
    column = max(x for _, x, _ in points.values()) * 1.35
    for (key, (_, x, y)), height in zip(points.items(), heights, strict=True):
        line = dict(arrowstyle="-", relpos=(0, 0.5), color=colors[key], linewidth=0.5, shrinkA=0, shrinkB=4)
        ax.annotate(titles[key], (x, y), (column, height), fontsize=7.5, va="center", arrowprops=line)


def _apart(values: Any, gap: float) -> Any:
    """The nearest numbers (least squares) in the same order that keep a distance: isotonic regression of what is left.

    Neighbours that are too close become a block around their mean.
    """
    order, steps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    blocks: list[tuple[float, int]] = []
    for value in values[order] - steps:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    found = np.empty(len(values))
    found[order] = np.repeat([value for value, _ in blocks], [count for _, count in blocks]) + steps
    return found


def contact_sheet(
    model: str, pictures: Sequence[np.ndarray[Any, Any]], maps: Mapping[str, Sequence[np.ndarray[Any, Any]]],
    titles: Sequence[str], footer: str,
) -> Figure:  # fmt: skip
    """Pictures down, methods across.

    Args:
        pictures: 8-bit RGB `(H, W, 3)`.
        maps: by the title of the method one signed map per picture.
        titles: one per picture.
    """
    rows, columns = len(pictures), len(maps) + 1
    fig = _figure(1.5 * columns, 1.55 * rows + 0.8)
    axes = fig.subplots(rows, columns, squeeze=False)
    for i, picture in enumerate(pictures):
        shown = [picture, *(overlay(picture, found[i]) for found in maps.values())]
        for ax, panel in zip(axes[i], shown, strict=True):
            ax.imshow(panel)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[i, 0].set_ylabel(titles[i], fontsize=8)
    for ax, name in zip(axes[0], ["", *maps], strict=True):
        ax.set_title(fill(name, 14), fontsize=8)
    fig.suptitle(model, fontsize=11)
    return _with_footer(fig, footer)


def _figure(width: float, height: float) -> Figure:
    fig = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#e5e7eb", linewidth=0.6)
    ax.set_axisbelow(True)


def _with_footer(fig: Figure, text: str) -> Figure:
    fig.supxlabel(text, fontsize=6.5, color="#6e7781", wrap=True)
    return fig
