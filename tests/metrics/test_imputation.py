"""Imputation against direct solvers: any size and mask, every image on its own."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from timm_interpretable.metrics import impute

SIZES = [(32, 32), (24, 17), (3, 40), (1, 1)]
TOLERANCE = 1e-3


def pictures(rng, height, width, count=3):
    return F.interpolate(torch.rand(count, 3, 6, 6, generator=rng), (height, width), mode="bicubic")


def masks(rng, height, width, share, count=3):
    """Connected regions of about that share, but one pixel stays."""
    field = F.interpolate(torch.rand(count, 1, 4, 4, generator=rng), (height, width), mode="bicubic")[:, 0]
    removed = field >= field.flatten(1).quantile(1 - share, dim=1)[:, None, None]
    removed[:, 0, 0] = False
    return removed


def solved(image, removed):
    """The removed pixels `(C, n)` of one image by a dense solver in float64: each is the mean of its neighbours."""
    height, width = removed.shape
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).flatten(0, 1)
    apart = (places[:, None] - places).abs()
    weights = torch.where(apart.amax(2) == 1, 3 - apart.sum(2), 0).double()  # 2 beside, 1 diagonal
    system = torch.diag(weights.sum(1)) - weights
    gone = removed.flatten()
    right = -(system[gone][:, ~gone] @ image.double().flatten(1)[:, ~gone].T)
    return torch.linalg.solve(system[gone][:, gone], right).T


def error(filled, image, removed):
    """Root mean square over the removed pixels, the worst channel."""
    return (filled[:, removed] - solved(image, removed)).square().mean(1).sqrt().max().item()


def random_case(rng):
    """A picture of any size and a mask of any kind: scattered, connected, all but an edge, all but a pixel."""
    height, width = torch.randint(1, 23, (2,), generator=rng).tolist()
    removed = torch.ones(height, width, dtype=torch.bool)
    kind = int(torch.randint(0, 7, (1,), generator=rng))
    few = int(torch.randint(1, 4, (1,), generator=rng))
    if kind == 0:
        removed = torch.rand(height, width, generator=rng) < torch.rand(1, generator=rng)
    elif kind == 1:
        removed = masks(rng, height, width, torch.rand(1, generator=rng).item(), count=1)[0]
    elif kind == 2:
        removed[torch.randint(0, height, (1,), generator=rng), torch.randint(0, width, (1,), generator=rng)] = False
    else:
        edge = (slice(few), slice(-few, None))[kind % 2]
        removed[(edge, slice(None)) if kind < 5 else (slice(None), edge)] = False
    return torch.rand(1, 2, height, width, generator=rng), removed[None]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(("height", "width"), SIZES[:3])
def test_agrees_with_the_sparse_solver_of_pytorch_grad_cam(rng, height, width, share):
    images, removed = pictures(rng, height, width), masks(rng, height, width, share)
    ours = impute(images, removed, noise=0, tolerance=1e-6)
    solve = NoisyLinearImputer(noise=0)
    theirs = torch.stack([solve(x, (~gone).float()) for x, gone in zip(images, removed, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_tolerance_is_kept(rng, share):
    images, removed = pictures(rng, 64, 64), masks(rng, 64, 64, share)
    rough, exact = (impute(images, removed, noise=0, tolerance=t) for t in (1e-2, 1e-6))
    error = [(a - b)[:, gone].square().mean().sqrt() for a, b, gone in zip(rough, exact, removed, strict=True)]
    assert max(error) < 1e-2


def test_what_stays_is_untouched_and_a_plane_is_continued(rng):
    plane = torch.linspace(0, 1, 16)[None, None, None].expand(1, 2, 16, 16)
    removed = torch.zeros(1, 16, 16, dtype=torch.bool)
    removed[:, 4:11, 3:12] = True
    filled = impute(plane, removed, noise=0, tolerance=1e-6)
    torch.testing.assert_close(filled, plane, atol=1e-4, rtol=0)
    noisy = impute(plane, removed)
    assert torch.equal(noisy[~removed[:, None].expand_as(noisy)], plane[~removed[:, None].expand_as(plane)])


def test_images_do_not_depend_on_each_other(rng):
    images = pictures(rng, 20, 20)
    removed = torch.cat([masks(rng, 20, 20, share, count=1) for share in (0.02, 0.5, 0.97)])
    batch = impute(images, removed, noise=0, tolerance=1e-6)
    single = [impute(images[i : i + 1], removed[i : i + 1], noise=0, tolerance=1e-6) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_everything_or_nothing_removed(rng, height, width):
    images = pictures(rng, height, width)
    gone = torch.ones(3, height, width, dtype=torch.bool)
    assert torch.equal(impute(images, gone, noise=0), torch.zeros_like(images))
    assert torch.equal(impute(images, ~gone), images)


def test_noise_is_seeded_and_of_its_size(rng):
    images, removed = torch.full((2, 3, 40, 40), 0.5), torch.ones(2, 40, 40, dtype=torch.bool)
    removed[:, ::8, ::8] = False
    a, b, c = (impute(images, removed, 0.1, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert (a - 0.5)[:, :, removed[0]].std().item() == pytest.approx(0.1, rel=0.05)


def test_half_precision_is_solved_in_fp32(rng):
    images, removed = pictures(rng, 32, 32).bfloat16(), masks(rng, 32, 32, 0.5)
    half = impute(images, removed, noise=0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), impute(images.float(), removed, noise=0), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(removed=torch.zeros(3, 8, 9, dtype=torch.bool)), r"removed \(3, 8, 9\)"),
        (dict(removed=torch.zeros(3, 8, 8)), "torch.float32"),
        (dict(noise=-1.0), "noise=-1.0"),
        (dict(tolerance=0.0), "tolerance=0.0"),
    ],
)
def test_bad_input(rng, change, message):
    good = dict(images=pictures(rng, 8, 8), removed=torch.zeros(3, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        impute(**{**good, **change})


@pytest.mark.parametrize("seed", range(6))
def test_any_size_and_mask_is_solved_as_directly(seed):
    rng, solutions = torch.Generator().manual_seed(seed), 0
    for _ in range(50):
        image, removed = random_case(rng)
        if removed.any() and not removed.all():
            filled = impute(image, removed, noise=0, tolerance=TOLERANCE)
            assert error(filled[0], image[0], removed[0]) < TOLERANCE, (seed, removed.shape, (~removed).nonzero())
            solutions += 1
    assert solutions > 30


@pytest.mark.parametrize("size", [(9, 9), (3, 22), (17, 33), (1, 300), (2, 130), (300, 1)])
@pytest.mark.parametrize("kept", [(slice(-1, None), slice(None)), (slice(None), slice(-1, None)), (slice(1), slice(1))])
def test_only_an_edge_or_a_corner_is_kept(rng, size, kept):
    """What is kept lies where the coarser grids have fewer pixels than the image."""
    image, removed = torch.rand(1, 2, *size, generator=rng), torch.ones(1, *size, dtype=torch.bool)
    removed[0][kept] = False
    if removed.any():
        assert error(impute(image, removed, noise=0)[0], image[0], removed[0]) < TOLERANCE


@pytest.mark.parametrize("size", [(112, 92), (299, 299), (38, 75)])
def test_mirror_images_give_mirror_images(rng, size):
    """Flipped, transposed or not, the system is the same."""
    image, removed = pictures(rng, *size, count=1), torch.ones(1, *size, dtype=torch.bool)
    removed[:, -3:] = removed[:, ::11, -1] = False
    filled = impute(image, removed, noise=0)
    for change in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.mT.flip(-1)):
        changed = impute(change(image), change(removed), noise=0)
        assert (changed - change(filled)).square().mean().sqrt() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_a_broken_pixel_spoils_its_own_channel_alone(rng, broken, dtype):
    images, removed = pictures(rng, 20, 23).to(dtype), masks(rng, 20, 23, 0.6)
    whole = impute(images, removed, noise=0)
    images[1, 2, 0, 0] = broken  # which is kept
    filled = impute(images, removed, noise=0)
    assert torch.equal(filled[[0, 2]], whole[[0, 2]])
    torch.testing.assert_close(filled[1, :2], whole[1, :2], atol=TOLERANCE, rtol=1e-2 if dtype == torch.bfloat16 else 0)
    spoilt = filled[1, 2, removed[1]]
    assert spoilt.isfinite().all() if broken == 3e38 else spoilt.isnan().all()
    torch.testing.assert_close(filled[1, 2, ~removed[1]], images[1, 2, ~removed[1]], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_a_removed_pixel_held_does_not_matter(rng, broken):
    images, removed = pictures(rng, 20, 23), masks(rng, 20, 23, 0.6)
    assert torch.equal(
        impute(images.masked_fill(removed[:, None], broken), removed, noise=0), impute(images, removed, noise=0)
    )


def test_the_solution_is_linear_in_the_image(rng):
    """Scaled and moved by a constant, also where the constant is much larger than the tolerance."""
    image, removed = pictures(rng, 31, 18), masks(rng, 31, 18, 0.9)
    filled = impute(image, removed, noise=0, tolerance=1e-6)
    moved = impute(255 * image + 1000, removed, noise=0, tolerance=1e-3)
    torch.testing.assert_close((moved - 1000) / 255, filled, atol=1e-4, rtol=0)
    flat = torch.full_like(image, 0.7)
    torch.testing.assert_close(impute(flat, removed, noise=0), flat, rtol=1e-6, atol=0)
