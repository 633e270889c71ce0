"""Write the results of benchmarks into the cards of their models and into the README.

python tools/insert_benchmark.py Imagenette=docs/results/benchmark_imagenette CIFAR-10=docs/results/benchmark_cifar10
"""

import json
import sys
from pathlib import Path

from tools.release.benchmark_cards import insert_into_card, insert_into_readme

_REPOSITORY = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> None:
    found = []
    for argument in arguments:
        heading, _, folder = argument.partition("=")
        results = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
        link = f"{folder}/results.md"
        found.append((heading, results, link))
        for model in results["models"]:
            card = _REPOSITORY / "hub_cards" / model
            if card.is_dir():
                insert_into_card(card, results, link)
    insert_into_readme(_REPOSITORY / "README.md", found)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
