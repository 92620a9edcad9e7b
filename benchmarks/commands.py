"""Commands of this project in processes of their own, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

TRAIN = (sys.executable, "-m", "lrm_lightning.train")
# One epoch of the demo and its test, shortened: about half of it is start-up.
SHORT = (
    "experiment=demo",
    "method=pgd",
    "trainer.max_epochs=1",
    "robust_accuracy.test_n_images=100",
)


def environment(threads: int) -> dict[str, str]:
    """Ours, with that many threads for torch."""
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def run(*command: str, threads: int) -> None:
    """Wait for a command, which prints nothing here.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    done = subprocess.run(
        command,
        env=environment(threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-1000:]}")


def said(log: Path) -> str:
    """The end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-1000:]
