"""Tensors to pictures, nothing else

Maps may be in any units: every drawing scales its map by itself. Figures are made without pyplot, so that several
threads can draw at once.
"""

import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

__all__ = [
    "COLOURS", "MapPanel", "ValueRange", "elide", "explanation_figure", "heat_layer", "is_flat", "overlay", "spelled",
    "value_range", "verification_figure", "weight_picture", "without_outliers",
]  # fmt: skip

Array = np.ndarray[Any, Any]

COLOURS = ("RdBu_r", "inferno")
"""Matplotlib's names of the colours of signed maps, and of maps without negative values."""

_DPI = 100
_WIDTH = 14.0  # inches
_INK, _QUIET, _ACCENT, _BAR = "#1f2328", "#6e7781", "#c2410c", "#9aa7b4"
_HEADING, _SMALL = 14, 10  # points
_PER_ROW = 9  # panels through depth, at most
_MAPS_PER_ROW = 4  # panels of a picture and its maps, at most
_PALE = 0.6  # how much of the picture's colour goes below heat
_GREY = 0.55  # what the colour bar shows behind the see-through end of the colours


def overlay(
    image: Array | Tensor,
    class_map: Array | Tensor,
    colours: tuple[str, str] = COLOURS,
    signed: bool | None = None,
) -> Array:
    """A class map as heat on the picture in pale colours, 8-bit RGB of the picture's size.

    Negative values are blue and positive ones red, symmetric about 0; a map without negative values runs from purple to
    yellow, from its minimum to its maximum (unless `colours` says otherwise). The closer to 0, or to that minimum, the
    more of the picture shows through.

    Args:
        image: 8-bit RGB picture `(H, W, 3)`.
        class_map: signed map `(h, w)` of any size; enlarged bilinearly.
        colours: matplotlib's names, for signed maps and for maps without negative values.
        signed: which of the two this is; None for what its values are. One of several maps whose colours should mean
            the same is signed if any of them is.
    """
    picture = _picture(image)
    heat = _heat_colours(_map(class_map), picture.shape[:2], colours, signed)
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    # pale, so that the picture's colours stay recognisable and are not taken for heat
    pale = ((1 - _PALE) * picture + _PALE * grey) / 255
    # lifted shadows: on black, colour would be hard to tell apart
    pale = 0.15 + 0.80 * pale
    mixed = pale * (1 - heat[..., 3:]) + heat[..., :3] * heat[..., 3:]
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def heat_layer(
    class_map: Array | Tensor,
    size: tuple[int, int] | None = None,
    colours: tuple[str, str] = COLOURS,
    signed: bool | None = None,
) -> Array:
    """The heat alone, to be laid over a picture: 8-bit RGBA `(H, W, 4)`; what `overlay` mixes in.

    Args:
        class_map: signed map `(h, w)`; enlarged bilinearly.
        size: height and width; those of the map by default.
        colours, signed: as in `overlay`.
    """
    values = _map(class_map)
    return (_heat_colours(values, size or values.shape, colours, signed) * 255).round().astype(np.uint8)


def weight_picture(weights: Array | Tensor, contribution: Array | Tensor, percentile: float = 99.5) -> Array:
    """The weights of one class as a picture: what the image would have to look like to be what the class looks for.

    The rendering of CoDA-Nets (https://arxiv.org/abs/2104.00032, section 4): the weights for `[x, 1 - x]` are read as
    a colour, each channel `w+ / (w+ + w'+)` of the positive parts of its two weights; the length of the weight vector
    is the opacity, full from the given percentile of the picture on. Pixels without positive contribution are clear.

    Args:
        weights: `(2 C, H, W)` with C of 1 or 3, from `InputContribution.effective_weights`.
        contribution: `(H, W)`, the contribution of each pixel to the same class.

    Returns:
        8-bit RGBA, `(H, W, 4)`.
    """
    array, values = _array(weights), _map(contribution)
    if array.ndim != 3 or array.shape[0] not in (2, 6) or array.shape[1:] != values.shape:
        raise ValueError(
            f"weights of shape {array.shape} with a contribution {values.shape}, expected (2, H, W) or (6, H, W) "
            "with (H, W)."
        )
    half = len(array) // 2
    positive = array.clip(0)
    both = positive[:half] + positive[half:]
    colour = np.divide(positive[:half], both, out=np.full_like(both, 0.5), where=both > 0)
    length = np.sqrt(np.square(array).sum(0))
    full = np.percentile(length, percentile) or 1.0
    opacity = np.where(values > 0, length / full, 0).clip(0, 1)
    rgb = np.broadcast_to(colour, (3, *values.shape))
    return (np.stack([*rgb, opacity], axis=-1) * 255).round().astype(np.uint8)


