"""Real processes of ``python -m lrm_lightning.train``, without the time that importing torch takes.

A server process imports the package once; every run is a fork of it, with files for its output.
"""

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# A few seconds of training, at a rate that moves the weights.
SMALL = (
    "data=digits",
    "data.batch_size=16",
    "data.val_size=40",
    "model=resnet_tiny",
    "logger=csv",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "data.eval_batch_size=40",
    "trainer.limit_test_batches=1",
    "attack.eps=0.01",
    "attack.steps=2",
    "optimizer.warmup_epochs=0",
    "robust_accuracy.n_images=20",
    "robust_accuracy.test_n_images=30",
)

RUN = """
import os, runpy, signal, sys
os.chdir(folder)
os.environ |= environment
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
sys.stdout = open(1, "w", buffering=1, closefd=False)
sys.stderr = open(2, "w", buffering=1, closefd=False)
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
torch.set_num_threads(1)  # the same sums on every machine
exec(prelude)
sys.argv[1:] = arguments
sys.modules.pop("lrm_lightning.train", None)
runpy.run_module("lrm_lightning.train", run_name="__main__", alter_sys=True)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole trainings take a while where the machine has other things to do."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(1200))


class Run:
    """A process of the command."""

    def __init__(self, process: multiprocessing.Process, out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def ends(self, code: int = 0) -> "Run":
        """Wait; the process must end with this exit code, without traceback or warning."""
        self.process.join(600)
        assert self.process.exitcode == code, self.output + self.errors
        assert "Traceback" not in self.output + self.errors
        if code == 0:
            assert self.errors == ""
        return self

    def error(self) -> str:
        """Wait for a failure; the one line it must say."""
        self.ends(1)
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert lines[0].startswith("error: ")
        return lines[0]


class Command:
    """The command, run in a folder of its own.

    Args:
        folder: Where; output and run directories lie there.
        server: Starts processes.
    """

    def __init__(self, folder: Path, server) -> None:
        self.folder = folder
        self._server = server
        self._started: list[Run] = []

    def start(self, *overrides: str, prelude: str = "", small: bool = True, **environment) -> Run:
        """Start a run; ``prelude`` is Python to execute in the process before."""
        number = len(self._started)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        names = {
            "folder": str(self.folder),
            "environment": {"COLUMNS": "200"} | environment,
            "out": str(out),
            "err": str(err),
            "prelude": prelude,
            "arguments": [*(SMALL if small else ()), *overrides],
        }
        process = self._server.Process(target=exec, args=(RUN, names))
        process.start()
        self._started.append(Run(process, out, err))
        return self._started[-1]

    def run(self, *overrides: str, **settings) -> Run:
        """Start a run and wait for it to end well."""
        return self.start(*overrides, **settings).ends()

    def clean_up(self) -> None:
        """End what a failed assertion left behind."""
        for run in self._started:
            run.process.kill()
            run.process.join()


class Finished:
    """What a finished run left in its directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = json.loads((path / "record.json").read_text())
        with (path / "metrics.csv").open(newline="") as lines:
            self.metrics = list(csv.DictReader(lines))
        with np.load(path / "correct.npz") as file:
            self.verdicts = dict(file)
        self.weights = torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    def assert_same_result(self, other: "Finished") -> None:
        """Metrics, verdicts and weights are equal to the last bit."""
        for name in ("metrics", "intervals", "val_metrics", "test_metrics", "score", "run_id"):
            assert self.record[name] == other.record[name], name
        assert (self.record["epochs"], self.record["global_step"]) == (
            other.record["epochs"],
            other.record["global_step"],
        )
        assert self.metrics == other.metrics
        assert all(np.array_equal(self.verdicts[key], other.verdicts[key]) for key in self.verdicts)
        assert all(torch.equal(self.weights[key], other.weights[key]) for key in other.weights)


@pytest.fixture(scope="session")
def server():
    """Forks processes off one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    # without effect if another test has started the server: then a process imports what is missing
    context.set_forkserver_preload(["lrm_lightning.training.run", "sklearn.datasets"])
    return context


@pytest.fixture
def python() -> Callable[..., str]:
    """Runs a fresh interpreter, for what a fork cannot show; gives its output."""

    def run(*arguments: str, folder: Path, quiet: bool = True, **environment: str) -> str:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | {"COLUMNS": "200"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=1000)
        finally:
            process.terminate()  # where it is still there; a multirun then ends its jobs
        assert process.returncode == 0, output + errors
        assert errors == "" or not quiet
        return output

    return run


@pytest.fixture
def small() -> tuple[str, ...]:
    """The overrides that make a run a matter of seconds."""
    return SMALL


@pytest.fixture
def command(tmp_path: Path, server) -> Iterator[Command]:
    command = Command(tmp_path, server)
    yield command
    command.clean_up()


SNAPSHOTS = """
import shutil
from pathlib import Path
import lightning
save = lightning.Trainer.save_checkpoint

def save_and_copy(trainer, path, *args):
    save(trainer, path, *args)
    folder = Path(path).parents[1]
    name = f"{trainer.global_step}-{Path(path).stem}"
    shutil.copytree(folder, Path("snapshots") / name)

lightning.Trainer.save_checkpoint = save_and_copy
"""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, server) -> Finished:
    """A run of LRM that nothing disturbed; ``snapshots/<step>-<checkpoint>`` lie beside its folder.

    They are its run directory right after each checkpoint: what a kill there would leave behind.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    command = Command(folder, server)
    command.run("method=lrm", "checkpoint.every_minutes=1e-9", prelude=SNAPSHOTS)
    (path,) = folder.glob("runs/digits/lrm-*")
    return Finished(path)


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[str], Finished]:
    """What the only run of a method has left."""

    def read(method: str, runs: str = "runs") -> Finished:
        (path,) = tmp_path.glob(f"{runs}/digits/{method}-*")
        return Finished(path)

    return read


@pytest.fixture
def copy_of_undisturbed(undisturbed, tmp_path: Path) -> Path:
    """A finished run directory to do damage to."""
    target = tmp_path / "runs/digits" / undisturbed.path.name
    shutil.copytree(undisturbed.path, target)
    return target
