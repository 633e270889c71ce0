import pytest
import torch
from torch.testing import assert_close

from timm_interpretable.metrics.localisation import energy_in_box, pointing_game

MASKS = torch.tensor([[[1, 1], [0, 0]]]).bool()


@pytest.mark.parametrize(
    ("values", "energy", "hit"),
    [
        ([[3.0, 0.0], [1.0, 0.0]], 0.75, True),
        ([[1.0, -5.0], [3.0, -1.0]], 0.25, False),  # negative values count as zero
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, False),
        ([[-1.0, -2.0], [-3.0, -4.0]], 0.0, False),  # the highest point is inside, but not positive
        ([[2.0, 0.0], [2.0, 0.0]], 0.5, True),  # a tie: the first in reading order
    ],
)
def test_values(values: list[list[float]], energy: float, hit: bool) -> None:
    maps = torch.tensor([values])
    assert energy_in_box(maps, MASKS).tolist() == [energy]
    assert pointing_game(maps, MASKS).tolist() == [hit]


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
