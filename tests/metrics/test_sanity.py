import copy
import threading

import pytest
import torch
from captum.attr import InputXGradient
from scipy.stats import spearmanr
from torch import nn

from timm_interpretable.attr import ClassMap
from timm_interpretable.metrics import completeness, randomisation, rank_correlation


def test_completeness_of_a_map_that_adds_up_and_of_one_that_does_not():
    maps = torch.full((3, 2, 2), 0.5)
    found = completeness(maps, torch.tensor([2.0, -2.0, 0.0]))
    assert found.tolist() == [0, 2, float("inf")]
    assert completeness(torch.zeros(1, 4), torch.zeros(1)).item() == 0
    assert completeness(torch.full((1, 4), torch.nan), torch.ones(1)).isnan().all()  # not perfect


def test_class_map_is_complete(facnn, images):
    target = torch.tensor([0, 1, 4])
    maps, logits = ClassMap(facnn).attribute(images, target=target), facnn(images)
    scores = logits[torch.arange(3), target] - logits.mean(1)
    assert completeness(maps, scores).max() < 1e-4
    assert completeness(maps.bfloat16(), scores).max() < 1e-1


@pytest.mark.parametrize("digits", [1, 8])  # with and without ties
def test_rank_correlation_is_that_of_scipy(digits):
    a, b = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0)).round(decimals=digits)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected, abs=1e-6)
    assert rank_correlation(a, torch.ones_like(b)).tolist() == [0, 0, 0]


def test_rank_correlation_with_a_map_that_has_no_order():
    a, b = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    whole = rank_correlation(a, b)
    b[1, 7] = torch.nan
    for found in (rank_correlation(a, b), rank_correlation(b, a)):
        assert found[1].isnan()
        assert torch.equal(found[[0, 2]], whole[[0, 2]])
    assert rank_correlation(b, torch.ones_like(b)).isnan().tolist() == [False, True, False]
    assert rank_correlation(a, a.exp().masked_fill(a == a.max(), torch.inf)).tolist() == pytest.approx([1, 1, 1])
    assert rank_correlation(1e-6 * a.double() + 1, a.double()).tolist() == pytest.approx([1, 1, 1])  # not in fp32


class TestRandomisation:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).eval()

    def gradient(self, model, x, target):
        return InputXGradient(model).attribute(x, target).sum(1)

    def test_cascade_from_the_last_layer_to_the_first(self, model, images):
        before = copy.deepcopy(model.state_dict())
        found = randomisation(model, self.gradient, images, torch.tensor([0, 1, 2]))
        assert list(found) == ["3", "0"]
        assert all(values.shape == (3,) for values in found.values())
        assert found["0"].abs().max() < 0.5
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_map_that_ignores_the_model_stays(self, model, images):
        found = randomisation(model, lambda model, x, target: x.mean(1), images, torch.tensor([0, 1, 2]))
        assert all(values.tolist() == pytest.approx([1, 1, 1]) for values in found.values())

    def test_seed(self, model, images):
        target = torch.tensor([0, 1, 2])
        a, b, c = (randomisation(model, self.gradient, images, target, seed)["0"] for seed in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_models_that_hold_what_cannot_be_copied(self, model, images):
        """A lock, and what an earlier pass with gradients has left; neither is part of the weights."""
        target = torch.tensor([0, 1, 2])
        wanted = randomisation(model, self.gradient, images, target)
        model.lock, model[0].seen = threading.Lock(), dict(last=[model(images)])
        found = randomisation(model, self.gradient, images, target)
        assert all(torch.equal(found[name], values) for name, values in wanted.items())

    def test_tied_weights_stay_tied(self, images):
        first, last = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
        last.weight = first.weight
        model = nn.Sequential(first, nn.ReLU(), last, nn.Flatten(), nn.Linear(768, 5)).eval()
        model.lock = threading.Lock()
        seen = []

        def attribute(model, x, target):
            seen.append((model[0].weight, model[2].weight))
            return x.mean(1)

        randomisation(model, attribute, images, torch.tensor([0, 1, 2]))
        assert all(a is b for a, b in seen)
        assert not any(a is first.weight for a, _ in seen[1:])

    def test_class_map_depends_on_the_weights(self, facnn, rng):
        """It does not lose itself altogether: the skips carry the pixels to the last map, whatever the weights are."""

        def attribute(model, x, target):
            return ClassMap(model).attribute(x, target=target)

        images, target = torch.rand(24, 3, 16, 16, generator=rng), torch.arange(24) % 5
        found = [list(randomisation(facnn, attribute, images, target, seed).values())[-1] for seed in range(5)]
        assert torch.stack(found).mean() < 0.9


def test_bad_input(images):
    with pytest.raises(ValueError, match=r"scores \(2,\)"):
        completeness(torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="same shape"):
        rank_correlation(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="ReLU has no weights"):
        randomisation(nn.ReLU(), lambda model, x, target: x, images, torch.zeros(3, dtype=torch.long))
