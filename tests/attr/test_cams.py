"""Grad-CAM and HiResCAM without hooks: pytorch-grad-cam's and Captum's, and the contract of all attributions."""

import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as TheirGradCAM, HiResCAM as TheirHiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from test_captum_contract import AttributionContract
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from timm_interpretable.attr import GradCAM, HiResCAM
from timm_interpretable.attr.cams import grad_cam

TARGETS = torch.tensor([0, 3, 4])


class CAMContract(AttributionContract):
    @pytest.fixture
    def model(self, facnn):
        return facnn

    def shape(self, images):
        return torch.Size([len(images), 1, 4, 4])


class TestGradCAM(CAMContract):
    method = GradCAM


class TestHiResCAM(CAMContract):
    method = HiResCAM


@pytest.fixture
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(4, 6, 8, 10), zero_init_last=False).eval()


@pytest.fixture
def large(rng):
    return torch.rand(3, 3, 64, 96, generator=rng)


@pytest.mark.parametrize(("ours", "theirs"), [(GradCAM, TheirGradCAM), (HiResCAM, TheirHiResCAM)])
def test_agrees_with_pytorch_grad_cam(resnet, large, ours, theirs):
    targets = [ClassifierOutputTarget(k) for k in TARGETS.tolist()]
    with theirs(resnet, [resnet.layer4[-1]]) as cam:
        cam(large, targets)
        (activations,), (gradients,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        expected = cam.get_cam_image(large, resnet.layer4[-1], targets, activations.numpy(), gradients.numpy(), False)
    found = ours(resnet).attribute(large, TARGETS)
    assert found.shape == (3, 1, 2, 3)
    torch.testing.assert_close(found[:, 0].relu(), torch.from_numpy(expected).relu(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("relu", [False, True])
def test_agrees_with_captum(resnet, large, relu):
    expected = LayerGradCam(resnet, resnet.layer4).attribute(large, TARGETS, relu_attributions=relu)
    found = GradCAM(resnet).attribute(large, TARGETS, relu_attributions=relu)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-7)
    assert (found.min() < 0) != relu


def test_signs(resnet, large):
    assert GradCAM(resnet).attribute(large, TARGETS).min() >= 0
    signed = HiResCAM(resnet).attribute(large, TARGETS)
    assert signed.min() < 0 < signed.max()
    torch.testing.assert_close(HiResCAM(resnet).attribute(large, TARGETS, relu_attributions=True), signed.relu())


def test_hires_cam_adds_up_to_the_logit_less_its_bias(resnet, large):
    logits = resnet(large).gather(1, TARGETS[:, None])[:, 0].detach()
    maps = HiResCAM(resnet).attribute(large, TARGETS)
    torch.testing.assert_close(maps.sum((1, 2, 3)), logits - resnet.fc.bias[TARGETS].detach(), rtol=1e-4, atol=1e-6)


def test_features_with_the_channels_last(rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SwinTransformer(
            img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=5
        ).eval()
    x = torch.rand(3, 3, 32, 32, generator=rng)
    maps = HiResCAM(model).attribute(x, TARGETS)
    assert maps.shape == (3, 1, 8, 8)
    features = model.forward_features(x)
    (grad,) = torch.autograd.grad(model.forward_head(features).gather(1, TARGETS[:, None]).sum(), features)
    torch.testing.assert_close(maps[:, 0], (grad * features).sum(3).detach(), rtol=1e-4, atol=1e-6)


class InPlaceHead(nn.Module):
    """Keeps what it is given, and works in place on it; both are allowed."""

    num_features, num_classes = 3, 3

    def forward_features(self, x):
        return x

    def forward_head(self, x):
        return x.relu_().mean((2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_head_may_work_in_place(images, context):
    kept = images.clone()
    with context():
        maps = HiResCAM(InPlaceHead()).attribute(images.clone(), 1)
    torch.testing.assert_close(maps[:, 0], images[:, 1].relu() / 256)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("training", [False, True])
def test_grad_cam_of_any_score(resnet, large, training):
    resnet.train(training)
    reference = torch.randn(3, 5)
    maps = grad_cam(resnet, large, lambda outputs: F.cosine_similarity(outputs, reference))
    assert resnet.training == training
    features = resnet.eval().forward_features(large)
    score = F.cosine_similarity(resnet.forward_head(features), reference)
    for i in range(3):
        (grad,) = torch.autograd.grad(score[i], features, retain_graph=True)
        expected = (grad[i].mean((1, 2))[:, None, None] * features[i]).sum(0).relu()
        torch.testing.assert_close(maps[i, 0], expected.detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"The score gives \(3, 5\), expected one number per image, \(3,\)"):
        grad_cam(resnet, large, lambda outputs: outputs)


def test_models_without_a_feature_map():
    model = timm.create_model("test_vit").eval()
    with pytest.raises(ValueError, match=r"need a feature map \(B, 64, h, w\) .* got \(1, 101, 64\): .*target_layers"):
        GradCAM(model).attribute(torch.rand(1, 3, 160, 160), 0)
    with pytest.raises(TypeError, match=r"function cannot be explained: expected a model with .*forward_features"):
        GradCAM(lambda x: x)