class MapPanel(NamedTuple):
    """A map to draw.

    Args:
        values: signed `(h, w)`, in the proportions of the picture.
        method: the title of what made it.
        adds_up_to: in words; empty where the map adds up to nothing in particular.
        clipped: whether `without_outliers` cut values off, which is then said.
        per: what one value belongs to.
    """

    values: Array | Tensor
    method: str
    adds_up_to: str = ""
    clipped: bool = False
    per: str = "pixel"

    def scale(self, unit: str) -> str:
        """What its colours measure, in that unit."""
        words = [f"{self.method}, per {self.per}{unit}"]
        words += [f"adds up to {self.adds_up_to}"] if self.adds_up_to else []
        words += ["the colours end where the largest half percent begins"] if self.clipped else []
        return "; ".join(words)


def explanation_figure(
    image: Array | Tensor,
    maps: Sequence[MapPanel],
    evolution: Sequence[Array | Tensor],
    class_names: Sequence[str],
    probs: Array | Tensor,
    target: int,
    *,
    versus: int | None = None,
    title: str = "",
    depth_label: str = "block",
    weights: Array | None = None,
    model: str = "",
    yes_or_no: bool = False,
    note: str = "",
    proportions: float = 1.0,
) -> Figure:
    """One figure for one picture: the picture, maps of a class on it, the prediction, and the map after every block.

    Args:
        image: the picture, 8-bit RGB `(H, W, 3)`.
        maps: of the class `target`, side by side.
        evolution: maps of the same class after each block, `(h_l, w_l)`; each drawn on its own scale, with its range.
        class_names: K names.
        probs: K probabilities.
        target: index of the explained class.
        versus: index of the class whose maps were subtracted; None for none.
        title: usually the file name; shortened in the middle when long.
        depth_label: what an entry of `evolution` comes after, 'block' or 'layer'.
        weights: the class's weights as an RGBA picture, see `weight_picture`; a panel of its own.
        model: the name of the model, said below the prediction together with the number of its classes.
        yes_or_no: whether the probabilities answer one yes-or-no question per class, as those of a sigmoid do. The
            figure says so, since they need not add up to 100 %.
        note: below the picture, such as what the model saw of it.
        proportions: width of what `evolution` shows, divided by its height.

    Returns:
        a figure 1400 pixels wide, ready for `savefig`.
    """
    picture = _picture(image)
    panels = 1 + len(maps) + (weights is not None)
    rows, deep = math.ceil((panels + 1) / _MAPS_PER_ROW), math.ceil(len(evolution) / _PER_ROW)
    columns = math.ceil((panels + 1) / rows)
    inches = {3: 3.6, 4: 2.7}[columns]
    name = elide(spelled(class_names[target]), 28)
    about = f"“{name}”" if versus is None else f"“{name}” rather than “{elide(spelled(class_names[versus]), 28)}”"
    headline = len(maps) > 1 or versus is not None  # too long for the heading of a panel

    # a wide picture needs no high row; the prediction needs some height, and so does the text below a map
    height = min(inches, max(1.9, inches * picture.shape[0] / picture.shape[1])) + 1.05
    heights = [height * rows + 0.35 * headline] + [2.45 + 2.05 * (deep - 1)] * bool(deep)
    layout = ConstrainedLayoutEngine(w_pad=0.10, h_pad=0.08)
    fig = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout=layout, facecolor="white")
    canvas = FigureCanvasAgg(fig)
    parts = fig.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if headline:
        _plain(parts[0].suptitle(f"evidence for {about}", fontsize=16, color=_INK, x=0.10 / _WIDTH, ha="left"))

    ratio = 0.82
    grid = parts[0].subplots(rows, columns, width_ratios=[1] * (columns - 1) + [ratio], squeeze=False)
    # the prediction ends the first row
    places: list[Axes] = [*grid[0, :-1], *grid[1:].ravel()]
    last: Axes = grid[0, -1]
    places[0].imshow(picture)
    _heading(places[0], _fitted(canvas, title or "image", inches))
    _below(places[0], note, inches)
    for ax, one in zip(places[1:], maps, strict=False):
        ax.imshow(overlay(picture, one.values))
        _heading(ax, _fitted(canvas, one.method if headline else f"evidence for {about}", inches + 0.4))
        unit = _color_bar(ax, _map(one.values))
        _below(ax, one.scale(unit), inches)
    if weights is not None:
        places[1 + len(maps)].imshow(weights)
        _heading(places[1 + len(maps)], _fitted(canvas, "weights, as colours", inches))
        _below(
            places[1 + len(maps)], "what the picture would have to look like to be all that the class looks for", inches
        )
    for ax in places[:panels]:
        _bare(ax)
        ax.set_anchor("NW")
    for ax in places[panels:]:
        ax.set_visible(False)
    last.set_anchor("NW")
    _prediction(last, _vector(probs), class_names, target)
    told = [_fitted(canvas, model, 2.6, _SMALL)] if model else []
    told.append(f"{len(class_names)} {'classes' if len(class_names) != 1 else 'class'}")
    told += ["one yes-or-no question per class"] if yes_or_no else []
    _plain(last.set_xlabel("\n".join(told), fontsize=_SMALL, color=_QUIET, loc="left", labelpad=4))
    if deep:
        _evolution(parts[1], evolution, deep, about, depth_label, proportions)
    return fig


