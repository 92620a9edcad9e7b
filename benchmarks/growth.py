"""How the cost of a workload grows with steps, images, batch and width, and its memory with steps.

An exponent of 1 is linear. Below 1 there is a fixed part, or larger pieces are done better.
"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.convolutions import convolutions
from benchmarks.settings import Settings
from benchmarks.subject import Subject, build_network, model_arguments
from benchmarks.timing import elapsed

FACTORS = (1, 2, 4)
# Has glibc give freed memory back at once: the peak is then of what is in use, and not of the holes
# that happen to lie between.
AS_FREED = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "131072"}
STEPS = 5

# What is done with one batch: network, x, y, number of attack steps.
Workload = Callable[[nn.Module, Tensor, Tensor, int], object]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) over log(sizes), by least squares."""
    logs = [(math.log(size), math.log(taken)) for size, taken in zip(sizes, seconds, strict=True)]
    mean_size, mean_taken = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    above = sum((size - mean_size) * (taken - mean_taken) for size, taken in logs)
    return above / sum((size - mean_size) ** 2 for size, _ in logs)


def cost(work: Workload, subject: Subject, settings: Settings) -> dict[str, Any]:
    """Times and exponents by what grows; width is measured in operations of a forward pass."""
    base = subject.network
    images = settings.growth_images
    x, y = _images(subject, images)

    def seconds(network: nn.Module, x: Tensor, y: Tensor, *, batch: int, steps: int) -> float:
        own = copy.deepcopy(network)

        def run() -> None:
            for begin in range(0, len(x), batch):
                work(own, x[begin : begin + batch], y[begin : begin + batch], steps)

        run()
        return min(elapsed(run, settings.device)[0] for _ in range(settings.repeats))

    axes: dict[str, list[tuple[float, float]]] = {"steps": [], "images": [], "batch": []}
    for factor in FACTORS:
        size = factor * images
        axes["steps"].append(
            (factor * STEPS, seconds(base, x, y, batch=images, steps=factor * STEPS))
        )
        many = _images(subject, size)
        axes["images"].append((size, seconds(base, *many, batch=images, steps=STEPS)))
        axes["batch"].append((size, seconds(base, *many, batch=size, steps=STEPS)))
    if "widths" in model_arguments(settings):
        axes["width"] = []
        for factor in FACTORS[:2]:
            network = build_network(settings, width=factor)
            flops = sum(each.flops for each in convolutions(network, x))
            axes["width"].append((flops, seconds(network, x, y, batch=images, steps=STEPS)))
    return {axis: _summary(points) for axis, points in axes.items()}


def memory(line: int, settings: Settings) -> dict[str, Any]:
    """Peak memory that a long attack takes over that of a short one, in a process of its own."""
    steps = (10, settings.curve_steps)
    command = [sys.executable, "-m", "benchmarks.memory", str(line), settings.model]
    command += [settings.device, str(2 * settings.growth_images), *map(str, steps)]
    done = subprocess.run(
        command, env=os.environ | AS_FREED, stdout=subprocess.PIPE, text=True, check=True
    )
    short, long = json.loads(done.stdout)
    return {"steps": steps, "mib": [short, long], "ratio": long / short}


def _summary(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    sizes, seconds = zip(*points, strict=True)
    return {"sizes": sizes, "seconds": seconds, "exponent": exponent(sizes, seconds)}


def _images(subject: Subject, count: int) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(count, device=subject.x.device) % len(subject.x)
    x = subject.x[chosen].contiguous(memory_format=torch.channels_last)
    return x, subject.y[chosen]
