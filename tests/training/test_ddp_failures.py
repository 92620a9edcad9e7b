"""Ranks that die, signals to one of them, ports that are taken: no hang, no orphan, no loss."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Seconds of training, so that there is a middle to be disturbed in.
LONGER = ("trainer.limit_train_batches=20", "checkpoint.every_minutes=1e-9")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
ENDS_WITHIN_S = 60


class Processes:
    """Commands in a folder, and whatever they start."""

    def __init__(self, folder: Path, small: tuple[str, ...]) -> None:
        self.folder = folder
        own = (each for each in small if each != "trainer=cpu")
        self._overrides = (*own, *LONGER, *TWO)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *overrides: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lrm_lightning.train", *overrides, *self._overrides]
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            process = subprocess.Popen(
                [*command, f"runs_dir={self.folder}/runs"],
                cwd=self.folder,
                env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )
        self._started.append(process)
        return process

    def run(self, *overrides: str) -> None:
        assert self.start(*overrides).wait(600) == 0, self.errors

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "err").read_text()

    def alive(self, *parts: str) -> list[int]:
        """Processes with this folder, and ``parts``, in their command lines."""
        listed = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True)
        wanted = (f"{self.folder}/runs", *parts)
        lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, command in lines if all(part in command for part in wanted)]

    def rank_1(self, process: subprocess.Popen[str], method: str) -> int:
        """Wait until ``method`` trains, with checkpoints; give the process of its rank 1."""
        checkpoints = f"runs/digits/{method}-*/checkpoints/interrupted.ckpt"
        while not (found := list(self.folder.glob(checkpoints))):
            assert process.poll() is None, self.output + self.errors
            time.sleep(0.02)
        (pid,) = self.alive(found[0].parents[1].name, "train_ddp_process_1")
        return pid

    def ends(self, process: subprocess.Popen[str], code: int) -> None:
        """It must end soon, with that code, in words, and all that it started with it."""
        assert process.wait(ENDS_WITHIN_S) == code, self.errors
        until = time.monotonic() + ENDS_WITHIN_S
        while (left := self.alive()) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == []
        assert "Traceback" not in self.output + self.errors

    def clean_up(self) -> None:
        """End what a failed assertion left behind."""
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait(60)


@pytest.fixture
def processes(tmp_path, small) -> Iterator[Processes]:
    processes = Processes(tmp_path, small)
    yield processes
    processes.clean_up()


@pytest.fixture(scope="module")
def undisturbed_pair(tmp_path_factory) -> Callable[[tuple[str, ...]], Path]:
    """Trains a run of two processes that nothing disturbs, once; gives its directory."""
    folder = tmp_path_factory.mktemp("pair")

    def trained(small: tuple[str, ...]) -> Path:
        if not list(folder.glob("runs/digits/*/record.json")):
            Processes(folder, small).run("method=pgd")
        (path,) = folder.glob("runs/digits/pgd-*")
        return path

    return trained


def _kill(process: subprocess.Popen[str], rank_1: int) -> None:
    os.kill(rank_1, signal.SIGKILL)


def _terminate_one(process: subprocess.Popen[str], rank_1: int) -> None:
    os.kill(rank_1, signal.SIGTERM)


def _ctrl_c(process: subprocess.Popen[str], rank_1: int) -> None:
    for pid in (process.pid, rank_1):  # what a terminal does
        os.kill(pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("disturb", "code", "says"),
    [
        (_kill, 1, "error: rank 1 of this run died (SIGKILL)"),
        (_terminate_one, 143, "interrupted: "),
        (_ctrl_c, 130, "interrupted: "),
    ],
)
def test_a_disturbed_pair_ends_together_and_goes_on(
    processes, finished, small, undisturbed_pair, disturb, code, says
):
    process = processes.start("method=pgd")
    disturb(process, processes.rank_1(process, "pgd"))
    processes.ends(process, code)
    (line,) = processes.errors.splitlines()
    assert line.startswith(says)
    assert "run the same command again to go on" in line

    processes.run("method=pgd")
    assert "resumed at step" in processes.output
    result = finished("pgd")
    result.assert_same_result(type(result)(undisturbed_pair(small)))


def test_no_rank_outlives_rank_0(processes):
    process = processes.start("method=pgd")
    processes.rank_1(process, "pgd")
    process.kill()
    processes.ends(process, -signal.SIGKILL)


def test_a_port_that_is_taken(processes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = processes.start("method=pgd", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        processes.ends(process, 1)
    (line,) = processes.errors.splitlines()
    assert line.startswith(f"error: port {port}, ")


def test_a_sweep_outlives_its_jobs(processes):
    sweep = ("-m", "method=pgd,alp,regular", "optimizer.lr=0.1")
    process = processes.start(*sweep)
    os.kill(processes.rank_1(process, "pgd"), signal.SIGKILL)
    os.kill(processes.rank_1(process, "alp"), signal.SIGKILL)
    assert process.wait(600) == 1
    processes.ends(process, 1)
    assert "3 jobs: 1 done, 2 failed" in processes.output
    assert processes.output.count("error: rank 1 of this run died (SIGKILL)") == 2  # from its log

    processes.run(*sweep)
    assert "3 jobs: 2 done, 1 done earlier" in processes.output
    assert len(list(processes.folder.glob("runs/digits/*/record.json"))) == 3


def test_a_job_that_raises_leaves_the_sweep_going(processes):
    process = processes.start("-m", "optimizer.lr=1e30,0.1", "method=regular")
    assert process.wait(600) == 1
    processes.ends(process, 1)
    assert "2 jobs: 1 done, 1 failed" in processes.output
    assert "training diverged" in processes.output


def test_ctrl_c_amid_a_sweep(processes, finished):
    sweep = ("-m", "method=pgd,regular")
    process = processes.start(*sweep)
    processes.rank_1(process, "pgd")
    process.send_signal(signal.SIGINT)
    processes.ends(process, 130)
    assert "2 jobs: 2 interrupted" in processes.output

    processes.run(*sweep)
    assert "2 jobs: 2 done" in processes.output
    assert "resumed at step" in (finished("pgd").path / "job.log").read_text()
