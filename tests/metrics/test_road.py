import pytest
import torch

from timm_interpretable.metrics import pixel_removal, road


def brightness(x):
    """Sees one pixel, the one in row 2 and column 3."""
    return torch.stack([x[:, 0, 2, 3], 1 - x[:, 0, 2, 3]], dim=1)


@pytest.fixture
def images():
    images = torch.zeros(2, 3, 8, 8)
    images[:, :, 2, 3] = 1
    return images


def test_perfect_map_falls_at_once_and_its_opposite_holds_to_the_end(images):
    target = torch.tensor([0, 0])
    falls = road(brightness, images, images[:, 0], target, noise=0)
    holds = road(brightness, images, images[:, 0], target, most_important_first=False, noise=0)
    assert falls.shape == (2, 9)
    assert falls.abs().max() < 1e-3
    assert torch.equal(holds, torch.ones(2, 9))


def test_seed_and_batch(images, rng):
    maps, target = torch.rand(2, 8, 8, generator=rng), torch.tensor([0, 1])
    first, again, other = (road(brightness, images, maps, target, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    quiet = [road(brightness, images[i : i + 1], maps[i : i + 1], target[i : i + 1], noise=0) for i in (0, 1)]
    torch.testing.assert_close(road(brightness, images, maps, target, noise=0), torch.cat(quiet), atol=1e-3, rtol=0)


def test_nothing_and_constant_map(images):
    target = torch.tensor([0, 1])
    assert torch.equal(road(brightness, images, torch.ones(2, 8, 8), target, (0,))[:, 0], torch.tensor([1.0, 0.0]))
    assert road(brightness, images, torch.ones(2, 8, 8), target).isfinite().all()


def test_the_removed_pixels_are_those_of_pixel_removal(images, rng):
    seen = []

    def predict(x):
        seen.append(x)
        return torch.zeros(2, 2)

    maps, target = torch.rand(2, 8, 8, generator=rng), torch.tensor([0, 1])
    varied = torch.rand(2, 3, 8, 8, generator=rng)
    road(predict, varied, maps, target, (0.3,))
    pixel_removal(predict, varied, maps, target, (0.3,), most_important_first=True)
    assert torch.equal(seen[0] != varied, seen[1] != varied)


def test_bad_input(images):
    with pytest.raises(ValueError, match="fractions has 2"):
        road(brightness, images, torch.zeros(2, 8, 8), torch.tensor([0, 1]), (2,))
