"""The private parts of Lightning do what they did when they were chosen."""

import subprocess
import sys

import lightning as L
import pytest
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lrm_lightning.methods import Regular
from lrm_lightning.training.lightning_internals import (
    end_after_this_batch,
    starts_processes,
    take_over_processes,
)


class EndAtStep(L.Callback):
    """Ends the run within the hook of a batch, and counts what follows."""

    def __init__(self, step):
        self._step = step
        self.validated = False

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self._step:
            end_after_this_batch(trainer)

    def on_validation_start(self, *_):
        self.validated = True


def test_a_run_ends_when_the_batch_is_wholly_done(network, digits, make_trainer):
    callback = EndAtStep(2)
    trainer = make_trainer(callback, max_epochs=1, limit_train_batches=5, num_sanity_val_steps=0)
    with pytest.raises(SIGTERMException):
        trainer.fit(Regular(network), datamodule=digits)
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    assert (trainer.global_step, progress.completed, progress.ready) == (2, 2, 2)
    assert not callback.validated


def test_who_starts_the_processes(make_trainer, monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    two = {"accelerator": "cpu", "strategy": "ddp", "devices": 2, "logger": False}
    assert starts_processes(L.Trainer(**two))
    assert not starts_processes(make_trainer())
    monkeypatch.setenv("LOCAL_RANK", "1")  # as in a process that Lightning has started
    assert not starts_processes(L.Trainer(**two))


def test_processes_are_taken_over_from_lightning(monkeypatch):
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    launchers = "lightning.pytorch.strategies.launchers.subprocess_script"
    monkeypatch.setattr(f"{launchers}._basic_subprocess_cmd", lambda: command)
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # Lightning sets them: here they are restored
        monkeypatch.delenv(name)
    trainer = L.Trainer(accelerator="cpu", strategy="ddp", devices=3, logger=False)
    launcher = trainer.strategy.launcher
    assert isinstance(launcher, _SubprocessScriptLauncher)
    assert take_over_processes(trainer) == []
    launcher.launch(lambda: None)
    taken = take_over_processes(trainer)
    assert [process.wait(60) for process in taken] == [3, 3]
    assert all(isinstance(process, subprocess.Popen) for process in taken)
    assert launcher.procs == take_over_processes(trainer) == []
