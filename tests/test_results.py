"""The recorded command can be repeated, and does not tell how folders are named here."""

from pathlib import Path

import pytest

from timm_interpretable.results import repeatable

HERE, HOME = Path("/home/ada/project"), Path("/home/ada")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("benchmark", "benchmark"),
        ("runs/a/model.safetensors", "runs/a/model.safetensors"),
        ("../data/imagenette", "../data/imagenette"),
        ("/home/ada/project/runs/a", "runs/a"),
        ("/home/ada/data/imagenette", "~/data/imagenette"),
        ("/mnt/secret/data/imagenette", "…/data/imagenette"),
        ("/data", "…/data"),
        ("net=/mnt/secret/a/model.safetensors", "net=…/a/model.safetensors"),
        ("net=runs/a/m.st,other=/home/ada/project/runs/b/m.st", "net=runs/a/m.st,other=runs/b/m.st"),
        ("--out=/mnt/secret/x/y", "--out=…/x/y"),
        ("class_map,grad_cam", "class_map,grad_cam"),
        ("two words", "'two words'"),
    ],
)
def test_paths_of_a_command(word: str, shown: str) -> None:
    assert repeatable([word], HERE, HOME) == shown


def test_the_words_of_a_command() -> None:
    assert repeatable(["explain", "a b.png", "--out", "x"], HERE, HOME) == "explain 'a b.png' --out x"
