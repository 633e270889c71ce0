"""The pictures that the page offers."""

from dataclasses import dataclass
from pathlib import Path

import timm_interpretable
from timm_interpretable.data.images import sample_images

_FACES = Path(timm_interpretable.__file__).resolve().parent / "samples" / "faces"
_DATA = {
    "imagenette": "ImageNet",
    "cifar10": "CIFAR-10",
}  # whose models explain a sample; ImageNet has all of Imagenette


@dataclass(frozen=True)
class Example:
    """A picture that may be passed on, what it shows, and the data set that knows this class."""

    path: Path
    label: str
    data: str


def bundled_examples(folder: Path | None = None) -> list[Example]:
    """The pictures of the package, from a folder that holds copies if one is given."""
    return [
        Example(folder / s.file if folder else s.path, s.label, _DATA[s.model.partition(".")[2]])
        for s in sample_images()
    ]


def face_examples() -> dict[str, tuple[Path, Path]]:
    """Pairs of faces that the project has drawn; no picture of a person is among them."""
    return {
        "one drawn person": (_FACES / "a1.png", _FACES / "a2.png"),
        "two drawn people": (_FACES / "a1.png", _FACES / "b1.png"),
    }
