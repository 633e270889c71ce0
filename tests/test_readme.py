"""README is true: its Python runs as it stands, its commands and options exist, and it lists every method."""

import re
from pathlib import Path

import pytest
import typer

from timm_interpretable.attr import METHODS, methods_for
from timm_interpretable.cli import app
from timm_interpretable.models.baseline import baseline_resnet18
from timm_interpretable.models.bcos import bcos_resnet18_050
from timm_interpretable.models.coda_net import coda_net_s
from timm_interpretable.models.facnn import facnn_resnet18
from timm_interpretable.models.hybrid import facnn_hybrid_efficientnet_lite0

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/results/README.md")]
COMMANDS = typer.main.get_command(app).commands


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its own."""
    section = TEXT[TEXT.index(f"\n## {heading}\n") :]
    lines = re.search(r"(?:^\|.*\n)+", section, re.M)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"```python\n(.*?)```", TEXT, re.S), {}
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("golf ball ")
    logits = names["model"](names["x"])[0].detach()
    assert float(said.split()[-1]) == pytest.approx(float(logits.max() - logits.mean()), rel=1e-4)
    assert not list(tmp_path.iterdir())


def test_commands_and_options_exist():
    said = [row[0] for row in table("Commands")]
    assert [line.split()[1].strip("`") for line in said] == list(COMMANDS)
    for line in said:
        there = {option for one in COMMANDS[line.split()[1].strip("`")].params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= there, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_commands_and_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"timm-interpretable (?:--version|([a-z]\w*))", text)) - {""} <= {*COMMANDS}
    for module in re.findall(r"python -m (tools[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_links_into_the_page_of_results_hit_a_heading():
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/results/README.md").read_text(encoding="utf-8"), re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\(docs/results/README\.md#([^)]+)\)", TEXT)) <= anchors


def test_every_method_is_listed():
    rows = table("Methods")
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    models = {
        "FA-CNN": facnn_resnet18(), "hybrids": facnn_hybrid_efficientnet_lite0(), "CoDA-Net": coda_net_s(),
        "B-cos": bcos_resnet18_050(), "ordinary": baseline_resnet18(),
    }  # fmt: skip
    there = {name: methods_for(model) for name, model in models.items()}
    for key, _, families, cost in rows:
        name = key.strip("`")
        assert cost == ("none" if name == "random" else METHODS[name].cost.value)
        assert {family for family in there if name in there[family]} == (
            {*there} if families == "all" else {*families.split(", ")}
        )


def test_it_stays_short():
    assert TEXT.count("\n") <= 130
