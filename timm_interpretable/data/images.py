"""Single pictures: files and folders to RGB, RGB to what a model sees, and the pictures that ship with the package."""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torchvision.transforms import Compose, Grayscale

__all__ = [
    "ImageError", "ImageFile", "Sample", "eval_transform", "list_images", "load_image", "sample_images", "sample_of",
    "squash_transform", "to_picture",
]  # fmt: skip

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SAMPLES = Path(__file__).resolve().parent.parent / "samples"


class ImageError(ValueError):
    """A picture that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Sample:
    """A picture that ships with the package: what it shows, which model knows that class, and where it comes from."""

    file: str
    label: str
    model: str
    source: str

    @property
    def path(self) -> Path:
        return _SAMPLES / self.file


_CATALOGUE = (
    Sample("golf_ball.jpg", "golf ball", "facnn_resnet18.imagenette", "rendered by tools/render_samples.py"),
    Sample("parachute.jpg", "parachute", "facnn_resnet18.imagenette", "rendered by tools/render_samples.py"),
    Sample("cat.jpg", "cat", "facnn_resnet18.cifar10", "Chelsea, photograph by Stéfan van der Walt, CC0"),
)


def sample_images() -> list[Sample]:
    """The pictures that ship with the package; their licences are in `samples/SOURCES.md`."""
    return list(_CATALOGUE)


def sample_of(labels: Iterable[str]) -> Sample:
    """The first of them that shows one of these classes, or else the first."""
    known = set(labels)
    return next((sample for sample in _CATALOGUE if sample.label in known), _CATALOGUE[0])


def load_image(path: str | Path, max_pixels: int | None = None, formats: tuple[str, ...] | None = None) -> Image.Image:
    """A picture file as 8-bit RGB: the first frame, turned as its EXIF orientation says, transparency on white.

    Args:
        path: the file.
        max_pixels: a limit below Pillow's own, tested before the picture is decoded.
        formats: those of Pillow that are tried, such as `("JPEG", "PNG")`; all of them by default.

    Raises:
        ImageError: the file is missing, not an image, damaged, without pixels, or larger than the limit of pixels.
    """
    path, limit = Path(path), max_pixels or Image.MAX_IMAGE_PIXELS
    if formats is not None:
        Image.init()  # else Pillow knows only the commonest
    try:
        # the limit is tested below: a size over it is an error here, not a warning on the user's terminal
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=formats)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, of an unknown format, or without pixels") from None
    except Image.DecompressionBombError as error:
        raise _too_large(path, int(re.findall(r"\d+", str(error))[0]), limit) from None
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it") from None
    except Exception as error:  # Pillow's readers raise errors of many types on damaged headers
        raise ImageError(f"{path}: cannot be read as an image ({_one_line(error)})") from None

    with image:
        width, height = image.size
        if limit is not None and width * height > limit:
            raise _too_large(path, width * height, limit)
        try:
            return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # and so do its decoders, on damaged or truncated data
            raise ImageError(f"{path}: damaged or truncated image ({_one_line(error)})") from None


def _too_large(path: Path, pixels: int, limit: int | None) -> ImageError:
    return ImageError(f"{path}: too large, {pixels:,} pixels where the limit is {limit:,}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _from_high_depth(image).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_high_depth(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys to 8 bits; Pillow's own `convert` would clip them to white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite numbers")
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # the file does not say what white is: the smallest usual value that holds all pixels
        white = next((top for top in (1.0, 255.0, 65535.0) if values.max() <= top), float(values.max()))
    return Image.fromarray((np.clip(values / white, 0, 1) * 255).round().astype(np.uint8))


class ImageFile(NamedTuple):
    """An image file, and its place in the folder that it was found in; its name where it was given by itself."""

    path: Path
    relative: Path


def list_images(paths: Iterable[str | Path], skipped: list[str] | None = None) -> list[ImageFile]:
    """Files as they are given; folders replaced by the images in them, at any depth, sorted.

    A file in a folder is an image by its suffix, or without a suffix by its first bytes. Files whose name starts with a
    dot are not looked at.

    Args:
        skipped: gets a line for every other file of the folders, with the reason.

    Raises:
        ImageError: a folder without an image.
    """
    found: list[ImageFile] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(ImageFile(path, Path(path.name)))
            continue
        before = len(found)
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            if any(part.startswith(".") for part in inside.parts) or file.is_dir():
                continue
            reason = _not_an_image(file)
            if reason is None:
                found.append(ImageFile(file, inside))
            elif skipped is not None:
                skipped.append(f"{file}: {reason}")
        if len(found) == before:
            raise ImageError(f"{path}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def _not_an_image(file: Path) -> str | None:
    """Why a file of a folder is not taken for an image; None where it is."""
    if not file.is_file():
        return "a link to a file that does not exist" if file.is_symlink() else "not a file"
    if file.suffix:
        return None if file.suffix.lower() in IMAGE_SUFFIXES else f"files that end in {file.suffix} are not images"
    try:
        with Image.open(file):
            return None
    except Exception:  # Pillow's readers raise errors of many types on what is not an image
        return "no suffix, and its content is not an image"


def eval_transform(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """The preprocessing that timm's configuration names for the model: an RGB picture to `(C, H, W)`.

    For a model of one channel the picture becomes grey first, which timm leaves to its caller.
    """
    config = _data_config(model)
    transform: Callable[[Image.Image], Tensor] = create_transform(**config, is_training=False)
    return transform if config["input_size"][0] != 1 else Compose([Grayscale(), transform])


def squash_transform(
    size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Callable[[Image.Image], Tensor]:
    """The whole picture at `size` (height, width), whatever its shape: what our models are evaluated on."""
    transform: Callable[[Image.Image], Tensor] = create_transform(
        size, mean=tuple(mean), std=tuple(std), interpolation="bicubic", crop_pct=1.0, crop_mode="squash"
    )
    return transform


def to_picture(x: Tensor, model: nn.Module) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What the model sees, `(C, H, W)` with C of 1 or 3, as an 8-bit picture `(H, W, 3)`: the normalisation undone."""
    config = _data_config(model)
    mean, std = (torch.tensor(config[key], dtype=torch.float32)[:, None, None] for key in ("mean", "std"))
    pixels = (x.detach().float().cpu() * std + mean).clamp(0, 1).mul(255).round().byte()
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _data_config(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = resolve_data_config({}, model=model)
    return config
