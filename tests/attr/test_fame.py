"""FAME from its definition: closed forms on linear models, the map, the losses, when samples end, and the contract."""

import math

import numpy as np
import pytest
import timm
import torch
from captum.attr import Attribution, NoiseTunnel
from captum.log import log_usage
from test_captum_contract import AttributionContract, state_of
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from timm_interpretable.attr import (
    FAME,
    CosineDissimilarity,
    CosineSimilarity,
    FeatureLocationLoss,
    LogitLoss,
    Loss,
    change_map,
)

TARGETS = [0, 4, 2]
ETA = 1 / 255


class TwoSteps(FAME):
    @log_usage()
    def attribute(self, *args, **kwargs):
        return super().attribute(*args, **{"n_steps": 2, **kwargs})


class TestContract(AttributionContract):
    method = TwoSteps
    unsupported_model = "facnn"

    @pytest.fixture
    def model(self, facnn):
        return facnn

    def test_autocast(self, model, images, expected):
        with torch.autocast("cpu", torch.bfloat16):
            result = self.attribute(model, images)
        assert result.dtype == torch.float32
        assert np.corrcoef(result.flatten(), expected.flatten())[0, 1] > 0.95

    def test_input_errors(self, model, images):
        for inputs in ((), (images, images), images[:0], images[0], (255 * images).byte()):
            with pytest.raises(ValueError, match="expected"):
                self.attribute(model, inputs)


@pytest.fixture
def linear(rng):
    """Five classes of 3 x 16 x 16 pixels; nothing but a matrix."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    nn.init.normal_(model[1].weight, generator=rng)
    return model


def row_pictures(linear, targets=TARGETS):
    return linear[1].weight.detach()[targets].unflatten(1, (3, 16, 16))


class Counting(nn.Module):
    """Notes the size of every batch that goes through."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x, *args):
        self.sizes.append(len(x))
        return self.model(x, *args)


def counting(model):
    """In evaluation mode and frozen, so that it is used as it is."""
    return Counting(model).eval().requires_grad_(False)


# The descent


def test_is_an_attribution_without_convergence_delta(linear):
    assert isinstance(FAME(linear), Attribution)
    assert not FAME(linear).has_convergence_delta()


def test_linear_model_in_closed_form(linear, images):
    _, details = FAME(linear).attribute(images, TARGETS, n_steps=7, return_details=True)
    rows = row_pictures(linear)
    peak = rows.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(details.perturbed, images - 7 * ETA * rows / peak)
    logits = linear(images)[torch.arange(3), TARGETS].detach()
    per_step = ETA * (rows.square() / peak).sum((1, 2, 3))
    torch.testing.assert_close(details.loss, logits[:, None] - per_step[:, None] * torch.arange(7))
    assert details.steps.tolist() == [7, 7, 7]


def test_first_step_moves_the_largest_entry_by_the_step_size(facnn, images):
    x = images.double()
    _, details = FAME(facnn.double()).attribute(x, TARGETS, n_steps=1, step_size=0.01, return_details=True)
    moved = (details.perturbed - x).abs().amax((1, 2, 3))
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-10, atol=0)


def test_never_farther_than_steps_times_step_size(facnn, images):
    _, details = FAME(facnn).attribute(images, TARGETS, n_steps=20, step_size=0.01, return_details=True)
    moved = (details.perturbed - images).abs().amax((1, 2, 3))
    assert (moved <= 0.2 + 1e-6).all()
    assert (moved > 0.05).all()


@pytest.mark.parametrize("n_steps", [1, 4, 9])
def test_cost_is_one_pass_per_step(linear, images, n_steps):
    model = counting(linear)
    FAME(model).attribute(images, 1, n_steps=n_steps)
    assert model.sizes == [3] * n_steps


def test_equals_the_definition_step_by_step(facnn, images):
    """One image after the other, with `backward`, down to the map."""
    x = images.double()
    model = facnn.double()
    maps, details = FAME(model).attribute(x, TARGETS, n_steps=6, return_details=True)
    for i, target in enumerate(TARGETS):
        moving = x[i : i + 1].clone()
        for _ in range(6):
            moving = moving.detach().requires_grad_()
            model(moving)[0, target].backward()
            moving = moving - moving.grad / moving.grad.abs().max() / 255
        torch.testing.assert_close(details.perturbed[i], moving[0].detach())
        expected = reference_map(x[i].numpy(), moving[0].detach().numpy(), 3, 0.8)
        torch.testing.assert_close(maps[i], torch.from_numpy(expected).expand(3, -1, -1))


