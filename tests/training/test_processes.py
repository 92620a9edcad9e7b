"""Several processes train what one trains, end together, and don't get in each other's way."""

import os
import signal
import socket
import subprocess
import time

import pytest
import torch

TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
# Double precision: what is left of a difference in the order of sums decides no pixel's sign.
EPOCH = ("trainer.max_epochs=1", "trainer.precision=64-true", "robust_accuracy.test_n_images=33")
EPOCH += ("data.eval_batch_size=33", "trainer.limit_train_batches=6")
# Seconds of training, so that there is a middle to be disturbed in.
LONGER = ("trainer.limit_train_batches=12", "checkpoint.every_minutes=1e-9")
ENDS_WITHIN_S = 60


# ---------------------------------------------------------------------- one computation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "overrides", "tolerance"),
    [
        ("lrm", EPOCH, 1e-8),
        # one step, whose rounding decides little, and statistics of batch norm in float32
        ("regular", ("trainer.precision=bf16-mixed", "trainer.limit_train_batches=1"), 1e-2),
    ],
)
def test_two_processes_train_what_one_trains(
    method, overrides, tolerance, command, python, small, finished, tmp_path
):
    command.run(f"method={method}", *overrides, "runs_dir=runs/one")
    own = [each for each in small if each != "trainer=cpu"]
    train = ("-m", "lrm_lightning.train", *own, f"method={method}", *overrides, *TWO)
    python(*train, "runs_dir=runs/two", folder=tmp_path, fresh=method == "lrm")
    one, two = (finished(method, f"runs/{each}") for each in ("one", "two"))
    assert (one.record["hardware"]["devices"], two.record["hardware"]["devices"]) == (1, 2)
    assert one.record["run_id"] == two.record["run_id"]
    assert (
        list(two.verdicts["index"]) == list(one.verdicts["index"]) == list(range(two.record["n"]))
    )
    assert [row.keys() for row in one.metrics] == [row.keys() for row in two.metrics]
    assert one.weights.keys() == two.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(two.weights[name], value, rtol=1e-6, atol=tolerance, msg=name)
    if method == "lrm":
        assert one.record["metrics"] == two.record["metrics"]


# ---------------------------------------------------------------------- one process


@pytest.mark.slow
def test_ranks_left_in_the_environment_are_not_ours(python, small, finished, tmp_path):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "method=regular")
    left = dict.fromkeys(("RANK", "LOCAL_RANK", "SLURM_PROCID"), "1")
    train = ("-m", "lrm_lightning.train", *small, *short)
    output = python(*train, folder=tmp_path, fresh=True, **left)  # imports read them
    run = finished("regular")
    assert "testing: " in output
    assert (run.path / "config.yaml").exists()
    assert {int(row["step"]) for row in run.metrics} == {0, 1}


def test_torchrun_needs_a_run_of_several_devices(command):
    environment = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"}
    line = command.start(**environment).error()
    assert "torchrun started 2 processes, but the run has 1; give trainer=ddp" in line


def test_a_run_that_another_process_trains_is_refused(command, undisturbed, finished):
    wait = """
import time
from pathlib import Path
from lrm_lightning.methods.pgd import PGDTraining
loss_terms = PGDTraining.loss_terms

def waiting(self, batch):
    Path("training").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
    return loss_terms(self, batch)

PGDTraining.loss_terms = waiting
"""
    first = command.start("method=lrm", prelude=wait)
    while not (command.folder / "training").exists():
        assert first.process.is_alive(), first.errors
        time.sleep(0.01)
    line = command.start("method=lrm").error()
    assert f"error: process {first.process.pid} on " in line
    assert "is training in " in line
    (command.folder / "go on").touch()
    first.ends()
    finished("lrm").assert_same_result(undisturbed)


# ---------------------------------------------------------------------- disturbed


