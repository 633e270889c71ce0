import pytest
import timm
import torch
from captum.attr import InputXGradient, IntegratedGradients, Occlusion

from timm_interpretable.attr import ClassMap, InputContribution
from timm_interpretable.metrics import COSTLY, comparison_methods, grid_report, occlusion, removal_report

SMALL = dict(channels=(6, 8), strides=(2, 1), kernel_sizes=(3, 3), ranks=(4, 4, 4), temperature=1.0)
CLASSES = torch.tensor([[1, 0, 2], [3, 3, 1]])


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def coda_net():
    torch.manual_seed(0)
    return timm.create_model("coda_net_s", num_classes=4, **SMALL).eval()


@pytest.fixture(scope="module")
def facnn():
    torch.manual_seed(0)
    return timm.create_model("facnn_resnet18", num_classes=4).eval()


def encoded(model):
    return lambda x: model.forward_head(model.stages(x))


def test_own_maps(coda_net, facnn, images):
    maps = comparison_methods(coda_net)["contributions"](images, CLASSES)
    assert maps.shape == (2, 3, 12, 14)
    for i in range(3):
        wanted = InputContribution(coda_net).attribute(images, CLASSES[:, i]).sum(1)
        torch.testing.assert_close(maps[:, i], wanted, rtol=1e-4, atol=1e-6)
    big = torch.rand(2, 3, 32, 32)
    wanted = ClassMap(facnn).attribute(big, target=CLASSES[:, 1], contrast=True).sum(1)
    torch.testing.assert_close(comparison_methods(facnn)["class map, contrast"](big, CLASSES)[:, 1], wanted)


def test_gradients_are_captums_on_the_encoded_image(coda_net, images):
    x, black = coda_net.encoding(images), coda_net.encoding(torch.zeros_like(images))
    methods = comparison_methods(coda_net, n_steps=4)
    plain, path = InputXGradient(encoded(coda_net)), IntegratedGradients(encoded(coda_net))
    for i in range(3):
        target = CLASSES[:, i]
        wanted = plain.attribute(x, target).sum(1)
        torch.testing.assert_close(methods["input x gradient"](images, CLASSES)[:, i], wanted, rtol=1e-4, atol=1e-6)
        wanted = path.attribute(x, black, target, n_steps=4, method="riemann_middle").sum(1).float()
        torch.testing.assert_close(methods["integrated gradients"](images, CLASSES)[:, i], wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_model_without_an_encoding(images):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(480, 4))
    wanted = InputXGradient(model).attribute(images, CLASSES[:, 2]).sum(1)
    maps = comparison_methods(model)["input x gradient"](images, CLASSES)
    torch.testing.assert_close(maps[:, 2], wanted)


def test_occlusion_is_captums(coda_net, images):
    fitting = images[..., :11, :13]  # Captum lets the last square reach over the border
    maps = occlusion(coda_net, fitting, CLASSES, size=3, stride=2)
    for i in range(3):
        wanted = Occlusion(coda_net).attribute(fitting, (3, 3, 3), (3, 2, 2), 0.0, CLASSES[:, i])[:, 0]
        torch.testing.assert_close(maps[:, i], wanted, rtol=1e-3, atol=1e-6)
    assert occlusion(coda_net, images, CLASSES, size=3, stride=2).isfinite().all()
    with pytest.raises(ValueError, match="size=13 is out of range, expected 1 to 12"):
        occlusion(coda_net, images, CLASSES, size=13)
    for stride in (0, 4):
        with pytest.raises(ValueError, match=f"stride={stride} is out of range, expected 1 to 3"):
            occlusion(coda_net, images, CLASSES, size=3, stride=stride)


def test_reports():
    """A model that sees the mean colour: its class is the brightest channel, which every method finds."""
    labels = torch.arange(60) % 4
    images = 0.1 * torch.rand(60, 4, 3, 3) + torch.eye(4)[labels][:, :, None, None]
    model = lambda x: x.mean((2, 3)) * 20  # noqa: E731
    perfect = lambda x, classes: x.gather(1, classes[:, :, None, None].expand(-1, -1, *x.shape[2:])) - 0.5  # noqa: E731
    methods = {"perfect": perfect, "flat": lambda x, classes: torch.ones(*classes.shape, *x.shape[2:])}
    report = grid_report(methods, images, labels, model(images).softmax(1), dict(perfect=10, flat=5), side=2)
    assert report["perfect"] == pytest.approx(dict(grids=10, mean=1, median=1, sem=0), abs=1e-6)
    assert report["flat"] == pytest.approx(dict(grids=5, mean=0.25, median=0.25, sem=0), abs=1e-6)
    removal = removal_report(methods, lambda x: model(x).softmax(1), images, labels, batch_size=7)
    assert removal["flat"]["images"] == 60
    assert removal["flat"]["area"] == pytest.approx(sum(removal["flat"]["curve"]) / 21)
    assert removal["flat"]["curve"][0] > removal["flat"]["curve"][-1]


def test_costly_methods_exist(coda_net):
    assert set(COSTLY) < set(comparison_methods(coda_net))