def coda_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "coda_net_s", num_classes=5, channels=(4, 6), strides=(1, 2), kernel_sizes=(3, 3), ranks=(5, 7, 8),
            temperature=0.1,
        )  # fmt: skip


def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(4, 6, 8, 10), zero_init_last=False)


def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(img_size=16, patch_size=4, num_classes=5, embed_dim=12, depth=2, num_heads=2)


def plain_function():
    model = resnet().eval()
    return lambda x: model(x)


@pytest.mark.parametrize("make", [coda_net, resnet, vit, plain_function])
def test_any_model_forgets_the_class(images, make):
    model = make()
    maps, details = FAME(model).attribute(images, TARGETS, n_steps=10, return_details=True)
    assert (details.loss[:, -1] < details.loss[:, 0]).all()
    assert (details.loss.diff(dim=1) < 0).float().mean() > 0.8
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert (maps.amax((1, 2, 3)) > 0).all()
    assert maps.max() <= 10 * ETA + 1e-6, "in units of the image: no farther than ten steps"


def test_loss_curve_is_that_of_the_model(facnn, images):
    _, details = FAME(facnn).attribute(images, TARGETS, n_steps=6, return_details=True)
    _, longer = FAME(facnn).attribute(images, TARGETS, n_steps=7, return_details=True)
    torch.testing.assert_close(details.loss[:, 0], facnn(images)[torch.arange(3), TARGETS].detach())
    torch.testing.assert_close(longer.loss[:, 6], facnn(details.perturbed)[torch.arange(3), TARGETS].detach())
    torch.testing.assert_close(longer.loss[:, :6], details.loss)


def test_a_sample_without_gradient_stalls_and_spoils_nothing(images):
    def brightness_above_half(x):
        return (x.mean((1, 2, 3)) - 0.5).relu()

    x = torch.stack([0.2 * images[0], 0.6 + 0.4 * images[1]])
    maps, details = FAME(brightness_above_half).attribute(x, n_steps=3, return_details=True)
    assert torch.equal(details.perturbed[0], x[0])
    assert torch.equal(maps[0], torch.zeros_like(x[0]))
    torch.testing.assert_close(details.perturbed[1], x[1] - 3 * ETA)


def test_what_is_not_a_number_is_refused_with_its_cause(images):
    """Before the first step where the loss says so, at the end where only the gradient does."""
    seen = []

    def score(x, blows_up):
        seen.append(len(x))
        value = x.mean((1, 2, 3))
        return {"loss": value / 0, "gradient": value + (x - x).sum().sqrt()}.get(blows_up, value)

    with pytest.raises(ValueError, match=r"FAME: the losses of images 0, 1, 2 of the batch .* what the model makes of"):
        FAME(score).attribute(images, additional_forward_args="loss", n_steps=5)
    assert seen == [3]
    with pytest.raises(ValueError, match=r"FAME: the maps of images 0, 1, 2 .* are not finite: the inputs are finite"):
        FAME(score).attribute(images, additional_forward_args="gradient", n_steps=2)
    spoiled = images.clone()
    spoiled[2] = math.nan
    with pytest.raises(ValueError, match=r"FAME: the losses of images 2 of the batch .* the inputs hold NaN"):
        FAME(score).attribute(spoiled, additional_forward_args="", n_steps=2, internal_batch_size=1)
    with pytest.raises(ValueError, match=r"overflow in float16"):
        FAME(lambda x: 1e4 * x.sum((1, 2, 3))).attribute(images.half(), n_steps=2)


