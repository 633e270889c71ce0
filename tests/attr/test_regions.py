"""Sums over regions add up to what the attribution adds up to."""

import pytest
import timm
import torch
from torch.testing import assert_close

from timm_interpretable.attr import ClassMap, by_region


def test_regions_of_an_exact_attribution_add_up_to_the_score():
    torch.manual_seed(0)
    model = timm.create_model("facnn_resnet18", num_classes=4).double().eval()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    attribution = ClassMap(model).attribute(x, target=[1, 3])
    regions = torch.randint(0, 7, (64, 64))
    sums = by_region(attribution, regions)
    assert sums.shape == (2, 7)
    for k in range(7):
        assert_close(sums[:, k], attribution[:, :, regions == k].sum((1, 2)))
    with torch.no_grad():
        logits = model(x)
    score = logits[[0, 1], [1, 3]] - logits.mean(1)
    assert_close(sums.sum(1), score, rtol=1e-10, atol=1e-12)


def test_regions_of_each_image():
    attribution = torch.ones(2, 4, 4)
    regions = torch.stack([torch.zeros(4, 4), torch.arange(16).view(4, 4) // 8]).long()
    assert_close(by_region(attribution, regions), torch.tensor([[16.0, 0.0], [8.0, 8.0]]))
    assert by_region(attribution.half(), regions).dtype == torch.float32


@pytest.mark.parametrize(
    ("attribution", "regions", "message"),
    [
        (torch.ones(4, 4), torch.zeros(4, 4).long(), "attribution has shape"),
        (torch.ones(1, 3, 4, 4), torch.zeros(4, 5).long(), r"expected \(4, 4\) or"),
        (torch.ones(1, 3, 4, 4), torch.zeros(4, 4), "expected integers"),
        (torch.ones(1, 3, 4, 4), torch.full((4, 4), -1), "expected integers"),
    ],
)
def test_bad_shapes(attribution, regions, message):
    with pytest.raises(ValueError, match=message):
        by_region(attribution, regions)
