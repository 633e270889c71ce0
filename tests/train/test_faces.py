"""Training of the face embedding network on drawn faces: the loss, the split of people, the same run twice."""

import json
import math
from dataclasses import replace

import pytest
import timm
import torch
from drawn_faces import write_people
from safetensors.torch import load_file
from typer.testing import CliRunner

from timm_interpretable.cli import app
from timm_interpretable.data.faces import ORL_TRAINING, ORL_VERIFICATION, load_people
from timm_interpretable.train.face_recipes import FACE_RECIPES
from timm_interpretable.train.faces import CosFace, FaceTrainer

PEOPLE = tuple(f"s{i}" for i in range(1, 4))
OTHERS = ("s4", "s5")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), range(1, 6))


def small_recipe(**changes):
    base = FACE_RECIPES["face_resnet10.orl"]
    return replace(base, people=PEOPLE, eval_people=OTHERS, epochs=2, batch_size=6, warmup_epochs=0, **changes)


def test_cosface_is_its_equation(rng):
    loss = CosFace(5, 4, margin=0.3, scale=7.0)
    x, people = torch.randn(6, 5, generator=rng), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = 0.0
    for one, y in zip(x, people.tolist(), strict=True):
        cosines = [float(one @ w / (one.norm() * w.norm())) for w in loss.weight.detach()]
        own = math.exp(7 * (cosines[y] - 0.3))
        others = sum(math.exp(7 * c) for j, c in enumerate(cosines) if j != y)
        expected -= math.log(own / (own + others)) / len(x)
    assert loss(x, people).item() == pytest.approx(expected, rel=1e-5)
    assert loss(3 * x, people).item() == pytest.approx(expected, rel=1e-5)  # of directions only
    without = CosFace(5, 4, margin=0.0, scale=7.0)
    without.load_state_dict(loss.state_dict())
    assert without(x, people) < loss(x, people)


def test_nobody_of_the_verification_is_learned_from():
    assert len(ORL_TRAINING) == 30
    assert len(ORL_VERIFICATION) == 10
    for recipe in FACE_RECIPES.values():
        assert not set(recipe.people) & set(ORL_VERIFICATION), recipe.name
        assert not set(recipe.people) & set(recipe.eval_people), recipe.name
    assert not set(FACE_RECIPES["face_resnet10.selection"].eval_people) & set(ORL_VERIFICATION)


def test_people_are_found_by_name(data_dir):
    pictures, labels = load_people(data_dir, ("s5", "s2"))
    assert labels.tolist() == [1] * 4 + [0] * 4  # of the names as they were given; the folders come in their own order
    assert len(pictures) == 8
    with pytest.raises(ValueError, match="no folder s9"):
        load_people(data_dir, ("s1", "s9"))
    with pytest.raises(FileNotFoundError, match=r"no faces\.tar"):
        load_people(data_dir / "faces", ("s1",))


def test_a_run_can_be_repeated_and_its_weights_load(data_dir, tmp_path):
    errors = [FaceTrainer(small_recipe(), data_dir, tmp_path / name, cpu=True).run() for name in ("a", "b")]
    assert errors[0] == errors[1]
    assert 0 <= errors[0].rate <= 1
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    timm.create_model("face_resnet10").load_state_dict(states[0])
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["pictures"] == 12
    assert result["eval_pictures"] == 8
    assert result["eer"] == errors[0].rate
    first, other = (FaceTrainer(small_recipe(seed=seed), data_dir, tmp_path, cpu=True) for seed in (0, 1))
    assert not torch.equal(first.model.conv1[0].weight, other.model.conv1[0].weight)


@pytest.mark.parametrize(("loss", "left"), [("cosface", 0.7), ("ce", 0.9)])  # without a scale it starts slowly
def test_it_learns_the_people_it_sees(data_dir, tmp_path, loss, left):
    recipe = replace(small_recipe(loss=loss, lr=1e-2, crop=(0.9, 1.0), erasing=0.0), epochs=8)
    trainer = FaceTrainer(recipe, data_dir, tmp_path, cpu=True)
    trainer.run()
    losses = json.loads((tmp_path / "result.json").read_text())["losses"]
    assert len(losses) == 8
    assert losses[-1] < left * losses[0]


def test_bad_recipes(data_dir, tmp_path):
    with pytest.raises(ValueError, match="s2 is in both parts"):
        FaceTrainer(replace(small_recipe(), eval_people=("s2", "s4")), data_dir, tmp_path, cpu=True)
    with pytest.raises(ValueError, match="loss='arc' is unknown"):
        FaceTrainer(small_recipe(loss="arc"), data_dir, tmp_path, cpu=True)


def test_the_command(data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(FACE_RECIPES, "small", small_recipe())
    args = ["train", "small", "--data-dir", str(data_dir), "--cpu", "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, [*args, "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert "small: equal-error rate" in result.stdout
    assert "on s4-s5" in result.stdout
    assert (tmp_path / "o" / "model.safetensors").is_file()
    refused = CliRunner().invoke(app, [*args, "--compile"])
    assert refused.exit_code == 2
    assert "leave --initial, --compile and --stop-after out" in refused.stderr
    missing = CliRunner().invoke(app, ["train", "face_resnet10.orl", "--data-dir", str(data_dir), "--cpu"])
    assert missing.exit_code == 2
    assert "no folder s6" in missing.stderr
