"""Every mistake ends in one line that says what to mend: no traceback, no second line."""

import pytest
import torch

# Wrong values are tried in test_build.py, in this process: here is what only the whole command
# finds, and one of each way in which a mistake gets there.
MISTAKES = {
    "value": (["method=label_smoothing", "method.smoothing=1.7"], "method.smoothing=1.7 must be"),
    "reference to nothing": (["method.epochs=${nothing}"], "nothing"),
    "data: batch size": (["data.batch_size=5000"], "data.batch_size=5000 exceeds"),
    "Trainer: devices": (["trainer.devices=0"], "trainer: "),
    "Trainer: strategy": (["trainer.strategy=foo"], "trainer: "),
    "Trainer: no batch": (
        ["trainer.limit_train_batches=0.0001"],
        "trainer: You requested to check 0.0001 of the `train_dataloader`",
    ),
    "method": (["method=foo"], "Could not find 'method/foo' Available options"),
    "key": (["method.smothing=0.1"], "smothing"),
    "syntax": (["attack.eps=[1"], "eps"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake(command, case):
    overrides, message = MISTAKES[case]
    assert message in command.start(*overrides).error()
    assert not list(command.folder.rglob("*.ckpt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("argument", ["trainer=gpu", "trainer.accelerator=cuda"])
def test_gpu_that_is_not_there(command, argument):
    line = command.start(argument).error()
    assert argument in line
    assert line.endswith(": there is none; take trainer=auto or trainer=cpu")


@pytest.mark.parametrize("method", ["regular", "pgd"])  # seen by the callback, or by the attack
def test_training_that_diverges(command, method):
    line = command.start(f"method={method}", "optimizer.lr=1e20").error()
    assert "NaN or infinite" in line
    assert "lower optimizer.lr" in line
    assert [*command.folder.glob("runs/digits/*/config.yaml")]


# ---------------------------------------------------------------------- files


def test_data_that_are_not_there(command):
    line = command.start("data=cifar10", "data.download=false").error()
    assert "data.download=false" in line


def test_run_directory_that_is_a_file(command):
    (command.folder / "runs").write_text("a file")
    assert "runs" in command.start().error()


def test_a_callback_that_watches_what_nothing_logs(command):
    watched = "callbacks.early_stopping.monitor=val/acc/pgd5"  # a callback of the user's could
    line = command.start("method=regular", "callbacks=early_stopping", watched).error()
    assert "callbacks: Early stopping conditioned on metric `val/acc/pgd5`" in line
    assert "`val/acc/pgd2`" in line


def test_disk_full_while_a_checkpoint_is_written(command):
    # no file may grow beyond 20 kB, which metrics do not reach and a checkpoint does
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    line = command.start("method=regular", prelude=limit).error()
    assert "File too large" in line
    assert not list(command.folder.rglob("record.json"))
