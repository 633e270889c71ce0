"""Procedural faces for the tests, as no picture of a person may lie in the repository."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw_face(person: int, picture: int, size: tuple[int, int] = (92, 112)) -> Image.Image:
    """A grey face; its measures belong to the person, the light, the place and the noise to the picture."""
    measures, chance = np.random.default_rng(person), np.random.default_rng([person, picture])
    width, height = size
    tone, eyes, brow, mouth, nose = measures.uniform(0.0, 1.0, 5)
    dx, dy = chance.uniform(-0.04, 0.04, 2) * (width, height)
    image = Image.new("L", size, 40)
    draw = ImageDraw.Draw(image)

    def box(x: float, y: float, w: float, h: float) -> tuple[float, ...]:
        """Around a centre, in shares of the picture."""
        return ((x - w) * width + dx, (y - h) * height + dy, (x + w) * width + dx, (y + h) * height + dy)

    draw.ellipse(box(0.5, 0.52, 0.30 + 0.08 * tone, 0.40), fill=int(120 + 90 * tone))
    gap = 0.10 + 0.08 * eyes
    for side in (-1, 1):
        draw.ellipse(box(0.5 + side * gap, 0.42, 0.04 + 0.03 * brow, 0.02 + 0.02 * eyes), fill=20)
        draw.rectangle(box(0.5 + side * gap, 0.34 - 0.03 * brow, 0.07, 0.004 + 0.02 * brow), fill=30)
    draw.ellipse(box(0.5, 0.54, 0.02 + 0.03 * nose, 0.05 + 0.04 * nose), fill=90)
    draw.rectangle(box(0.5, 0.72, 0.06 + 0.10 * mouth, 0.008 + 0.03 * (1 - mouth)), fill=50)
    pixels = np.asarray(image) * chance.uniform(0.8, 1.2) + chance.normal(0, 4, (height, width))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_people(folder: Path, people: range, pictures: int = 4, size: tuple[int, int] = (92, 112)) -> Path:
    """`folder/faces/s<person>/<picture>.png`, as the ORL faces are laid out; the folder."""
    for person in people:
        (folder / "faces" / f"s{person}").mkdir(parents=True)
        for picture in range(1, pictures + 1):
            draw_face(person, picture, size).save(folder / "faces" / f"s{person}" / f"{picture}.png")
    return folder
