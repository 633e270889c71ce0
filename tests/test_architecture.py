"""Who imports whom, read from the source: layers point one way, and no module imports itself by way of others."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "timm_interpretable"
ROOT = Path(__file__).resolve().parent.parent

# what each part may import of the package, besides itself
LEAVES = {"data", "results", "viz"}
ATTR = {"models", *LEAVES}
METRICS = {"attr", *ATTR}
ROOT_PACKAGE = {"metrics", *METRICS}
BENCHMARK = {"", *ROOT_PACKAGE}
ABOVE: dict[str, set[str]] = {
    "": ROOT_PACKAGE,  # the package itself, which registers the models and shows `attr` and `metrics`
    **{leaf: set() for leaf in LEAVES},
    "models": LEAVES,
    "attr": ATTR,
    "cam": {"attr", *ATTR},
    "metrics": METRICS,
    "train": {"metrics", *ATTR},
    "benchmark": BENCHMARK,
    "app": {"benchmark", *BENCHMARK},
    "cli": {"app", "benchmark", "train", *BENCHMARK},
}
# these look up, and may see so much and no more
ONLY = {("metrics", "attr"): {f"{PACKAGE}.attr.maps", f"{PACKAGE}.attr.smoothing"}}


def modules() -> dict[str, Path]:
    """By dotted name; a package goes by its own name."""
    files = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the package that the source of a module names: at the top, in functions, and for types."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, which this test does not read"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in MODULES else str(node.module) for one in inside}
    return {one for one in found if one in MODULES}


IMPORTS = {name: imports(name) for name in MODULES}


def part(name: str) -> str:
    """`attr` for `timm_interpretable.attr.maps`; nothing for the package itself."""
    return name.split(".")[1] if "." in name else ""


def test_every_part_has_its_place() -> None:
    assert {part(name) for name in MODULES} == set(ABOVE)


@pytest.mark.parametrize("here", sorted(ABOVE))
def test_nothing_imports_upwards(here: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items() if part(name) == here
        for other in others if part(other) not in {here, *ABOVE[here]}
    ]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize(("here", "there"), sorted(ONLY))
def test_some_see_little_of_what_they_import(here: str, there: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items() if part(name) == here
        for other in others if part(other) == there and other not in ONLY[here, there]
    ]  # fmt: skip
    assert not wrong


def circles(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph once everything is gone that no circle needs or that needs no circle."""
    left = {name: others - {name} for name, others in graph.items()}
    while gone := {
        name for name, others in left.items()
        if not others & left.keys() or not any(name in them for them in left.values())
    }:  # fmt: skip
        left = {name: others - gone for name, others in left.items() if name not in gone}
    return left


def test_no_circles() -> None:
    assert not circles(IMPORTS)
    assert set(circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()})) == {"b", "c"}


def test_no_command_imports_another() -> None:
    parts = ("__main__", "common", "explainer", "processes", "report", "stems")
    shared = {f"{PACKAGE}.cli", *(f"{PACKAGE}.cli.{name}" for name in parts)}
    commands = {name for name in MODULES if part(name) == "cli"} - shared
    assert commands
    assert not [f"{name} imports {other}" for name in commands for other in IMPORTS[name] & commands]


def test_the_package_knows_no_tools() -> None:
    """They are not in the wheel."""
    assert not [
        name for name, file in MODULES.items() if re.search(r"^\s*(from|import) tools\b", file.read_text(), re.M)
    ]
