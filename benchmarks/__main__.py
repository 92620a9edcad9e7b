"""Measure, print a table of ratios, write JSON: ``python -m benchmarks --help``."""

import copy
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks import convolutions, entrants, growth, peers, profile
from benchmarks.lines import MEASUREMENTS, WORKLOADS
from benchmarks.report import show
from benchmarks.result import Result
from benchmarks.same_work import DifferentWorkError
from benchmarks.settings import Settings, parse
from benchmarks.subject import Subject, prepare
from lrm_lightning.allocator import keep_freed_memory
from lrm_lightning.runs import provenance
from lrm_lightning.runs.files import write_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` are those of the command line."""
    settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    keep_freed_memory()  # as our commands do; else who frees memory decides how long others take
    warnings.simplefilter("ignore")  # of peers, older than the torch they run on
    console = Console(width=100)
    about = _about(settings)
    hardware = about["hardware"]
    console.print(
        f"{settings.model}, batch {settings.batch}, {settings.rounds} rounds, {hardware['name']}, "
        f"{hardware['threads']} threads, commit {about['git']['commit']}"
    )
    for name in entrants.missing():
        console.print(
            f"{name} is not installed and left out; make bench installs the extra \\[bench]"
        )
    subject = prepare(settings)
    refused: dict[str, str] = {}
    if set(settings.lines) & WORKLOADS.keys():
        refused = entrants.admit(subject.network, subject.x, subject.y, settings)
        for name, why in refused.items():
            console.print(f"{name} is left out, it does different work: {why}")
    names = [name for name in entrants.names() if name not in refused]
    subject = subject._replace(entrants=names)
    found: dict[str, Any] = {}
    failed: list[int] = []
    for line in settings.lines:
        try:
            results = MEASUREMENTS[line](subject, settings)
        except DifferentWorkError as difference:
            failed.append(line)
            console.print(f"line {line} compares nothing: {difference}")
            continue
        if line in WORKLOADS:
            _measure_beside(line, results, subject, settings)
        for result in results:
            show(result, console)
        found[str(line)] = [result.as_dict() for result in results]
        # After every line: what an interrupted benchmark has measured is kept.
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings.out, about | {"refused": refused, "lines": found})
    console.print(f"written to {settings.out}")
    if failed:
        raise SystemExit(1)


def _about(settings: Settings) -> dict[str, Any]:
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings.as_dict(),
        "git": provenance.git_state(),
        "hardware": provenance.hardware(torch.device(settings.device), 1),
        "versions": provenance.versions() | peers.versions(),
    }


def _measure_beside(line: int, results: list[Result], subject: Subject, settings: Settings) -> None:
    """The share of the possible that ours reach, and how their cost grows."""
    images = min(settings.batch, settings.fewer_images if line == 3 else settings.images)
    batch = subject.batches["none"].x if line == 1 else subject.x[:images]
    limit = convolutions.limit(subject.network, batch, repeats=settings.repeats)
    for result in results:
        seconds = median(result.seconds[result.base])
        result.details["limit"] = limit.reached(
            result.details["passes"], images=result.images, seconds=seconds
        )
        result.details["limit"] |= ceiling(result, limit, subject.entrants)
    work = WORKLOADS[line]
    y = subject.batches["none"].y if line == 1 else subject.y[:images]
    results[0].details["profile"] = profile.shares(
        lambda: work(copy.deepcopy(subject.network), batch, y, settings.attack.steps)
    )
    results[0].details["growth"] = growth.cost(work, subject, settings)
    results[0].details["memory"] = growth.memory(line, settings)


def ceiling(result: Result, limit: convolutions.Limit, peers: Sequence[str]) -> dict[str, Any]:
    """How far ahead of the fastest peer we'd be if attacks were nothing but their convolutions."""
    details = result.details
    seconds = {name: median(each) for name, each in result.seconds.items()}
    best = limit.floor(details.get("attack_passes", details["passes"]), images=result.images)
    best += seconds.get(details.get("beside_attack", ""), 0.0)
    rivals = [name for name in peers if name in seconds]
    fastest = min(rivals, key=seconds.__getitem__)
    return {"fastest_peer": fastest, "ceiling": seconds[fastest] / best}


if __name__ == "__main__":
    main()
