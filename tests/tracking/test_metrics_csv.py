"""The CSV file that survives interruptions."""

import csv
import math
from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from lrm_lightning.errors import UserError
from lrm_lightning.tracking import metrics_csv as module
from lrm_lightning.tracking.metrics_csv import MetricsCSV, MetricsInCheckpoints


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


@pytest.mark.parametrize("way", ["checkpoint", "file"])
def test_resumed_run_keeps_old_rows_and_replaces_those_logged_again(tmp_path, way):
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    for step in range(4):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.finalize("failed")

    second = MetricsCSV(path)
    second.go_on(first.text if way == "checkpoint" else None)
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
    again.go_on(logger.text)
    again.log_metrics({"c": 1.0}, step=1)
    again.finalize("success")
    row, _ = _read(path)
    assert math.isnan(float(row["a"]))
    assert float(row["b"]) == math.inf


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"loss\n0.5\n"]
    + [b"step,loss\n%s\n" % row for row in (b"one,0.5", b"1,half", b"1,0.5,7", b",0.5", b"1,\0")],
)
def test_a_damaged_file_is_one_line(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged \(.+\); start the run") as error:
        MetricsCSV(path).go_on(None)
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


@pytest.mark.parametrize("damage", [None, b"", b"step,a\n0,half\n", b"\0" * 99])
def test_a_checkpoint_has_the_rows_whatever_became_of_the_file(tmp_path, damage):
    path, callback, checkpoint = tmp_path / "metrics.csv", MetricsInCheckpoints(), {}
    first = MetricsCSV(path)
    for step in range(4):
        first.log_metrics({"a": float(step)}, step=step)
    callback.on_save_checkpoint(_trainer(first, TrainerFn.FITTING), None, checkpoint)
    assert len(_read(path)) == 4  # a kill leaves the file as new as the checkpoint
    first.log_metrics({"a": 9.0}, step=9)  # is logged again
    first.finalize("")
    path.unlink() if damage is None else path.write_bytes(damage)
    tested, resumed = MetricsCSV(path), MetricsCSV(path)
    callback.on_load_checkpoint(_trainer(tested, TrainerFn.TESTING), None, checkpoint)
    assert tested.text == ""  # the best weights' checkpoint may be an old one
    callback.on_load_checkpoint(_trainer(resumed, TrainerFn.FITTING), None, checkpoint)
    resumed.finalize("")
    assert [row["a"] for row in _read(path)] == ["0.0", "1.0", "2.0", "3.0"]


def _trainer(logger, function):
    return SimpleNamespace(loggers=[logger], state=SimpleNamespace(fn=function))
