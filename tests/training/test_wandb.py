"""W&B and real processes that are interrupted and killed: one W&B run, and what it has."""

import signal

import pytest

LRM = ("method=lrm", "checkpoint.every_minutes=1e-9", "logger=wandb")


@pytest.mark.slow
def test_interrupted_killed_and_finished(
    command, undisturbed, finished, wandb_server, of_wandb, at_step
):
    environment = of_wandb(wandb_server)
    terminated = at_step(1, signal.SIGTERM)
    run = command.start("method=lrm", "logger=wandb", prelude=terminated, **environment).ends(143)
    assert run.errors == "interrupted: run the same command again to go on\n"
    (wandb_run,) = wandb_server.runs.values()
    assert wandb_run.exit_code == 1

    run = command.start(*LRM, prelude=at_step(3, signal.SIGKILL), **environment).ends(-9)
    assert "resumed at step 2" in run.output
    assert not list(command.folder.rglob("record.json"))
    output = command.run(*LRM, **environment).output
    assert "resumed at step 3" in output
    assert "W&B" not in output
    result = finished("lrm")
    result.assert_same_result(undisturbed)

    assert list(wandb_server.runs.values()) == [wandb_run]
    assert wandb_run.settings["displayName"] == result.path.name
    assert wandb_run.exit_code == 0
    logged = result.logged
    arrived = [
        (row["trainer/global_step"], key, value)
        for row in wandb_run.history
        for key, value in row.items()
        if key in {name for _, name, _ in logged}
    ]
    assert len(set(arrived)) == len(arrived)
    # W&B's client sends every 15 seconds: what the killed process had logged is lost there.
    assert set(logged) - set(arrived) == {each for each in logged if 1 <= each[0] < 3}
    assert not set(arrived) - set(logged)
    media = [row for row in wandb_run.history if "val/logits/clean/histogram" in row]
    assert [row["epoch"] for row in media] == [1]
    assert sum("test/examples" in row for row in wandb_run.history) == 1
