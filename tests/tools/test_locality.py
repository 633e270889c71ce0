"""Shares and distances from their geometry; the report against a loop, and on layers whose answer is known."""

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.testing import assert_close

from tools.locality import (
    centroid_distance,
    depth_layers,
    locality_report,
    sampled_locations,
    share_in_cell,
)


def every_cell(h, w):
    cells = torch.arange(h * w)
    return cells // w, cells % w


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5), (7, 7)])  # borders that cut pixels too
@pytest.mark.parametrize("size", [(16, 16), (12, 17)])
def test_cells_share_the_map(rng, grid, size):
    rows, cols = every_cell(*grid)
    maps = torch.rand(*size, generator=rng).expand(len(rows), -1, -1)
    assert_close(share_in_cell(maps, rows, cols, grid).sum(), torch.tensor(1.0))
    even = share_in_cell(torch.ones_like(maps), rows, cols, grid)
    assert_close(even, torch.full_like(even, 1 / (grid[0] * grid[1])))


def test_share_is_the_sum_over_the_cell(rng):
    maps = torch.rand(12, 8, 12, generator=rng)
    rows, cols = every_cell(4, 3)
    for one, row, col, share in zip(maps, rows, cols, share_in_cell(maps, rows, cols, (4, 3)), strict=True):
        assert_close(share, one[2 * row : 2 * row + 2, 4 * col : 4 * col + 4].sum() / one.sum())


def test_distance_of_one_pixel():
    maps = torch.zeros(2, 8, 16)
    maps[:, 6, 1] = 3  # its centre: 6.5 of 8 down, 1.5 of 16 across
    rows, cols = torch.tensor([0, 3]), torch.tensor([0, 0])
    in_cells, in_sides = centroid_distance(maps, rows, cols, (4, 8))
    assert_close(in_cells, torch.tensor([((3.25 - 0.5) ** 2 + (0.75 - 0.5) ** 2) ** 0.5, (0.25**2 + 0.25**2) ** 0.5]))
    assert_close(in_sides[1], torch.tensor(((0.25 / 4) ** 2 + (0.25 / 8) ** 2) ** 0.5))


def test_mirrored_map_and_cell_give_the_same(rng):
    maps = torch.rand(5, 10, 14, generator=rng)
    rows, cols, grid = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([3, 0, 1, 2, 2]), (3, 4)
    for dim, here in ((1, (2 - rows, cols)), (2, (rows, 3 - cols))):
        assert_close(share_in_cell(maps.flip(dim), *here, grid), share_in_cell(maps, rows, cols, grid))
        for flipped, plain in zip(
            centroid_distance(maps.flip(dim), *here, grid), centroid_distance(maps, rows, cols, grid), strict=True
        ):
            assert_close(flipped, plain)


def test_scale_does_not_matter_and_a_zero_map_is_not_a_number():
    maps, here = torch.rand(2, 6, 6), (torch.tensor([0, 2]), torch.tensor([1, 1]), (3, 3))
    assert_close(share_in_cell(1e-6 * maps, *here), share_in_cell(maps, *here))
    assert share_in_cell(0 * maps, *here).isnan().all()
    assert torch.stack(centroid_distance(0 * maps, *here)).isnan().all()


def test_errors():
    maps, zero = torch.rand(2, 6, 6), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="cols reach from 0 to 3, expected 0 to 2"):
        share_in_cell(maps, zero, torch.tensor([0, 3]), (3, 3))
    with pytest.raises(ValueError, match="none below zero"):
        share_in_cell(-maps, zero, zero, (3, 3))
    with pytest.raises(ValueError, match=r"rows \(1,\)"):
        centroid_distance(maps, zero[:1], zero, (3, 3))
    with pytest.raises(ValueError, match="Sequential has no blocks"):
        depth_layers(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_sampled_locations():
    rows, cols = sampled_locations((3, 5), 6, seed=1)
    cells = (5 * rows + cols).tolist()
    assert len(set(cells)) == 6
    assert cells == (5 * sampled_locations((3, 5), 6, seed=1)[0] + sampled_locations((3, 5), 6, seed=1)[1]).tolist()
    assert cells != (5 * sampled_locations((3, 5), 6, seed=2)[0] + sampled_locations((3, 5), 6, seed=2)[1]).tolist()
    assert [t.tolist() for t in sampled_locations((3, 5), 99)] == [t.tolist() for t in every_cell(3, 5)]


def test_blocks_of_the_families(facnn):
    assert depth_layers(facnn)[0] == "stages.0.blocks.0"
    assert len(depth_layers(facnn)) == 5
    names = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert depth_layers(timm.create_model("resnet18")) == names


def test_layers_whose_answer_is_known(facnn, images):
    """The lift reads its own pixels; a convolution of patches does too; a mean over the image reads all alike."""
    (lift,) = locality_report(facnn, images, ["stem"], locations=5, n_steps=3)
    assert (lift["grid"], lift["maps"], lift["unchanged"], lift["share"]) == ([8, 8], 15, 0, 1)
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    (own,) = locality_report(patches, images, ["0"], locations=4, n_steps=2)
    assert own["share"] == pytest.approx(1)
    assert own["distance_cells"] < 0.5
    assert own["distance_cells"] == pytest.approx(4 * own["distance_image"])

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)

    (even,) = locality_report(nn.Sequential(Mean()), images, ["0"], locations=4, n_steps=2)
    for key in ("share", "distance_cells", "distance_image"):
        assert even[key] == pytest.approx(even[f"chance_{key}"], abs=1e-4)
    assert even["share"] == pytest.approx(1 / 16, abs=1e-4)


def test_equals_a_loop_over_locations(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(4, 6, 8, 10), zero_init_last=False).eval()
    (row,) = locality_report(model, images[:2], ["layer1.0"], locations=3, n_steps=2, batch_size=4, seed=5)
    luma = torch.tensor([0.2989, 0.5870, 0.1140])[:, None, None]
    shares, distances = [], []
    for image in images[:2]:
        for i, j in zip(*sampled_locations((4, 4), 3, seed=5), strict=True):
            x = image[None].clone()
            for _ in range(2):
                x = x.detach().requires_grad_()
                model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))[0, :, i, j].abs().sum().backward()
                x = x - x.grad / x.grad.abs().max() / 255
            change = ((x[0].detach() - image) * luma).sum(0).abs()
            shares.append(change[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].sum() / change.sum())
            ticks = torch.arange(16) + 0.5
            y, across = ((change.sum(dim) * ticks).sum() / change.sum() for dim in (1, 0))
            distances.append(torch.hypot(y / 4 - i - 0.5, across / 4 - j - 0.5))
    assert row["share"] == pytest.approx(torch.stack(shares).mean().item(), rel=1e-3)
    assert row["distance_cells"] == pytest.approx(torch.stack(distances).mean().item(), rel=1e-3)


def test_locations_without_gradient_are_counted_apart(images):
    dead = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU())
    nn.init.constant_(dead[0].bias, -1e6)
    (row,) = locality_report(dead, images, ["1"], locations=2, n_steps=2)
    assert (row["maps"], row["unchanged"], row["share"]) == (0, 6, None)


def test_model_is_left_alone(facnn, images):
    locality_report(facnn.train(), images[:1], depth_layers(facnn)[-1:], locations=1, n_steps=1)
    assert facnn.training
    assert all(p.grad is None and p.requires_grad for p in facnn.parameters())
