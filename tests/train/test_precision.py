"""The precision that a machine is fast in: measured, decided with a bias to fp32, kept by a resumed run."""

import pytest
import torch

from timm_interpretable.train.precision import StepCost, cheaper_precision, optimizer_share, step_costs


@pytest.mark.parametrize(("bf16", "expected"), [(0.5, "bf16"), (0.95, "fp32"), (7.0, "fp32")])
def test_bf16_has_to_be_clearly_faster(bf16, expected):
    assert StepCost({"fp32": 1.0, "bf16": bf16}, 1).cheaper == expected


def test_measuring_leaves_the_model_as_it_was(facnn):
    before = {key: value.clone() for key, value in facnn.state_dict().items()}
    costs = step_costs(facnn, 16, torch.device("cpu"))
    assert min(costs.seconds.values()) > 0
    assert costs.images == 64  # small ones are many: of few, a step is mostly overhead
    assert not facnn.training
    assert all(p.grad is None for p in facnn.parameters())
    assert all(torch.equal(before[key], value) for key, value in facnn.state_dict().items())


def test_the_line_names_both_times_and_the_choice(facnn, monkeypatch):
    costs = StepCost({"fp32": 0.4, "bf16": 0.04}, 4)
    monkeypatch.setattr("timm_interpretable.train.precision.step_costs", lambda *args: costs)
    precision, line = cheaper_precision(facnn, 16, torch.device("cpu"))
    assert precision == "bf16"
    assert line == "forward and backward pass of an image: fp32 100.0 ms, bf16 10.0 ms; training in bf16"


def test_advice_where_the_optimiser_takes_most_of_a_step():
    assert optimizer_share(1, 10) == "the optimiser takes 10 % of a training step"
    assert optimizer_share(9, 10).endswith("90 % of a training step; another optimiser would train faster here")