def test_parameters_take_no_gradient(images):
    asked = []

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(weight)
            return x * weight

        @staticmethod
        def backward(ctx, grad):
            asked.append(ctx.needs_input_grad)
            return grad * ctx.saved_tensors[0], None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return Scale.apply(x, self.weight).sum((1, 2, 3))

    model = Model()
    FAME(model).attribute(images, n_steps=2)
    assert asked == [(True, False)] * 2
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_steps_below_the_resolution_of_half_precision_add_up(linear, images):
    x = (0.5 + 0.25 * images).bfloat16()  # neighbouring numbers are 1 / 256 apart
    _, details = FAME(linear.bfloat16()).attribute(x, TARGETS, n_steps=20, step_size=1e-3, return_details=True)
    assert details.perturbed.dtype == torch.float32
    rows = row_pictures(linear).float()
    expected = x.float() - 20 * 1e-3 * rows / rows.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(details.perturbed, expected, rtol=0, atol=1e-5)


def test_clamp(linear, images):
    free = FAME(linear).attribute(images, 1, n_steps=100, return_details=True)[1].perturbed
    assert free.min() < 0
    assert free.max() > 1
    for bounds in ((0, 1), (torch.zeros(3, 1, 1), torch.ones(1, 3, 1, 1))):
        kept = FAME(linear).attribute(images, 1, n_steps=100, clamp=bounds, return_details=True)[1].perturbed
        torch.testing.assert_close(kept, free.clamp(0, 1))
    with pytest.raises(ValueError, match=r"inputs reach from .* to .*, outside clamp=\(0, 0.5\)"):
        FAME(linear).attribute(images, 1, clamp=(0, 0.5))
    with pytest.raises(ValueError, match=r"clamp=\(1, 0\) is empty"):
        FAME(linear).attribute(images, 1, clamp=(1, 0))
    with pytest.raises(ValueError, match=r"clamp has shape \(3, 1, 1, 1\), expected .* broadcasts to \(1, 3, 16, 16\)"):
        FAME(linear).attribute(images, 1, clamp=(0, torch.ones(3, 1, 1, 1)))


class Scaled(nn.Module):
    """Needs a factor per sample, and a constant."""

    def forward(self, x, factor, constant):
        assert len(factor) == len(x)
        return factor * x.mean((1, 2, 3)) + constant


def test_additional_arguments_follow_their_sample(images):
    factor = torch.tensor([-1.0, 1.0, 2.0])
    _, details = FAME(Scaled()).attribute(
        images, additional_forward_args=(factor, 3.0), n_steps=3, stop_below=2.9, return_details=True
    )
    assert details.steps.tolist() == [0, 3, 3]  # the first, about 2.5, leaves at once
    moved = (details.perturbed - images).mean((1, 2, 3))
    torch.testing.assert_close(moved, torch.tensor([0, -3 * ETA, -3 * ETA]))
    torch.testing.assert_close(details.loss[:, 0], factor * images.mean((1, 2, 3)) + 3)


def test_compiled_model_runs_compiled(linear, images):
    runs = []

    def backend(graph, example_inputs):
        def run(*args):
            runs.append(len(runs))
            return graph(*args)

        return run

    expected = FAME(linear).attribute(images, 1, n_steps=3)
    compiled = torch.compile(linear.eval(), backend=backend)
    torch.testing.assert_close(FAME(compiled).attribute(images, 1, n_steps=3), expected)
    assert len(runs) == 3
    torch.testing.assert_close(FAME(compiled.train()).attribute(images, 1, n_steps=3), expected)
    assert len(runs) == 3, "in training mode the plain module inside is explained"
    assert linear[1].weight.grad is None


def test_progress(linear, images, capsys):
    FAME(linear).attribute(images, 1, n_steps=4, internal_batch_size=2, show_progress=True)
    assert "8/8" in capsys.readouterr().err
    FAME(linear).attribute(images, 1, n_steps=4, show_progress=False)
    FAME(linear).attribute(images, 1, n_steps=4)
    assert capsys.readouterr().err == ""


# The batch


@pytest.mark.parametrize("size", [1, 2, 5])
def test_internal_batch_size_bounds_the_batch_and_changes_nothing(facnn, images, size):
    model = counting(facnn)
    whole, expected = FAME(facnn).attribute(images, TARGETS, n_steps=3, return_details=True)
    maps, details = FAME(model).attribute(images, TARGETS, n_steps=3, internal_batch_size=size, return_details=True)
    assert max(model.sizes) == min(size, 3)
    assert sum(model.sizes) == 9
    torch.testing.assert_close(maps, whole, rtol=1e-3, atol=1e-6)
    for one, other in zip(details, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [None, 2])
