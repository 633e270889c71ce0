"""Every method side by side: shapes, seeds, the identity of the architecture, and what they leave behind."""

import sys

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from timm_interpretable.attr import FAME
from timm_interpretable.metrics import BoxedBatch, attribution_methods, attribution_report, fame_after, map_scores
from timm_interpretable.metrics.localisation import box_iou, energy_in_box, unit_range
from timm_interpretable.metrics.methods import integrated_gradients

TARGET = torch.tensor([0, 4, 2])
BLACK = torch.zeros(3, 1, 1)


def all_maps(model, images, **options):
    methods = attribution_methods(model, BLACK, fame_steps=(1, 3), n_masks=5, ig_steps=3, **options)
    return {name: maps for method in methods.values() for name, maps in method(images, TARGET)}


def test_fame_goes_on_where_it_was(facnn, images):
    found = list(fame_after(facnn, images, TARGET, (1, 4, 6), blur=3))
    for steps, maps in zip((1, 4, 6), found, strict=True):
        alone = FAME(facnn).attribute(images, TARGET, n_steps=steps, blur=3)[:, 0]
        assert_close(maps, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [(), (0, 2), (3, 2), (2, 2)])
def test_steps_ascend(facnn, images, steps):
    with pytest.raises(ValueError, match="expected ascending numbers from 1 on"):
        list(fame_after(facnn, images, TARGET, steps))


def test_methods_of_an_fa_cnn(facnn, images):
    facnn.requires_grad_(False)
    before = {name: value.clone() for name, value in facnn.state_dict().items()}
    maps = all_maps(facnn, images)
    assert set(maps) == {
        "class map", "class map, contrast", "class maps, average", "Grad-CAM", "Grad-CAM, element-wise", "HiResCAM",
        "RISE", "integrated gradients", "random", "centre", "FAME, 1 steps", "FAME, 3 steps",
    }  # fmt: skip
    assert all(m.shape == (3, 16, 16) and m.isfinite().all() and not m.requires_grad for m in maps.values())
    # the theorem: three CAMs and the class map are one map, up to how each library enlarges a map of 4 x 4
    for name in ("Grad-CAM, element-wise", "HiResCAM"):
        assert_close(maps[name], maps["Grad-CAM"], rtol=1e-3, atol=1e-3)
    both = torch.stack([unit_range(maps["class map"]).flatten(), maps["Grad-CAM"].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert_close(facnn.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None and not p.requires_grad for p in facnn.parameters())


def test_methods_of_a_baseline(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=5).eval()
    x = images.repeat(1, 1, 2, 2)
    first, again, other = (all_maps(model, x, seed=seed) for seed in (0, 0, 1))
    assert "class map" not in first
    for name in ("RISE", "random"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_integrated_gradients_add_up_to_the_difference(images):
    """Of a linear model exactly, from black, which is not zero here."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).eval()
    black = torch.tensor([-1.0, 0.5, 2.0])[:, None, None]
    maps = integrated_gradients(model, images, TARGET, black, n_steps=4)
    difference = (model(images) - model(black.expand_as(images)))[torch.arange(3), TARGET]
    assert_close(maps.sum((1, 2)), difference.detach(), rtol=1e-3, atol=1e-4)


def test_without_pytorch_grad_cam(facnn, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError):
        attribution_methods(facnn, BLACK)


# The report


@pytest.fixture
def batches(images):
    boxes = torch.zeros(3, 16, 16).bool()
    boxes[:, 2:9, 4:12] = True
    first = boxes.clone()
    first[:, 5:] = False
    whole = BoxedBatch(images, TARGET, boxes, first)
    return [BoxedBatch(*(t[:2] for t in whole)), BoxedBatch(*(t[2:] for t in whole))]


def test_report_of_a_perfect_map_and_of_a_slow_one(facnn, batches):
    def perfect(x, target):
        yield "perfect", next(batch.boxes for batch in batches if len(batch.images) == len(x)).float()

    def twice(x, target):
        for name in ("early", "late"):
            yield name, x[:, 0] if name == "early" else x.mean(1)

    report = attribution_report({"perfect": perfect, "twice": twice}, facnn, batches, BLACK)
    row = report["perfect"]
    assert (row["images"], row["iou_.3"], row["iou_.7"], row["energy"], row["pointing"]) == (3, 1, 1, 1, 1)
    assert row["iou_first_.5"] == pytest.approx(3 / 7)
    assert "correlation" not in row
    assert report["late"]["correlation"] == pytest.approx(1)
    assert 0 < report["early"]["correlation"] < 1
    assert report["late"]["seconds"] >= report["early"]["seconds"] > 0
    # everything is deleted in the end, whatever the order; the logit of black is what is left
    lost = [row["deletion_curve"][-1] for row in report.values()]
    x = torch.cat([batch.images for batch in batches])
    wanted = (facnn(x) - facnn(0 * x))[torch.arange(3), TARGET].mean().item()
    assert lost == pytest.approx([wanted] * 3, rel=1e-4)
    assert row["deletion"] == pytest.approx(sum(row["deletion_curve"]) / 11)


def test_report_is_the_mean_over_images_however_they_are_batched(facnn, batches):
    def red(x, target):
        yield "red", x[:, 0]

    whole = BoxedBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    reports = [attribution_report({"red": red}, facnn, some, BLACK)["red"] for some in ([whole], batches)]
    scores = map_scores(whole.images[:, 0], whole.boxes, whole.first_box)
    for key, value in scores.items():
        for row in reports:
            assert row[key] == pytest.approx(value.mean().item(), rel=1e-5)
            assert row["sem"][key] == pytest.approx(value.std().item() / 3**0.5, rel=1e-5)


def test_scores_take_the_stretched_positive_part(rng):
    maps, boxes = torch.randn(3, 5, 6, generator=rng), torch.rand(3, 5, 6, generator=rng) > 0.5
    scores = map_scores(maps, boxes, boxes)
    assert_close(scores["iou_.5"], box_iou(unit_range(maps), boxes)[:, 1])
    assert_close(scores["energy"], energy_in_box(unit_range(maps), boxes))
    assert_close(scores["iou_first_.3"], scores["iou_.3"])
    assert set(scores) == {f"{k}_{t}" for k in ("iou", "iou_first") for t in (".3", ".5", ".7")} | {
        "energy", "pointing",
    }  # fmt: skip
