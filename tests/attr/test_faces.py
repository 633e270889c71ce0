"""Maps of pairs of faces by every method: their promises on a network that is understood, and on a small random one."""

import pytest
import timm
import torch
import torch.nn.functional as F

from timm_interpretable.metrics import FaceMaps, face_methods, grad_cam, verification_report

NAMES = ["FAME", "CorrRISE", "Grad-CAM", "random"]


class LeftAndRight(torch.nn.Module):
    """Embeds an image as the means of its left and of its right half; a timm model in what the methods use of it."""

    num_features = 2

    def forward_features(self, x):
        half = x.shape[-1] // 2
        zero = torch.zeros_like(x[..., :half])
        return torch.cat([torch.cat([x[..., :half], zero], -1), torch.cat([zero, x[..., half:]], -1)], 1)

    def forward_head(self, features):
        return features.mean((2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def pairs(rng):
    """Four images, and references that are alike in the left half alone."""
    return 0.5 + 0.1 * torch.rand(4, 1, 24, 20, generator=rng), torch.tensor([[1.0, 0.0]]).expand(4, -1)


@pytest.fixture(params=NAMES)
def method(request):
    return request.param


def test_maps_have_the_size_of_the_probes_and_no_negative_value(method, pairs):
    probes, references = pairs
    genuine = torch.tensor([True, True, False, False])
    torch.manual_seed(0)
    model = timm.create_model("face_resnet10").eval()
    references = torch.randn(4, model.num_features)
    maps = face_methods(model, n_steps=3, n_masks=8)[method](probes, references, genuine)
    for one in maps:
        assert one.shape == (4, 24, 20)
        assert one.isfinite().all()
        assert one.min() >= 0


@pytest.mark.parametrize("name", ["CorrRISE", "Grad-CAM"])
def test_what_is_alike_lies_left_and_what_differs_right(name, pairs):
    similar, dissimilar = face_methods(LeftAndRight(), n_masks=200)[name](*pairs, torch.ones(4, dtype=torch.bool))
    assert similar[..., :8].sum() > 5 * similar[..., 12:].sum()
    assert dissimilar[..., 12:].sum() > 5 * dissimilar[..., :8].sum()


def test_fame_lowers_and_raises_the_similarity_and_stops_where_the_pair_is_genuine(pairs):
    probes, references = pairs
    genuine = torch.tensor([True, False, True, False])
    # alike already: towards its own kind a genuine pair has nothing to do, an impostor goes all the way
    probes = torch.cat([probes[..., :10], torch.zeros(4, 1, 24, 10)], -1)
    maps = face_methods(LeftAndRight(), n_steps=5)["FAME"](probes, references, genuine)
    assert (maps.dissimilar[genuine] == 0).all()
    moved = probes.clone()
    moved[..., 10:] = 0.1
    maps = face_methods(LeftAndRight(), n_steps=5)["FAME"](moved, references, genuine)
    assert (maps.dissimilar.flatten(1).amax(1) > 0).all()
    assert (maps.similar.flatten(1).amax(1) > 0).all()


def test_masks_and_chance_follow_the_seed(pairs):
    genuine = torch.ones(4, dtype=torch.bool)
    for name in ("CorrRISE", "random"):
        first, again, other = (
            face_methods(LeftAndRight(), n_masks=20, seed=seed)[name](*pairs, genuine).similar for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_grad_cam_of_the_cosine_is_grad_cam_by_definition(pairs):
    probes, references = pairs
    torch.manual_seed(0)
    model = timm.create_model("face_resnet10").eval()
    references = torch.randn(4, model.num_features)
    cam = grad_cam(model, probes, lambda outputs: F.cosine_similarity(outputs, references))
    features = model.forward_features(probes)
    score = F.cosine_similarity(features.mean((2, 3)), references)
    for i in range(4):
        (grad,) = torch.autograd.grad(score[i], features, retain_graph=True)
        expected = (grad[i].mean((1, 2))[:, None, None] * features[i]).sum(0).relu()
        torch.testing.assert_close(cam[i], expected, rtol=1e-4, atol=1e-6)


def test_report(pairs):
    probes, references = pairs
    genuine = torch.tensor([True, True, False, False])
    methods = face_methods(LeftAndRight(), n_steps=3, n_masks=50)
    report = verification_report(LeftAndRight(), methods, probes, references, genuine, 0.8, batch_size=3)
    assert list(report) == NAMES
    for row in report.values():
        for rule in ("ties", "strict"):
            for kind in ("deletion", "insertion"):
                assert 0 <= row[rule][kind] <= 100
                assert len(row[rule]["curves"][kind]) == 11
        assert row["seconds"] > 0
    # hiding what is alike makes them less so, hiding what differs more
    for name in ("CorrRISE", "Grad-CAM"):
        assert all(change < -0.01 for change in report[name]["change"]["similar"].values())
        assert all(change > 0.01 for change in report[name]["change"]["dissimilar"].values())


def test_report_counts_empty_maps(pairs):
    probes, references = pairs
    genuine = torch.tensor([True, False, False, False])
    nothing = {"nothing": lambda x, other, same: FaceMaps(torch.zeros(4, 24, 20), torch.ones(4, 24, 20))}
    row = verification_report(LeftAndRight(), nothing, probes, references, genuine, 0.8)["nothing"]
    assert row["empty"] == {
        "similar": {"genuine": 1, "impostor": 3},
        "dissimilar": {"genuine": 0, "impostor": 0},
    }
