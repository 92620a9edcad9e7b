"""Sweeps through a real SLURM controller, where this machine has one to start."""

import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "cluster" / "local_slurm.sh"
ROOT = Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")

missing = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"no SLURM here: {', '.join(missing)} not found"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a SLURM controller"),
    pytest.mark.skipif(find_spec("submitit") is None, reason="needs the extra [slurm]"),
]


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


def test_sweep_smoothing(slurm, small, tmp_path):
    # A virtual environment for make, in which the package is installed: this one.
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for stamp in (".made", ".installed"):
        (venv / stamp).touch()
    overrides = " ".join([*small, *LAUNCHER, f"runs_dir={tmp_path}/runs"])
    target = ["make", "-C", ROOT, "sweep-smoothing", f"VENV={venv}", f"ARGS={overrides}"]
    done = subprocess.run(target, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/digits/label_smoothing-*/record.json"))) == 7
    assert len(list(tmp_path.glob("runs/.submitit/*/*_result.pkl"))) == 7


@pytest.mark.parametrize(
    "disturb",
    [("scontrol", "requeue"), ("scancel", "--signal=USR2")],
    ids=["preempted", "out of time"],
)
def test_a_requeued_job_ends_as_if_undisturbed(disturb, slurm, python, small, finished, tmp_path):
    # No checkpoint but those that signals and the ends of epochs make.
    run = ("method=lrm", "trainer.limit_train_batches=60", "checkpoint.every_minutes=60")
    python("-m", "lrm_lightning.train", *small, *run, "runs_dir=undisturbed", folder=tmp_path)

    command = [sys.executable, "-m", "lrm_lightning.train", "-m", *small, *run, *LAUNCHER]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not _said(tmp_path, " of training at "):  # after 20 steps
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    listed = ["squeue", "--noheader", "--array", "--format=%i", "--states=running"]
    (job,) = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    subprocess.run([*disturb, job], check=True)
    assert process.wait(600) == 0
    (resumed,) = _said(tmp_path, "resumed at step ")
    assert 20 <= int(resumed.split()[-1]) < 60
    finished("lrm").assert_same_result(finished("lrm", "undisturbed"))


def _said(folder, words):
    """What the jobs printed with these words in it."""
    logs = folder.glob("runs/.submitit/*/*_log.out")
    return [line for log in logs for line in log.read_text().splitlines() if words in line]
