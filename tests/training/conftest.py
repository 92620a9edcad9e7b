"""Small networks in a Trainer, and real processes of ``python -m lrm_lightning.train``."""

import copy
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lrm_lightning.data import DigitsDataModule

TRACKING = Path(__file__).parents[1] / "tracking"
WandbServer = runpy.run_path(str(TRACKING / "wandb_server.py"))["WandbServer"]
# A few seconds of training, at a rate that moves the weights.
SMALL = (
    "data=digits",
    "data.batch_size=16",
    "data.val_size=40",
    "model=resnet_tiny",
    "model.widths=[4,4,8,8]",
    "logger=csv",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "data.eval_batch_size=40",
    "trainer.limit_test_batches=1",
    "attack.eps=0.01",
    "attack.steps=2",
    "scheduler.warmup_epochs=0",
    "robust_accuracy.n_images=20",
    "robust_accuracy.test_n_images=30",
    "robust_accuracy.steps=[2]",
    "robust_accuracy.test_steps=[2,4]",
    "robust_accuracy.step_size=0.01",
    "checkpoint.monitor=val/acc/pgd2",
)


def pytest_collection_modifyitems(items):
    """Whole trainings take a while where the machine has other things to do."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(1200))


# ---------------------------------------------------------------------- in this process


@pytest.fixture
def network(_digits_network):
    """A trained copy of its own for each test."""
    return copy.deepcopy(_digits_network[0]).train()


@pytest.fixture
def digits():
    """40 validation images in batches of 16, 16 and 8."""
    return DigitsDataModule(val_size=40, batch_size=64, eval_batch_size=16)


@pytest.fixture
def make_trainer():
    """Function: a Trainer without files, bars and chatter."""

    def make(*callbacks, **settings):
        defaults = {
            "inference_mode": False,
            "limit_train_batches": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        }
        return L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=list(callbacks),
            **(defaults | settings),
        )

    return make


# ---------------------------------------------------------------------- in processes of their own


def _rank(rank, function, folder):
    torch.set_num_threads(1)
    address = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    function(rank, folder)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory, in_folder):
    """``two_ranks(function)``: ``function(rank, folder)`` in two processes that form a group."""

    def run(function):
        folder = tmp_path_factory.mktemp("ranks")
        start = in_folder(folder).server.Process
        ranks = [start(target=_rank, args=(rank, function, folder)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(300)
            process.kill()
        assert [process.exitcode for process in ranks] == [0, 0]
        return folder

    return run


class Command:
    """The command with the settings of :data:`SMALL`, run in a folder of its own."""

    def __init__(self, processes):
        self.folder = processes.folder
        self._processes = processes

    def start(self, *overrides, small=True, **settings):
        """Start it; ``settings`` are those of ``Processes.start``."""
        own = SMALL if small else ()
        settings = {"COLUMNS": "200"} | settings
        return self._processes.start("lrm_lightning.train", *own, *overrides, **settings)

    def run(self, *overrides, **settings):
        """Start it and wait for it to end well."""
        return self.start(*overrides, **settings).ends()


class Finished:
    """What a finished run left in its directory."""

    def __init__(self, path):
        self.path = path
        self.record = json.loads((path / "record.json").read_text())
        with (path / "metrics.csv").open(newline="") as lines:
            self.metrics = list(csv.DictReader(lines))
        with np.load(path / "correct.npz") as file:
            self.verdicts = dict(file)
        self.weights = torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    def moved(self, path):
        """The same, which lies at ``path`` from now on."""
        return Finished(self.path.rename(path))

    @property
    def logged(self):
        """Every number of ``metrics.csv`` as (step, name, value)."""
        return [
            (int(row["step"]), key, float(value))
            for row in self.metrics
            for key, value in row.items()
            if key not in ("step", "epoch") and value
        ]

    def assert_same_result(self, other):
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
def small():
    """The overrides that make a run a matter of seconds."""
    return SMALL


@pytest.fixture
def command(processes):
    return Command(processes)


@pytest.fixture
def wandb_server():
    pytest.importorskip("wandb")
    server = WandbServer()
    server.start()
    yield server
    server.stop()
    assert server.unknown == []


@pytest.fixture
def of_wandb(tmp_path):
    """``of_wandb(server)``: the environment of a client that is logged in there, all in a folder.

    Without a server it is that of a client without a key.
    """

    def environment(server=None):
        folders = {
            f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "CACHE", "DATA")
        }
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40} if server else {}
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "true"}
        return {"HOME": str(tmp_path / "home")} | folders | online | quiet

    return environment


@pytest.fixture
def python(interpreter):
    """Runs ``python``, in truth if ``fresh``, for what a fork cannot show; gives what it prints."""

    def run(*arguments, folder, quiet=True, fresh=False, **environment):
        process = subprocess.Popen(
            [sys.executable if fresh else interpreter, *arguments],
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
        return output + errors

    return run


# What the process does to itself when it is about to train on a batch.
AT_STEP = """
import os
from lrm_lightning.methods.pgd import PGDTraining
loss_terms = PGDTraining.loss_terms

def disturbed(self, batch):
    if self.global_step == {step}:
        for number in {signals}:
            os.kill(os.getpid(), number)
    return loss_terms(self, batch)

PGDTraining.loss_terms = disturbed
"""


@pytest.fixture
def at_step():
    """``at_step(4, signal.SIGINT)``: prelude that sends the process these signals at that step."""
    return lambda step, *signals: AT_STEP.format(step=step, signals=[*map(int, signals)])


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
def snapshots():
    """Prelude that keeps the run directory after each checkpoint, as a kill there would leave it.

    The copies are ``snapshots/<step>-<checkpoint>``.
    """
    return SNAPSHOTS


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, in_folder, snapshots, finished_in):
    """A run of LRM that nothing disturbed, and its snapshots."""
    processes = in_folder(tmp_path_factory.mktemp("undisturbed"))
    command = Command(processes)
    command.run("method=lrm", "checkpoint.every_minutes=1e-9", prelude=snapshots)
    return finished_in(command.folder, "lrm")


@pytest.fixture(scope="session")
def finished_in():
    """``finished_in(folder, "pgd")``: what the only run of a method has left there."""

    def read(folder, method, runs="runs"):
        (path,) = folder.glob(f"{runs}/digits/{method}-*")
        return Finished(path)

    return read


@pytest.fixture
def finished(tmp_path, finished_in):
    """``finished("pgd")``: the same of the test's own folder."""
    return partial(finished_in, tmp_path)


@pytest.fixture
def copy_of_undisturbed(undisturbed, tmp_path):
    """A finished run directory to do damage to."""
    target = tmp_path / "runs/digits" / undisturbed.path.name
    shutil.copytree(undisturbed.path, target)
    return target
