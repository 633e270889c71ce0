from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.text import Text

from timm_interpretable.viz import MapPanel, elide, explanation_figure, overlay, verification_figure, weight_picture


def figure(
    blocks=8, names=("tench", "church", "gas pump"), target=0, title="photo.jpg", signed=False, size=(64, 64),
    methods=("class map",), sums="the logit", clipped=False, **options,
):  # fmt: skip
    rng = np.random.default_rng(0)
    values = (lambda *s: rng.standard_normal(s)) if signed else (lambda *s: rng.random(s))
    probs = np.linspace(1, 0.1, len(names))
    return explanation_figure(
        rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        [MapPanel(1e-4 * values(*size), method, sums, clipped) for method in methods],
        [values(8, 8) for _ in range(blocks)], names, probs / probs.sum(), target, title=title, **options,
    )  # fmt: skip


def texts(fig):
    return [t for t in fig.findobj(Text) if t.get_visible() and t.get_text()]


LONG = [f"a long class name, number {i}, such as ImageNet has for its many breeds of dogs" for i in range(12)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"signed": True},
        {"size": (32, 32)},
        {"size": (40, 120)},
        {"size": (120, 40), "note": "40 x 120; the model saw it squashed to 224 x 224"},
        {"blocks": 16},
        {"blocks": 4},
        {"blocks": 0},
        {"names": LONG, "target": 11},
        {"names": LONG, "target": 11, "weights": np.full((64, 64, 4), 128, np.uint8), "depth_label": "layer"},
        {"names": ["W" * 60] * 10, "title": "W" * 200 + ".jpg"},
        {"title": "a very long file name with spaces " * 5},
        {"names": ["$a^b$", "100 % \\frac", "x"], "title": "$1 _and_ $2.jpg"},
        {"sums": "the logit less what all classes share", "clipped": True},
        {"methods": ("contributions", "Grad-CAM"), "blocks": 0, "weights": np.full((64, 64, 4), 128, np.uint8)},
        {"methods": ("class map", "class map, average of the last half", "integrated gradients", "FAME"), "blocks": 0},
        {"names": LONG, "target": 11, "versus": 3, "methods": ("class map, not centred",)},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_no_text_is_clipped_or_overlaps_another(options, monkeypatch):
    check_texts(figure(**options), monkeypatch, at_least=10)


def check_texts(fig, monkeypatch, at_least):
    # tick labels outside the limits of an axis exist but are never drawn
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer)))
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    assert fig.get_size_inches()[0] * fig.dpi == 1400
    boxes = {t: t.get_window_extent(renderer) for t in drawn if t.get_visible() and t.get_text()}
    assert len(boxes) >= at_least
    for text, box in boxes.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= fig.bbox.x1, text
        assert box.y1 <= fig.bbox.y1, text
    items = list(boxes.items())
    for i, (one, a) in enumerate(items):
        for other, b in items[i + 1 :]:
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
            assert not overlap, (one, other)


def pair(similarity=0.4, threshold=0.3, names=("a.png", "b.png"), zero=False, size=(112, 92)):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in names]
    headings = [f"{method}: {part}" for method in ("FAME", "CorrRISE") for part in ("similar (e+)", "dissimilar (e-)")]
    maps = {heading: rng.random((2, *size)) * (not zero) for heading in headings}
    return verification_figure(images, maps, names, similarity, threshold)


