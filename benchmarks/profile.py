"""Which operations a workload's time goes into."""

from collections.abc import Callable

import torch

# Parts of torch's names, in the order they are looked for; what fits none is "other".
GROUPS = {
    "convolutions": ("convolution", "conv"),
    "batch norm": ("batch_norm", "addcmul"),
    "leaky ReLU": ("leaky_relu",),
    "sums of the shortcuts": ("aten::add_", "aten::add"),
    "pooling": ("avg_pool2d", "upsample_nearest2d"),
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
    for name, parts in GROUPS.items():
        if any(part == operation or (":" not in part and part in operation) for part in parts):
            return name
    return OTHER