class Commands:
    """Commands in a folder, whatever they start, and what the latest has printed."""

    def __init__(self, folder, small, interpreter):
        self.folder, self._python = folder, interpreter
        own = (each for each in small if each != "trainer=cpu")
        self._overrides = (*own, *LONGER, *TWO, f"runs_dir={folder}/runs")
        self._started = []

    def start(self, *overrides, **environment):
        command = [self._python, "-m", "lrm_lightning.train", *overrides, *self._overrides]
        environment = {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            settings = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            settings |= {"cwd": self.folder, "env": os.environ | environment}
            self._started.append(subprocess.Popen(command, **settings))
        return self._started[-1]

    def run(self, *overrides):
        assert self.start(*overrides).wait(600) == 0, self.errors

    @property
    def output(self):
        return (self.folder / "out").read_text()

    @property
    def errors(self):
        return (self.folder / "err").read_text()

    def alive(self, *parts):
        """Processes with this folder, and ``parts``, in their command lines."""
        listed = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True)
        wanted = (f"{self.folder}/runs", *parts)
        lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, command in lines if all(part in command for part in wanted)]

    def rank_1(self, process, method):
        """Wait until ``method`` trains, and saves; give the process of its rank 1."""

        def saved():
            paths = self.folder.glob(f"runs/digits/{method}-*/checkpoints/interrupted.ckpt")
            return [(path, path.stat().st_mtime_ns) for path in paths]

        before = saved()
        while (after := saved()) == before:
            assert process.poll() is None, self.output + self.errors
            time.sleep(0.02)
        (pid,) = self.alive(after[0][0].parents[1].name, "train_ddp_process_1")
        return pid

    def ends(self, process, code):
        """It must end soon, with that code, in words, and all that it started with it."""
        assert process.wait(ENDS_WITHIN_S) == code, self.errors
        until = time.monotonic() + ENDS_WITHIN_S
        while (left := self.alive()) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == []
        assert "Traceback" not in self.output + self.errors

    def clean_up(self):
        """End what a failed assertion left behind."""
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait(60)


@pytest.fixture
def commands(tmp_path, small, interpreter):
    commands = Commands(tmp_path, small, interpreter)
    yield commands
    commands.clean_up()


@pytest.fixture(scope="module")
def undisturbed_pair(tmp_path_factory, small, interpreter, finished_in):
    """PGD training on two processes that nothing disturbed."""
    commands = Commands(tmp_path_factory.mktemp("pair"), small, interpreter)
    commands.run("method=pgd")
    return finished_in(commands.folder, "pgd")


@pytest.mark.slow
def test_a_pair_ends_together_whatever_comes_and_goes_on_as_if_undisturbed(
    commands, finished, undisturbed_pair
):
    for number, ranks, code, says in (
        (signal.SIGKILL, [0], -signal.SIGKILL, []),  # no rank outlives rank 0
        (signal.SIGTERM, [1], 143, ["interrupted"]),
        (signal.SIGINT, [0, 1], 130, ["interrupted"]),  # what a terminal does
    ):
        process = commands.start("method=pgd")
        pids = process.pid, commands.rank_1(process, "pgd")
        for rank in ranks:
            os.kill(pids[rank], number)
        commands.ends(process, code)
        lines = commands.errors.splitlines()
        assert [line.partition(":")[0] for line in lines] == says
        assert all("run the same command again to go on" in line for line in lines)
    commands.run("method=pgd")
    assert "resumed at step" in commands.output
    finished("pgd").assert_same_result(undisturbed_pair)


def test_a_port_that_is_taken(commands):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = commands.start("method=pgd", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        commands.ends(process, 1)
    (line,) = commands.errors.splitlines()
    assert line.startswith(f"error: port {port}, ")


@pytest.mark.slow
def test_a_sweep_outlives_its_jobs_and_goes_on_after_ctrl_c(commands, finished, undisturbed_pair):
    sweep = ("-m", "method=pgd,alp", "hydra.launcher.jobs=1")
    process = commands.start(*sweep)
    os.kill(commands.rank_1(process, "pgd"), signal.SIGKILL)
    commands.rank_1(process, "alp")
    process.send_signal(signal.SIGINT)
    commands.ends(process, 130)
    assert "2 jobs: 1 failed, 1 interrupted" in commands.output
    assert "job 0 failed: exit code 1 (" in commands.output
    # from its log
    (line,) = [each for each in commands.output.splitlines() if "error: " in each]
    assert line.strip().startswith("error: rank 1 of this run died (SIGKILL)")
    assert "run the same command again to go on" in line

    commands.run(*sweep)
    assert "2 jobs: 2 done" in commands.output
    for method in ("pgd", "alp"):
        assert "resumed at step" in (finished(method).path / "job.log").read_text()
    finished("pgd").assert_same_result(undisturbed_pair)
