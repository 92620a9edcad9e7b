"""Every mistake ends in one line that says what to mend: no traceback, no second line."""

import pytest
import torch

# Most wrong values are tried in test_build.py, in this process: here are those that only the whole
# command finds, and some of each way in which a mistake gets there.
MISTAKES = {
    "value": (["method=label_smoothing", "method.smoothing=1.7"], "method.smoothing=1.7 must be"),
    "value of a word": (["method.smoothing=abc"], "method.smoothing='abc' must be a number"),
    "value of the optimiser": (["optimizer.lr=-1"], "optimizer.lr=-1 must be a number > 0"),
    "value of a schedule": (["scheduler.warmup_epochs=-1"], "scheduler.warmup_epochs=-1 must be"),
    "large number": (["seed=99999999999999999999"], "seed=99999999999999999999"),
    "reference to nothing": (["method.epochs=${nothing}"], "nothing"),
    "data: batch size": (["data.batch_size=5000"], "data.batch_size=5000 exceeds"),
    "data: val_size": (["data.val_size=1437"], "data.val_size=1437 leaves nothing"),
    "Trainer: devices": (["trainer.devices=0"], "trainer: "),
    "Trainer: strategy": (["trainer.strategy=foo"], "trainer: "),
    "method": (["method=foo"], "Could not find 'method/foo' Available options"),
    "experiment": (["+experiment=foo"], "foo"),
    "key": (["method.smothing=0.1"], "smothing"),
    "key added": (["+method.smothing=0.1"], "smothing"),
    "key without effect": (["+nonsense=1"], "nonsense has no effect; the nearest key"),
    "callback": (["+callbacks.mine._target_=no.where"], "callbacks.mine: "),
    "no value": (["smoothing"], "smoothing"),
    "syntax": (["attack.eps=[1"], "eps"),
    "class": (["model._target_=lrm_lightning.models.Foo"], "Foo"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake(command, case):
    overrides, message = MISTAKES[case]
    assert message in command.start(*overrides).error()
    assert not list(command.folder.rglob("*.ckpt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(command):
    assert "gpu" in command.start("trainer.accelerator=gpu").error().lower()


@pytest.mark.parametrize("method", ["regular", "pgd"])  # seen by the callback, or by the attack
def test_training_that_diverges(command, method):
    line = command.start(f"method={method}", "optimizer.lr=1e20").error()
    assert "NaN or infinite" in line
    assert "lower optimizer.lr" in line


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "data.download=false"), (bytes(1000), "data_batch_1.bin is truncated")],
    ids=["nothing", "truncated"],
)
def test_cifar10_files(command, content, message):
    root = command.folder / "data"
    (root / "cifar-10-batches-bin").mkdir(parents=True)
    if content is None:
        (root / "cifar-10-batches-bin").rmdir()
    else:
        (root / "cifar-10-batches-bin/data_batch_1.bin").write_bytes(content)
    line = command.start(
        "data=cifar10", "data.download=false", f"data.root={root}", "data.require_official=false"
    ).error()
    assert message in line


def test_run_directory_that_is_a_file(command):
    (command.folder / "runs").write_text("a file")
    assert "runs" in command.start().error()


def test_run_directory_of_another_configuration(command, copy_of_undisturbed):
    run = command.start("method=lrm", "seed=1", f"hydra.run.dir={copy_of_undisturbed}")
    line = run.error()
    assert "another configuration (differs in seed)" in line
    assert "hydra.run.dir" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", b"{half"),
        ("config.yaml", b"no run"),
        ("metrics.csv", b"\xff\xfe"),
    ],
)
def test_damaged_file_in_the_run_directory(command, copy_of_undisturbed, name, content):
    if name == "metrics.csv":
        (copy_of_undisturbed / "record.json").unlink()
    path = copy_of_undisturbed / name
    path.write_bytes(content)
    line = command.start("method=lrm").error()
    assert str(path) in line
    assert "damaged" in line
    assert "delete" in line


def test_disk_full_while_a_checkpoint_is_written(command):
    # no file may grow beyond 50 kB, which metrics do not reach and a checkpoint does
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    line = command.start("method=regular", prelude=limit).error()
    assert "File too large" in line
    assert not list(command.folder.rglob("record.json"))


def test_disk_full_before_the_start(command):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))"
    assert "File too large" in command.start("method=regular", prelude=limit).error()
