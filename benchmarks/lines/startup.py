"""Line 7: how long until something happens."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.commands import SHORT, TRAIN, environment, run, said
from benchmarks.result import Result
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved

LONGEST = 300.0
HELP, FIRST_STEP = "train --help", "train up to its first step"
TORCH, FLOOR = "import torch", "import torch, lightning, hydra"


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """Fresh processes; the imports alone are the floor that no training gets below."""
    threads = settings.threads

    def python(statement: str) -> None:
        run(sys.executable, "-c", statement, threads=threads)

    contestants = {
        HELP: lambda: run(*TRAIN, "--help", threads=threads),
        FIRST_STEP: lambda: _first_step(settings),
        TORCH: lambda: python(TORCH),
        FLOOR: lambda: python(FLOOR),
    }
    for each in (HELP, FLOOR):  # the files are in memory then, as from a user's second command on
        contestants[each]()
    seconds, _ = interleaved(contestants, settings.rounds)
    # Each beside the imports that it needs: help does without those of training.
    return [
        Result("start-up: help", {name: seconds[name] for name in (HELP, TORCH)}),
        Result("start-up: training", {name: seconds[name] for name in (FIRST_STEP, FLOOR)}),
    ]


def _first_step(settings: Settings) -> None:
    trainer = "cpu" if settings.device == "cpu" else "gpu"
    with tempfile.TemporaryDirectory() as folder:
        runs, log = Path(folder, "runs"), Path(folder, "log")
        command = [*TRAIN, *SHORT, f"trainer={trainer}", f"runs_dir={runs}"]
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                env=environment(settings.threads),
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                _wait_for_training(process, runs, log)
            finally:
                process.kill()


def _wait_for_training(process: "subprocess.Popen[bytes]", runs: Path, log: Path) -> None:
    """Until the run writes its first status line, which it does right before its first step.

    Raises:
        RuntimeError: If the run ends without one, or takes minutes.
    """
    until = time.monotonic() + LONGEST
    while not any(runs.rglob("status.json")):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the run did not get to its first training step: {said(log)}")
        time.sleep(0.01)