@pytest.mark.parametrize(
    "options",
    [{}, {"names": ("W" * 200 + ".jpg", "$1 _and_ $2.jpg")}, {"zero": True}, {"size": (64, 64)}, {"similarity": -0.5}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_no_text_of_a_pair_is_clipped_or_overlaps_another(options, monkeypatch):
    check_texts(pair(**options), monkeypatch, at_least=19)


def test_a_pair_says_what_it_is_taken_for():
    same, other = ([t.get_text() for t in texts(pair(similarity))] for similarity in (0.3, -0.25))
    assert "cosine 0.300 \N{GREATER-THAN OR EQUAL TO} 0.300: same person" in same
    assert "cosine \N{MINUS SIGN}0.250 < 0.300: different people" in other
    assert {"a.png", "b.png", "FAME: similar (e+)", "CorrRISE: dissimilar (e-)"} <= set(same)
    assert any(text.startswith("0.00 to 1.") for text in same)
    zero = [t.get_text() for t in texts(verification_figure(
        [np.zeros((8, 8, 3), np.uint8)] * 2, {"map": -np.zeros((2, 8, 8))}, ("a", "b"), 0.0, 0.0
    ))]  # fmt: skip
    assert "0 to 0" in " ".join(zero).replace(".0", "")
    assert not any("\N{MINUS SIGN}" in text for text in zero)


def test_says_what_it_shows():
    fig = figure(names=("tench", "church", "gas pump"), target=1)
    said = [t.get_text() for t in texts(fig)]
    assert {"photo.jpg", "evidence for “church”", "prediction", "block 1", "block 8", "33.3 %"} <= set(said)
    assert any("own scale" in text for text in said)
    several = figure(methods=("class map", "Grad-CAM"), target=1, versus=0, note="what the model saw")
    said = {t.get_text() for t in texts(several)}
    assert {"evidence for “church” rather than “tench”", "class map", "Grad-CAM", "what the model saw"} <= said


def test_a_colour_means_the_same_in_all_panels():
    positive, signed = np.full((4, 4), 2.0), np.linspace(-1, 1, 16).reshape(4, 4)
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    for maps, name in (([positive, signed], "RdBu_r"), ([positive, positive + signed / 4], "inferno")):
        fig = explanation_figure(image, [MapPanel(positive, "class map")], maps, ["a", "b"], [0.7, 0.3], 0)
        panels = [ax.images[0] for ax in fig.findobj(Axes) if ax.get_title().startswith("block ")]
        assert [panel.get_cmap().name for panel in panels] == [name, name]


def test_the_target_is_among_the_bars_even_when_improbable():
    names = [f"class {k}" for k in range(30)]
    said = [t.get_text() for t in texts(figure(names=names, target=29))]
    assert {"class 0", "class 4", "class 29"} <= set(said)
    assert "class 5" not in said


def test_drawing_in_threads_gives_the_same_pictures():
    def pixels(_):
        fig = figure()
        fig.canvas.draw()
        return np.asarray(fig.canvas.buffer_rgba()).copy()

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(pixels, range(3))
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_overlay_is_red_where_positive_and_blue_where_negative():
    image = np.full((8, 8, 3), 128, np.uint8)
    values = torch.zeros(8, 8)
    values[0, 0], values[7, 7] = 1.0, -0.5
    mixed = overlay(image, values).astype(int)
    assert mixed.shape == (8, 8, 3)
    assert mixed[0, 0, 0] > mixed[0, 0, 2] + 50
    assert mixed[7, 7, 2] > mixed[7, 7, 0] + 20
    assert np.ptp(mixed[4, 4]) < 10  # grey at zero


def test_overlay_scale_is_symmetric():
    image = np.full((4, 4, 3), 128, np.uint8)
    base = np.zeros((4, 4), np.float32)
    alone, with_negative = base.copy(), base.copy()
    alone[0, 0], alone[1, 1] = 1, -0.1
    with_negative[0, 0], with_negative[1, 1] = 1, -0.9
    np.testing.assert_array_equal(overlay(image, alone)[0, 0], overlay(image, with_negative)[0, 0])


def test_overlay_enlarges_small_maps_and_takes_constant_ones():
    image = np.zeros((16, 12, 3), np.uint8)
    assert overlay(image, np.eye(2)).shape == (16, 12, 3)
    for constant in (0.0, 1.0, -1.0):
        assert overlay(image, np.full((16, 12), constant)).shape == (16, 12, 3)


def test_flat_maps_can_be_drawn():
    zero = np.zeros((8, 8))
    fig = explanation_figure(
        np.zeros((8, 8, 3), np.uint8), [MapPanel(zero, "class map")], [zero], ["only"], np.ones(1), 0
    )
    fig.canvas.draw()


@pytest.mark.parametrize(
    ("image", "values", "message"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 8)), "expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8)), r"\(H, W, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8)), r"expected \(h, w\)"),
        (np.zeros((8, 8, 3), np.uint8), np.full((8, 8), np.nan), "finite"),
    ],
)
def test_wrong_shapes_are_named(image, values, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, values)


def test_elide():
    assert elide("short.jpg", 20) == "short.jpg"
    long = elide("a" * 50 + ".jpg", 20)
    assert len(long) <= 20
    assert long.endswith(".jpg")
    assert "…" in long
    assert elide("two\nlines", 20) == "two?lines"


def test_weight_picture_is_the_colour_the_weights_look_for():
    """Red at full length, white at half, and nothing where the contribution is not positive."""
    weights = torch.zeros(6, 1, 3)
    weights[:, 0, 0] = torch.tensor([1.0, 0, 0, -5.0, 1, 1])  # red: 1 - x is wanted in green and blue only
    weights[:, 0, 0] *= 2 / weights[:, 0, 0].norm()
    weights[:3, 0, 1] = 1 / 3**0.5
    weights[:, 0, 2] = 1
    picture = weight_picture(weights, torch.tensor([[1.0, 0.5, -1.0]]), percentile=100)
    full = weights[:, 0].norm(dim=0).max()
    assert picture[0, 0].tolist() == [255, 0, 0, round(float(255 * 2 / full))]
    assert picture[0, 1].tolist() == [255, 255, 255, round(float(255 / full))]
    assert picture[0, 2, 3] == 0
    assert weight_picture(torch.zeros(6, 2, 2), torch.ones(2, 2))[..., 3].max() == 0
    with pytest.raises(ValueError, match=r"weights of shape \(3, 2, 2\)"):
        weight_picture(torch.zeros(3, 2, 2), torch.ones(2, 2))
