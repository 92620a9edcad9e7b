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
SWEEPS = Path(__file__).parents[2] / "sweeps"
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


def test_sweep_smoothing(slurm, python, small, tmp_path):
    sweep = ("--config-dir", str(SWEEPS), "--config-name", "smoothing")
    values = "hydra.sweeper.params={method:label_smoothing,method.smoothing:'0.0,0.5'}"
    command = ("-m", "lrm_lightning.train", *sweep, *small, *LAUNCHER, values)
    python(*command, folder=tmp_path, quiet=False)
    assert len(list(tmp_path.glob("runs/digits/label_smoothing-*/record.json"))) == 2


def test_a_requeued_job_ends_as_if_undisturbed(slurm, python, small, finished, tmp_path):
    run = ("method=lrm", "trainer.max_epochs=40", "checkpoint.every_minutes=1e-9")
    python("-m", "lrm_lightning.train", *small, *run, "runs_dir=undisturbed", folder=tmp_path)

    def jobs(*states):
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i", f"--states={','.join(states)}"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return listed.stdout.split()

    command = [sys.executable, "-m", "lrm_lightning.train", "-m"]
    process = subprocess.Popen(
        [*command, *small, *run, *LAUNCHER], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    metrics = tmp_path / "runs/digits"
    while not any(len(each.read_text().splitlines()) > 5 for each in metrics.glob("*/metrics.csv")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    assert not list(metrics.glob("*/record.json"))
    (job,) = jobs("running")
    subprocess.run(["scontrol", "requeue", job], check=True)
    process.wait(600)
    assert process.returncode == 0
    (log,) = (path for path in tmp_path.glob("runs/.submitit/*/*_log.out"))
    assert "resumed at step" in log.read_text()
    finished("lrm").assert_same_result(finished("lrm", "undisturbed"))
