"""Our CAMs without hooks are pytorch-grad-cam's."""

import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from timm_interpretable.metrics import grad_cam, hires_cam


@pytest.mark.parametrize(("ours", "theirs"), [(grad_cam, GradCAM), (hires_cam, HiResCAM)])
def test_agrees_with_pytorch_grad_cam(ours, theirs):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5).eval()
    x, target = torch.rand(3, 3, 64, 64), torch.tensor([0, 3, 4])
    targets = [ClassifierOutputTarget(k) for k in target.tolist()]
    with theirs(model, [model.layer4[-1]]) as cam:
        cam(x, targets)
        (activations,), (gradients,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        expected = cam.get_cam_image(x, model.layer4[-1], targets, activations.numpy(), gradients.numpy(), False)
    found = ours(model, x, target)
    assert found.shape == (3, 2, 2)
    torch.testing.assert_close(found.relu(), torch.from_numpy(expected).relu(), rtol=1e-4, atol=1e-7)
