"""Which operations a workload's time goes into."""

import re
from collections.abc import Callable

import torch

# What to look for in the names of torch's operations; where nothing is found it is "other".
GROUPS = {
    "convolutions": r"conv",
    "batch norm": r"batch_norm|addcmul",
    "leaky ReLU": r"leaky_relu",
    "sums of the shortcuts": r"^aten::add_?$",
    "pooling": r"avg_pool2d|upsample_nearest2d",
}
OTHER = "other"


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Part of the time of ``run`` that each group of operations takes, in [0, 1], largest first.

    On a CPU; on a GPU it is the time that launching them takes.
    """
    run()  # kernels are chosen at the first call
    profiler = torch.autograd.profiler.profile(use_kineto=False)
    with profiler:
        run()
    taken = dict.fromkeys([*GROUPS, OTHER], 0.0)
    for event in profiler.key_averages():
        taken[group(event.key)] += event.self_cpu_time_total
    total = sum(taken.values())
    ordered = sorted(taken.items(), key=lambda item: -item[1])
    return {name: microseconds / total for name, microseconds in ordered}


def group(operation: str) -> str:
    """The group of one of torch's operations."""
    return next((name for name, part in GROUPS.items() if re.search(part, operation)), OTHER)
