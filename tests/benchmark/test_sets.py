"""Which images the benchmark shows, and that grids hold those that the model is sure of."""

import pytest
import torch
from torch import nn

from timm_interpretable.benchmark import Grids, in_turn

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Two classes, dark and bright, each more certain the further from grey."""

    def forward(self, x):
        light = x.mean((1, 2, 3)) - 0.5
        return 20 * torch.stack([-light, light], dim=1)


def test_classes_take_turns_in_the_order_of_their_names():
    names = ["cat/2.png", "cat/1.png", "ant/7.png", "bee/3.png", "bee/1.png", "bee/2.png"]
    chosen = [names[i] for i in in_turn(names, 5)]
    assert chosen == ["ant/7.png", "bee/1.png", "cat/1.png", "bee/2.png", "cat/2.png"]
    assert len(in_turn(names, 100)) == 6


def test_grids_are_chosen_once_and_say_how_far_that_is():
    light = torch.linspace(0, 1, 100)
    data = [(torch.full((3, 4, 6), float(v)), int(v > 0.5)) for v in light]
    grids, said = Grids(data, Brightness(), 3, 1, 1, CPU), []
    places = grids.choose(said.append)
    assert said == [f"classifying images for the grids, {start}/100" for start in (0, 64)]
    assert grids.choose(said.append) is places
    assert len(said) == 2
    batch = grids.load([0, 2])
    assert batch.images.shape == (2, 1, 3, 4, 6)
    assert [[data[i][1] for i in row] for row in places[[0, 2]].tolist()] == batch.labels.tolist()


def test_grids_leave_out_images_that_the_model_is_not_sure_of():
    light = torch.linspace(0.45, 0.55, 100)  # probabilities of .73 at most
    data = [(torch.full((3, 4, 4), float(v)), int(v > 0.5)) for v in light]
    assert Grids(data, Brightness(), 3, 1, 1, CPU, min_confidence=0.5).choose().shape == (3, 1)
    with pytest.raises(ValueError, match="expected 3"):
        Grids(data, Brightness(), 3, 1, 1, CPU, min_confidence=0.9).choose()
