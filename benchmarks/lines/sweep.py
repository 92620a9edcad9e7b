"""Line 6: a sweep of short runs through our launcher against the same runs one after another."""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.commands import SHORT, TRAIN, run
from benchmarks.result import Result
from benchmarks.same_work import check_runs
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved

LAUNCHER, COMMANDS = "launcher", "separate commands"
ROUNDS = 2  # minutes each

# A run's record.json.
Record = dict[str, Any]


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """The launcher shares out the cores; a command alone has all of them, as a user's would."""
    common = (*SHORT, f"trainer={'cpu' if settings.device == 'cpu' else 'gpu'}")
    seeds = range(settings.runs)
    contestants = {
        LAUNCHER: partial(_swept, common, seeds, settings.threads),
        COMMANDS: partial(_in_turn, common, seeds, settings.threads),
    }
    seconds, records = interleaved(contestants, min(settings.rounds, ROUNDS))
    swept, alone = records[LAUNCHER], records[COMMANDS]
    check_runs(swept, alone)
    threads = {name: found[0]["hardware"]["threads"] for name, found in records.items()}
    if threads[LAUNCHER] != threads[COMMANDS]:
        # Not timed: with a job's threads, a command of its own has to give exactly what the job
        # gave. That the launcher changes nothing else is certain then, not only likely.
        check_runs(swept[:1], _in_turn(common, seeds[:1], threads[LAUNCHER]))
    first = swept[0]
    steps, images, columns = first["global_step"], first["n"], list(first["metrics"])
    title = f"sweep of {len(seeds)} runs, {steps} training steps and {images} test images each"
    result = Result(title, seconds)
    result.details = {
        "columns": columns,
        "accuracies": {
            name: [mean(record["metrics"][each] for record in found) for each in columns]
            for name, found in records.items()
        },
        "threads": threads,
    }
    return [result]


def _swept(common: Sequence[str], seeds: Sequence[int], cores: int) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        listed = f"seed={','.join(map(str, seeds))}"
        share = f"hydra.launcher.cores={cores}"
        run(*TRAIN, "-m", *common, listed, share, f"runs_dir={folder}", threads=cores)
        return _records(Path(folder))


def _in_turn(common: Sequence[str], seeds: Sequence[int], threads: int) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            run(*TRAIN, *common, f"seed={seed}", f"runs_dir={folder}", threads=threads)
        return _records(Path(folder))


def _records(folder: Path) -> list[Record]:
    """By seed."""
    found = [json.loads(path.read_text()) for path in folder.rglob("record.json")]
    return sorted(found, key=lambda record: record["seed"])
