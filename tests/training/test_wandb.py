"""W&B and real processes that are interrupted and killed: one W&B run, and what it has."""

import runpy
from pathlib import Path

import pytest

LOGGERS = Path(__file__).parents[1] / "tracking"
WandbServer = runpy.run_path(str(LOGGERS / "wandb_server.py"))["WandbServer"]
LRM = ("method=lrm", "checkpoint.every_minutes=1e-9", "logger=wandb")

# What the process does to itself when it is about to train on a batch.
AT_STEP = """
import os, signal
from lrm_lightning.methods.pgd import PGDTraining
loss_terms = PGDTraining.loss_terms

def disturbed(self, batch):
    if self.global_step == {step}:
        os.kill(os.getpid(), signal.{signal})
    return loss_terms(self, batch)

PGDTraining.loss_terms = disturbed
"""


@pytest.fixture
def wandb_server(tmp_path):
    pytest.importorskip("wandb")
    server = WandbServer()
    server.start()
    yield server
    server.stop()
    assert server.unknown == []


def test_interrupted_killed_and_finished(command, undisturbed, finished, wandb_server, tmp_path):
    environment = {
        "WANDB_BASE_URL": wandb_server.url,
        "WANDB_API_KEY": "k" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_X_DISABLE_STATS": "true",
        "HOME": str(tmp_path / "home"),
        **{f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "CACHE", "DATA")},
    }
    terminated = AT_STEP.format(step=1, signal="SIGTERM")
    run = command.start(*LRM, prelude=terminated, **environment).ends(143)
    assert run.errors == "interrupted: run the same command again to go on\n"
    (wandb_run,) = wandb_server.runs.values()
    assert wandb_run.exit_code == 1

    command.start(*LRM, prelude=AT_STEP.format(step=3, signal="SIGKILL"), **environment).ends(-9)
    output = command.run(*LRM, **environment).output
    assert "resumed at step 3" in output
    assert "W&B" not in output
    result = finished("lrm")
    result.assert_same_result(undisturbed)

    assert list(wandb_server.runs.values()) == [wandb_run]
    assert wandb_run.settings["displayName"] == result.path.name
    assert wandb_run.exit_code == 0
    arrived = [
        (row["trainer/global_step"], key, value)
        for row in wandb_run.history
        for key, value in row.items()
        if key.startswith(("train/loss", "val/", "test/")) and not isinstance(value, dict)
    ]
    logged = [
        (int(row["step"]), key, float(value))
        for row in result.metrics
        for key, value in row.items()
        if key not in ("step", "epoch") and value
    ]
    assert len(set(arrived)) == len(arrived)
    # W&B's client sends every 15 seconds: what the killed process had logged is lost there.
    assert set(logged) - set(arrived) == {each for each in logged if 1 <= each[0] < 3}
    assert not set(arrived) - set(logged)
    media = [row for row in wandb_run.history if "val/logits/clean/histogram" in row]
    assert [row["epoch"] for row in media] == [1]
    assert sum("test/examples" in row for row in wandb_run.history) == 1
