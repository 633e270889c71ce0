"""Which of timm's networks `class_map_model` converts, as docs/results/hybrids.md: `python -m tools.convertible`"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from timm.models import model_entrypoint
from torch import nn

from timm_interpretable.models import class_map_model

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "hybrids.md"
_INTRODUCTION = """# Networks that become hybrids

`class_map_model` of `timm_interpretable.models` gives a network exact class maps and leaves its logits as they are. It
takes networks that end in global average pooling and one linear layer. Of the {total} architectures of timm {version}
that have a classifier, {converted} can be converted. The others have something else before the classifier, which the
error names. Transformers have tokens instead of feature maps and are among them.

    python -m tools.convertible
"""


def main(page: Annotated[Path, typer.Option(help="The page to write.")] = PAGE) -> None:
    """Try every architecture of timm; weights play no part, so none are loaded."""
    good: dict[str, list[str]] = defaultdict(list)
    bad: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    names = [name for name in timm.list_models() if model_entrypoint(name).__module__.startswith("timm.")]
    for name in names:
        family = model_entrypoint(name).__module__.rpartition(".")[2]
        reason = why_not(name)
        if reason is None:
            good[family].append(name)
        elif reason:
            bad[family][reason].append(name)
    converted, refused = (sum(map(len, good.values())), sum(len(n) for kinds in bad.values() for n in kinds.values()))
    text = _INTRODUCTION.format(total=converted + refused, version=timm.__version__, converted=converted)
    text += "\n## Converted\n\n| module of timm | number | architectures |\n|---|---|---|\n"
    text += "".join(f"| {family} | {len(some)} | {', '.join(some)} |\n" for family, some in sorted(good.items()))
    text += "\n## Not converted\n\n| module of timm | number | what stands in the way | such as |\n|---|---|---|---|\n"
    for family, kinds in sorted(bad.items()):
        text += "".join(f"| {family} | {len(some)} | {why} | {some[0]} |\n" for why, some in sorted(kinds.items()))
    page.write_text(text, encoding="utf-8")
    typer.echo(f"{converted} of {converted + refused} converted; {page}")


def why_not(name: str) -> str | None:
    """What the error of `class_map_model` names; None where there is none, empty where there is no classifier."""
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    if not model.num_classes:
        return ""
    model.to_empty(device="cpu")  # memory is not touched, so the largest networks take no longer
    classifier = model.get_classifier()
    if isinstance(classifier, (nn.Linear, nn.Conv2d)):
        for parameter in classifier.parameters():
            nn.init.normal_(parameter)
    try:
        class_map_model(model)
    except ValueError as error:
        found = re.search(r"maps: (.*?)(?: stands between|, expected|$)", str(error))
        assert found is not None
        return found[1]
    return None


if __name__ == "__main__":
    typer.run(main)
