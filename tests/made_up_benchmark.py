"""The results of a benchmark that nobody ran: one model, four methods, of which one failed."""

from typing import Any

from timm_interpretable.benchmark.summary import accuracy_of, summarised
from timm_interpretable.benchmark.units import Unit

IMAGES = tuple(range(20))
POINTS = {"removal_least": 21, "removal_least_accuracy": 21, "removal_most": 11}


def unit_of(method: str, indices: tuple[int, ...], metrics: tuple[str, ...] = ("boxes", "removal")) -> Unit:
    return Unit("net", method, "boxed", indices, metrics, "f")


def report_of(unit: Unit, energy: float, most: float, cost: float) -> dict[str, Any]:
    """As `units.compute` writes it: keys of JSON are text."""
    curves = {
        "removal_least": {str(i): [0.9 - 0.01 * k for k in range(21)] for i in unit.indices},
        "removal_least_accuracy": {str(i): [float(i % 4 > 0)] * 21 for i in unit.indices},
        "removal_most": {str(i): [most] * 11 for i in unit.indices},
    }
    numbers = {
        "energy": {str(i): energy + 0.01 * (i % 3) for i in unit.indices},
        "pointing": {str(i): float(i % 2) for i in unit.indices},
        "removal_least": {str(i): 0.8 for i in unit.indices},
        "removal_most": {str(i): most + 0.001 * i for i in unit.indices},
    }
    fractions = {name: [0.25 * k / (n - 1) for k in range(n)] for name, n in POINTS.items()}
    spent = dict(seconds=2 * cost, cpu_seconds=cost, forward_seconds=1.0, forward_cpu_seconds=1.0)
    spent |= dict(peak_bytes=2**21, forward_peak_bytes=2**20)
    return dict(numbers=numbers, curves=curves, fractions=fractions, cost=spent)


def made_up_results() -> dict[str, Any]:
    """Everything that `write_report` takes."""
    units, reports = [], []
    for method, energy, most, cost in (
        ("grad_cam", 0.4, 0.5, 1.5),
        ("class_map", 0.6, 0.7, 1.0),
        ("random", 0.3, 0.6, 0.0),
    ):
        for start in (0, 10):
            unit = unit_of(method, IMAGES[start : start + 10])
            units.append(unit)
            reports.append(report_of(unit, energy, most, cost))
    units.append(unit_of("rise", IMAGES[:5], ("boxes",)))
    reports.append(dict(error="RuntimeError: out of memory"))
    command = "timm-interpretable benchmark --models net"
    made = dict(command=command, seed=3, hardware="a CPU", versions=dict(torch="2.14"))
    found = dict(provenance=made, settings=dict(images=20), chance=dict(energy=0.25), models={})
    found |= summarised(units, reports, "grad_cam")
    about = dict(accuracy=accuracy_of(found, "net"), input_size=[3, 8, 16], parameters=10, sha256=None)
    found["models"] = dict(net=about | dict(fill="black", start="blur"))
    return found
