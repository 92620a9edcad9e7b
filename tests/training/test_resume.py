"""However a run is interrupted, the same command ends with what an undisturbed run gives."""

import shutil

import pytest

LRM = ("method=lrm", "checkpoint.every_minutes=1e-9")  # a checkpoint after every batch

# What the process does to itself when it is about to train on the second batch of the second epoch.
AT_STEP_4 = """
import os, signal
from lrm_lightning.methods.pgd import PGDTraining
loss_terms = PGDTraining.loss_terms

def disturbed(self, batch):
    if self.global_step == 4:
        os.kill(os.getpid(), signal.{signal})
        {then}
    return loss_terms(self, batch)

PGDTraining.loss_terms = disturbed
"""


def test_after_sigkill_amid_an_epoch(command, undisturbed, finished):
    command.start(*LRM, prelude=AT_STEP_4.format(signal="SIGKILL", then="pass")).ends(-9)
    assert not list(command.folder.rglob("record.json"))
    run = command.run(*LRM)
    assert "resumed at step 4" in run.output
    finished("lrm").assert_same_result(undisturbed)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_run_after_the_batch(command, undisturbed, finished, name, code):
    run = command.start("method=lrm", prelude=AT_STEP_4.format(signal=name, then="pass")).ends(code)
    assert run.errors == "interrupted: run the same command again to go on\n"
    run = command.run("method=lrm")
    assert "resumed at step 5" in run.output
    finished("lrm").assert_same_result(undisturbed)


def test_a_second_ctrl_c_ends_the_run_at_once(command, undisturbed, finished):
    twice = AT_STEP_4.format(signal="SIGINT", then="os.kill(os.getpid(), signal.SIGINT)")
    run = command.start(*LRM, prelude=twice).ends(130)
    assert run.errors == "interrupted: run the same command again to go on\n"
    run = command.run(*LRM)
    assert "resumed at step 4" in run.output
    finished("lrm").assert_same_result(undisturbed)


TEST_INTERRUPTED = """
import os, signal
import lightning
test = lightning.Trainer.test

def disturbed(trainer, *args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

lightning.Trainer.test = disturbed
"""


def test_killed_before_the_test(command, undisturbed, finished):
    command.start("method=lrm", prelude=TEST_INTERRUPTED).ends(-9)
    run = command.run("method=lrm")
    assert "training" not in run.output
    finished("lrm").assert_same_result(undisturbed)


def test_killed_after_an_early_stop(command, finished):
    # at this rate nothing gets better
    settings = ("method=regular", "optimizer.lr=1e-9", "trainer.max_epochs=5")
    settings += ("callbacks=early_stopping", "callbacks.early_stopping.patience=1")
    command.start(*settings, prelude=TEST_INTERRUPTED).ends(-9)
    run = command.run(*settings)
    assert "training" not in run.output
    stopped = finished("regular")
    stopped.path.rename(command.folder / "stopped")
    command.run(*settings)
    stopped.assert_same_result(finished("regular"))
    assert (stopped.record["epochs"], stopped.record["global_step"]) == (2, 6)


def test_wherever_a_kill_comes_after_a_checkpoint(command, undisturbed, finished):
    snapshots = sorted((undisturbed.path.parents[2] / "snapshots").iterdir())
    assert [path.name for path in snapshots] == [
        "1-interrupted",
        "2-interrupted",
        "3-last",
        "4-interrupted",
        "5-interrupted",
        "6-last",
    ]
    for snapshot in snapshots:
        target = command.folder / "runs/digits" / undisturbed.path.name
        shutil.copytree(snapshot, target)
        run = command.run("method=lrm")
        assert (f"resumed at step {snapshot.name[0]}\n" in run.output) == (snapshot.name[0] != "6")
        finished("lrm").assert_same_result(undisturbed)
        shutil.rmtree(target)


def _unfinished(path):
    for name in ("record.json", "correct.npz", "metrics.csv"):
        (path / name).unlink()


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_damaged_newest_checkpoint_is_passed_over(
    command, copy_of_undisturbed, undisturbed, finished
):
    _unfinished(copy_of_undisturbed)
    _truncate(copy_of_undisturbed / "checkpoints/last.ckpt")
    run = command.run("method=lrm")
    assert run.output.count("skipping damaged checkpoint") == 1
    assert "resumed at step 5" in run.output
    result = finished("lrm")
    assert all((result.weights[key] == undisturbed.weights[key]).all() for key in result.weights)
    assert result.record["metrics"] == undisturbed.record["metrics"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "no training state", "another network"])
def test_a_run_without_a_usable_checkpoint_begins_anew(
    command, copy_of_undisturbed, undisturbed, finished, damage
):
    import torch

    _unfinished(copy_of_undisturbed)
    (copy_of_undisturbed / "checkpoints/interrupted.ckpt").unlink()
    last = copy_of_undisturbed / "checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)
    match damage:
        case "truncated":
            _truncate(last)
        case "garbage":
            last.write_bytes(b"not a checkpoint")
        case "no training state":
            torch.save({"state_dict": saved["state_dict"]}, last)
        case "another network":
            saved["state_dict"]["network.linear.bias"] = torch.zeros(7)
            torch.save(saved, last)
    run = command.run("method=lrm")
    (line,) = [line for line in run.output.splitlines() if line.startswith("skipping")]
    assert str(last) in line
    assert "resumed" not in run.output
    finished("lrm").assert_same_result(undisturbed)