def verification_figure(
    images: Sequence[Array | Tensor],
    maps: Mapping[str, Array | Tensor],
    names: Sequence[str],
    similarity: float,
    threshold: float,
    *,
    model: str = "",
) -> Figure:
    """Two pictures of faces, one per row, how similar they are, and maps of each against the other.

    Args:
        images: the two pictures as the model saw them, 8-bit RGB `(H, W, 3)`.
        maps: by heading, both maps `(2, H, W)`, none negative; each drawn on its own scale, with its range.
        names: of the pictures, usually file names; shortened in the middle when long.
        similarity: the cosine of their embeddings.
        threshold: from which on it counts as one person.
        model: the name of the model, which the title says.

    Returns:
        a figure 1400 pixels wide, ready for `savefig`.
    """
    fig = Figure(
        figsize=(_WIDTH, 8.2), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.10, h_pad=0.08), facecolor="white"
    )
    canvas = FigureCanvasAgg(fig)
    axes = fig.subplots(2, 1 + len(maps), squeeze=False)
    for i, (row, image, name) in enumerate(zip(axes, images, names, strict=True)):
        row[0].imshow(_picture(image))
        _heading(row[0], _fitted(canvas, name, _WIDTH / len(row) - 0.4))
        for ax, (heading, both) in zip(row[1:], maps.items(), strict=True):
            ax.imshow(overlay(image, both[i]))
            _plain(ax.set_title(heading, fontsize=12, color=_INK, loc="left", pad=8))
            ax.set_xlabel(_ranges([_map(both[i])])[0], fontsize=_SMALL, color=_QUIET, labelpad=3)
        for ax in row:
            _bare(ax)
    same = similarity >= threshold
    decision = "same person" if same else "different people"
    sign = "\N{GREATER-THAN OR EQUAL TO}" if same else "<"
    numbers = [_number(value, 3) for value in (similarity, threshold)]
    text = f"cosine {numbers[0]} {sign} {numbers[1]}: {decision}"
    text += f", says {elide(spelled(model), 60)}" if model else ""
    _plain(fig.suptitle(text, fontsize=16, color=_INK, x=0.10 / _WIDTH, ha="left"))
    return fig


