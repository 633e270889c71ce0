"""Maps of pairs of faces by every method: their promises on a network that is understood, and on a small random one."""

import pytest
import timm
import torch

from timm_interpretable.attr.faces import face_methods

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
    maps = face_methods(model, n_steps=3, n_samples=8)[method](probes, references, genuine)
    for one in maps:
        assert one.shape == (4, 24, 20)
        assert one.isfinite().all()
        assert one.min() >= 0


@pytest.mark.parametrize("name", ["CorrRISE", "Grad-CAM"])
def test_what_is_alike_lies_left_and_what_differs_right(name, pairs):
    similar, dissimilar = face_methods(LeftAndRight(), n_samples=200)[name](*pairs, torch.ones(4, dtype=torch.bool))
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
            face_methods(LeftAndRight(), n_samples=20, seed=seed)[name](*pairs, genuine).similar for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_batch_size_bounds_a_pass_and_changes_nothing(pairs):
    sizes = []

    class Noting(LeftAndRight):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    genuine = torch.ones(4, dtype=torch.bool)
    for name in ("FAME", "CorrRISE"):
        expected = face_methods(LeftAndRight(), n_steps=3, n_samples=20)[name](*pairs, genuine)
        for size in (3, 10):
            sizes.clear()
            found = face_methods(Noting().eval(), n_steps=3, n_samples=20, batch_size=size)[name](*pairs, genuine)
            assert max(sizes) <= size
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="batch_size=0 is out of range"):
        face_methods(LeftAndRight(), batch_size=0)


def test_fames_maps_are_in_units_of_the_image(pairs):
    probes, references = pairs
    maps = face_methods(LeftAndRight(), n_steps=4)["FAME"](probes, references, torch.zeros(4, dtype=torch.bool))
    assert 0 < maps.similar.max() <= 4 / 255 + 1e-6
    assert 0 < maps.dissimilar.max() <= 4 / 255 + 1e-6


def test_progress_can_be_forced(pairs, capsys):
    genuine = torch.ones(4, dtype=torch.bool)
    for show, shown in ((None, False), (False, False), (True, True)):
        for name in ("FAME", "CorrRISE"):
            face_methods(LeftAndRight(), 2, 4, show_progress=show)[name](*pairs, genuine)
        err = capsys.readouterr().err
        assert ("FAME" in err and "CorrRISE" in err) == shown
