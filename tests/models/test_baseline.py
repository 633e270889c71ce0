"""The baseline is timm's network under a name of its own."""

import timm
import torch

import timm_interpretable  # noqa: F401  registers the models


def test_it_is_timms_resnet18() -> None:
    ours = timm.create_model("baseline_resnet18").eval()
    theirs = timm.create_model("resnet18", num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))
    assert ours.pretrained_cfg["input_size"] == (3, 192, 192)
    assert timm.create_model("baseline_resnet18.cifar10").pretrained_cfg["input_size"] == (3, 32, 32)
    assert timm.create_model("baseline_resnet18", num_classes=3).num_classes == 3