def elide(text: str, length: int) -> str:
    """Text of at most `length` characters on one line, shortened in the middle, where file names differ least."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (length - 1 - head) :].lstrip()}"


class ValueRange(NamedTuple):
    """Two numbers in words, with equally many decimals, and the power of ten that both are to be multiplied with."""

    low: str
    high: str
    unit: str

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{self.unit}"


def value_range(low: float, high: float) -> ValueRange:
    """The ends of a scale for people, such as '−0.3 to 1.1': true minus signs, and none before a zero."""
    power = _power(max(abs(low), abs(high)))
    return _value_range(low, high, power, _decimals(max(abs(low), abs(high)), power))


def is_flat(values: Array) -> bool:
    """Whether a map is the same everywhere, to rounding: it then shows nothing, whatever its level."""
    return float(values.max() - values.min()) <= 1e-6 * _peak(values)


def without_outliers(values: Array, quantile: float = 0.995, factor: float = 2.0) -> Array:
    """The map, clipped at a quantile of its absolute values if its largest value is more than `factor` times that.

    A few single pixels would otherwise leave all others without colour. Smooth maps stay as they are.
    """
    limit = float(np.quantile(np.abs(values), quantile))
    return values.clip(-limit, limit) if 0 < limit * factor < _peak(values) else values


def spelled(text: str) -> str:
    """Text that the installed fonts can draw: a character that none of them has is replaced by its sound or number.

    'ねこ' becomes 'neko' where no font has these letters; a character whose Unicode name tells no sound becomes its
    number, such as 'U+732B'.
    """
    return "".join(c if _font_with(c) is not None else _sound(c) for c in unicodedata.normalize("NFC", text))


def _prediction(ax: Axes, probs: Array, class_names: Sequence[str], target: int) -> None:
    order = np.argsort(-probs, kind="stable")
    shown = list(order[:5])
    if target not in shown:
        shown.append(target)
    place = np.arange(len(shown))
    ax.barh(place, probs[shown], height=0.5, color=[_ACCENT if k == target else _BAR for k in shown])
    ax.set_yticks(place, [_wrapped(class_names[k]) for k in shown])
    for i, k in enumerate(shown):
        label = _plain(ax.text(probs[k] + 0.02, i, f"{100 * probs[k]:.1f} %", va="center", fontsize=12, color=_INK))
        label.set_fontweight("bold" if k == target else "normal")
    for text, k in zip(ax.get_yticklabels(), shown, strict=True):
        _plain(text).set(fontsize=12, color=_ACCENT if k == target else _INK)
    ax.set_xlim(0, 1.24)  # room for the percentage of a full bar
    ax.set_ylim(max(len(shown), 5) - 0.4, -0.6)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.axvline(0, color=_QUIET, linewidth=0.8)
    _heading(ax, "prediction")


def _evolution(
    part: SubFigure, evolution: Sequence[Array | Tensor], rows: int, about: str, depth_label: str, proportions: float
) -> None:
    columns = max(math.ceil(len(evolution) / rows), 6)
    axes = part.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(evolution) :]:
        ax.set_visible(False)
    maps = [_map(one) for one in evolution]
    signed = any(values.min() < 0 for values in maps)  # one meaning of a colour in all panels
    colors = matplotlib.colormaps[COLOURS[0 if signed else 1]]
    for i, (ax, values, words) in enumerate(zip(axes, maps, _ranges(maps), strict=False), start=1):
        low, high = _limits(values, signed)
        ax.imshow(
            values, cmap=colors, vmin=low, vmax=high, interpolation="nearest", extent=(0, proportions, 1, 0)
        )  # fmt: skip
        _plain(ax.set_title(f"{depth_label} {i}", fontsize=12, color=_INK, pad=4))
        ax.set_xlabel(words, fontsize=_SMALL, color=_QUIET, labelpad=3)
        _bare(ax)
    label = f"map of {about} after each {depth_label}, every panel on its own scale (its range below it)"
    _plain(part.suptitle(label, fontsize=13, color=_INK, x=0.10 / _WIDTH, ha="left"))


def _color_bar(ax: Axes, values: Array) -> str:
    """The scale beside a map; the result is its power of ten, in words."""
    colors, norm = _heat(values)
    # matplotlib's own power of ten would float above the bar
    power = _power(_peak(values))
    low, high = (end / 10.0**power for end in (norm.vmin or 0.0, norm.vmax or 0.0))
    scaled = Normalize(low, high)
    bar = ax.figure.colorbar(ScalarMappable(scaled, colors), cax=ax.inset_axes((1.03, 0, 0.04, 1)))
    bar.ax.set_facecolor(str(_GREY))
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5)
    bar.ax.tick_params(labelsize=_SMALL, colors=_INK, length=3)
    return f" ({_unit(power).strip()})" if power else ""


def _below(ax: Axes, text: str, inches: float) -> None:
    """Small words under a picture, in at most three lines."""
    lines = textwrap.wrap(spelled(text), round(14.5 * inches), max_lines=3, placeholder=" …")
    _plain(ax.set_xlabel("\n".join(lines), fontsize=_SMALL, color=_QUIET, loc="left", labelpad=4))


def _heat_colours(values: Array, size: tuple[int, ...], names: tuple[str, str], signed: bool | None) -> Array:
    height, width = size
    if values.shape != (height, width):
        values = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
    colors, norm = _heat(values, names, signed)
    return np.asarray(colors(norm(values)))


def _heat(values: Array, names: tuple[str, str] = COLOURS, signed: bool | None = None) -> tuple[Colormap, Normalize]:
    """Colours with opacity that grows with the distance from 0, and the scale for them.

    A map without negative values starts at its minimum: a level that all positions share tells them not apart.
    """
    signed = bool(values.min() < 0) if signed is None else signed
    low, high = _limits(values, signed)
    steps = np.linspace(-1, 1, 511) if signed else np.linspace(0, 1, 256)
    rgba = matplotlib.colormaps[names[0 if signed else 1]]((steps + 1) / 2 if signed else 0.25 + 0.7 * steps)
    rgba[:, 3] = 0.05 + 0.75 * np.abs(steps)
    return ListedColormap(rgba), Normalize(low, high)


def _limits(values: Array, signed: bool) -> tuple[float, float]:
    """What the first and the last colour stand for; never the same, so that maps in any units can be divided by it."""
    peak = _peak(values) or 1.0
    if signed:
        return -peak, peak
    low = float(values.min())
    return low, (low + peak if is_flat(values) else peak)


def _peak(values: Array) -> float:
    return float(np.abs(values).max())


def _heading(ax: Axes, text: str) -> None:
    _plain(ax.set_title(text, fontsize=_HEADING, color=_INK, loc="left", pad=8))


def _fitted(canvas: FigureCanvasAgg, text: str, inches: float, size: float = _HEADING) -> str:
    """The text shortened until it is no wider than its panel."""
    text = spelled(text)
    font, renderer = FontProperties(family=_families(text), size=size), canvas.get_renderer()
    length, shown = len(text), elide(text, len(text))
    while length > 8 and renderer.get_text_width_height_descent(shown, font, False)[0] > inches * _DPI:
        length -= 1
        shown = elide(text, length)
    return shown


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _plain(text: Text) -> Text:
    text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    text.set_fontfamily(_families(text.get_text()))
    return text


def _wrapped(name: str) -> str:
    lines = textwrap.wrap(elide(spelled(name), 200), 18, max_lines=2, placeholder="…") or [""]
    return "\n".join(lines)


def _families(text: str) -> list[str]:
    """The usual fonts, and after them those that have what they lack of the text."""
    others = dict.fromkeys(_font_with(c) or "" for c in text if c.isprintable())
    return [*matplotlib.rcParams["font.family"], *(name for name in others if name)]


@lru_cache(maxsize=4096)
def _font_with(character: str) -> str | None:
    """The name of an installed font that can draw a character; '' if the usual one can, None if none can."""
    if not character.isprintable() or get_font(findfont(FontProperties())).get_char_index(ord(character)):
        return ""
    for font in fontManager.ttflist:
        # the font of last resort has a box for everything
        if not font.name.startswith("Last Resort") and get_font(font.fname).get_char_index(ord(character)):
            return str(font.name)
    return None


def _sound(character: str) -> str:
    name = unicodedata.name(character, "")
    found = re.search(r" (?:LETTER|SYLLABLE|VOWEL SIGN) (?:SMALL |CAPITAL )?([A-Z ]+)$", name)
    return found[1].lower().replace(" ", "-") if found else f"U+{ord(character):04X}"


def _ranges(maps: Sequence[Array]) -> list[str]:
    """The range of every map, all with the same decimals, which the smaller maps of a row need."""
    peaks = [peak for peak in map(_peak, maps) if peak > 0] or [0.0]
    power = _power(max(peaks))
    digits = min(_decimals(min(peaks), power), _decimals(max(peaks), power) + 2, 4)  # more would not fit
    return [str(_value_range(float(one.min()), float(one.max()), power, digits)) for one in maps]


def _value_range(low: float, high: float, power: int, digits: int) -> ValueRange:
    return ValueRange(_number(low / 10.0**power, digits), _number(high / 10.0**power, digits), _unit(power))


def _number(value: float, digits: int) -> str:
    # rounded before zero is added, which turns a rounded −0.0 into 0.0
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _power(peak: float) -> int:
    """The power of ten that is left out of the numbers: none where they are readable with it."""
    power = math.floor(math.log10(peak)) if peak > 0 else 0
    return power if power < -2 or power > 3 else 0


def _decimals(peak: float, power: int) -> int:
    """So many that the largest number has two digits that are not leading zeros."""
    return max(1 - math.floor(math.log10(peak)) + power, 0) if peak > 0 else 0


def _unit(power: int) -> str:
    exponent = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f" \N{MULTIPLICATION SIGN}10{exponent}" if power else ""


def _picture(image: Array | Tensor) -> Array:
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image is {array.dtype} of shape {array.shape}, expected uint8 of shape (H, W, 3).")
    return array


def _array(values: Array | Tensor) -> Array:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _map(values: Array | Tensor) -> Array:
    array = _array(values)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"map of shape {array.shape}, expected (h, w) with finite values.")
    return array.astype(np.float32)


def _vector(values: Array | Tensor) -> Array:
    return _array(values).ravel()
