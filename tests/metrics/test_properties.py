"""What holds for every metric of maps: the best map, chance, constant maps, ties, half precision and batches.

The model sees the brightness of a quarter of the image, the patch, whose place differs from image to image; the boxes
are that patch. So the best map is known: the patch itself.
"""

import pytest
import torch

from timm_interpretable.metrics import (
    area,
    box_iou,
    completeness,
    confidence_change,
    energy_in_box,
    equal_error_rate,
    insertion_deletion,
    logit_deletion,
    pixel_removal,
    pointing_game,
    rank_correlation,
    road,
    unit_range,
    verification_curves,
)

SIDE, COUNT = 16, 12
PIXELS = SIDE * SIDE
FRACTIONS = tuple(i / 8 for i in range(9))
TARGET = torch.ones(COUNT, dtype=torch.long)


def patches() -> torch.Tensor:
    masks = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.bool)
    for i in range(COUNT):
        top, left = i % 4 * 2, i // 4 * 4
        masks[i, top : top + SIDE // 2, left : left + SIDE // 2] = True
    return masks


MASKS = patches()
IMAGES = torch.where(MASKS[:, None], 1.0, 0.5).expand(-1, 3, -1, -1).contiguous()


def seen(x: torch.Tensor) -> torch.Tensor:
    """How much of the patch is as bright as it was: it alone is brighter than grey. `(B, 2)`, rising with class 1."""
    left = ((x.float().mean(1) - 0.5).clamp_min(0) * 2).sum((1, 2)) / (PIXELS / 4)
    return torch.stack([1 - left, left], dim=1)


# name: scores of maps, `(n,)`, higher is better; the best possible; what random maps get, and how near
METRICS = {
    "pixel removal, least first": (
        lambda x, maps, masks, target, **kw: area(pixel_removal(seen, x, maps, target, FRACTIONS, **kw), FRACTIONS),
        0.875, 0.5,
    ),
    "pixel removal, most first": (
        lambda x, maps, masks, target, **kw: 1 - area(
            pixel_removal(seen, x, maps, target, FRACTIONS, most_important_first=True, **kw), FRACTIONS
        ),
        0.875, 0.5,
    ),
    "insertion": (
        lambda x, maps, masks, target, **kw: insertion_deletion(
            seen, x, maps, target, 8, start=0.0, **kw
        ).insertion_area,
        0.875, 0.5,
    ),
    "deletion": (
        lambda x, maps, masks, target, **kw: 1 - insertion_deletion(
            seen, x, maps, target, 8, start=0.0, **kw
        ).deletion_area,
        0.875, 0.5,
    ),
    "logit deletion": (
        lambda x, maps, masks, target, **kw: area(logit_deletion(seen, x, maps, target, FRACTIONS, **kw), FRACTIONS),
        0.875, 0.5,
    ),
    "ROAD": (
        lambda x, maps, masks, target, **kw: 1 - road(
            seen, x, maps, target, (0.25, 0.5, 0.75), noise=0, tolerance=1e-5, **kw
        ).mean(1),
        1.0, None,
    ),
    "energy": (lambda x, maps, masks, target, **kw: energy_in_box(maps, masks), 1.0, 0.25),
    "pointing": (
        lambda x, maps, masks, target, seed=0, **kw: pointing_game(maps, masks, seed).float(), 1.0, 0.25,
    ),
    "IoU": (lambda x, maps, masks, target, **kw: box_iou(unit_range(maps), masks, (0.5,))[:, 0], 1.0, 0.2),
    "confidence": (
        lambda x, maps, masks, target, seed=0, **kw: 1 - confidence_change(seen, x, maps, target, **kw).drop, 1.0, None,
    ),
    "completeness": (
        lambda x, maps, masks, target, **kw: -completeness(maps, masks.sum((1, 2)).to(maps.dtype)), 0.0, None,
    ),
    "rank correlation": (lambda x, maps, masks, target, **kw: rank_correlation(maps, masks.float()), 1.0, 0.0),
}  # fmt: skip
RANKED = [
    name for name in METRICS if "removal" in name or "deletion" in name or name in ("insertion", "pointing", "ROAD")
]
BATCHED = [name for name in RANKED if name != "pointing"] + ["confidence"]


def scores(name: str, maps: torch.Tensor, rows: slice = slice(None), **options: int) -> torch.Tensor:
    return METRICS[name][0](IMAGES[rows], maps[rows], MASKS[rows], TARGET[rows], **options)


def random_maps(seed: int) -> torch.Tensor:
    return torch.rand(COUNT, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METRICS)
def test_the_best_map_scores_the_maximum_and_no_other_more(name):
    best = METRICS[name][1]
    found = scores(name, MASKS.float())
    torch.testing.assert_close(found, torch.full((COUNT,), best, dtype=found.dtype), atol=2e-3, rtol=0)
    for seed in range(5):
        assert (scores(name, random_maps(seed)) <= found + 1e-4).all()


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name][2] is not None])
def test_random_maps_score_chance(name):
    """Within four standard errors, over 50 sets of random maps."""
    chance = METRICS[name][2]
    found = torch.cat([scores(name, random_maps(seed)) for seed in range(50)]).double()
    assert found.mean().item() == pytest.approx(chance, abs=4 * found.std().item() / len(found) ** 0.5)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_maps_do_not_crash(name, value):
    found = scores(name, torch.full((COUNT, SIDE, SIDE), value))
    assert found.shape == (COUNT,)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", RANKED)
