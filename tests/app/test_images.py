"""Whatever strangers send: a picture within limits, or one sentence."""

import base64
import struct
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from timm_interpretable.app.engine import predict
from timm_interpretable.app.images import PictureError, read_data_url, read_picture
from timm_interpretable.app.models import Model, Models


def saved(tmp_path, image: Image.Image, name: str = "picture.png", **kwargs):
    image.save(tmp_path / name, **kwargs)
    return tmp_path / name


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    across = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
    down = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, across[:, ::-1]], -1))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(8000, 6000), (30000, 30000), (2_000_000, 2_000_000)])
def test_a_bomb_is_refused_by_its_header(tmp_path, settings, monkeypatch, width, height):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(width, height))
    with pytest.raises(PictureError, match=r"too large, [\d,]+ pixels where the limit is 40,000,000"):
        read_picture(path, settings)


def test_a_large_file_is_refused_unopened(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    path = tmp_path / "large.png"
    path.write_bytes(b"\0" * (settings.max_bytes + 1))
    with pytest.raises(PictureError, match=r"too large: 10\.0 MiB where the limit is 10 MiB"):
        read_picture(path, settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),  # Pillow would start Ghostscript
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 200, "cannot be read|not an image|damaged"),
        (png_that_claims(0, 10), "without pixels|not an image|damaged|cannot be read"),
    ],
)
def test_what_is_no_picture(tmp_path, settings, content, said):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=said) as error:
        read_picture(path, settings)
    assert str(tmp_path) not in str(error.value)  # nobody is told where files lie
    assert "\n" not in str(error.value)


def test_a_truncated_picture(tmp_path, settings):
    buffer = BytesIO()
    gradient(300, 300).save(buffer, "JPEG")
    path = tmp_path / "half.jpg"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(PictureError, match="damaged or truncated"):
        read_picture(path, settings)


def test_a_file_that_is_gone(tmp_path, settings):
    with pytest.raises(PictureError, match="choose it again"):
        read_picture(tmp_path / "gone.png", settings)


def test_an_animation_gives_its_first_frame(tmp_path, settings):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(path, settings)
    assert picture.rgb.getpixel((5, 5)) == (255, 0, 0)
    assert picture.notes == ("first frame of an animation",)


def test_colours_of_print(tmp_path, settings):
    path = saved(tmp_path, Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "print.jpg")
    red, green, blue = read_picture(path, settings).rgb.getpixel((5, 5))
    assert red > 200
    assert max(green, blue) < 60


def test_sixteen_bits_keep_their_contrast(tmp_path, settings):
    values = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(8, 0)
    path = saved(tmp_path, Image.fromarray(values), "deep.png")
    grey = np.asarray(read_picture(path, settings).rgb)[0, :, 0]
    assert grey[0] == 0
    assert grey[-1] == 255
    assert abs(int(grey[32]) - 128) < 5


def test_turned_by_exif(tmp_path, settings):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = image.getexif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    picture = read_picture(saved(tmp_path, image, "turned.jpg", exif=exif), settings)
    assert picture.rgb.size == (20, 40)
    assert picture.rgb.getpixel((10, 5))[0] > 200  # the left half is now on top
    assert "turned as its EXIF data say" in picture.notes


def test_transparent_parts_are_white(tmp_path, settings):
    picture = read_picture(saved(tmp_path, Image.new("RGBA", (10, 10), (255, 0, 0, 0))), settings)
    assert picture.rgb.getpixel((5, 5)) == (255, 255, 255)
    assert "transparent parts shown on white" in picture.notes
    opaque = read_picture(saved(tmp_path, Image.new("RGBA", (10, 10), (255, 0, 0, 255))), settings)
    assert opaque.notes == ()


@pytest.mark.parametrize("size", [(1, 1), (10000, 1), (1, 10000), (3, 2)])
def test_odd_shapes_can_be_explained(tmp_path, settings, size, facnn_model):
    picture = read_picture(saved(tmp_path, Image.new("RGB", size, "green")), settings)
    assert max(picture.rgb.size) <= settings.side
    prediction = predict(facnn_model, picture.rgb)
    assert np.isfinite(prediction.logits).all()
    assert prediction.seen.shape == (32, 32, 3)


def test_large_pictures_are_reduced_and_small_ones_left(tmp_path, settings):
    assert read_picture(saved(tmp_path, gradient(2000, 500)), settings).rgb.size == (1024, 256)
    small = gradient()
    assert read_picture(saved(tmp_path, small), settings).rgb.tobytes() == small.tobytes()


def test_equal_pictures_have_equal_hashes_and_others_not(tmp_path, settings):
    first = read_picture(saved(tmp_path, gradient(), "a.png"), settings)
    again = read_picture(saved(tmp_path, gradient(), "b.bmp"), settings)
    turned = read_picture(saved(tmp_path, gradient(30, 40), "c.png"), settings)
    assert first.digest == again.digest != turned.digest


def test_data_urls(settings):
    buffer = BytesIO()
    gradient().save(buffer, "PNG")
    body = base64.b64encode(buffer.getvalue()).decode()
    assert read_data_url(f"data:image/png;base64,{body}", settings).rgb.tobytes() == gradient().tobytes()
    for wrong in ("data:image/png,abc", "data:image/png;base64,@@@@"):
        with pytest.raises(PictureError, match="no picture in base64"):
            read_data_url(wrong, settings)
    with pytest.raises(PictureError, match="too large"):
        read_data_url(f"data:image/png;base64,{body}", replace(settings, max_bytes=100))


@pytest.fixture(scope="module")
def facnn_model() -> Model:
    return Models().get("facnn_resnet18.cifar10")
