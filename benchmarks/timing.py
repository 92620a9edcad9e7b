"""Wall time of several contestants in turn, their ratios, and what they were measured on."""

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from lrm_lightning.runs import provenance

T = TypeVar("T")


def about(program: str, device: str) -> dict[str, Any]:
    """What was measured by which command, when, of which commit and on what: for the JSON."""
    command = " ".join([f"python -m {program}", *sys.argv[1:]])
    return {"command": command} | provenance.stamp(torch.device(device))


class Ratio(NamedTuple):
    """How many times as long as ours a contestant takes."""

    median: float  # ratio of the medians
    low: float  # smallest ratio of a round
    high: float  # largest ratio of a round


def interleaved(
    contestants: Mapping[str, Callable[[], T]], rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, T]]:
    """Time contestants in turn, so that a slow spell of the machine hits all of them.

    Returns:
        Seconds of each round, and the last outcome, by name. Each round begins with another one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    outcomes: dict[str, T] = {}
    names = list(contestants)
    for number in range(rounds):
        gc.collect()  # not while a contestant is timed
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            _wait(device)
            begin = time.perf_counter()
            outcomes[name] = contestants[name]()
            _wait(device)
            seconds[name].append(time.perf_counter() - begin)
    return seconds, outcomes


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """Each contestant's time over that of the first, round by round."""
    ours = next(iter(seconds.values()))
    found = {}
    for name, theirs in seconds.items():
        each = [mine / other for mine, other in zip(theirs, ours, strict=True)]
        found[name] = Ratio(median(theirs) / median(ours), min(each), max(each))
    return found


@dataclass
class Result:
    """Times of several contestants that did the same work."""

    title: str  # what was done
    seconds: dict[str, list[float]]  # of each round, by contestant; ratios refer to the first, ours
    images: int = 0  # of one time, or 0 if there are none to count
    refused: dict[str, str] = field(default_factory=dict)  # who did different work, and what
    details: dict[str, Any] = field(default_factory=dict)  # more for the JSON

    def refuse(self, refused: Mapping[str, str]) -> None:
        """Leave contestants out, with the reason."""
        self.refused |= refused
        self.seconds = {name: each for name, each in self.seconds.items() if name not in refused}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the JSON."""
        return {
            "title": self.title,
            "images": self.images,
            "seconds": self.seconds,
            "ratios": {name: each._asdict() for name, each in ratios(self.seconds).items()},
            "refused": self.refused,
            **self.details,
        }

    def show(self, console: Console) -> None:
        """Print times and ratios, and who was left out."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        table.add_column("", no_wrap=True)
        for heading in ("median s", "images/s", "time / ours", "of a round"):
            table.add_column(heading, justify="right")
        for name, ratio in ratios(self.seconds).items():
            seconds = median(self.seconds[name])
            rate = f"{self.images / seconds:.1f}" if self.images else ""
            spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
            table.add_row(name, f"{seconds:.3f}", rate, f"{ratio.median:.2f}", spread)
        console.print(table)
        for name, why in self.refused.items():
            line = f"{name} is left out, because it did different work: {why}"
            console.print(line, highlight=False, markup=False)
        console.print()


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
