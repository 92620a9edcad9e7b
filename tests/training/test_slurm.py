"""Sweeps through a real SLURM controller, where this machine has one to start, and a stand-in."""

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[1] / "cluster"
FakeSlurm = runpy.run_path(str(CLUSTER / "fake_slurm.py"))["FakeSlurm"]
SCRIPT = CLUSTER / "local_slurm.sh"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
SUBMIT = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")
AFTER_20_STEPS = " of training at "
TRAIN = ("-m", "lrm_lightning.train", "-m")
# No checkpoint but those that signals and the ends of epochs make.
LONG = ("method=lrm", "trainer.max_epochs=1", "trainer.limit_train_batches=45")
LONG += ("checkpoint.every_minutes=60",)

missing = [name for name in NEEDED if shutil.which(name) is None]
real = pytest.mark.skipif(
    bool(missing) or os.geteuid() != 0,
    reason=f"no SLURM that root could start here: {', '.join(missing)} not found",
)


@pytest.fixture
def fake(tmp_path_factory):
    fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    yield fake
    fake.clean_up()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A controller and a node on loopback; gives the directory of their logs."""
    folder = tmp_path_factory.mktemp("slurm")
    monkeypatch.setenv("SLURMCTLD_PORT", _free_port())
    monkeypatch.setenv("SLURMD_PORT", _free_port())
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    # files: daemons would keep a pipe open
    with (folder / "started").open("w") as log:
        subprocess.run([SCRIPT, "start", folder], check=True, stdout=log, stderr=log)
    yield folder
    subprocess.run([SCRIPT, "stop", folder], check=True)


def _until(condition):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def _said(folder, words):
    """What the jobs logged with these words in it."""
    logs = folder.glob("runs/digits/*/job.log")
    return [line for log in logs for line in log.read_text().splitlines() if words in line]


def _listed(*options):
    """The tasks in the queue."""
    squeue = ["squeue", "--noheader", "--array", "--format=%i", *options]
    return subprocess.run(squeue, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture
def assert_as_undisturbed(command, finished):
    """Function: what was submitted has the results of a plain run."""
    command.run(*LONG, "runs_dir=plain")
    return lambda: finished("lrm").assert_same_result(finished("lrm", "plain"))


@pytest.mark.slow
def test_a_submitted_job_ends_as_if_undisturbed(
    fake, python, interpreter, small, assert_as_undisturbed, tmp_path
):
    submit = partial(python, *TRAIN, *small, *LONG, *SUBMIT, folder=tmp_path, **fake.environment)
    assert "submitted 1 job as array 1" in submit()
    process = fake.start(0, folder=tmp_path)
    _until(lambda: _said(tmp_path, AFTER_20_STEPS))
    os.kill(process.pid, signal.SIGUSR1)  # the time is almost over
    assert process.wait(600) != 0
    assert fake.requeued == ["1_0"]
    process = fake.start(0, folder=tmp_path)
    _until(lambda: _said(tmp_path, "resumed at step "))
    os.killpg(process.pid, signal.SIGKILL)  # the node breaks down
    process.wait(600)
    script = fake.folder / "1/script"  # which now starts the real Python
    script.write_text(script.read_text().replace(interpreter, sys.executable))
    fake.run(0, folder=tmp_path)
    steps = {int(line.split()[-1]) for line in _said(tmp_path, "resumed at step ")}
    assert len(steps) == 1
    assert steps <= set(range(20, 45))
    assert_as_undisturbed()
    assert "1 job: 1 done earlier" in submit()


@pytest.mark.slow
def test_a_task_may_be_several_processes(fake, python, small, finished, tmp_path):
    two = ("method=lrm", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    python(*TRAIN, *small, *two, "runs_dir=plain", folder=tmp_path)
    python(*TRAIN, *small, *two, *SUBMIT, folder=tmp_path, **fake.environment)
    fake.run(0, folder=tmp_path)
    assert finished("lrm").record["hardware"]["devices"] == 2
    finished("lrm").assert_same_result(finished("lrm", "plain"))


@real
@pytest.mark.parametrize(
    "disturb",
    [("scontrol", "requeue"), ("scancel", "--batch", "--signal=USR1")],
    ids=["preempted", "out of time"],
)
def test_a_requeued_job_ends_as_if_undisturbed(
    disturb, slurm, python, small, assert_as_undisturbed, tmp_path
):
    python(*TRAIN, *small, *LONG, *SUBMIT, folder=tmp_path)
    _until(lambda: _said(tmp_path, AFTER_20_STEPS))
    job, *_ = _listed("--states=running")
    subprocess.run([*disturb, job], check=True)
    _until(lambda: not _listed())
    (resumed,) = _said(tmp_path, "resumed at step ")
    assert 20 <= int(resumed.split()[-1]) < 45
    assert_as_undisturbed()
