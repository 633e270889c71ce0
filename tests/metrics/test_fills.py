"""What a removed pixel becomes: absent for networks that encode their images, black in the model's units for others."""

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.transforms import Normalize

from timm_interpretable.attr.smoothing import blurred
from timm_interpretable.metrics import (
    PAPER_REMOVAL,
    Removal,
    black_pixel,
    confidence_change,
    insertion_deletion,
    logit_deletion,
    pixel_removal,
    removal_curves,
    road,
)
from timm_interpretable.metrics.removal import removal_rank

TARGET = torch.tensor([0, 3, 1])
SMALL = dict(channels=(6, 8), strides=(2, 1), kernel_sizes=(3, 3), ranks=(4, 4, 4), temperature=1.0)


@pytest.fixture(scope="module")
def coda_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("coda_net_s", num_classes=4, **SMALL).eval()


@pytest.fixture(scope="module")
def resnet():
    """A model of standardised images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet10t", num_classes=4).eval()


@pytest.fixture
def images(rng):
    return torch.rand(3, 3, 12, 20, generator=rng)


@pytest.fixture
def maps(rng):
    return torch.rand(3, 12, 20, generator=rng)


def of_target(probabilities):
    return probabilities.gather(1, TARGET[:, None])[:, 0]


# --- models that encode their images


@pytest.mark.parametrize("most_important_first", [False, True])
def test_pixels_of_a_coda_net_become_absent(coda_net, images, maps, most_important_first):
    """The mask multiplies the encoded image, and the probability is the sigmoid of the logit."""
    fractions = (0, 0.1, 0.5, 1)
    found = pixel_removal(coda_net, images, maps, TARGET, fractions, most_important_first)
    rank, encoded = removal_rank(maps, most_important_first), coda_net.encoding(images)
    for i, fraction in enumerate(fractions):
        kept = (rank >= round(fraction * 240))[:, None]
        logits = coda_net.forward_head(coda_net.stages(encoded * kept))
        assert_close(found[:, i], of_target(logits.sigmoid()))
    assert_close(found[:, 0], of_target(coda_net(images).sigmoid()))
    assert torch.equal(found, pixel_removal(coda_net, images, maps, TARGET, fractions, most_important_first, "absent"))


def test_absent_is_not_black(coda_net, images, maps):
    """Without any pixel nothing responds: the logit is the bias. Black pixels are an input like any other."""
    absent = logit_deletion(coda_net, images, maps, TARGET, (1,))[:, 0]
    assert_close(absent, of_target(coda_net(images)) - coda_net.logit_bias)
    black = logit_deletion(coda_net, images, maps, TARGET, (1,), fill="black")[:, 0]
    assert_close(black, of_target(coda_net(images) - coda_net(torch.zeros_like(images))))
    assert (absent - black).abs().min() > 1e-3


def test_other_fills_change_the_image_before_it_is_encoded(coda_net, images, maps):
    predict = lambda x: coda_net(x).sigmoid()  # noqa: E731
    for fill, same in (("black", 0.0), (0.5, 0.5), ("mean", "mean"), ("blur", "blur")):
        assert_close(
            pixel_removal(coda_net, images, maps, TARGET, fill=fill),
            pixel_removal(predict, images, maps, TARGET, fill=same),
        )


def test_insertion_into_an_absent_image(coda_net, images, maps):
    found = insertion_deletion(coda_net, images, maps, TARGET, 4)
    whole, nothing = of_target(coda_net(images).sigmoid()), torch.tensor(coda_net.logit_bias).sigmoid().expand(3)
    assert_close(found.insertion[:, [0, -1]], torch.stack([nothing, whole], 1))
    assert_close(found.deletion[:, [0, -1]], torch.stack([whole, nothing], 1))
    blurry = insertion_deletion(coda_net, images, maps, TARGET, 4, start="blur")
    assert_close(blurry.insertion[:, 0], of_target(coda_net(blurred(images)).sigmoid()))


def test_road_imputes_the_image(coda_net, images, maps):
    predict = lambda x: coda_net(x).sigmoid()  # noqa: E731
    assert_close(road(coda_net, images, maps, TARGET), road(predict, images, maps, TARGET))


def test_an_image_is_encoded_once(coda_net, images, maps, monkeypatch):
    calls, encode = [], coda_net.encoding.forward
    monkeypatch.setattr(coda_net.encoding, "forward", lambda x: calls.append(len(x)) or encode(x))
    pixel_removal(coda_net, images, maps, TARGET, batch_size=2)
    assert sum(calls) == 3


def test_a_wrapped_model_is_its_module(coda_net, images, maps):
    wrapped = nn.DataParallel(coda_net)
    assert Removal(wrapped).name == "absent"
    curve = pixel_removal(wrapped, images, maps, TARGET, (0, 0.5))
    assert_close(curve, pixel_removal(coda_net, images, maps, TARGET, (0, 0.5)))


def test_the_papers_protocol():
    """128 points from nothing to a quarter, equally far apart."""
    points = torch.tensor(PAPER_REMOVAL, dtype=torch.float64)
    assert len(points) == 128
    assert_close(points, torch.linspace(0, 0.25, 128, dtype=torch.float64))


# --- models that do not


def test_black_is_a_black_pixel_in_the_units_of_the_model(resnet, images, maps):
    config = resnet.pretrained_cfg
    black = Normalize(config["mean"], config["std"])(torch.zeros(3, 1, 1))
    assert_close(black_pixel(resnet), black)
    assert (black < -1).all()
    predict = lambda x: resnet(x).softmax(1)  # noqa: E731
    found = pixel_removal(resnet, images, maps, TARGET)
    assert_close(found, pixel_removal(predict, images, maps, TARGET, fill=black))
    assert torch.equal(found, pixel_removal(resnet, images, maps, TARGET, fill="black"))
    assert (found - pixel_removal(predict, images, maps, TARGET)).abs().max() > 1e-3  # zero is the mean colour


def test_a_model_without_a_configuration_sees_black_as_zero(facnn):
    assert torch.equal(black_pixel(facnn), torch.zeros(3, 1, 1))
    assert torch.equal(black_pixel(nn.Flatten(), 5), torch.zeros(5, 1, 1))


def test_black_of_another_number_of_channels(resnet, images):
    with pytest.raises(ValueError, match="configured for 3 channels, and the images have 1"):
        black_pixel(resnet, 1)
    grey = nn.Sequential(nn.Flatten(), nn.Linear(240, 4)).eval()
    grey.pretrained_cfg = dict(mean=(0.5,), std=(0.25,))
    assert black_pixel(grey, 1).item() == -2
    curve = logit_deletion(grey, images[:, :1], images[:, 0], TARGET, (1,))[:, 0]
    assert_close(curve, of_target(grey(images[:, :1]) - grey(torch.full((3, 1, 12, 20), -2.0))))


def test_everything_is_deleted_in_the_end_whatever_the_order(facnn, rng):
    images = torch.rand(3, 3, 16, 16, generator=rng)
    wanted = of_target(facnn(images) - facnn(torch.zeros_like(images)))
    for seed in range(3):
        maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))
        assert_close(logit_deletion(facnn, images, maps, TARGET)[:, -1], wanted)


def test_probabilities_of_a_module_are_its_softmax(facnn, rng):
    images = torch.rand(3, 3, 16, 16, generator=rng)
    curves = removal_curves(facnn, images, images, TARGET, (0,))
    assert_close(curves.probability[:, 0], of_target(facnn(images).softmax(1)))


# --- functions, and every fill


def test_functions_keep_their_units(images, maps):
    seen = []

    def predict(x):
        seen.append(x)
        return torch.zeros(len(x), 4)

    wanted = {
        0.25: torch.full_like(images, 0.25),
        None: torch.zeros_like(images),
        "mean": images.mean((2, 3), keepdim=True).expand_as(images),
        "blur": blurred(images),
    }
    for fill, shown in wanted.items():
        pixel_removal(predict, images, maps, TARGET, (1,), fill=fill, batch_size=2)
        assert_close(torch.cat(seen[-2:]), shown)
    assert [Removal(predict, fill).name for fill in wanted] == ["given", "given", "mean", "blur"]


def test_the_steps_of_a_removal(coda_net, resnet, images, maps):
    """What is documented for those who alter pixels themselves."""
    removed = removal_rank(maps, True) < 60
    for model in (coda_net, resnet):
        removal = Removal(model)
        altered = torch.where(removed[:, None], removal.shown(images), removal.seen(images))
        with torch.no_grad():
            found = of_target(removal.classify(altered))
        assert_close(found, pixel_removal(model, images, maps, TARGET, (0.25,), True)[:, 0])


@pytest.mark.parametrize("name", ["coda_net", "resnet"])
def test_a_map_of_zeros_and_ones_darkens_what_removal_removes(name, images, maps, request):
    model = request.getfixturevalue(name)
    shown = (removal_rank(maps, True) < 60).float()
    found = confidence_change(model, images, shown, TARGET)
    assert_close(found.before, pixel_removal(model, images, shown, TARGET, (0,))[:, 0])
    assert_close(found.after, pixel_removal(model, images, shown, TARGET, (0.75,))[:, 0])


@pytest.mark.parametrize("metric", [pixel_removal, logit_deletion, insertion_deletion, confidence_change])
def test_what_is_refused(coda_net, resnet, images, maps, metric):
    predict = lambda x: resnet(x).softmax(1)  # noqa: E731
    with pytest.raises(ValueError, match="fill='absent' is for modules that encode their images, and ResNet does not"):
        metric(resnet, images, maps, TARGET, fill="absent")
    for fill in ("absent", "black"):
        with pytest.raises(ValueError, match=f"fill='{fill}' is for modules"):
            metric(predict, images, maps, TARGET, fill=fill)
    with pytest.raises(ValueError, match="fill='grey', expected 'absent', 'black', 'mean', 'blur', a number"):
        metric(coda_net, images, maps, TARGET, fill="grey")
    with pytest.raises(ValueError, match=r"fill \(4, 1, 1, 1\) does not fit images \(3, 3, 12, 20\)"):
        metric(coda_net, images, maps, TARGET, fill=torch.zeros(4, 1, 1, 1), batch_size=1)
    with pytest.raises(TypeError, match="Tensor cannot be called"):
        metric(images, images, maps, TARGET)
    with pytest.raises(ValueError, match=r"target is torch\.float32, expected torch\.int64"):
        metric(coda_net, images, maps, TARGET.float())


@pytest.mark.parametrize("metric", [pixel_removal, logit_deletion, insertion_deletion, confidence_change, road])
def test_outputs_and_targets_that_do_not_fit(images, maps, metric):
    for outputs in (lambda x: x.mean((1, 2, 3)), lambda x: x.mean((1, 2))[:2], lambda x: [x]):
        with pytest.raises(ValueError, match=r"the model gives .* for \d+ images, expected \(\d+, K\)"):
            metric(outputs, images, maps, TARGET)
    for target in (torch.tensor([0, 3, 9]), torch.tensor([0, -1, 1])):
        with pytest.raises(ValueError, match="target reaches from"):
            metric(lambda x: torch.zeros(len(x), 4), images, maps, target)
