import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_interpretable.data.images import (
    ImageError,
    eval_transform,
    list_images,
    load_image,
    sample_images,
    to_picture,
)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def pixel(path):
    image = load_image(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_grey_palette_bilevel_and_cmyk_become_rgb(tmp_path):
    color = np.full((4, 4, 3), (200, 40, 40), np.uint8)
    assert pixel(save(tmp_path / "l.png", color[..., 0])) == (200, 200, 200)
    assert pixel(save(tmp_path / "p.png", color, "P")) == pytest.approx((200, 40, 40), abs=30)
    assert pixel(save(tmp_path / "1.png", color[..., 0], "1")) in ((255, 255, 255), (0, 0, 0))
    assert pixel(save(tmp_path / "c.jpg", color, "CMYK", quality=100)) == pytest.approx((200, 40, 40), abs=6)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    path = save(tmp_path / f"deep.{suffix}", np.full((4, 4), 257 * 100, np.uint16))
    assert pixel(path) == (100, 100, 100)


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (100.0, 100)])
def test_float_grey(tmp_path, value, expected):
    assert pixel(save(tmp_path / "f.tiff", np.full((4, 4), value, np.float32))) == (expected,) * 3


def test_float_grey_with_nan_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="finite"):
        load_image(save(tmp_path / "f.tiff", np.full((4, 4), np.nan, np.float32)))


def test_transparency_lies_on_white(tmp_path):
    half = np.full((4, 4, 4), (255, 0, 0, 128), np.uint8)
    assert pixel(save(tmp_path / "rgba.png", half)) == pytest.approx((255, 127, 127), abs=1)
    assert pixel(save(tmp_path / "la.png", half, "LA")) == pytest.approx((165, 165, 165), abs=3)
    palette = save(tmp_path / "p.png", np.zeros((4, 4, 3), np.uint8), "P", transparency=0)
    assert pixel(palette) == (255, 255, 255)


def test_exif_orientation_is_honoured(tmp_path):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image = load_image(save(tmp_path / "turned.png", pixels, exif=exif))
    assert image.size == (10, 20)
    assert image.getpixel((5, 2)) == (255, 255, 255)
    assert image.getpixel((5, 17)) == (0, 0, 0)


def test_missing_folder_text_and_empty_files(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    cases = {"none.jpg": "no such file", "": "a folder", "text.jpg": "not an image", "empty.jpg": "not an image"}
    for name, message in cases.items():
        with pytest.raises(ImageError, match=message) as error:
            load_image(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_truncated_files(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    data = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(ImageError) as error:
            load_image(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("limit", [9_000, 1_000])
def test_bombs_below_and_above_pillows_own_error(tmp_path, monkeypatch, limit, recwarn):
    path = save(tmp_path / "big.png", np.zeros((100, 100), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=f"10,000 pixels where the limit is {limit:,}"):
        load_image(path)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (100, 100)


def test_no_pixels(tmp_path):
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 0 4 255\n")
    with pytest.raises(ImageError, match="without pixels"):
        load_image(path)


def test_list_images(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/deep/y.webp", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inside = [tmp_path / "a/deep/y.webp", tmp_path / "a/z.png", tmp_path / "b.JPG"]
    found = list_images([tmp_path])
    assert [file.path for file in found] == inside
    assert [str(file.relative) for file in found] == ["a/deep/y.webp", "a/z.png", "b.JPG"]
    # what the user names is taken as it is, suffix or not, there or not
    named = list_images([tmp_path / "c.txt", "gone.jpg", tmp_path / "a"])
    assert [str(file.relative) for file in named] == ["c.txt", "gone.jpg", "deep/y.webp", "z.png"]
    (tmp_path / "bare").mkdir()
    with pytest.raises(ImageError, match=r"bare: no images"):
        list_images([tmp_path, tmp_path / "bare"])


def test_what_a_folder_holds_besides_images_is_listed_with_the_reason(tmp_path):
    picture = Image.new("RGB", (4, 4))
    for name in ("a.png", ".hidden.png", ".thumbs/b.png", "new.avif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name, format="PNG")
    picture.save(tmp_path / "bare", format="JPEG")
    (tmp_path / "README").write_text("text")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    skipped: list[str] = []
    found = list_images([tmp_path], skipped)
    assert [file.path.name for file in found] == ["a.png", "bare", "new.avif"]
    assert skipped == [
        f"{tmp_path / 'README'}: no suffix, and its content is not an image",
        f"{tmp_path / 'broken.jpg'}: a link to a file that does not exist",
        f"{tmp_path / 'notes.txt'}: files that end in .txt are not images",
    ]


@pytest.mark.parametrize("name", ["facnn_resnet18.cifar10", "resnet18.a1_in1k"])
def test_transform_and_back(name):
    model = timm.create_model(name)
    size = model.pretrained_cfg["input_size"][-1]
    image = Image.new("RGB", (300, 300), (10, 120, 250))
    x = eval_transform(model)(image)
    assert x.shape == (3, size, size)
    picture = to_picture(x, model)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, np.full((size, size, 3), (10, 120, 250)))


def test_samples_are_there_and_their_models_know_them():
    for sample in sample_images():
        image = load_image(sample.path)
        assert image.width == image.height <= 512
        assert sample.label in timm.get_pretrained_cfg(sample.model).label_names
        assert sample.path.name in (sample.path.parent / "SOURCES.md").read_text("utf8")


def test_transform_gives_values_in_the_models_range():
    x = eval_transform(timm.create_model("facnn_resnet18"))(load_image(sample_images()[0].path))
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1
