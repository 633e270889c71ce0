"""On real images: what other libraries compute about our attributions, and the same metrics as they have them."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from captum.metrics import infidelity, sensitivity_max
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst, ROADMostRelevantFirst
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch.utils.data import Subset

from timm_interpretable.attr import ClassMap, InputContribution
from timm_interpretable.attr.maps import maps_of
from timm_interpretable.data.boxes import box_mask, load_boxes
from timm_interpretable.data.datasets import open_split
from timm_interpretable.data.images import squash_transform
from timm_interpretable.metrics import (
    confidence_change,
    energy_in_box,
    pixel_removal,
    pointing_game,
    removal_curves,
    road,
    unit_range,
)
from timm_interpretable.metrics.removal import removal_rank

DATA = os.environ.get("TIMM_INTERPRETABLE_DATA")
FOLDER = Path(DATA or "") / "imagenette224"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "boxed.tar").is_file(), reason="TIMM_INTERPRETABLE_DATA names no folder with imagenette224/boxed.tar"
)
SIZE = 96
MODELS = {"facnn_resnet18.imagenette": ClassMap, "coda_net_m.imagenette": InputContribution}


@pytest.fixture(scope="module")
def boxed():
    """Four images of different classes with their classes and the masks of their boxes."""
    images, _ = open_split(FOLDER, "boxed", squash_transform((SIZE, SIZE), (0, 0, 0), (1, 1, 1)))
    some = Subset(images, range(0, len(images), 70))
    boxes = load_boxes(FOLDER / "boxed_boxes.csv")
    names = [images.reader.filename(i) for i in some.indices]
    masks = torch.stack([box_mask(boxes[name], SIZE, SIZE, SIZE / 224) for name in names])
    return torch.stack([x for x, _ in some]), torch.tensor([label for _, label in some]), masks


@pytest.fixture(scope="module")
def facnn():
    return timm.create_model("facnn_resnet18.imagenette", pretrained=True).eval()


def probabilities(model):
    return lambda x: model(x).softmax(1)


@pytest.fixture(scope="module")
def ranked(boxed, facnn):
    """Maps in [0, 1] in which no two pixels are equal, since every library breaks ties in its own way."""
    images, target, _ = boxed
    return removal_rank(maps_of(ClassMap(facnn), images, target), False).double() / (SIZE**2 - 1)


# --- Captum


@pytest.mark.parametrize("name", MODELS)
def test_captums_infidelity(boxed, name):
    """Equation 3 of Yeh et al. (2019): the mean of the squared error of the attribution as a linear model."""
    images, target, _ = boxed
    model = timm.create_model(name, pretrained=True).eval()
    maps = MODELS[name](model).attribute(images, target=target)
    noise = 0.05 * torch.randn(3, *images.shape, generator=torch.Generator().manual_seed(0))
    left = [part for image in range(len(images)) for part in noise[:, image]]

    def perturb(x):  # Captum hands over every image several times in a row
        delta = torch.stack([left.pop(0) for _ in x])
        return delta, x - delta

    found = infidelity(model, perturb, images, maps, target=target, n_perturb_samples=3)
    with torch.no_grad():
        logit = lambda x: model(x).gather(1, target[:, None])[:, 0]  # noqa: E731
        errors = [((d * maps).flatten(1).sum(1) - (logit(images) - logit(images - d))) ** 2 for d in noise]
    torch.testing.assert_close(found, torch.stack(errors).mean(0), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_captums_sensitivity(boxed, name):
    """Definition 2 there: the largest relative change of the map in a ball around the image."""
    images, target, _ = boxed
    model = timm.create_model(name, pretrained=True).eval()
    method, seen = MODELS[name](model), []

    def perturb(x, radius):
        moved = x + radius * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1)
        seen.append(moved)
        return moved

    found = sensitivity_max(method.attribute, images, perturb, n_perturb_samples=2, target=target)
    before = method.attribute(images, target=target).flatten(1)
    moved = torch.cat(seen).unflatten(0, (len(images), 2))
    changes = [(method.attribute(x, target=target).flatten(1) - before).norm(dim=1) for x in moved.unbind(1)]
    torch.testing.assert_close(found, torch.stack(changes).amax(0) / before.norm(dim=1), rtol=1e-3, atol=1e-5)
    assert (found > 0).all()


# --- pytorch-grad-cam


@pytest.mark.parametrize(("theirs", "most"), [(ROADMostRelevantFirst, True), (ROADLeastRelevantFirst, False)])
def test_road(boxed, facnn, ranked, theirs, most):
    images, target, _ = boxed
    targets = [ClassifierOutputSoftmaxTarget(label) for label in target.tolist()]
    metric = theirs(30)
    metric.perturbation.imputer.noise = 0
    wanted = metric(images, ranked.numpy(), targets, facnn)
    shown = ranked[0].numpy() if most else 1 - ranked[0].numpy()
    share = float((shown >= np.percentile(shown, 30)).mean())
    curve = road(probabilities(facnn), images, ranked, target, (0, share), most, noise=0, tolerance=1e-4)
    torch.testing.assert_close(curve[:, 1] - curve[:, 0], torch.from_numpy(wanted), atol=1e-3, rtol=0)
    assert curve.diff(dim=1).abs().max() > 0.01


def test_confidence(boxed, facnn):
    images, target, _ = boxed
    maps = maps_of(ClassMap(facnn), images, target)
    targets = [ClassifierOutputSoftmaxTarget(label) for label in target.tolist()]
    shown = unit_range(maps).numpy()
    found = confidence_change(probabilities(facnn), images, maps, target, batch_size=3)
    drop = torch.from_numpy(DropInConfidence()(images, shown[:, None], targets, facnn))
    torch.testing.assert_close(found.drop * found.before, drop, atol=1e-5, rtol=0)
    increase = torch.from_numpy(IncreaseInConfidence()(images, shown[:, None], targets, facnn))
    assert torch.equal(found.increase.float(), increase)
    assert found.drop.max() > 0.01


# --- Quantus, which test environments have and users need not


def quantus_scores(name, model, boxed, maps, masks=None, **options):
    quantus = pytest.importorskip("quantus")
    images, target, _ = boxed
    metric = getattr(quantus, name)(normalise=False, disable_warnings=True, **options)
    scores = metric(
        model=model, x_batch=images.numpy(), y_batch=target.numpy(), a_batch=maps[:, None].numpy(),
        s_batch=None if masks is None else masks[:, None].numpy(), channel_first=True, device="cpu",
    )  # fmt: skip
    return torch.as_tensor(np.array(scores))


def test_quantus_pixel_flipping(boxed, facnn, ranked):
    """Deletion in nine steps; a pixel is three features there, one after the other."""
    images, target, _ = boxed
    wanted = quantus_scores(
        "PixelFlipping", facnn, boxed, ranked, features_in_step=3 * SIZE**2 // 9, perturb_baseline=0.0
    )
    ninths = [i / 9 for i in range(1, 10)]
    curve = pixel_removal(probabilities(facnn), images, ranked, target, ninths, most_important_first=True)
    torch.testing.assert_close(curve.double(), wanted.double(), atol=1e-5, rtol=0)
    assert curve.std(1).max() > 0.01


def test_quantus_pointing_game_and_mass_accuracy(boxed, facnn, ranked):
    *_, masks = boxed
    hits = quantus_scores("PointingGame", facnn, boxed, ranked, masks)
    assert torch.equal(pointing_game(ranked, masks), hits.bool())
    mass = quantus_scores("RelevanceMassAccuracy", facnn, boxed, ranked, masks)
    torch.testing.assert_close(energy_in_box(ranked, masks), mass, atol=1e-6, rtol=0)


def test_accuracy_is_that_of_the_model(boxed, facnn, ranked):
    images, target, _ = boxed
    curves = removal_curves(probabilities(facnn), images, ranked, target, (0, 0.5))
    with torch.no_grad():
        assert torch.equal(curves.correct[:, 0], facnn(images).argmax(1) == target)
