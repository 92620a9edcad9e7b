"""The CSV file that survives interruptions."""

import csv
import math

import lightning as L
import pytest
import torch

from lrm_lightning.errors import UserError
from lrm_lightning.tracking import metrics_csv as module
from lrm_lightning.tracking.metrics_csv import MetricsCSV, SavedBeforeCheckpoints


def _read(path):
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_a_row_a_step_and_a_column_a_metric(tmp_path):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=3)
    logger.log_metrics({"train/loss": 0.1 + 0.2}, step=1)
    logger.log_metrics({"val/acc/clean": 1}, step=3)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,epoch,train/loss,val/acc/clean\n1,,0.30000000000000004,\n3,0.0,0.5,1.0\n"
    )


def test_resumed_run_keeps_old_rows_and_replaces_those_logged_again(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for step in range(4):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.finalize("failed")

    second = MetricsCSV(path)
    second.log_metrics({"train/loss": 20.0, "val/loss": 7.0}, step=2)
    second.log_metrics({"lr": 0.1}, step=9)
    second.finalize("success")
    rows = _read(path)
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "9"]
    assert [row["train/loss"] for row in rows] == ["0.0", "1.0", "20.0", "3.0", ""]
    assert [row["val/loss"] for row in rows] == ["", "", "7.0", "", ""]
    assert [row["lr"] for row in rows] == ["", "", "", "", "0.1"]


def test_opening_alone_changes_nothing(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCSV(path).finalize("success")
    assert not path.exists()
    logger = MetricsCSV(path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.finalize("success")
    before = path.read_bytes()
    MetricsCSV(path).finalize("success")
    assert path.read_bytes() == before


def test_nan_and_infinity_come_back(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"a": math.nan, "b": math.inf}, step=0)
    logger.finalize("success")
    again = MetricsCSV(path)
    again.log_metrics({"c": 1.0}, step=1)
    again.finalize("success")
    row, _ = _read(path)
    assert math.isnan(float(row["a"]))
    assert float(row["b"]) == math.inf


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"loss\n0.5\n"]
    + [b"step,loss\n%s\n" % row for row in (b"one,0.5", b"1,half", b"1,0.5,7", b",0.5")],
)
def test_a_damaged_file_is_one_line(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged \(.+\); delete it and") as error:
        MetricsCSV(path)
    assert "\n" not in str(error.value)


def test_saves_are_far_apart_but_the_last_is_never_left_out(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    for step, now in enumerate([100.0, 105.0, 109.9]):  # noqa: B007 (the clock reads it)
        logger.log_metrics({"a": 1.0}, step=step)
        logger.save()
        assert len(_read(path)) == 1
    now = 110.1
    logger.save()
    assert len(_read(path)) == 3
    logger.log_metrics({"a": 1.0}, step=9)
    logger.finalize("success")
    assert len(_read(path)) == 4


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.finalize("success")
    before = path.read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    logger.log_metrics({"a": 2.0}, step=1)
    with pytest.raises(UserError, match="No space left on device"):
        logger.finalize("success")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]


class Model(L.LightningModule):
    """Logs a metric a step and one an epoch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        loss = self.layer(batch).mean()
        self.log("train/loss", loss)
        self.log("train/step", float(self.global_step), on_epoch=False)
        return loss

    def on_train_epoch_end(self):
        self.log("train/epoch_end", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(path, epochs, checkpoint=None):
    trainer = L.Trainer(
        accelerator="cpu",
        logger=MetricsCSV(path),
        callbacks=SavedBeforeCheckpoints(),
        max_epochs=epochs,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    batches = torch.ones(3, 2, 1)
    trainer.fit(Model(), _Batches(batches), ckpt_path=checkpoint, weights_only=True)
    return trainer


class _Batches:
    """Not a DataLoader, and with a length."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def test_through_a_trainer_and_its_resumption(tmp_path):
    path = tmp_path / "metrics.csv"
    trainer = _fit(path, 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert [row["train/step"] for row in _read(path)] == ["0.0", "1.0", "2.0"]
    _fit(path, 2, tmp_path / "one.ckpt")
    resumed = path.read_text()
    rows = _read(path)
    assert [row["train/step"] for row in rows] == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0"]
    assert [row["train/epoch_end"] for row in rows if row["train/epoch_end"]] == ["0.0", "1.0"]
    assert all(row["train/loss"] for row in rows)
    # an interrupted second epoch, trained again, leaves no trace
    _fit(path, 2, tmp_path / "one.ckpt")
    again = _read(path)
    assert len(again) == len(rows)
    assert resumed.splitlines()[0] == path.read_text().splitlines()[0]


def test_metrics_are_in_the_file_before_a_checkpoint_is(tmp_path, monkeypatch):
    path, seen = tmp_path / "metrics.csv", []
    trainer = _fit(path, 1)
    trainer.logger.log_metrics({"train/loss": 3.0}, step=9)
    monkeypatch.setattr(
        type(trainer.strategy), "save_checkpoint", lambda *_, **__: seen.append(_read(path))
    )
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert seen[0][-1]["step"] == "9"
