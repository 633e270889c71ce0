"""Maps given as a function or an attribution that needs gradients, also where the caller has switched them off."""

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from timm_interpretable.attr.maps import maps_by_class, maps_of
from timm_interpretable.metrics import (
    confidence_change,
    grid_localisation,
    insertion_deletion,
    logit_deletion,
    pixel_removal,
    removal_curves,
    road,
)

TARGET = torch.tensor([0, 3, 1])
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
METRICS = {
    "pixel removal": lambda *args: pixel_removal(*args, batch_size=2),
    "removal curves": lambda *args: removal_curves(*args).probability,
    "logit deletion": logit_deletion,
    "insertion": lambda *args: insertion_deletion(*args, n_steps=3, batch_size=2).insertion,
    "deletion": lambda *args: insertion_deletion(*args, n_steps=3).deletion,
    "ROAD": lambda *args: road(*args, fractions=(0.2, 0.6), tolerance=1e-5),
    "confidence": lambda *args: confidence_change(*args, batch_size=2).drop,
}  # fmt: skip


def by_autograd(model):
    def maps(x, target):
        x.requires_grad_()
        score = model(x).gather(1, target[:, None]).sum()
        return x * torch.autograd.grad(score, x)[0]

    return maps


def by_pytorch_grad_cam(model):
    def maps(x, target):
        with GradCAM(model, [model.stages[-1]]) as cam:
            return torch.from_numpy(cam(x, [ClassifierOutputTarget(c) for c in target.tolist()]))

    return maps


SOURCES = {
    "autograd": by_autograd,
    "pytorch-grad-cam": by_pytorch_grad_cam,
    "Captum": InputXGradient,
    "a function of Captum's": lambda model: lambda x, target: Saliency(model).attribute(x, target, abs=False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_that_of_the_same_maps_as_a_tensor(facnn, images, metric, source, mode):
    maps = SOURCES[source](facnn)
    with torch.enable_grad():
        given = maps_of(maps, images.clone(), TARGET)
    assert given.std() > 0
    with mode():
        found = METRICS[metric](facnn, images, maps, TARGET)
    torch.testing.assert_close(found, METRICS[metric](facnn, images, given, TARGET), rtol=1e-3, atol=1e-4)
    assert not found.requires_grad
    assert not images.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_grids_take_maps_that_need_gradients(facnn, rng, mode):
    images, classes = torch.rand(2, 4, 3, 16, 12, generator=rng), torch.arange(4).expand(2, 4)
    with mode():
        found = grid_localisation(maps_by_class(by_autograd(facnn)), images, classes)
    captum = grid_localisation(maps_by_class(lambda x, t: InputXGradient(facnn).attribute(x, t)), images, classes)
    torch.testing.assert_close(found, captum)
