import pytest
import torch

from timm_interpretable.attr.smoothing import blurred
from timm_interpretable.metrics import insertion_deletion, pixel_removal

TARGET = torch.tensor([0, 1, 0])


@pytest.fixture
def images(rng):
    return torch.rand(3, 3, 10, 10, generator=rng)


def mean_colours(x):
    return (4 * x.mean((2, 3))).softmax(1)


def test_ends_are_the_image_its_blur_and_the_fill(images, rng):
    found = insertion_deletion(mean_colours, images, torch.rand(3, 10, 10, generator=rng), TARGET, 8, fill=0.25)
    assert found.insertion.shape == found.deletion.shape == (3, 9)
    whole, soft, flat = (
        mean_colours(x).gather(1, TARGET[:, None])[:, 0]
        for x in (images, blurred(images), torch.full_like(images, 0.25))
    )
    torch.testing.assert_close(found.insertion[:, [0, -1]], torch.stack([soft, whole], 1))
    torch.testing.assert_close(found.deletion[:, [0, -1]], torch.stack([whole, flat], 1))


def test_one_pixel_that_decides(images):
    """Found first it makes insertion jump at once and deletion fall at once; found last, both wait till the end."""
    images[:] = 0
    images[:, :, 4, 7] = 1
    predict = lambda x: x[:, :2, 4, 7]  # noqa: E731
    good, bad = (
        insertion_deletion(predict, images, sign * images[:, 0], TARGET, 100, start=0.0, seed=1) for sign in (1, -1)
    )
    assert good.insertion.tolist() == [[0] + [1] * 100] * 3
    assert good.deletion.tolist() == [[1] + [0] * 100] * 3
    assert good.insertion_area.tolist() == pytest.approx([0.995] * 3)
    assert good.deletion_area.tolist() == pytest.approx([0.005] * 3)
    assert bad.insertion.tolist() == [[0] * 100 + [1]] * 3
    assert bad.deletion.tolist() == [[1] * 100 + [0]] * 3


def test_insertion_shows_what_deletion_hides_also_of_a_constant_map(images):
    seen = []

    def predict(x):
        seen.append(x)
        return torch.zeros(len(x), 2)

    insertion_deletion(predict, images, torch.zeros(3, 10, 10), TARGET, 7, start=0.0, batch_size=3)
    deleted, inserted = seen[:8], seen[8:]
    for without, within in zip(deleted, inserted, strict=True):
        assert torch.equal((without == 0).all(1), (within != 0).any(1))


def test_deletion_is_pixel_removal(images, rng):
    maps = torch.rand(3, 10, 10, generator=rng)
    found = insertion_deletion(mean_colours, images, maps, TARGET, 10)
    tenths = [i / 10 for i in range(11)]
    assert torch.equal(found.deletion, pixel_removal(mean_colours, images, maps, TARGET, tenths, True))
    assert found.fractions.tolist() == tenths


def test_bad_input(images):
    with pytest.raises(ValueError, match="n_steps=0"):
        insertion_deletion(mean_colours, images, images, TARGET, 0)
