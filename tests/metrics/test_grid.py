import pytest
import torch

from timm_interpretable.attr.maps import maps_by_class
from timm_interpretable.metrics import cell_masks, confident_grids, grid_localisation


def predictions(count=200, classes=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    probs = torch.rand(count, classes, generator=random).softmax(1)
    labels = torch.where(torch.rand(count, generator=random) < 0.7, probs.argmax(1), 0)
    return labels, probs


def test_grids_hold_different_classes_all_correct_and_no_image_twice():
    labels, probs = predictions()
    grids = confident_grids(labels, probs, side=2, count=20)
    assert grids.shape == (20, 4)
    assert all(len(set(row)) == 4 for row in labels[grids].tolist())
    assert (probs.argmax(1)[grids] == labels[grids]).all()
    assert len(set(grids.flatten().tolist())) == 80
    assert torch.equal(grids, confident_grids(labels, probs, side=2, count=20))
    assert not torch.equal(grids, confident_grids(labels, probs, side=2, count=20, seed=1))


def test_the_most_confident_image_of_a_class_goes_first():
    labels, probs = predictions()
    order = confident_grids(labels, probs, side=2, count=20).flatten().tolist()
    for k in range(5):
        mine = [probs[i].max().item() for i in order if labels[i] == k]
        assert mine == sorted(mine, reverse=True)
        assert mine[0] == probs[(labels == k) & (probs.argmax(1) == k)].max().item()


def test_too_few_images_or_classes():
    labels, probs = predictions(20)
    with pytest.raises(ValueError, match="grids of 2x2 are all that"):
        confident_grids(labels, probs, side=2, count=20)
    with pytest.raises(ValueError, match="0 grids of 3x3"):
        confident_grids(labels, probs, count=1)


def test_images_below_the_confidence_are_left_out():
    """As in the paper: the others of a class count as if they were not there."""
    labels, probs = predictions()
    limit = probs.max(1).values[probs.argmax(1) == labels].median().item()
    grids = confident_grids(labels, probs, side=2, count=5, min_confidence=limit)
    assert (probs.max(1).values[grids] >= limit).all()
    weak = probs.max(1).values < limit
    others = torch.where(weak, -1, labels)
    assert torch.equal(grids, confident_grids(others, probs, side=2, count=5))
    with pytest.raises(ValueError, match=r"images of confidence 0\.9 or more of 0 classes give"):
        confident_grids(labels, probs, side=2, count=1, min_confidence=0.9)


def test_sigmoid_confidence_is_no_share():
    """Probabilities of yes-or-no questions need not sum to one."""
    labels = torch.arange(4)
    probs = torch.full((4, 4), 0.45) + 0.1 * torch.eye(4)
    assert confident_grids(labels, probs, 2, 1, min_confidence=0.5).sort().values.tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="0 grids"):
        confident_grids(labels, probs - 0.1, 2, 1, min_confidence=0.5)


def test_cells_in_reading_order():
    masks = cell_masks(2, 3, 4)
    assert masks.shape == (4, 6, 8)
    assert masks.sum(0).eq(1).all()
    assert masks[1, :3, 4:].all()
    assert masks[2, 3:, :4].all()


@pytest.fixture
def grids():
    images = torch.rand(5, 9, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(9).expand(5, 9)


def test_a_perfect_map_scores_one_and_a_constant_one_chance(grids):
    masks = cell_masks(3, 4, 6).float()
    perfect = grid_localisation(maps_by_class(lambda x, t: x * masks[t][:, None] - (1 - masks[t][:, None])), *grids)
    assert torch.equal(perfect, torch.ones(5, 9))
    constant = grid_localisation(maps_by_class(lambda x, t: torch.ones_like(x)), *grids)
    torch.testing.assert_close(constant, torch.full((5, 9), 1 / 9))
    zero = grid_localisation(maps_by_class(lambda x, t: torch.zeros_like(x)), *grids)
    assert torch.equal(zero, torch.zeros(5, 9))


def test_every_image_lies_in_its_cell(grids):
    """A map of the pixels themselves has its energy where the bright images are."""
    images, classes = grids
    bright = torch.zeros_like(images)
    bright[:, 4] = 1  # the middle
    shares = grid_localisation(maps_by_class(lambda x, t: x), bright, classes)
    assert torch.equal(shares, torch.eye(9)[4].expand(5, 9))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_size_does_not_matter(grids, batch_size):
    @maps_by_class
    def maps(x, target):
        return torch.sin(x * (1 + target[:, None, None, None]))

    torch.testing.assert_close(grid_localisation(maps, *grids, batch_size=batch_size), grid_localisation(maps, *grids))


def test_bad_shapes(grids):
    images, classes = grids
    with pytest.raises(ValueError, match=r"images \(5, 8, 3, 4, 6\)"):
        grid_localisation(maps_by_class(lambda x, t: x), images[:, :8], classes[:, :8])
    with pytest.raises(ValueError, match=r"expected \(N,\) and \(N, K\)"):
        confident_grids(torch.zeros(3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="probs has entries that are not finite"):
        confident_grids(torch.zeros(4), torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="batch_size=0"):
        grid_localisation(maps_by_class(lambda x, t: x), images, classes, batch_size=0)
    with pytest.raises(ValueError, match=r"maps of grids are \(5, 9, 6, 9\), expected \(5, 9, 12, 18\)"):
        grid_localisation(maps_by_class(lambda x, t: x[..., ::2, ::2]), images, classes)
