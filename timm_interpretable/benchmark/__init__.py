"""Methods against models against metrics: what is compared, how it is run, and what becomes of the numbers."""

from timm_interpretable.benchmark.images import (
    Batch as Batch,
    BenchmarkModel as BenchmarkModel,
    Grids as Grids,
    Photographs as Photographs,
)
from timm_interpretable.benchmark.methods import (
    METHODS as METHODS,
    Method as Method,
    MethodSettings as MethodSettings,
    methods_for as methods_for,
)
from timm_interpretable.benchmark.report import write_report as write_report
from timm_interpretable.benchmark.runner import (
    Shard as Shard,
    read_maps as read_maps,
    read_unit as read_unit,
    run_units as run_units,
)
from timm_interpretable.benchmark.scores import METRICS as METRICS, NUMBERS as NUMBERS
from timm_interpretable.benchmark.statistics import (
    Interval as Interval,
    mean_interval as mean_interval,
    paired_difference as paired_difference,
)
from timm_interpretable.benchmark.summary import accuracy_of as accuracy_of, summarised as summarised
from timm_interpretable.benchmark.units import Unit as Unit, planned_units as planned_units
