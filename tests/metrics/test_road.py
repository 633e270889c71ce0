import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from timm_interpretable.metrics import impute, pixel_removal, road

SIZES = [(32, 32), (24, 17), (3, 40), (1, 1)]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def pictures(rng, height, width, count=3):
    return F.interpolate(torch.rand(count, 3, 6, 6, generator=rng), (height, width), mode="bicubic")


def masks(rng, height, width, share, count=3):
    """Connected regions of about that share, but one pixel stays."""
    field = F.interpolate(torch.rand(count, 1, 4, 4, generator=rng), (height, width), mode="bicubic")[:, 0]
    removed = field >= field.flatten(1).quantile(1 - share, dim=1)[:, None, None]
    removed[:, 0, 0] = False
    return removed


class TestImpute:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
    @pytest.mark.parametrize(("height", "width"), SIZES[:3])
    def test_agrees_with_the_sparse_solver_of_pytorch_grad_cam(self, rng, height, width, share):
        images, removed = pictures(rng, height, width), masks(rng, height, width, share)
        ours = impute(images, removed, noise=0, tolerance=1e-6)
        solve = NoisyLinearImputer(noise=0)
        theirs = torch.stack([solve(x, (~gone).float()) for x, gone in zip(images, removed, strict=True)])
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("share", [0.2, 0.9])
    def test_tolerance_is_kept(self, rng, share):
        images, removed = pictures(rng, 64, 64), masks(rng, 64, 64, share)
        rough, exact = (impute(images, removed, noise=0, tolerance=t) for t in (1e-2, 1e-6))
        error = [(a - b)[:, gone].square().mean().sqrt() for a, b, gone in zip(rough, exact, removed, strict=True)]
        assert max(error) < 1e-2

    def test_what_stays_is_untouched_and_a_plane_is_continued(self, rng):
        plane = torch.linspace(0, 1, 16)[None, None, None].expand(1, 2, 16, 16)
        removed = torch.zeros(1, 16, 16, dtype=torch.bool)
        removed[:, 4:11, 3:12] = True
        filled = impute(plane, removed, noise=0, tolerance=1e-6)
        torch.testing.assert_close(filled, plane, atol=1e-4, rtol=0)
        noisy = impute(plane, removed)
        assert torch.equal(noisy[~removed[:, None].expand_as(noisy)], plane[~removed[:, None].expand_as(plane)])

    def test_images_do_not_depend_on_each_other(self, rng):
        images = pictures(rng, 20, 20)
        removed = torch.cat([masks(rng, 20, 20, share, count=1) for share in (0.02, 0.5, 0.97)])
        batch = impute(images, removed, noise=0, tolerance=1e-6)
        single = [impute(images[i : i + 1], removed[i : i + 1], noise=0, tolerance=1e-6) for i in range(3)]
        torch.testing.assert_close(batch, torch.cat(single), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_everything_or_nothing_removed(self, rng, height, width):
        images = pictures(rng, height, width)
        gone = torch.ones(3, height, width, dtype=torch.bool)
        assert torch.equal(impute(images, gone, noise=0), torch.zeros_like(images))
        assert torch.equal(impute(images, ~gone), images)

    def test_noise_is_seeded_and_of_its_size(self, rng):
        images, removed = torch.full((2, 3, 40, 40), 0.5), torch.ones(2, 40, 40, dtype=torch.bool)
        removed[:, ::8, ::8] = False
        a, b, c = (impute(images, removed, 0.1, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert (a - 0.5)[:, :, removed[0]].std().item() == pytest.approx(0.1, rel=0.05)

    def test_half_precision_is_solved_in_fp32(self, rng):
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
    def test_bad_input(self, rng, change, message):
        good = dict(images=pictures(rng, 8, 8), removed=torch.zeros(3, 8, 8, dtype=torch.bool))
        with pytest.raises(ValueError, match=message):
            impute(**{**good, **change})


class TestRoad:
    def predict(self, x):
        """Sees one pixel, the one in row 2 and column 3."""
        return torch.stack([x[:, 0, 2, 3], 1 - x[:, 0, 2, 3]], dim=1)

    @pytest.fixture
    def images(self):
        images = torch.zeros(2, 3, 8, 8)
        images[:, :, 2, 3] = 1
        return images

    def test_perfect_map_falls_at_once_and_its_opposite_holds_to_the_end(self, images):
        target = torch.tensor([0, 0])
        falls = road(self.predict, images, images[:, 0], target, noise=0)
        holds = road(self.predict, images, images[:, 0], target, most_important_first=False, noise=0)
        assert falls.shape == (2, 9)
        assert falls.abs().max() < 1e-3
        assert torch.equal(holds, torch.ones(2, 9))

    def test_seed_and_batch(self, images, rng):
        maps, target = torch.rand(2, 8, 8, generator=rng), torch.tensor([0, 1])
        first, again, other = (road(self.predict, images, maps, target, seed=s) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        quiet = [road(self.predict, images[i : i + 1], maps[i : i + 1], target[i : i + 1], noise=0) for i in (0, 1)]
        torch.testing.assert_close(
            road(self.predict, images, maps, target, noise=0), torch.cat(quiet), atol=1e-3, rtol=0
        )

    def test_nothing_and_constant_map(self, images):
        target = torch.tensor([0, 1])
        assert torch.equal(
            road(self.predict, images, torch.ones(2, 8, 8), target, (0,))[:, 0], torch.tensor([1.0, 0.0])
        )
        assert road(self.predict, images, torch.ones(2, 8, 8), target).isfinite().all()

    def test_the_removed_pixels_are_those_of_pixel_removal(self, images, rng):
        seen = []

        def predict(x):
            seen.append(x)
            return torch.zeros(2, 2)

        maps, target = torch.rand(2, 8, 8, generator=rng), torch.tensor([0, 1])
        varied = torch.rand(2, 3, 8, 8, generator=rng)
        road(predict, varied, maps, target, (0.3,))
        pixel_removal(predict, varied, maps, target, (0.3,), most_important_first=True)
        assert torch.equal(seen[0] != varied, seen[1] != varied)

    def test_bad_input(self, images):
        with pytest.raises(ValueError, match="fractions has 2"):
            road(self.predict, images, torch.zeros(2, 8, 8), torch.tensor([0, 1]), (2,))
