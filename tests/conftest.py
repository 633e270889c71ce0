import pytest
import timm
import torch

import timm_interpretable  # noqa: F401  registers the models

torch.set_num_threads(1)


def randomise_norms(model: torch.nn.Module, rng: torch.Generator) -> torch.nn.Module:
    """BatchNorm as after some training: fresh statistics would hide a pass in the wrong mode or a missing one."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=rng))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=rng))
            module.weight.data.copy_(0.5 + torch.rand(module.weight.shape, generator=rng))
            module.bias.data.copy_(0.2 * torch.randn(module.bias.shape, generator=rng))
    return model


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_facnn(rng):
    """Factory of small random FA-CNNs: five classes, two channels left over, 4x4 penultimate maps for 16x16 images.

    Every size is pinned, so that a change of the released architecture does not change what is tested here.
    """

    def make(**kwargs) -> torch.nn.Module:
        args = dict(
            num_classes=5, trunk_width=27, stem_stride=2, layers=(1, 2, 1, 1), branch_widths=(8, 8, 8, 8),
            branch="bottleneck", pools=(1,), alpha=0.2, skip="convex",
            output="softmax", centred=False, signed_blocks=0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model("facnn_resnet18", **{**args, **kwargs})
        return randomise_norms(model, rng).eval()

    return make


@pytest.fixture
def facnn(make_facnn):
    return make_facnn()


@pytest.fixture
def images(rng):
    return torch.rand(3, 3, 16, 16, generator=rng)