def test_finished_samples_leave_the_batch(linear, images, size):
    """Every sample of a linear model needs a known number of steps."""
    rows = row_pictures(linear, [1, 1, 1])
    per_step = ETA * (rows.square() / rows.abs().amax((1, 2, 3), keepdim=True)).sum((1, 2, 3))
    logits = linear(images)[:, 1].detach()
    wanted = torch.tensor([0, 6, 3])
    limits = logits - (wanted - 0.5) * per_step
    model = counting(linear)
    _, details = FAME(model).attribute(
        images, 1, n_steps=10, stop_below=limits, internal_batch_size=size, return_details=True
    )
    assert details.steps.tolist() == wanted.tolist()
    assert sum(model.sizes) == (wanted + 1).sum()
    assert len(model.sizes) == (7 if size is None else 7 + 4)
    step = ETA * rows / rows.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(details.perturbed, images - wanted[:, None, None, None] * step)
    curve = logits[:, None] - per_step[:, None] * torch.minimum(torch.arange(10), wanted[:, None])
    torch.testing.assert_close(details.loss, curve)


def test_end_of_one_sample_does_not_touch_the_others(facnn, images):
    logits = facnn(images)[torch.arange(3), TARGETS].detach()
    limits = torch.stack([logits[0] - 0.05, torch.tensor(-math.inf), logits[2] - 0.1])
    together, details = FAME(facnn).attribute(images, TARGETS, n_steps=12, stop_below=limits, return_details=True)
    assert details.steps[1] == 12
    assert 0 < details.steps[0] < 12
    for i, target in enumerate(TARGETS):
        alone = FAME(facnn).attribute(images[i : i + 1], target, n_steps=12, stop_below=limits[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-2, atol=1e-5)


def test_stop_below_inside_captums_tools(linear, images):
    """Numbers hold for every copy; of tensors with an entry per image Captum makes no copies, which is said."""
    options = dict(n_steps=3, target=1, stop_below=-math.inf)
    expected = FAME(linear).attribute(images, **options)
    quiet = NoiseTunnel(FAME(linear)).attribute(images, nt_samples=2, stdevs=1e-6, **options)
    torch.testing.assert_close(quiet, expected, rtol=1e-2, atol=1e-5)
    with pytest.raises(ValueError, match=r"stop_below=.* expected one number or one for each of 6 samples"):
        NoiseTunnel(FAME(linear)).attribute(images, nt_samples=2, **options | dict(stop_below=torch.zeros(3)))


# The map


def reference_map(x, perturbed, width, sigma):
    """Straight from the definition, in numpy, with a two-dimensional kernel."""
    luma = np.array([0.2989, 0.5870, 0.1140])
    change = np.abs(np.einsum("chw,c->hw", perturbed, luma) - np.einsum("chw,c->hw", x, luma))
    ticks = np.arange(width) - width // 2
    kernel = np.exp(-(ticks[:, None] ** 2 + ticks[None] ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(change, width // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width))
    return np.einsum("hwij,ij->hw", windows, kernel)


@pytest.mark.parametrize(("blur", "width"), [("auto", 5), (9, 9), (None, 1)])
def test_map_is_the_smoothed_change_of_the_grey_image(rng, blur, width):
    x = torch.rand(2, 3, 24, 30, generator=rng).double()
    weight = torch.randn(3, 24, 30, generator=rng).double()

    def score(x):
        return (weight * x).sum((1, 2, 3))

    maps, details = FAME(score).attribute(x, n_steps=2, blur=blur, return_details=True)
    sigma = 0.3 * ((width - 1) / 2 - 1) + 0.8
    for result, image, perturbed in zip(maps, x, details.perturbed, strict=True):
        expected = torch.from_numpy(reference_map(image.numpy(), perturbed.numpy(), width, sigma))
        torch.testing.assert_close(result, expected.expand(3, -1, -1))


def test_change_map_is_the_last_step(facnn, images):
    maps, details = FAME(facnn).attribute(images, TARGETS, n_steps=2, return_details=True, blur=5)
    torch.testing.assert_close(change_map(images, details.perturbed, blur=5), maps[:, 0], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"perturbed is \(2, 3, 16, 16\), expected .* \(3, 3, 16, 16\)"):
        change_map(images, images[:2])
    assert torch.equal(change_map(images, images), torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="blur=4"):
        change_map(images, images, blur=4)


def test_units_are_those_of_the_image(linear, images):
    """Twice the step, twice the change; a grey image that changes everywhere by one step gives one step."""
    one, two = (FAME(linear).attribute(images, 1, n_steps=3, step_size=eta) for eta in (ETA, 2 * ETA))
    torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-6)
    darker = FAME(lambda x: x.sum((1, 2, 3))).attribute(images, n_steps=4, step_size=0.01)
    torch.testing.assert_close(darker, torch.full_like(images, 4 * 0.01 * (0.2989 + 0.5870 + 0.1140)))


def test_blur_of_the_paper_at_224_pixels(rng):
    x, hot = torch.zeros(1, 3, 224, 224), torch.zeros(3, 224, 224)
    hot[:, 100, 80] = 1
    result = FAME(lambda x: (hot * x).sum((1, 2, 3))).attribute(x, n_steps=1, step_size=1.0)[0, 0]
    rows, cols = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    gaussian = torch.exp(-((rows - 100) ** 2 + (cols - 80) ** 2) / (2 * 7.7**2))
    inside = ((rows - 100).abs() <= 24) & ((cols - 80).abs() <= 24)
    gaussian = gaussian * inside
    torch.testing.assert_close(result / result.max(), gaussian, rtol=0, atol=1e-6)
    assert result.sum().item() == pytest.approx(0.2989 + 0.5870 + 0.1140, abs=1e-4)


def test_grey_comes_before_the_difference(images):
    """Red up and green down cancels in part, both up adds: on the left less of the grey image changes."""
    weight = torch.ones(3, 16, 16)
    weight[1, :, :8], weight[2] = -1, 0
    result = FAME(lambda x: (weight * x).sum((1, 2, 3))).attribute(images, n_steps=1, blur=None)
    left, right = result[:, 0, :, :8], result[:, 0, :, 8:]
    torch.testing.assert_close(left, torch.full_like(left, ETA * (0.5870 - 0.2989)), rtol=1e-3, atol=0)
    torch.testing.assert_close(right, torch.full_like(right, ETA * (0.5870 + 0.2989)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels(rng, channels):
    x = torch.rand(2, channels, 9, 9, generator=rng)
    weight = torch.rand(channels, 9, 9, generator=rng)
    maps = FAME(lambda x: (weight * x).sum((1, 2, 3))).attribute(x, n_steps=1, blur=None)
    expected = ETA * weight.mean(0) / weight.max()
    torch.testing.assert_close(maps, expected.expand(2, channels, -1, -1), rtol=1e-3, atol=1e-6)


# The losses


def test_absolute_logit_stays_at_zero_and_the_raw_one_goes_on(linear, images):
    classes = linear(images).argmax(1).tolist()
    raw = FAME(linear).attribute(images, classes, n_steps=300, return_details=True)[1]
    held = FAME(linear).attribute(images, classes, loss=LogitLoss(abs=True), n_steps=300, return_details=True)[1]
    assert (raw.loss[:, 0] > 0).all()
    assert (raw.loss[:, -1] < -1).all()
    assert (held.loss >= 0).all()
    assert (held.loss[:, -1] < (raw.loss[:, 0] - raw.loss[:, 1])).all(), "within one step of zero"
    crossing = (raw.loss > 0).sum(1)
    for i, step in enumerate(crossing.tolist()):
        torch.testing.assert_close(held.loss[i, :step], raw.loss[i, :step])


def test_stop_at_zero(linear, images):
    classes = linear(images).argmax(1).tolist()
    raw = FAME(linear).attribute(images, classes, n_steps=300, return_details=True)[1]
    ended = FAME(linear).attribute(
        images, classes, loss=LogitLoss(stop_at_zero=True), n_steps=300, return_details=True
    )[1]
    assert torch.equal(ended.steps, (raw.loss >= 0).sum(1))
    assert (ended.loss[:, -1] < 0).all()
    with pytest.raises(ValueError, match="stop_at_zero=True never stops"):
        LogitLoss(abs=True, stop_at_zero=True)


def test_stop_below_of_the_call_comes_before_that_of_the_loss(linear, images):
    loss = LogitLoss(stop_at_zero=True)
    for stop_below in (-math.inf, torch.full((3,), -math.inf)):
        _, details = FAME(linear).attribute(
            images, 1, loss=loss, n_steps=80, stop_below=stop_below, return_details=True
        )
        assert details.steps.tolist() == [80] * 3
    with pytest.raises(ValueError, match="stop_below"):
        FAME(linear).attribute(images, 1, stop_below=torch.zeros(2))
    with pytest.raises(ValueError, match="stop_below=nan"):
        FAME(linear).attribute(images, 1, stop_below=math.nan)


@pytest.fixture
def embed(rng):
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(294, 8))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1, generator=rng)
    return model.eval()


def similarity(embed, x, reference):
    return torch.cosine_similarity(embed(x), reference).detach()


def test_similar_parts_lower_and_dissimilar_parts_raise_the_cosine(embed, images, rng):
    other = torch.rand(3, 3, 16, 16, generator=rng)
    reference = embed(other)
    before = similarity(embed, images, reference)
    for loss, sign in ((CosineSimilarity(reference), -1), (CosineDissimilarity(reference), 1)):
        _, details = FAME(embed).attribute(images, loss=loss, n_steps=15, return_details=True)
        after = similarity(embed, details.perturbed, reference)
        assert (sign * (after - before) > 0.01).all()
        torch.testing.assert_close(details.loss[:, 0], before if sign < 0 else 1 - before)


def test_cosine_losses_end_at_one_hundredth(embed, images, rng):
    reference = embed(torch.rand(3, 3, 16, 16, generator=rng))
    _, ended = FAME(embed).attribute(images, loss=CosineDissimilarity(reference), n_steps=300, return_details=True)
    assert (ended.steps < 300).all()
    assert (ended.loss[:, -1] < 0.01).all()
    endless = CosineDissimilarity(reference, stop_below=None)
    _, details = FAME(embed).attribute(images, loss=endless, n_steps=int(ended.steps.max()) + 1, return_details=True)
    assert len(set(details.steps.tolist())) == 1


def test_one_reference_for_all_and_its_length(embed, images):
    one = embed(images[:1].flip(3))
    expected = FAME(embed).attribute(images, loss=CosineSimilarity(one.expand(3, -1)), n_steps=3)
    for same in (one, one[0], 7 * one, one.double()):
        torch.testing.assert_close(
            FAME(embed).attribute(images, loss=CosineSimilarity(same), n_steps=3), expected, rtol=1e-3, atol=1e-6
        )


def test_reference_errors(embed, images, facnn):
    with pytest.raises(ValueError, match=r"reference is \(1, 2, 3\), expected embeddings \(D,\) or \(B, D\)"):
        CosineSimilarity(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"model gives \(3, 8\), expected embeddings \(B, 9\)"):
        FAME(embed).attribute(images, loss=CosineSimilarity(torch.ones(9)))
    with pytest.raises(ValueError, match="reference holds 2 embeddings, expected 1 or 3"):
        FAME(embed).attribute(images, loss=CosineSimilarity(torch.ones(2, 8)))
    with pytest.raises(ValueError, match="target=1 means nothing to CosineSimilarity"):
        FAME(embed).attribute(images, 1, loss=CosineSimilarity(torch.ones(8)))


def test_references_follow_their_samples(embed, images, rng):
    reference = embed(torch.rand(3, 3, 16, 16, generator=rng))
    start = similarity(embed, images, reference)
    limits = torch.stack([start[0] - 0.01, torch.tensor(-math.inf), torch.tensor(-math.inf)])
    together = FAME(embed).attribute(images, loss=CosineSimilarity(reference), n_steps=8, stop_below=limits)
    for i in (1, 2):
        loss = CosineSimilarity(reference[i], stop_below=None)
        alone = FAME(embed).attribute(images[i : i + 1], loss=loss, n_steps=8)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-2, atol=1e-5)


def test_losses_add_up(facnn, images):
    def by_hand(outputs):
        return 0.5 * outputs[:, 1] - outputs.norm(dim=1)

    class Norm(Loss):
        def __call__(self, outputs):
            return outputs.norm(dim=1)

    expected = FAME(facnn).attribute(images, loss=by_hand, n_steps=3)
    for loss in (0.5 * LogitLoss() - Norm(), LogitLoss() * 0.5 + -Norm(), -(Norm() + -0.5 * LogitLoss())):
        torch.testing.assert_close(
            FAME(facnn).attribute(images, 1, loss=loss, n_steps=3), expected, rtol=1e-2, atol=1e-6
        )
    with pytest.raises(ValueError, match=r"'stages\.0' and None, expected one layer"):
        FeatureLocationLoss("stages.0", 0, 0) + LogitLoss()


def test_minus_the_logit_goes_up(facnn, images):
    _, details = FAME(facnn).attribute(images, TARGETS, loss=-LogitLoss(), n_steps=5, return_details=True)
    logits = facnn(details.perturbed)[torch.arange(3), TARGETS]
    assert (logits > facnn(images)[torch.arange(3), TARGETS]).all()


def test_own_loss_with_data_per_sample(linear, images):
    class Towards(Loss):
        per_sample = ("wanted",)

        def __init__(self, wanted):
            self.wanted = wanted

        def __call__(self, outputs):
            return (outputs - self.wanted).square().sum(1)

    wanted = linear(images).detach() - torch.tensor([0.0, 3.0, 2.0])[:, None]
    _, details = FAME(linear).attribute(
        images, loss=Towards(wanted), n_steps=40, stop_below=1.0, internal_batch_size=2, return_details=True
    )
    assert details.steps[0] == 0
    assert (details.steps[1:] > 0).all()
    assert (details.loss[:, -1] < 1).all()


def test_loss_errors(linear, images):
    fame = FAME(linear)
    with pytest.raises(ValueError, match=r"loss gives \(\), expected one number per sample, \(3,\)"):
        fame.attribute(images, loss=lambda outputs: outputs.sum())
    with pytest.raises(ValueError, match="does not depend on the images"):
        fame.attribute(images, loss=lambda outputs: outputs.detach().sum(1))
    for loss in (LogitLoss, 3, "logit"):
        with pytest.raises(ValueError, match="is no loss, expected an object such as"):
            fame.attribute(images, loss=loss)
    with pytest.raises(ValueError, match=r"model gives \(3, 5, 1\), expected logits"):
        FAME(lambda x: linear(x)[..., None]).attribute(images, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_steps", 0),
        ("step_size", 0.0),
        ("step_size", math.nan),
        ("blur", 4),
        ("blur", 33),
        ("blur", "gauss"),
        ("internal_batch_size", 0),
    ],
)
def test_bad_arguments_are_named_before_any_pass(linear, images, name, value):
    model = counting(linear)
    with pytest.raises(ValueError, match=rf"{name}={value!r}.*expected"):
        FAME(model).attribute(images, 1, **{name: value})
    assert model.sizes == []


# Feature maps


def location_loss(maps, row, col):
    return maps[:, :, row, col].abs().sum(1).detach()


@pytest.mark.parametrize(("make", "index"), [(resnet, 3), (resnet, -1), (vit, 1), (coda_net, 0)])
def test_layer_by_index_is_a_timm_intermediate(images, make, index):
    model = make().eval()
    maps = model.forward_intermediates(images, indices=[index], intermediates_only=True)[0]
    loss = FeatureLocationLoss(index, maps.shape[2] - 1, 0)
    _, details = FAME(model).attribute(images, loss=loss, n_steps=4, return_details=True)
    torch.testing.assert_close(details.loss[:, 0], location_loss(maps, -1, 0))
    assert (details.loss[:, -1] < details.loss[:, 0]).all()


def test_layer_by_name_and_by_itself_equal_the_index(images):
    model = resnet().train()
    before = state_of(model)
    expected = FAME(model).attribute(images, loss=FeatureLocationLoss(3, 0, 0), n_steps=2)
    for layer in ("layer3", model.layer3):
        result = FAME(model).attribute(images, loss=FeatureLocationLoss(layer, 0, 0), n_steps=2)
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-6)
    wrapped = torch.compile(model, backend="eager")
    result = FAME(wrapped).attribute(images, loss=FeatureLocationLoss(model.layer3, 0, 0), n_steps=2)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("the pass went on")