def test_ties_are_broken_by_the_seed_and_favour_no_place(name):
    """Constant maps say nothing: over the seeds they score as random maps do, wherever the patch is."""
    flat = torch.ones(COUNT, SIDE, SIDE)
    runs = torch.stack([scores(name, flat, seed=seed) for seed in range(30)]).double()
    assert torch.equal(runs[0], scores(name, flat, seed=0).double())
    assert runs.std(0).min() > 0
    chance = torch.cat([scores(name, random_maps(seed)) for seed in range(20)]).double()
    error = (runs.var(0) / len(runs) + chance.var() / len(chance)).sqrt()
    assert ((runs.mean(0) - chance.mean()).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", METRICS)
def test_half_precision(name):
    """bf16 has 256 values to fp32's 2^24 between 1 and 2: values that it cannot tell apart change places."""
    maps = random_maps(0) ** (32 if name == "pointing" else 1)  # one peak alone must be the highest in bf16 too
    half = METRICS[name][0](IMAGES.bfloat16(), maps.bfloat16(), MASKS, TARGET)
    torch.testing.assert_close(half.float(), scores(name, maps).float(), atol=0.03, rtol=0)
    exact = maps.bfloat16()  # what bf16 can say exactly is scored exactly
    torch.testing.assert_close(
        METRICS[name][0](IMAGES, exact, MASKS, TARGET).float(), scores(name, exact.float()).float(), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("name", METRICS)
def test_images_do_not_depend_on_each_other(name):
    maps = random_maps(1).mul(4).round()  # with ties
    whole = scores(name, maps)
    alone = torch.cat([scores(name, maps, slice(i, i + 1)) for i in range(COUNT)])
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", METRICS)
def test_images_need_not_be_square(name):
    """An image of 16 x 11 and its transpose have the same scores, as there are no ties."""
    images, maps, masks = IMAGES[..., 3:14], random_maps(3)[..., 3:14], MASKS[..., 3:14]
    wide = METRICS[name][0](images, maps, masks, TARGET)
    tall = METRICS[name][0](images.mT, maps.mT, masks.mT, TARGET)
    torch.testing.assert_close(tall, wide, atol=1e-4, rtol=1e-4)


class WithoutFloat64(torch.Tensor):
    """A tensor on a device that has no float64, such as Apple's: to make one raises; the CPU has it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return super().__torch_function__(func, types, args, kwargs).as_subclass(torch.Tensor)
        found = super().__torch_function__(func, types, args, kwargs or {})
        for value in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func.__name__} makes a float64 tensor, which the device does not have.")
        return found


@pytest.mark.parametrize("name", METRICS)
def test_devices_without_float64(name):
    with pytest.raises(TypeError, match="float64"):  # the test tells
        IMAGES.as_subclass(WithoutFloat64).double()
    there = (x.as_subclass(WithoutFloat64) for x in (IMAGES, random_maps(4), MASKS, TARGET))
    found = METRICS[name][0](*there).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, scores(name, random_maps(4)))


@pytest.mark.parametrize("strict", [False, True])
def test_verification_on_devices_without_float64(strict):
    maps, genuine, references = random_maps(5), torch.arange(COUNT) % 2 == 0, torch.tensor([[1.0, 0.2]] * COUNT)
    there = [x.as_subclass(WithoutFloat64) for x in (IMAGES, references, genuine, maps)]
    found = verification_curves(seen, *there, 0.9, strict=strict)
    wanted = verification_curves(seen, IMAGES, references, genuine, maps, 0.9, strict=strict)
    assert torch.equal(found.deletion, wanted.deletion)
    assert torch.equal(found.insertion, wanted.insertion)
    similarity = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
    assert equal_error_rate(similarity.as_subclass(WithoutFloat64), there[2]) == equal_error_rate(similarity, genuine)


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batch_size_does_not_matter(name, batch_size):
    maps = random_maps(2).mul(4).round()
    torch.testing.assert_close(scores(name, maps, batch_size=batch_size), scores(name, maps), atol=1e-4, rtol=0)
