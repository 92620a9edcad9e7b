"""However a run is interrupted, the same command ends with what an undisturbed run gives."""

import re
import shutil
import signal

import pytest

pytestmark = pytest.mark.slow


def test_ctrl_c_ends_the_run_after_the_batch(command, undisturbed, finished, at_step):
    run = command.start("method=lrm", prelude=at_step(4, signal.SIGINT)).ends(130)
    assert run.errors == "interrupted: run the same command again to go on\n"
    run = command.run("method=lrm")
    assert "resumed at step 5" in run.output
    finished("lrm").assert_same_result(undisturbed)


def test_a_stop_waits_for_the_end_of_an_accumulated_step(command, finished, at_step):
    # An epoch has three batches: a step has two of them, or the last.
    settings = ("method=pgd", "+trainer.accumulate_grad_batches=2")
    command.run(*settings)
    whole = finished("pgd")
    assert whole.record["global_step"] == 4
    whole = whole.moved(command.folder / "whole")
    each_step = (*settings, "checkpoint.every_minutes=1e-9")
    command.start(*each_step, prelude=at_step(2, signal.SIGTERM)).ends(143)
    assert "resumed at step 3" in command.run(*each_step).output
    finished("pgd").assert_same_result(whole)


def test_a_second_ctrl_c_ends_the_run_at_once(command, undisturbed, finished, at_step):
    each_batch = ("method=lrm", "checkpoint.every_minutes=1e-9")
    twice = at_step(4, signal.SIGINT, signal.SIGINT)
    run = command.start(*each_batch, prelude=twice).ends(130)
    assert run.errors == "interrupted: run the same command again to go on\n"
    assert "resumed at step 4" in command.run(*each_batch).output
    finished("lrm").assert_same_result(undisturbed)


def test_killed_after_an_early_stop(command, finished, snapshots):
    # at this rate nothing gets better
    settings = ("method=regular", "optimizer.lr=1e-9", "trainer.max_epochs=5")
    settings += ("callbacks=early_stopping", "callbacks.early_stopping.patience=1")
    output = command.run(*settings, prelude=snapshots).output
    stopped = finished("regular")
    assert re.search(
        r"^stopped early after epoch 2: val/acc/pgd\d+ was 0[.\d]* at best$", output, re.M
    )
    assert (stopped.record["epochs"], stopped.record["global_step"]) == (2, 6)
    stopped.path.rename(command.folder / "stopped")
    shutil.copytree(command.folder / "snapshots/6-last", stopped.path)
    assert "training" not in command.run(*settings).output
    finished("regular").assert_same_result(stopped)


def test_a_stop_where_every_step_is_logged(command, finished, at_step):
    settings = ("method=pgd", "trainer.log_every_n_steps=1")
    command.run(*settings)
    whole = finished("pgd")
    logged = [step for step, name, _ in whole.logged if name == "train/loss"]
    assert logged == list(range(6))
    whole = whole.moved(command.folder / "whole")
    each_step = (*settings, "checkpoint.every_minutes=1e-9")
    command.start(*each_step, prelude=at_step(1, signal.SIGTERM)).ends(143)
    assert "resumed at step 2" in command.run(*each_step).output
    finished("pgd").assert_same_result(whole)


# What is left between steps 1 and 6 is left by the signals above and in test_wandb.py.
@pytest.mark.parametrize("name", ["1-interrupted", "3-last", "6-last"])
def test_a_run_killed_right_after_a_checkpoint(name, command, undisturbed, finished):
    snapshots = undisturbed.path.parents[2] / "snapshots"
    kept = ["1-interrupted", "2-interrupted", "3-last", "4-interrupted", "5-interrupted", "6-last"]
    assert sorted(path.name for path in snapshots.iterdir()) == kept
    shutil.copytree(snapshots / name, command.folder / "runs/digits" / undisturbed.path.name)
    output = command.run("method=lrm").output
    if name == "6-last":
        assert "training" not in output
    else:
        assert f"resumed at step {name[0]}\n" in output
    finished("lrm").assert_same_result(undisturbed)


@pytest.mark.parametrize(
    "moment",
    [
        ("os.rename", "last.ckpt", 2),
        ("os.link", "previous.ckpt", 2),
        ("os.remove", "previous.ckpt", 3),  # when the run is over
        ("os.rename", "record.json"),
    ],
    ids=lambda moment: "-".join(map(str, moment)),
)
def test_killed_while_a_file_is_replaced(moment, killed_at, command, undisturbed, finished):
    each_batch = ("method=lrm", "checkpoint.every_minutes=1e-9")
    command.start(*each_batch, prelude=killed_at(*moment)).ends(-9)
    command.run(*each_batch)
    result = finished("lrm")
    result.assert_same_result(undisturbed)
    names = [
        sorted(str(path.relative_to(each.path)) for path in each.path.rglob("*"))
        for each in (result, undisturbed)
    ]
    assert names[0] == names[1]


def _unfinished(path):
    for name in ("record.json", "correct.npz", "metrics.csv"):
        (path / name).unlink()


def test_a_damaged_newest_checkpoint_is_passed_over(
    command, copy_of_undisturbed, undisturbed, finished
):
    _unfinished(copy_of_undisturbed)
    (copy_of_undisturbed / "checkpoints/last.ckpt").write_bytes(b"not a checkpoint")
    run = command.run("method=lrm")
    assert run.output.count("skipping checkpoint") == 1
    assert "resumed at step 5" in run.output
    result = finished("lrm")
    assert all((result.weights[key] == undisturbed.weights[key]).all() for key in result.weights)
    assert result.record["metrics"] == undisturbed.record["metrics"]


def test_a_run_without_a_usable_checkpoint_begins_anew(
    command, copy_of_undisturbed, undisturbed, finished
):
    _unfinished(copy_of_undisturbed)
    (copy_of_undisturbed / "checkpoints/interrupted.ckpt").unlink()
    (copy_of_undisturbed / "checkpoints/last.ckpt").write_bytes(b"not a checkpoint")
    assert "resumed" not in command.run("method=lrm").output
    finished("lrm").assert_same_result(undisturbed)
