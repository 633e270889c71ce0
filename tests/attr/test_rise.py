"""RISE and CorrRISE against their definitions, written out mask by mask."""

import math

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, PerturbationAttribution
from captum.log import log_usage
from captum.metrics import sensitivity_max
from test_captum_contract import AttributionContract
from torch import nn

from timm_interpretable.attr import RISE, CorrRISE

TARGETS = [0, 4, 2]


class FewMasks(RISE):
    @log_usage()
    def attribute(self, *args, **kwargs):
        return super().attribute(*args, **{"n_samples": 12, **kwargs})


class TestContract(AttributionContract):
    method = FewMasks
    unsupported_model = "facnn"

    @pytest.fixture
    def model(self, facnn):
        return facnn

    def test_input_errors(self, model, images):
        for inputs in ((), (images, images), images[:0], images[0], (255 * images).byte()):
            with pytest.raises(ValueError, match="expected"):
                self.attribute(model, inputs)


class Sizes(nn.Module):
    """Notes the size of every batch."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


class Coarse(nn.Module):
    def forward(self, x):
        steps = (4 * x[:, :1]).round() / 4
        return torch.cat([steps, torch.ones_like(x[:, 1:])], dim=1)


def upsampled(cells, size):
    """Bilinear with half-pixel centres, by its formula."""
    grid = len(cells)
    result = np.zeros(size)
    for r in range(size[0]):
        for c in range(size[1]):
            y = min(max((r + 0.5) * grid / size[0] - 0.5, 0), grid - 1)
            x = min(max((c + 0.5) * grid / size[1] - 0.5, 0), grid - 1)
            top, left = min(int(y), grid - 1), min(int(x), grid - 1)
            low, right = min(top + 1, grid - 1), min(left + 1, grid - 1)
            v, u = y - top, x - left
            result[r, c] = (1 - v) * ((1 - u) * cells[top, left] + u * cells[top, right]) + v * (
                (1 - u) * cells[low, left] + u * cells[low, right]
            )
    return result


def drawn_grid_masks(count, grid, p, height, width, seed):
    random = torch.Generator().manual_seed(seed)
    cells = (torch.rand(count, 1, grid, grid, generator=random) < p).numpy().astype(float)
    cell = [math.ceil(height / grid), math.ceil(width / grid)]
    rows, cols = (torch.randint(side, (count, 1), generator=random).flatten().tolist() for side in cell)
    large = [upsampled(one[0], [(grid + 1) * side for side in cell]) for one in cells]
    masks = [m[r : r + height, c : c + width] for m, r, c in zip(large, rows, cols, strict=True)]
    return torch.from_numpy(np.stack(masks)).float()


def drawn_patch_masks(count, patches, side, height, width, seed):
    random = torch.Generator().manual_seed(seed)
    rows, cols = (torch.randint(n - side + 1, (count, patches, 1), generator=random) for n in (height, width))
    masks = torch.ones(count, height, width)
    for i in range(count):
        for r, c in zip(rows[i, :, 0].tolist(), cols[i, :, 0].tolist(), strict=True):
            masks[i, r : r + side, c : c + side] = 0
    return masks


# RISE


def test_are_perturbation_attributions(facnn):
    assert isinstance(RISE(facnn), PerturbationAttribution)
    assert isinstance(CorrRISE(facnn), PerturbationAttribution)


@pytest.mark.parametrize(("grid", "p"), [(7, 0.5), (3, 0.2)])
def test_equals_the_definition_mask_by_mask(facnn, rng, grid, p):
    images = torch.rand(2, 3, 16, 24, generator=rng)
    result = RISE(facnn).attribute(images, [0, 4], n_samples=9, grid=grid, p=p, seed=3, perturbations_per_eval=5)
    masks = drawn_grid_masks(9, grid, p, 16, 24, seed=3)
    for x, target, one in zip(images, [0, 4], result, strict=True):
        total = torch.zeros(16, 24)
        with torch.no_grad():
            for mask in masks:
                total += facnn((x * mask)[None])[0, target] * mask
        torch.testing.assert_close(one, (total / (p * 9)).expand(3, -1, -1), rtol=1e-4, atol=1e-5)


def test_all_classes_come_from_the_passes_of_one(facnn, images):
    model = Sizes(facnn).eval()
    result = RISE(model).all_classes(images, n_samples=10, perturbations_per_eval=4)
    assert sum(model.sizes) == 10 * len(images)
    assert result.shape == (3, 5, *images.shape[2:])
    for c in range(5):
        torch.testing.assert_close(result[:, c], RISE(facnn).attribute(images, c, n_samples=10)[:, 0])
    (alone,) = RISE(model).all_classes((images[:1],), n_samples=10)  # a tuple for a tuple
    torch.testing.assert_close(alone, result[:1])


def test_some_classes_of_each_image(facnn, images):
    whole, rows = RISE(facnn).all_classes(images, n_samples=10), torch.arange(3)[:, None]
    for classes in (torch.tensor([[0, 4], [2, 2], [1, 3]]), torch.tensor([[0], [4], [2]])):
        some = RISE(facnn).all_classes(images, classes=classes, n_samples=10)
        torch.testing.assert_close(some, whole[rows, classes])
        assert some.is_contiguous()
    for classes, error, message in (
        (torch.tensor([0, 1, 2]), ValueError, r"classes has shape \(3,\), expected \(3, n\)"),
        (torch.zeros(2, 2, dtype=torch.long), ValueError, r"classes has shape \(2, 2\)"),
        (torch.tensor([[0], [5], [1]]), IndexError, "target 5 is out of range, expected 0 to 4"),
    ):
        with pytest.raises(error, match=message):
            RISE(facnn).all_classes(images, classes=classes, n_samples=2)


@pytest.mark.parametrize("per_eval", [None, 1, 2, 7, 100])
def test_perturbations_per_eval_bounds_a_call_as_in_captum_and_changes_nothing(facnn, images, per_eval):
    model = Sizes(facnn).eval()
    result = RISE(model).attribute(images, TARGETS, n_samples=10, perturbations_per_eval=per_eval)
    torch.testing.assert_close(result, RISE(facnn).attribute(images, TARGETS, n_samples=10), rtol=1e-4, atol=1e-5)
    assert max(model.sizes) == 3 * min(10, per_eval or 10)
    assert sum(model.sizes) == 30


def test_by_default_a_large_batch_is_divided(rng):
    seen = []

    def score(x):
        seen.append(len(x))
        return x.mean((1, 2, 3))

    x = torch.rand(130, 1, 8, 8, generator=rng)
    result = RISE(score).attribute(x, n_samples=3)
    assert max(seen) == 64
    assert sum(seen) == 3 * 130
    torch.testing.assert_close(result, RISE(score).attribute(x, n_samples=3, perturbations_per_eval=3))
    assert seen[-1] == 3 * 130


def test_seed(facnn, images):
    one, same, other = (RISE(facnn).attribute(images, 1, n_samples=10, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, rtol=1e-2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    RISE(facnn).attribute(images, 1, n_samples=2)
    assert torch.equal(torch.get_rng_state(), before), "the generator of everyone else stays where it is"


def test_finds_the_pixel_that_counts():
    """A score that is one pixel: the map is the chance of seeing p where q is seen, over that of seeing p."""
    x = torch.ones(1, 3, 28, 28)
    result = RISE(lambda x: x[:, 0, 10, 17]).attribute(x, n_samples=4000, perturbations_per_eval=1000)[0, 0]
    row, col = divmod(int(result.argmax()), 28)
    assert abs(row - 10) <= 1
    assert abs(col - 17) <= 1
    assert result[24:, :6].mean() == pytest.approx(0.5, abs=0.05)  # far away the two are independent
    constant = RISE(lambda x: x.new_full((len(x),), 3.0)).attribute(x, n_samples=4000, perturbations_per_eval=1000)
    torch.testing.assert_close(constant, torch.full_like(x, 3), rtol=0.08, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples(facnn, images, dtype):
    expected = RISE(facnn).attribute(images, TARGETS, n_samples=20)
    result = RISE(facnn).attribute(images, TARGETS, n_samples=20, mask_dtype=dtype)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert not torch.equal(result, expected)


def test_baselines(facnn, images, rng):
    other = torch.rand(3, 3, 16, 16, generator=rng)
    mask = drawn_grid_masks(1, 7, 0.5, 16, 16, seed=0)
    for baselines in (0.3, torch.tensor([0.1, 0.2, 0.3])[:, None, None], other):
        result = RISE(facnn).attribute(images, 1, n_samples=1, baselines=baselines, perturbations_per_eval=2)
        scores = facnn(images * mask + baselines * (1 - mask))[:, 1].detach()
        torch.testing.assert_close(result[:, 0], scores[:, None, None] * mask / 0.5, rtol=1e-4, atol=1e-5)
        in_tuple = RISE(facnn).attribute(images, 1, n_samples=1, baselines=(baselines,))
        torch.testing.assert_close(in_tuple, result)
    black = RISE(facnn).attribute(images, 1, n_samples=2)
    for zero in (None, 0, 0.0, (0,), torch.zeros(1)):
        torch.testing.assert_close(RISE(facnn).attribute(images, 1, n_samples=2, baselines=zero), black)
    with pytest.raises(ValueError, match="baselines is a tuple of 2, expected one entry"):
        RISE(facnn).attribute(images, 1, baselines=(0, 1))
    with pytest.raises(
        ValueError, match=r"baselines has shape \(2, 3, 16, 16\), expected .* broadcasts to \(3, 3, 16, 16\)"
    ):
        RISE(facnn).attribute(images, 1, baselines=other[:2])


def test_additional_arguments_follow_their_sample(images):
    factor = torch.tensor([1.0, 2.0, 3.0])

    def score(x, factor, constant):
        return factor * x.mean((1, 2, 3)) + constant

    result = RISE(score).attribute(images, additional_forward_args=(factor, 1.0), n_samples=6, perturbations_per_eval=4)
    for i in range(3):
        alone = RISE(lambda x, i=i: score(x, factor[i], 1.0)).attribute(images[i : i + 1], n_samples=6)
        torch.testing.assert_close(result[i : i + 1], alone)


def test_no_gradients_are_recorded(images):
    enabled = []

    def score(x):
        enabled.append(torch.is_grad_enabled())
        return x.mean((1, 2, 3))

    RISE(score).attribute(images.requires_grad_(), n_samples=3)
    assert enabled == [False]


@pytest.mark.parametrize("method", [RISE, CorrRISE])
def test_progress(images, capsys, method):
    extra = {"target": 1} if method is RISE else {"reference": torch.ones(3)}
    method(lambda x: x.mean((2, 3))).attribute(images, n_samples=8, **extra)
    assert capsys.readouterr().err == ""
    method(lambda x: x.mean((2, 3))).attribute(images, n_samples=8, show_progress=True, **extra)
    err = capsys.readouterr().err
    assert method.__name__ in err
    assert "8/8" in err


# What Captum's tools hand on: baselines in a tuple, and every tensor once per altered copy


CAPTUM_BASELINES = [None, 0.3, (0.3,), "one", "each"]


def as_baselines(kind, images):
    pictures = 0.2 + 0.1 * images.flip(0)
    return {"one": pictures[:1], "each": pictures}.get(kind, kind) if isinstance(kind, str) else kind


@pytest.fixture(params=[RISE, CorrRISE])
def method_and_options(request, facnn):
    if request.param is RISE:
        return RISE(facnn), dict(n_samples=12, target=1)
    return CorrRISE(facnn), dict(n_samples=12, reference=torch.tensor([1.0, 0, 0, 1, 0]), correlation="pearson")


@pytest.mark.parametrize("kind", CAPTUM_BASELINES)
def test_baselines_inside_noise_tunnel(method_and_options, images, kind):
    method, options = method_and_options
    baselines = as_baselines(kind, images)
    expected = method.attribute(images, baselines=baselines, **options)
    for batch_size in (None, 1, 2):
        result = NoiseTunnel(method).attribute(
            images, nt_samples=3, nt_samples_batch_size=batch_size, stdevs=1e-6, baselines=baselines, **options
        )
        torch.testing.assert_close(result, expected, rtol=0, atol=0.01 * expected.abs().max().item())


def test_baselines_drawn_by_noise_tunnel(method_and_options, images):
    method, options = method_and_options
    drawn = NoiseTunnel(method).attribute(
        images, nt_samples=2, stdevs=1e-6, baselines=torch.full((5, 3, 16, 16), 0.3), draw_baseline_from_distrib=True,
        **options,
    )  # fmt: skip
    expected = method.attribute(images, baselines=0.3, **options)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("kind", CAPTUM_BASELINES)
def test_baselines_inside_sensitivity_max(method_and_options, images, kind):
    method, options = method_and_options
    baselines = as_baselines(kind, images)
    same = sensitivity_max(
        method.attribute, images, lambda x: x, n_perturb_samples=3, max_examples_per_batch=4, baselines=baselines,
        **options,
    )  # fmt: skip
    assert same.abs().max() < 1e-4, "every copy is held against the map of its own image, with its own baseline"
    assert (sensitivity_max(method.attribute, images, baselines=baselines, **options) > 1e-4).all()


def test_additional_arguments_inside_captums_tools(images):
    factor = torch.tensor([1.0, 2.0, 3.0])

    def score(x, factor, constant):
        return factor * x.mean((1, 2, 3)) + constant

    options = dict(n_samples=6, additional_forward_args=(factor, 1.0))
    expected = RISE(score).attribute(images, **options)
    result = NoiseTunnel(RISE(score)).attribute(images, nt_samples=2, stdevs=1e-6, **options)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    same = sensitivity_max(RISE(score).attribute, images, lambda x: x, n_perturb_samples=2, **options)
    assert same.abs().max() < 1e-4


def test_no_nan_goes_unnoticed(facnn, images):
    """Ranks of similarities would be numbers even where these are not."""
    images[2, 1, 5, 5] = torch.inf
    with pytest.raises(ValueError, match=r"CorrRISE: the similarities of images 2 of the batch are not finite: the in"):
        CorrRISE(facnn).attribute(images, torch.ones(5), n_samples=4)
    x = torch.full((1, 3, 16, 16), 200.0, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"RISE: the maps .* overflow in float16; explain the model in float32"):
        RISE(lambda x: x.mean((1, 2, 3)) ** 3).attribute(x, n_samples=4)
    with pytest.raises(ValueError, match="the inputs are finite, and what the model makes of them is not"):
        RISE(lambda x: x.mean((1, 2, 3)) / 0).attribute(x.float(), n_samples=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_samples", 0), ("grid", 0), ("p", 0), ("p", 1), ("perturbations_per_eval", 0), ("mask_dtype", torch.int32),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_before_any_pass(facnn, images, name, value):
    model = Sizes(facnn).eval()
    with pytest.raises(ValueError, match=rf"{name}={value}.*expected"):
        RISE(model).attribute(images, 1, **{name: value})
    assert model.sizes == []


# CorrRISE


@pytest.fixture
def embed(rng):
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 7 * 9, 8))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1, generator=rng)
    return model.eval()


@pytest.fixture
def pair(rng):
    return torch.rand(2, 2, 3, 16, 20, generator=rng)


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a * a).sum() * (b * b).sum())
    return 0.0 if scale < 1e-9 else float((a * b).sum() / scale)


def ranks(values):
    """One plus the number of smaller values, plus half the number of equal ones."""
    values = np.asarray(values)
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_corrrise_equals_the_definition_mask_by_mask(embed, pair, correlation, ties):
    images, reference = pair[0], embed(pair[1])
    if ties:  # embeddings that take a few values only, so that masks share their rank
        embed, reference = nn.Sequential(embed, Coarse()), torch.ones(2, 8)
    result = CorrRISE(embed).attribute(
        images, reference, n_samples=30, n_patches=2, patch_size=5, correlation=correlation, seed=2,
        perturbations_per_eval=7,
    )  # fmt: skip
    masks = drawn_patch_masks(30, 2, 5, 16, 20, seed=2).numpy()
    rank = ranks if correlation == "spearman" else lambda values: values
    for x, other, one in zip(images, reference, result, strict=True):
        with torch.no_grad():
            scores = np.array(
                [torch.cosine_similarity(embed((x * torch.from_numpy(m))[None])[0], other, dim=0).item() for m in masks]
            )
        expected = np.array(
            [[pearson(rank(scores), rank(masks[:, r, c].astype(float))) for c in range(20)] for r in range(16)]
        )
        torch.testing.assert_close(one, torch.from_numpy(expected).float().expand(3, -1, -1), rtol=1e-3, atol=1e-3)


def test_pearson_and_spearman_differ_and_seeds_count(embed, pair):
    reference = embed(pair[1])

    def run(**kwargs):
        return CorrRISE(embed).attribute(pair[0], reference, n_samples=30, **kwargs)

    assert torch.equal(run(seed=1), run(seed=1))
    assert not torch.allclose(run(seed=1), run(seed=2), atol=0.01)
    assert not torch.allclose(run(), run(correlation="pearson"), atol=0.01)
    torch.testing.assert_close(run(), run(perturbations_per_eval=1), rtol=0, atol=1e-3)
    torch.testing.assert_close(run(), run(mask_dtype=torch.float16), rtol=0, atol=1e-3)


def test_batch_equals_one_by_one(embed, pair):
    reference = embed(pair[1])
    both = CorrRISE(embed).attribute((pair[0],), reference, n_samples=20)
    assert isinstance(both, tuple)
    for i in range(2):
        alone = CorrRISE(embed).attribute(pair[0][i : i + 1], reference[i], n_samples=20)
        torch.testing.assert_close(both[0][i : i + 1], alone, rtol=0, atol=1e-3)


def test_sign_and_place():
    """Covering what is alike lowers the similarity, covering what differs raises it; nothing else counts."""

    def embed(x):
        return torch.stack([x[:, 0, 3:6, 3:6].mean((1, 2)), x[:, 0, 20:23, 20:23].mean((1, 2)), x.new_ones(len(x))], 1)

    x = torch.ones(1, 3, 28, 28)
    reference = torch.tensor([1.0, 0.0, 1.0])
    for correlation in ("spearman", "pearson"):
        result = CorrRISE(embed).attribute(
            x, reference, n_samples=400, n_patches=2, patch_size=6, correlation=correlation
        )[0, 0]
        assert result[4, 4] > 0.5
        assert result[21, 21] < -0.5
        assert result[4, 20:].abs().max() < 0.3
        assert result.abs().max() <= 1


def test_pixels_never_covered_and_constant_embeddings_give_zero(embed, pair):
    result = CorrRISE(embed).attribute(pair[0], embed(pair[1]), n_samples=3, n_patches=1, patch_size=4)
    never = drawn_patch_masks(3, 1, 4, 16, 20, seed=0).all(0)
    assert never.any()
    assert not never.all()
    assert (result[:, :, never] == 0).all()
    assert (result[:, :, ~never] != 0).any()
    constant = CorrRISE(lambda x: torch.ones(len(x), 8)).attribute(pair[0], torch.rand(8), n_samples=11)
    assert torch.equal(constant, torch.zeros_like(pair[0]))


@pytest.mark.parametrize(("shape", "side"), [((112, 112), 30), ((56, 80), 15), ((3, 3), 1)])
def test_patch_size_follows_the_image(shape, side):
    """One patch per mask: the model sees how many pixels are black."""
    seen = []

    def embed(x):
        seen.extend((x == 0).sum((1, 2, 3)).tolist())
        return x.mean((2, 3))

    CorrRISE(embed).attribute(torch.ones(1, 1, *shape), torch.ones(1), n_samples=4, n_patches=1)
    assert seen == [side**2] * 4


def test_model_is_left_alone_and_explained_in_evaluation_mode(pair):
    embed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(6))
    embed(pair[0])
    embed.train()
    statistics = embed[1].running_mean.clone()
    reference = torch.ones(6)
    with torch.inference_mode():
        result = CorrRISE(embed).attribute(pair[0], reference, n_samples=5)
    assert embed.training
    assert torch.equal(embed[1].running_mean, statistics)
    torch.testing.assert_close(result, CorrRISE(embed.eval()).attribute(pair[0], reference, n_samples=5))
    with torch.autocast("cpu", torch.bfloat16):
        half = CorrRISE(embed).attribute(pair[0], reference, n_samples=5, correlation="pearson")
    assert half.dtype == torch.float32
    assert not result.requires_grad


def test_corrrise_errors(embed, pair):
    attribute, reference = CorrRISE(embed).attribute, torch.ones(8)
    for name, value in (
        ("n_samples", 0), ("n_patches", 0), ("patch_size", 17), ("patch_size", "big"), ("correlation", "kendall"),
        ("perturbations_per_eval", -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}={value!r}.*expected"):
            attribute(pair[0], reference, **{name: value})
    with pytest.raises(ValueError, match=r"model gives \(\d+, 8\), expected embeddings \(B, 9\)"):
        attribute(pair[0], torch.ones(9))
    with pytest.raises(ValueError, match="reference holds 3 embeddings, expected 1 or 2"):
        attribute(pair[0], torch.ones(3, 8))
    with pytest.raises(ValueError, match="reference is str"):
        attribute(pair[0], "other.png")
    with pytest.raises(TypeError, match="int cannot be explained"):
        CorrRISE(3)
