import pytest
import torch
from torch.testing import assert_close

from timm_interpretable.metrics.localisation import (
    box_iou,
    energy_in_box,
    pointing_game,
    unit_range,
)

MASKS = torch.tensor([[[1, 1], [0, 0]]]).bool()


@pytest.mark.parametrize(
    ("values", "energy", "hit"),
    [
        ([[3.0, 0.0], [1.0, 0.0]], 0.75, True),
        ([[1.0, -5.0], [3.0, -1.0]], 0.25, False),  # negative values count as zero
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, False),
        ([[-1.0, -2.0], [-3.0, -4.0]], 0.0, False),  # the highest point is inside, but not positive
    ],
)
def test_values(values: list[list[float]], energy: float, hit: bool) -> None:
    maps = torch.tensor([values])
    assert energy_in_box(maps, MASKS).tolist() == [energy]
    assert pointing_game(maps, MASKS).tolist() == [hit]


def test_ties_of_pointing_are_broken_at_random_by_the_seed() -> None:
    maps, masks = torch.ones(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[:, :2] = True
    hits = [pointing_game(maps, masks, seed).item() for seed in range(400)]
    assert hits == [pointing_game(maps, masks, seed).item() for seed in range(400)]
    assert sum(hits) / 400 == pytest.approx(0.25, abs=0.07)  # three standard errors


def test_scale_of_the_map_does_not_matter() -> None:
    maps, masks = torch.randn(4, 7, 5), torch.rand(4, 7, 5) > 0.5
    assert_close(energy_in_box(1e-6 * maps, masks), energy_in_box(maps, masks))
    assert torch.equal(pointing_game(1e-6 * maps, masks), pointing_game(maps, masks))


def test_constant_map_has_the_chance_level() -> None:
    masks = torch.rand(4, 7, 5) > 0.5
    assert_close(energy_in_box(torch.ones(4, 7, 5), masks), masks.float().mean((1, 2)))


def test_inside_and_outside_add_up() -> None:
    maps, masks = torch.rand(4, 7, 5), torch.rand(4, 7, 5) > 0.5
    assert_close(energy_in_box(maps, masks) + energy_in_box(maps, ~masks), torch.ones(4))
    assert torch.equal(pointing_game(maps, masks), ~pointing_game(maps, ~masks))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_map_does_not_saturate(dtype: torch.dtype) -> None:
    maps = torch.full((1, 224, 224), 100.0, dtype=dtype)
    masks = torch.zeros(1, 224, 224, dtype=torch.bool)
    masks[:, :, :56] = True
    share = energy_in_box(maps, masks)
    assert share.dtype == torch.float32
    assert share.item() == 0.25


@pytest.mark.parametrize("metric", [energy_in_box, pointing_game])
def test_bad_shapes(metric) -> None:
    with pytest.raises(ValueError, match=r"maps \(1, 3, 2, 2\) and masks \(1, 2, 2\)"):
        metric(torch.rand(1, 3, 2, 2), MASKS)
    with pytest.raises(ValueError, match=r"expected torch\.bool"):
        metric(torch.rand(1, 2, 2), MASKS.float())


def test_overlap_by_hand() -> None:
    maps = torch.tensor([[[1.0, 0.6, 0.0], [0.4, 0.2, 0.5]]])
    masks = torch.tensor([[[1, 1, 1], [0, 0, 0]]]).bool()
    # at .3 four pixels, two of them inside; at .5 three and two (the threshold itself counts); at .7 one and one
    assert_close(box_iou(maps, masks), torch.tensor([[2 / 5, 2 / 4, 1 / 3]]))


def test_overlap_equals_sets_of_pixels() -> None:
    maps, masks = torch.rand(4, 6, 5), torch.rand(4, 6, 5) > 0.6
    for t in (0.1, 0.5, 0.9):
        for one, mask, result in zip(maps, masks, box_iou(maps, masks, (t,)), strict=True):
            above, inside = ({tuple(p) for p in m.nonzero().tolist()} for m in (one >= t, mask))
            assert result.item() == pytest.approx(len(above & inside) / len(above | inside))


def test_overlap_of_a_box_with_itself_its_complement_and_the_whole_image() -> None:
    masks = torch.rand(4, 6, 5) > 0.6
    assert (box_iou(masks.float(), masks) == 1).all()
    assert (box_iou((~masks).float(), masks) == 0).all()
    assert_close(box_iou(torch.ones(4, 6, 5), masks), masks.float().mean((1, 2))[:, None].expand(-1, 3))
    nothing = torch.zeros(1, 2, 2)
    assert (box_iou(nothing, nothing.bool()) == 0).all()


def test_unit_range_is_the_stretched_positive_part() -> None:
    maps = torch.stack([torch.tensor([[-4.0, 1.0], [3.0, 5.0]]), torch.tensor([[2.0, 3.0], [4.0, 6.0]])])
    wanted = torch.tensor([[[0, 0.2], [0.6, 1.0]], [[0.0, 0.25], [0.5, 1.0]]])
    assert_close(unit_range(maps), wanted)
    assert_close(unit_range(1e-9 * maps), wanted)
    for flat in (-1.0, 0.0, 7.0):
        assert (unit_range(torch.full((1, 2, 2), flat)) == 0).all()


def test_overlap_wants_unit_range() -> None:
    with pytest.raises(ValueError, match=r"maps reach from -2 to 3, expected 0 to 1"):
        box_iou(torch.tensor([[[-2.0, 3.0]]]), torch.ones(1, 1, 2).bool())
    with pytest.raises(ValueError, match="0 to 1"):
        box_iou(torch.tensor([[[float("nan"), 1.0]]]), torch.ones(1, 1, 2).bool())
    with pytest.raises(ValueError, match="same shape"):
        box_iou(torch.ones(1, 2, 2), torch.ones(1, 1, 2).bool())


def test_large_values_do_not_overflow() -> None:
    maps = torch.full((1, 4, 4), 3e38)
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, :1] = True
    assert energy_in_box(maps, masks).item() == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_a_score(value) -> None:
    """Wherever it is; the neighbours in the batch keep their scores."""
    maps = torch.rand(3, 4, 4)
    masks = torch.rand(3, 4, 4) > 0.5
    whole = energy_in_box(maps, masks)
    maps[1, 0, 0] = value
    found = energy_in_box(maps, masks)
    assert found[1].isnan()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