def test_the_pass_ends_at_the_layer(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Broken())
    _, details = FAME(model).attribute(images, loss=FeatureLocationLoss("0", 2, 5), n_steps=2, return_details=True)
    torch.testing.assert_close(details.loss[:, 0], location_loss(model[0](images), 2, 5))


def test_other_locations_do_not_count(images):
    """A convolution: only the pixels under the kernel change."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    _, details = FAME(model).attribute(images, loss=FeatureLocationLoss("0", 2, 5), n_steps=5, return_details=True)
    changed = (details.perturbed != images).any(1)
    assert changed[:, 2:5, 5:8].any((1, 2)).all()
    changed[:, 2:5, 5:8] = False
    assert not changed.any()


def test_all_locations_in_turn(facnn, images):
    maps = FAME(facnn).feature_locations(images, layer=1, n_steps=3, internal_batch_size=10)
    assert maps.shape == (3, 8, 8, 16, 16)
    for row, col in ((0, 0), (3, 7)):
        single = FAME(facnn).attribute(images, loss=FeatureLocationLoss(1, row, col), n_steps=3)[:, 0]
        torch.testing.assert_close(maps[:, row, col], single, rtol=1e-2, atol=1e-5)
    per_sample = FeatureLocationLoss(1, torch.tensor([0, 3, 0]), torch.tensor([0, 7, 1]))
    single = FAME(facnn).attribute(images, loss=per_sample, n_steps=3)[:, 0]
    torch.testing.assert_close(maps[[0, 1, 2], [0, 3, 0], [0, 7, 1]], single, rtol=1e-2, atol=1e-5)
    for name, value in (("n_steps", 0), ("blur", 4), ("internal_batch_size", 0), ("step_size", -1.0)):
        with pytest.raises(ValueError, match=rf"{name}={value}.*expected"):
            FAME(facnn).feature_locations(images, 1, **{name: value})


def test_one_bar_for_all_locations(facnn, images, capsys):
    FAME(facnn).feature_locations(images[:2], 1, n_steps=2, internal_batch_size=40, show_progress=True)
    assert "8/8" in capsys.readouterr().err
    FAME(facnn).feature_locations(images[:2], 1, n_steps=2, internal_batch_size=40, stop_below=1e9)
    assert capsys.readouterr().err == ""


def test_layer_errors(images, linear):
    model = vit()
    attribute = FAME(model).attribute
    with pytest.raises(ValueError, match=r"row 4 does not fit, expected 0 to 3"):
        attribute(images, loss=FeatureLocationLoss(1, 4, 0))
    with pytest.raises(ValueError, match=r"col -1 does not fit"):
        attribute(images, loss=FeatureLocationLoss(1, 0, -1))
    with pytest.raises(ValueError, match=r"row of shape \(2,\) does not fit, expected 0 to 3, one or 3 of them"):
        attribute(images, loss=FeatureLocationLoss(1, torch.tensor([0, 1]), 0))
    with pytest.raises(ValueError, match=r"layer=2 is out of range, expected -2 to 1"):
        attribute(images, loss=FeatureLocationLoss(2, 0, 0))
    with pytest.raises(ValueError, match=r"layer 'blocks\.1' gives \(3, 17, 12\), expected a feature map .* index"):
        attribute(images, loss=FeatureLocationLoss("blocks.1", 0, 0))
    with pytest.raises(ValueError, match=r"layer 'block' is not in the model"):
        attribute(images, loss=FeatureLocationLoss("block", 0, 0))
    with pytest.raises(ValueError, match=r"layer ReLU is not in the model"):
        attribute(images, loss=FeatureLocationLoss(nn.ReLU(), 0, 0))
    with pytest.raises(TypeError, match="forward_intermediates"):
        FAME(linear).attribute(images, loss=FeatureLocationLoss(0, 0, 0))
    with pytest.raises(TypeError, match="function"):
        FAME(lambda x: x).attribute(images, loss=FeatureLocationLoss("0", 0, 0))
