"""Every mistake ends in one line that says what to mend: no traceback, no second line."""

import pytest
import torch
import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.models.loading import load_model

SMOOTHED = "method=label_smoothing"

VALUES = {
    "smoothing too large": ([SMOOTHED, "method.smoothing=1.7"], "method.smoothing=1.7 must be"),
    "smoothing negative": ([SMOOTHED, "method.smoothing=-0.1"], "method.smoothing=-0.1 must be"),
    "smoothing a word": ([SMOOTHED, "method.smoothing=abc"], "method.smoothing='abc' must be"),
    "smoothing nothing": ([SMOOTHED, "method.smoothing=null"], "method.smoothing=None must be"),
    "alpha": (["method=alp", "method.alpha=2"], "method.alpha=2 must be"),
    "pairing kind": (["method=lrm", "method.pairing_kind=foo"], "method.pairing_kind='foo'"),
    "mixing": (["method.mixing=foo"], "method.mixing='foo' is unknown; choose one of: none"),
    "eps 0": (["attack.eps=0"], "attack.eps=0"),
    "eps negative": (["attack.eps=-1"], "attack.eps=-1"),
    "steps": (["attack.steps=0"], "attack.steps=0"),
    "step size": (["attack.step_size=0"], "attack.step_size=0"),
    "norm": (["attack.norm=foo"], "attack.norm='foo'"),
    "bn_mode": (["attack.bn_mode=foo"], "attack.bn_mode='foo'"),
    "batch size 0": (["data.batch_size=0"], "data.batch_size=0"),
    "batch size too large": (["data.batch_size=5000"], "data.batch_size=5000 exceeds"),
    "val_size 0": (["data.val_size=0", "checkpoint.select=best"], "data.val_size=0"),
    "val_size too large": (["data.val_size=1437"], "data.val_size=1437 leaves nothing"),
    "depth": (["model.depth=0"], "model.depth=0"),
    "widths": (["model.widths=[8,8,16]"], "widths=[8, 8, 16] must be four"),
    "max_epochs": (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
    "precision": (["trainer.precision=foo"], "trainer: "),
    "devices": (["trainer.devices=0"], "trainer: "),
    "limit_train": (["trainer.limit_train_batches=0"], "trainer.limit_train_batches=0"),
    "limit_test": (["trainer.limit_test_batches=0"], "trainer.limit_test_batches=0"),
    "lr": (["optimizer.lr=0"], "optimizer.lr=0"),
    "schedule": (["optimizer.schedule=foo"], "optimizer.schedule='foo'"),
    "n_images": (["robust_accuracy.n_images=0"], "robust_accuracy.n_images=0"),
    "evaluated steps": (["robust_accuracy.steps=10"], "robust_accuracy.steps=10 must be a list"),
    "seed negative": (["seed=-1"], "seed=-1"),
    "seed too large": (["seed=99999999999999999999"], "seed=99999999999999999999"),
    "select": (["checkpoint.select=foo"], "checkpoint.select='foo'"),
    "every_minutes": (["checkpoint.every_minutes=1e18"], "checkpoint.every_minutes=1e+18 must be"),
    "monitor": (
        ["checkpoint.select=best", "checkpoint.monitor=foo"],
        "checkpoint.monitor='foo' is unknown; choose one of: val/acc/clean",
    ),
    "logger mode": (["logger=wandb", "logger.mode=foo"], "logger.mode='foo'"),
    "reference to nothing": (["method.epochs=${nothing}"], "nothing"),
}

COMMAND_LINES = {
    "method": (["method=foo"], "Could not find 'method/foo' Available options"),
    "model": (["model=foo"], "Could not find 'model/foo'"),
    "data": (["data=foo"], "Could not find 'data/foo'"),
    "experiment": (["+experiment=foo"], "foo"),
    "key": (["method.smothing=0.1"], "smothing"),
    "key added": (["+method.smothing=0.1"], "smothing"),
    "no value": (["smoothing"], "smoothing"),
    "syntax": (["attack.eps=[1"], "eps"),
    "class": (["model._target_=lrm_lightning.models.Foo"], "Foo"),
}


@pytest.mark.parametrize("case", VALUES)
def test_value(command, case):
    overrides, message = VALUES[case]
    assert message in command.start(*overrides).error()
    assert not list(command.folder.rglob("*.ckpt"))


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_command_line(command, case):
    overrides, message = COMMAND_LINES[case]
    assert message in command.start(*overrides).error()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(command):
    assert "gpu" in command.start("trainer.accelerator=gpu").error().lower()


@pytest.mark.parametrize("method", ["regular", "pgd"])  # seen by the callback, or by the attack
def test_training_that_diverges(command, method):
    line = command.start(f"method={method}", "optimizer.lr=1e20").error()
    assert "NaN or infinite" in line
    assert "lower optimizer.lr" in line


# ---------------------------------------------------------------------- CIFAR-10's files

RECORDS, RECORD = 10_000, 3073


def _cifar10(folder):
    (folder / "cifar-10-batches-bin").mkdir()
    return folder / "cifar-10-batches-bin"


def _archive(root):
    (root / "cifar-10-binary.tar.gz").write_bytes(b"not an archive")


def _truncated(root):
    (_cifar10(root) / "data_batch_1.bin").write_bytes(bytes(RECORDS * RECORD - 5))


def _wrong_label(root):
    content = bytearray(RECORDS * RECORD)
    content[7 * RECORD] = 200
    (_cifar10(root) / "data_batch_1.bin").write_bytes(content)


def _one_file_missing(root):
    (_cifar10(root) / "data_batch_1.bin").write_bytes(bytes(RECORDS * RECORD))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "data.download=false"),
        (_archive, "cifar-10-binary.tar.gz is damaged"),
        (_truncated, "data_batch_1.bin is truncated"),
        (_wrong_label, "record 7 has label 200"),
        (_one_file_missing, "data_batch_2.bin is missing"),
    ],
    ids=["nothing", "archive", "truncated", "label", "missing"],
)
def test_cifar10_files(command, make, message):
    root = command.folder / "data"
    root.mkdir()
    make(root)
    line = command.start(
        "data=cifar10", "data.download=false", f"data.root={root}", "data.require_official=false"
    ).error()
    assert message in line


# ---------------------------------------------------------------------- the run directory


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
        ("record.json", "{half"),
        ("record.json", "[]"),
        ("record.json", "{}"),
        ("config.yaml", "\t: {"),
        ("config.yaml", "no run"),
        ("metrics.csv", "\udcff\udcfe"),
    ],
)
def test_damaged_file_in_the_run_directory(command, copy_of_undisturbed, name, content):
    if name == "metrics.csv":
        (copy_of_undisturbed / "record.json").unlink()
    path = copy_of_undisturbed / name
    path.write_bytes(content.encode(errors="surrogateescape"))
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


# ---------------------------------------------------------------------- load_model


def test_load_model_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*config\.yaml is missing"):
        load_model(tmp_path / "nothing")


def test_load_model_with_a_checkpoint_of_another_network(copy_of_undisturbed):
    path = copy_of_undisturbed / "config.yaml"
    saved = yaml.safe_load(path.read_text())
    saved["network"]["depth"] = 2
    path.write_text(yaml.safe_dump(saved))
    with pytest.raises(UserError, match="does not fit the network"):
        load_model(copy_of_undisturbed)


def test_load_model_with_a_damaged_checkpoint(copy_of_undisturbed):
    (copy_of_undisturbed / "checkpoints/last.ckpt").write_bytes(b"garbage")
    with pytest.raises(UserError, match="damaged"):
        load_model(copy_of_undisturbed)
