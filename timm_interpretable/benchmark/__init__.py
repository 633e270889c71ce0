"""Methods against models against metrics: what is compared, how it is run, and what becomes of the numbers

* `images`: models, and the images that they are shown;
* `scores`: the metrics, and the numbers that they give;
* `units`, `runner`, `progress`, `cost`: the pieces of a run, and how they are run;
* `statistics`, `summary`: means with intervals, and differences on the same images;
* `tables`, `plots`, `report`: what is written.

The methods are those of `timm_interpretable.attr.catalogue`. Faces are compared by `faces`.
"""

from timm_interpretable.benchmark.images import Batch, BenchmarkModel, Grids, Photographs, in_turn
from timm_interpretable.benchmark.report import results_of, write_report, write_sheet
from timm_interpretable.benchmark.runner import Shard, read_maps, read_unit, run_units, units_left
from timm_interpretable.benchmark.scores import METRICS, NUMBERS, Scoring, pixels_of
from timm_interpretable.benchmark.statistics import Interval, mean_interval, paired_difference
from timm_interpretable.benchmark.summary import accuracy_of, described_methods, summarised
from timm_interpretable.benchmark.tables import chance_levels, conditions, short_table, terminal_table
from timm_interpretable.benchmark.units import Unit, planned_units

__all__ = [
    "METRICS",
    "NUMBERS",
    "Batch",
    "BenchmarkModel",
    "Grids",
    "Interval",
    "Photographs",
    "Scoring",
    "Shard",
    "Unit",
    "accuracy_of",
    "chance_levels",
    "conditions",
    "described_methods",
    "in_turn",
    "mean_interval",
    "paired_difference",
    "pixels_of",
    "planned_units",
    "read_maps",
    "read_unit",
    "results_of",
    "run_units",
    "short_table",
    "summarised",
    "terminal_table",
    "units_left",
    "write_report",
    "write_sheet",
]
