"""One module for each line of the table."""

from collections.abc import Callable

from benchmarks.growth import Workload
from benchmarks.lines import (
    autoattack,
    startup,
    step_curve,
    sweep,
    table_row,
    trainer,
    training_step,
)
from benchmarks.result import Result
from benchmarks.settings import Settings
from benchmarks.subject import Subject

MEASUREMENTS: dict[int, Callable[[Subject, Settings], list[Result]]] = {
    1: training_step.measure,
    2: table_row.measure,
    3: step_curve.measure,
    4: autoattack.measure,
    5: trainer.measure,
    6: sweep.measure,
    7: startup.measure,
}
# The lines whose growth and memory are measured.
WORKLOADS: dict[int, Workload] = {
    1: training_step.workload,
    2: table_row.workload,
    3: step_curve.workload,
}
