"""Line 7: how long until something happens."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lines.sweep import SHORT, TRAIN
from benchmarks.result import Result
from benchmarks.settings import Settings
from benchmarks.subject import Subject
from benchmarks.timing import interleaved

LONGEST = 300.0


def measure(subject: Subject, settings: Settings) -> list[Result]:
    """Fresh processes; the imports alone are the floor that no command gets below."""
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}

    def run(*command: str) -> None:
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def first_step() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [*TRAIN, *SHORT, "trainer=cpu", f"runs_dir={folder}"]
            with subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                try:
                    _wait_for_training(process, Path(folder))
                finally:
                    process.kill()

    contestants = {
        "train --help": lambda: run(*TRAIN, "--help"),
        "train up to its first step": first_step,
        "import torch": lambda: run(sys.executable, "-c", "import torch"),
        "import torch, lightning, hydra": lambda: run(
            sys.executable, "-c", "import torch, lightning, hydra"
        ),
    }
    seconds, _ = interleaved(contestants, settings.rounds)
    return [Result("start-up", seconds)]


def _wait_for_training(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until the run writes its first status line, which it does right before its first step.

    Raises:
        RuntimeError: If the run ends without one, or takes minutes.
    """
    until = time.monotonic() + LONGEST
    while not any(folder.rglob("status.json")):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("the run did not get to its first training step")
        time.sleep(0.01)
