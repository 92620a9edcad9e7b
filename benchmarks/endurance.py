"""Does a long training grow? Memory, open files and threads: ``python -m benchmarks.endurance``.

A small training on the embedded digits, for each logger in a process of its own and without a
network. At the end of every epoch its callback reads from /proc (so it needs Linux) what the
process holds, and what the processes hold that it has started: W&B's.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.timing import about
from lrm_lightning.runs.files import write_json

REPOSITORY = Path(__file__).parents[1]
TRAIN = (
    "lrm_lightning.train", "data=digits", "data.batch_size=16", "data.val_size=20",
    "data.eval_batch_size=20", "model=resnet_tiny", "method=lrm", "trainer=cpu",
    "trainer.limit_train_batches=2", "trainer.limit_test_batches=1", "attack.eps=0.01",
    "attack.steps=1", "scheduler=one_cycle", "scheduler.warmup_epochs=1",
    "robust_accuracy.steps=[2]", "robust_accuracy.n_images=20",
    "robust_accuracy.test_n_images=20", "+callbacks.sample._target_=benchmarks.endurance.Sample",
)  # fmt: skip
LOGGERS = ("csv", "wandb")
SAMPLES = "samples.csv"
OWN = ("rss_kib", "open_files", "threads")
COLUMNS = ("epoch", *OWN, *(f"children_{each}" for each in OWN), "children")
FIRST = 0.25  # of the epochs are not looked at: caches fill and allocators settle
# Of epochs, whose means the slope is fitted to: neighbouring epochs are not independent.
BLOCKS = 10


class Sample(L.Callback):
    """Writes a line of :data:`COLUMNS` to ``samples.csv`` at the end of every epoch."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        children = [held(pid) for pid in descendants(os.getpid())]
        theirs = [sum(each) for each in zip(*children, strict=True)] or [0] * len(OWN)
        line = [trainer.current_epoch + 1, *held(os.getpid()), *theirs, len(children)]
        with Path(SAMPLES).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(line)


def held(pid: int) -> list[int]:
    """Resident memory in KiB, open files and threads of a process; zeros once it has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        lines = (line.split() for line in (folder / "status").read_text().splitlines())
        status = {words[0]: words[1] for words in lines if len(words) > 1}
        files = len(list((folder / "fd").iterdir()))
        return [int(status["VmRSS:"]), files, int(status["Threads:"])]
    except (OSError, KeyError):
        return [0] * len(OWN)


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and what they have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found, asked = [], [pid]
    while asked:
        one = asked.pop()
        children = [child for child, parent in parents.items() if parent == one]
        found += children
        asked += children
    return found


def slope(epochs: Sequence[int], values: Sequence[int]) -> tuple[float, float]:
    """Growth an epoch, and half of its 95% interval, by a line through the means of blocks."""
    size = len(epochs) // BLOCKS
    last = (np.array(each)[-BLOCKS * size :] for each in (epochs, values))
    x, y = (each.reshape(BLOCKS, size).mean(axis=1) for each in last)
    x, y = x - x.mean(), y - y.mean()
    growth = x @ y / (x @ x)
    error = np.sqrt(((y - growth * x) ** 2).sum() / (BLOCKS - 2) / (x @ x))
    return float(growth), float(stats.t.ppf(0.975, BLOCKS - 2) * error)


def measure(logger: str, epochs: int, folder: Path) -> dict[str, list[int]]:
    """Train with a logger in a folder; the samples, by column."""
    folder.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", *TRAIN, f"logger={logger}", f"trainer.max_epochs={epochs}"]
    with (folder / "output").open("w") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=folder, env=environment, **streams)
    if done.returncode:
        raise SystemExit((folder / "output").read_text())
    with (folder / SAMPLES).open(encoding="utf-8") as file:
        rows = [[int(each) for each in row] for row in csv.reader(file)]
    return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: measures, prints a table, writes all samples as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--epochs", type=int, default=200, help="default 200")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks/endurance.json"))
    chosen = parser.parse_args(arguments)
    if chosen.epochs - int(FIRST * chosen.epochs) < BLOCKS:
        parser.error(f"--epochs {chosen.epochs} is too few for {BLOCKS} blocks of the last")
    work, console = REPOSITORY / ".benchmarks/endurance", Console(width=120)
    shutil.rmtree(work, ignore_errors=True)
    found = about("benchmarks.endurance", "cpu")
    at = sorted({max(1, round(chosen.epochs * share)) for share in (0.05, 0.25, 0.5, 0.75, 1)})
    table = Table("logger", "held", *(f"epoch {each}" for each in at), "growth an epoch, 95%")
    for logger in LOGGERS:
        samples = found[logger] = measure(logger, chosen.epochs, work / logger)
        first = int(FIRST * chosen.epochs)
        for column in COLUMNS[1:]:
            growth, spread = slope(samples["epoch"][first:], samples[column][first:])
            found.setdefault("growth", {})[f"{logger} {column}"] = [growth, spread]
            shown = [f"{samples[column][each - 1]:,}" for each in at]
            table.add_row(logger, column.replace("_", " "), *shown, f"{growth:.3g} ± {spread:.2g}")
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(chosen.out, found)
    console.print(table)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
