"""Wall time of several contestants, in turn, round after round."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


class Ratio(NamedTuple):
    """How many times as long as the base a contestant takes.

    Attributes:
        median: Ratio of the medians.
        low: Smallest ratio of a round.
        high: Largest ratio of a round.
    """

    median: float
    low: float
    high: float


def order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Who runs when: everyone once a round, and each round begins with another."""
    shifts = [number % len(names) for number in range(rounds)]
    return [[*names[shift:], *names[:shift]] for shift in shifts]


def elapsed(run: Callable[[], T], device: str = "cpu") -> tuple[float, T]:
    """Seconds that ``run`` takes, and what it returns."""
    wait(device)
    begin = time.perf_counter()
    outcome = run()
    wait(device)
    return time.perf_counter() - begin, outcome


def interleaved(
    contestants: Mapping[str, Callable[[], T]], rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, T]]:
    """Time contestants in turn, so that a slow spell of the machine hits all of them.

    Returns:
        Seconds of each round, and the last outcome, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    outcomes: dict[str, T] = {}
    for names in order(list(contestants), rounds):
        gc.collect()  # not while somebody is timed
        for name in names:
            taken, outcomes[name] = elapsed(contestants[name], device)
            seconds[name].append(taken)
    return seconds, outcomes


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, Ratio]:
    """Each contestant's time over that of ``base``, round by round."""
    found = {}
    for name, own in seconds.items():
        each = [mine / other for mine, other in zip(own, seconds[base], strict=True)]
        found[name] = Ratio(median(own) / median(seconds[base]), min(each), max(each))
    return found


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
