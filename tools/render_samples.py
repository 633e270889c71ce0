"""Render the sample pictures that the project draws itself: `python -m tools.render_samples [FOLDER]`.

Numpy and Pillow only, seeded: the same files on every machine with the same versions of both.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 448
SCALE = 2  # drawn at twice the size, then reduced: smooth edges
N = SIZE * SCALE

Array = NDArray[np.float64]


def unit(v: Array) -> Array:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blur(a: Array, radius: float) -> Array:
    """Gaussian blur of a float image (H, W) or (H, W, 3) with values in [0, 1]."""
    image = Image.fromarray((np.clip(a, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64) / 255


def fractal_noise(rng: np.random.Generator, first: tuple[int, int], octaves: int, gain: float = 0.55) -> Array:
    """Sum of bicubically enlarged random grids, (N, N) in [0, 1]; `first` is the coarsest grid (rows, columns)."""
    total = np.zeros((N, N))
    for octave in range(octaves):
        rows, columns = (min(N, side << octave) for side in first)
        grid = Image.fromarray(rng.random((rows, columns)).astype(np.float32))
        total += gain**octave * np.asarray(grid.resize((N, N), Image.Resampling.BICUBIC))
    return (total - total.min()) / (total.max() - total.min())


def over(base: Array, color: Array, alpha: Array) -> Array:
    return base * (1 - alpha[..., None]) + color * alpha[..., None]


def finish(picture: Array, rng: np.random.Generator) -> Image.Image:
    """Vignette, reduction, sensor grain."""
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    picture = picture * (1 - 0.13 * (x**2 + y**2))[..., None]
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.LANCZOS
    )
    grain = rng.normal(0, 2.2, (SIZE, SIZE, 1)) + rng.normal(0, 1.0, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def blades(rng: np.random.Generator, count: int, y_range: tuple[float, float], length: float) -> tuple[Array, Array]:
    """Grass blades as colour (N, N, 3) and coverage (N, N); those nearer to the camera are drawn later and longer."""
    layer = Image.new("RGBA", (N, N), (70, 110, 34, 0))
    draw = ImageDraw.Draw(layer)
    for y in np.sort(rng.uniform(*y_range, count)):
        near = (y / N) ** 2
        x, lean = rng.uniform(-30, N + 30), rng.normal(0, 0.55)
        tall = length * (0.25 + near) * rng.uniform(0.5, 1.2)
        wide = max(1.0, 6.5 * near * rng.uniform(0.6, 1.2))
        light = rng.uniform(0.5, 1.15) * (1.15 if rng.random() < 0.15 else 1.0)
        green = np.array([96, 146, 48]) * light + rng.normal(0, 6, 3) + (rng.random() < 0.07) * np.array([46, 22, 12])
        tip = (x + lean * tall, y - tall)
        bend = (x + 0.35 * lean * tall, y - 0.6 * tall)
        outline = [(x - wide, y), (bend[0] - 0.7 * wide, bend[1]), tip, (bend[0] + 0.7 * wide, bend[1]), (x + wide, y)]
        draw.polygon(outline, fill=(*(int(c) for c in np.clip(green, 0, 255)), 255))
    pixels = np.asarray(layer, dtype=np.float64) / 255
    return pixels[..., :3], pixels[..., 3]


def lawn(rng: np.random.Generator, horizon: float) -> Array:
    """A lawn in front of out-of-focus trees; the horizon as a fraction of the height."""
    y = np.linspace(0, 1, N)[:, None, None]
    trees = np.array([0.20, 0.29, 0.15]) * (0.55 + 0.9 * fractal_noise(rng, (4, 5), 3)[..., None])
    light_through = smoothstep(0.66, 0.9, fractal_noise(rng, (7, 9), 2))
    trees = over(trees, np.array([0.72, 0.78, 0.62]), 0.8 * light_through)
    ground = np.array([0.34, 0.50, 0.17]) * (0.75 + 0.35 * fractal_noise(rng, (24, 10), 4)[..., None])
    picture = np.where(y < horizon, trees, ground)
    picture = blur(picture, 26)
    color, cover = blades(rng, 26000, (horizon * N, 1.12 * N), 62)
    sharp = over(picture, color, cover)
    # focus on the plane of the ball: blur grows toward the horizon and toward the lower edge
    defocus = np.abs(np.linspace(0, 1, N) - 0.76)
    for radius, near in ((2.5, 0.08), (6.0, 0.17), (13.0, 0.25)):
        weight = smoothstep(near - 0.05, near + 0.05, defocus)[:, None] * np.ones((N, N))
        sharp = over(sharp, blur(sharp, radius), weight)
    return over(
        sharp, blur(picture, 8), smoothstep(-0.03, 0.07, horizon - np.linspace(0, 1, N))[:, None] * np.ones((N, N))
    )


def dimple_tilt(normal: Array, count: int = 336) -> tuple[Array, Array]:
    """Normals (P, 3) of a unit sphere with dimples on a Fibonacci lattice, and how deep in a dimple each point lies."""
    i = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    centres = np.stack([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)], axis=-1)
    turn = np.deg2rad(31)
    centres = centres @ np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    nearest = np.concatenate([(part @ centres.T).argmax(1) for part in np.array_split(normal, 64)])
    centre = centres[nearest]
    angle = np.arccos(np.clip((normal * centre).sum(1), -1, 1))
    radius = 0.92 * np.sqrt(4 / count)
    inside = np.clip(angle / radius, 0, 1)
    slope = 0.62 * np.sin(np.pi * inside**1.5)  # flat in the middle, steep near the rim, flat outside
    outward = unit(normal - centre + 1e-9)
    return unit(normal - slope[:, None] * outward), 1 - inside


def golf_ball(rng: np.random.Generator) -> Image.Image:
    picture = lawn(rng, horizon=0.30)
    cx, cy, r = 0.51 * N, 0.535 * N, 0.262 * N
    y, x = np.mgrid[0:N, 0:N].astype(np.float64)
    # the sun stands high on the left: the shadow falls to the right
    shadow = np.exp(-((((x - cx - 0.55 * r) / (1.35 * r)) ** 2 + ((y - cy - 0.95 * r) / (0.30 * r)) ** 2) ** 1.6))
    picture *= 1 - 0.68 * blur(shadow, 10)[..., None]

    u, v = (x - cx) / r, (cy - y) / r
    rho = np.hypot(u, v)
    disc = rho < 1
    normal = np.stack([u, v, np.sqrt(np.clip(1 - rho**2, 0, 1))], axis=-1)[disc]
    bumped, depth = dimple_tilt(normal)
    sun, view = unit(np.array([-0.55, 0.72, 0.50])), np.array([0.0, 0.0, 1.0])
    direct = np.clip(bumped @ sun, 0, None) * smoothstep(-0.15, 0.15, normal @ sun)
    sky = 0.5 + 0.5 * bumped[:, 1]
    gloss = np.clip(bumped @ unit(sun + view), 0, None) ** 60
    shade = (
        0.72 * direct[:, None] * np.array([1.0, 0.98, 0.92])
        + 0.46 * sky[:, None] * np.array([0.86, 0.93, 1.0])
        + 0.30 * (1 - sky)[:, None] * np.array([0.62, 0.80, 0.42])
        + 0.30 * gloss[:, None]
    )
    shade *= (1 - 0.10 * depth)[:, None] * (1 - 0.35 * smoothstep(0.35, 1.0, -normal[:, 1]))[:, None]
    ball = np.zeros((N, N, 3))
    ball[disc] = np.minimum(shade, 1.02) ** 0.95
    picture = over(picture, ball, np.where(disc, smoothstep(0, 3, (1 - rho) * r), 0.0))

    # blades in front hide the lowest part: the ball lies in the grass, not on it
    color, cover = blades(rng, 9000, (cy + 1.0 * r, 1.15 * N), 62)
    dark = 1 - 0.45 * shadow
    front = over(picture, color * dark[..., None], blur(cover, 1.2) * smoothstep(0.45, 0.8, (y - cy) / r))
    # the same loss of focus toward the lower edge as in `lawn`
    picture = over(front, blur(front, 7), smoothstep(0.86, 1.02, y / N))
    return finish(picture, rng)


def clouded_sky(rng: np.random.Generator) -> Array:
    t = np.linspace(0, 1, N)[:, None, None]
    sky = (1 - t) * np.array([0.20, 0.42, 0.75]) + t * np.array([0.62, 0.79, 0.93]) + np.zeros((N, N, 1))
    noise = fractal_noise(rng, (4, 3), 7, gain=0.52)
    lit = fractal_noise(rng, (6, 4), 5)
    height = np.linspace(0, 1, N)[:, None]
    cover = smoothstep(0.50, 0.80, noise + 0.22 * (height - 0.55))
    # thick parts are greyer below: compare with the density a little higher up
    below = np.clip(noise - np.roll(noise, -28, axis=0), -0.2, 0.2)
    cloud = np.array([0.93, 0.95, 0.97]) * (0.93 + 0.10 * lit + 0.35 * below)[..., None]
    return over(sky, np.clip(cloud, 0, 1), 0.92 * blur(cover, 2))


def parachute(rng: np.random.Generator) -> Image.Image:
    picture = clouded_sky(rng)
    cx, rim, wide, tall, gores = 0.49 * N, 0.435 * N, 0.335 * N, 0.285 * N, 18
    depth = 0.075 * N  # half height of the rim's ellipse, seen a little from below
    foot = (0.525 * N, 0.80 * N)
    colors = (np.array([0.84, 0.13, 0.10]), np.array([0.96, 0.94, 0.90]))
    y, x = np.mgrid[0:N, 0:N].astype(np.float64)
    u = (x - cx) / wide

    def rim_point(azimuth: float) -> tuple[float, float]:
        return cx + wide * np.cos(azimuth), rim + depth * np.sin(azimuth)

    lines = Image.new("L", (N, N), 0)
    draw = ImageDraw.Draw(lines)
    riser = (foot[0], foot[1] - 0.055 * N)
    for k in range(gores):
        side = 9 if np.cos(2 * np.pi * k / gores) > 0 else -9
        draw.line([rim_point(2 * np.pi * k / gores), (riser[0] + side, riser[1])], fill=255, width=2)
    strings = np.asarray(lines, dtype=np.float64) / 255

    # the underside: the far half of the rim, in shade, the sun shining through
    inside_rim = u**2 + ((y - rim) / depth) ** 2
    gore = np.floor((np.arctan2((y - rim) / depth, u) / (2 * np.pi)) % 1 * gores).astype(int) % 2
    under = np.where(gore[..., None] == 0, colors[0], colors[1]) * (0.42 + 0.22 * np.clip(inside_rim, 0, 1))[..., None]
    picture = over(picture, under, smoothstep(0.0, 0.02, 1 - inside_rim))
    picture = over(picture, np.array([0.86, 0.86, 0.84]), 0.75 * strings * (y > rim - depth))

    # the outside: a dome above the rim; gores narrow toward the apex and bulge between the seams
    h = np.clip((rim - y) / tall, 0, 1)
    half = np.sqrt(np.clip(1 - h**2.2, 0, 1))
    ratio = np.clip(u / np.maximum(half, 1e-6), -1, 1)
    front = np.arccos(ratio) / np.pi * (gores / 2)
    frac = front - np.floor(front)
    edge = rim - depth * np.sqrt(np.clip(1 - u**2, 0, 1)) * 0.35 + 0.016 * N * (2 * np.abs(frac - 0.5)) ** 2
    seam = np.sin(np.pi * frac)
    normal = unit(np.stack([ratio * half, h + 0.1, np.sqrt(np.clip(1 - ratio**2, 0, 1)) * half + 0.15], axis=-1))
    light = np.clip(normal @ unit(np.array([-0.6, 0.75, 0.45])), 0, 1)
    fabric = np.where((np.floor(front).astype(int) % 2)[..., None] == 0, colors[0], colors[1])
    fabric = fabric * (0.50 + 0.50 * light + 0.07 * seam - 0.05)[..., None] * (0.78 + 0.22 * seam**0.35)[..., None]
    fabric = fabric * (0.97 + 0.06 * fractal_noise(rng, (20, 20), 3))[..., None]
    dome = smoothstep(0, 3, (half - np.abs(u)) * wide) * smoothstep(-1.5, 1.5, edge - y) * (y > rim - tall)
    picture = over(picture, fabric, dome)

    figure = Image.new("RGBA", (N, N), (28, 30, 36, 0))
    body = ImageDraw.Draw(figure)
    fx, fy = riser
    body.line([(fx - 9, fy), (fx - 3, fy + 34)], fill=(40, 40, 44, 255), width=3)
    body.line([(fx + 9, fy), (fx + 3, fy + 34)], fill=(40, 40, 44, 255), width=3)
    body.ellipse([fx - 8, fy + 18, fx + 8, fy + 36], fill=(196, 52, 40, 255))
    body.rounded_rectangle([fx - 13, fy + 36, fx + 13, fy + 80], 8, fill=(34, 46, 76, 255))
    for side in (-1, 1):
        body.line(
            [(fx + side * 12, fy + 42), (fx + side * 24, fy + 22), (fx + side * 10, fy + 2)],
            fill=(34, 46, 76, 255),
            width=7,
        )
        body.line(
            [(fx + side * 7, fy + 76), (fx + side * 11, fy + 106), (fx + side * 8, fy + 134)],
            fill=(42, 44, 52, 255),
            width=10,
        )
    pixels = np.asarray(figure.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64) / 255
    picture = over(picture, pixels[..., :3], pixels[..., 3])
    return finish(picture, rng)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    golf_ball(np.random.default_rng(0)).save(folder / "golf_ball.jpg", quality=90)
    parachute(np.random.default_rng(3)).save(folder / "parachute.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "timm_interpretable/samples"))
