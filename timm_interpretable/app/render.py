"""Arrays to what a page shows: pictures inside addresses, bars, curves, animations. Nothing is written to disk."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from timm_interpretable.app.words import percent
from timm_interpretable.viz import COLOURS, Array, heat_layer, overlay, value_range, without_outliers

SIZE = 320  # pixels of a side of a picture on the page

PALETTES: dict[str, tuple[str, str]] = {
    "red and blue": COLOURS,
    "orange and purple": ("PuOr_r", "viridis"),
    "brown and green": ("BrBG_r", "cividis"),
}
"""Colours of signed maps, and of maps without negative values."""


class Style(NamedTuple):
    """How maps are drawn; changing it computes nothing anew."""

    palette: str = "red and blue"
    positive: bool = False

    def values(self, array: Array) -> Array:
        """What is drawn of a map."""
        shown = without_outliers(array)
        return shown.clip(min=0) if self.positive else shown

    def signed(self, signed: bool | None) -> bool | None:
        """Whether a map is drawn as a signed one; None for what its values are."""
        return False if self.positive else signed


def address(picture: Array | Image.Image, kind: str = "webp") -> str:
    """A picture as a data URL."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = BytesIO()
    image.save(buffer, kind.upper(), **({"quality": 88, "method": 2} if kind == "webp" else {}))
    return data_url(buffer.getvalue(), f"image/{kind}")


def data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def enlarged(picture: Array, size: int = SIZE) -> Image.Image:
    """The shorter side brought to `size`; never made smaller."""
    image = Image.fromarray(picture)
    factor = max(1.0, size / min(image.size))
    width, height = (round(length * factor) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def nearest(picture: Array, size: int = SIZE) -> Image.Image:
    """As `enlarged`, with the pixels visible."""
    image = Image.fromarray(picture)
    factor = max(1, round(size / min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def heat(values: Array, style: Style, size: tuple[int, int] = (SIZE, SIZE), signed: bool | None = None) -> Array:
    """The colours of a map alone, 8-bit RGBA."""
    return heat_layer(style.values(values), size, PALETTES[style.palette], style.signed(signed))


def laid_over(seen: Array, values: Array, style: Style, signed: bool | None = None) -> Array:
    """The colours over the grey picture, 8-bit RGB, for whoever cannot lay pictures over each other."""
    picture = np.asarray(enlarged(seen))
    return overlay(picture, style.values(values), PALETTES[style.palette], style.signed(signed))


def stack(seen: Array, values: Array, style: Style, alt: str, signed: bool | None = None) -> str:
    """The picture and the colours as two images, so that the page itself can mix them."""
    base = enlarged(seen)
    colours = address(heat(values, style, (base.height, base.width), signed))
    return (
        f'<div class="ti-stack"><img class="ti-base" src="{address(base)}" alt="">'
        f'<img class="ti-heat" src="{colours}" alt="{escape(alt)}"></div>'
    )


def scale(values: Array, style: Style, signed: bool | None = None) -> str:
    """What the colours mean, from the smallest to the largest value."""
    shown = style.values(values)
    signed = style.signed(signed)
    signed = bool(shown.min() < 0) if signed is None else signed
    peak = float(np.abs(shown).max())
    names = PALETTES[style.palette]
    steps = np.linspace(0, 1, 9) if signed else 0.25 + 0.7 * np.linspace(0, 1, 9)
    colours = ", ".join(to_hex(matplotlib.colormaps[names[0 if signed else 1]](step)) for step in steps)
    low, high = (-peak if signed else float(shown.min())), peak
    ends = value_range(low, high)
    more = "≥ " if high < float(values.max()) else ""
    less = "≤ " if low > float(values.min()) and not style.positive else ""
    return (
        f'<div class="ti-scale"><span>{less}{ends.low}{ends.unit}</span>'
        f'<i style="background:linear-gradient(90deg,{colours})"></i><span>{more}{ends.high}{ends.unit}</span></div>'
    )


def bars(probs: Array, names: Sequence[str], target: int, picked: bool = True, shown: int = 5) -> str:
    """The likeliest classes and the explained one; each a button that makes its class the explained one."""
    order = list(np.argsort(-probs, kind="stable")[:shown])
    if target not in order:
        order[-1] = target
    rows = []
    for k in order:
        name, share = escape(names[k]), percent(float(probs[k]))
        inside = (
            f'<span class="ti-name">{name}</span><span class="ti-track">'
            f'<i style="width:{100 * float(probs[k]):.1f}%"></i></span><span class="ti-share">{share}</span>'
        )
        current = ' aria-pressed="true"' if k == target else ' aria-pressed="false"'
        label = f'aria-label="Explain {name}, {share}"'
        rows.append(
            f'<button type="button" class="ti-bar" data-class="{name}"{current} {label}>{inside}</button>'
            if picked
            else f'<div class="ti-bar{" ti-on" if k == target else ""}">{inside}</div>'
        )
    return f'<div class="ti-bars">{"".join(rows)}</div>'


def animation(frames: Sequence[Array], milliseconds: int = 450) -> bytes:
    """A GIF that stays a while at its last frame, from 8-bit RGB frames."""
    pictures = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in frames]
    buffer = BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [3 * milliseconds]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return buffer.getvalue()


def curve(lines: Sequence[tuple[str, str, Array]], fractions: Array, mark: float | None, label: str) -> str:
    """Curves in [0, 1] over a fraction, as SVG: `(name, class of the style sheet, values)`."""
    width, height, left, bottom = 560, 200, 40, 26

    def across(x: float) -> str:
        return f"{left + x * (width - left - 18):.1f}"

    def up(y: float) -> str:
        return f"{8 + (1 - y) * (height - bottom - 8):.1f}"

    def line(values: Array) -> str:
        return " ".join(f"{across(float(x))},{up(float(y))}" for x, y in zip(fractions, values, strict=True))

    drawn = "".join(f'<polyline class="{kind}" points="{line(values)}"/>' for _, kind, values in lines)
    grid = "".join(
        f'<line class="ti-grid" x1="{left}" x2="{across(1)}" y1="{up(y)}" y2="{up(y)}"/>'
        f'<text x="{left - 6}" y="{float(up(y)) + 4:.1f}" text-anchor="end">{100 * y:.0f} %</text>'
        for y in (0.0, 0.5, 1.0)
    )
    ticks = "".join(
        f'<text x="{across(x)}" y="{height - 6}" text-anchor="middle">{100 * x:.0f} %</text>'
        for x in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    marker = ""
    if mark is not None:
        x = across(mark)
        marker = f'<line class="ti-mark" x1="{x}" x2="{x}" y1="8" y2="{height - bottom}"/>'
    legend = "".join(f'<span class="{kind}"><i></i>{escape(name)}</span>' for name, kind, _ in lines)
    return (
        f'<figure class="ti-curve"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{grid}{ticks}{marker}{drawn}</svg><figcaption>{legend}</figcaption></figure>"
    )
