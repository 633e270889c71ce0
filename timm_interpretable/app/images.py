"""Pictures of strangers: read within limits, reduced, and known by a hash that nobody else can compute."""

import base64
import hashlib
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from PIL import Image

from timm_interpretable.app.settings import FORMATS, Settings
from timm_interpretable.data.images import ImageError, load_image

_SECRET = secrets.token_bytes(16)


class PictureError(ValueError):
    """A picture that cannot be used; one sentence for whoever sent it."""


@dataclass(frozen=True)
class Picture:
    """8-bit RGB of at most `Settings.side` pixels a side, its hash, and what was done to it, for people."""

    rgb: Image.Image
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.rgb.width * self.rgb.height * 3


def read_picture(path: str | Path, settings: Settings) -> Picture:
    """A file that somebody has sent.

    Raises:
        PictureError: too many bytes or pixels, not a picture, damaged, or gone.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError:
        raise PictureError("The picture is no longer here; please choose it again.") from None
    _check_bytes(size, settings)
    try:
        # whatever Pillow wants to warn of is either handled or an error here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = load_image(path, settings.max_pixels, FORMATS)
            notes = _notes(path, image)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        expected = f"expected a picture ({', '.join(FORMATS)})"
        raise PictureError(f"This file cannot be used: {reason}; {expected}.") from None
    longest = max(image.size)
    if longest > settings.side:
        width, height = (max(1, round(length * settings.side / longest)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return Picture(image, _digest(image), notes)


def read_data_url(url: str, settings: Settings) -> Picture:
    """A picture inside a request, `data:image/…;base64,…`.

    Raises:
        PictureError: as `read_picture`, or not base64.
    """
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise PictureError("This address holds no picture in base64; please send a file.")
    _check_bytes(len(body) * 3 // 4, settings)
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError:
        raise PictureError("This address holds no picture in base64; please send a file.") from None
    with NamedTemporaryFile(suffix=".picture") as file:
        file.write(data)
        file.flush()
        return read_picture(file.name, settings)


def _check_bytes(size: int, settings: Settings) -> None:
    if size > settings.max_bytes:
        raise PictureError(
            f"This file is too large: {size / 2**20:.1f} MiB where the limit is {settings.max_bytes / 2**20:.0f} MiB."
        )
    if size == 0:
        raise PictureError("This file is empty; expected a picture.")


def _digest(image: Image.Image) -> str:
    """With a secret of this process: a hash in memory or a log tells nobody which picture it was."""
    key = hashlib.blake2b(f"{image.size}".encode(), key=_SECRET, digest_size=16)
    key.update(image.tobytes())
    return key.hexdigest()


def _notes(path: Path, image: Image.Image) -> tuple[str, ...]:
    with Image.open(path, formats=FORMATS) as original:
        turned = original.getexif().get(274, 1) not in (0, 1)
        told = {
            "first frame of an animation": getattr(original, "n_frames", 1) > 1 and original.format != "MPO",
            "turned as its EXIF data say": turned,
            "transparent parts shown on white": _transparent(original),
            "long sides pressed into a square": max(image.size) > 3 * min(image.size),
        }
    return tuple(note for note, true in told.items() if true)


def _transparent(image: Image.Image) -> bool:
    """Anywhere; cameras of browsers send an alpha channel that hides nothing."""
    if "A" in image.mode:
        return bool(image.getchannel("A").getextrema()[0] < 255)  # type: ignore[operator]  # one band
    return "transparency" in image.info
