"""A run's record and its per-image verdicts."""

import errno
import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from lrm_lightning.errors import UserError
from lrm_lightning.runs.run_record import (
    accuracies,
    read_record,
    write_record,
    write_verdicts,
)


def _verdicts(right, n=40):
    return np.arange(n) < right


def test_accuracies_and_their_wilson_intervals():
    found = accuracies({"clean": _verdicts(31), "fgsm": _verdicts(0), "pgd5": _verdicts(40)})
    assert found["n"] == 40
    assert found["metrics"] == {"clean": 31 / 40, "fgsm": 0.0, "pgd5": 1.0}
    for name, right in (("clean", 31), ("fgsm", 0), ("pgd5", 40)):
        wanted = binomtest(right, 40).proportion_ci(method="wilson")
        assert found["intervals"][name] == pytest.approx([wanted.low, wanted.high], abs=1e-12)
    json.dumps(found, allow_nan=False)  # plain numbers, no NumPy types


def test_every_attack_must_have_scored_the_same_images():
    with pytest.raises(ValueError, match="values to unpack"):
        accuracies({"clean": _verdicts(3), "fgsm": _verdicts(3, n=39)})


def test_record_comes_back_stamped(tmp_path):
    write_record(tmp_path, {"score": 0.25, "metrics": {"clean": 1.0}})
    record = read_record(tmp_path)
    assert record["score"] == 0.25
    assert record["metrics"] == {"clean": 1.0}
    assert record["schema"] == 1
    assert datetime.fromisoformat(record["written"]).utcoffset().total_seconds() == 0


def test_unfinished_run_has_no_record(tmp_path):
    assert read_record(tmp_path) is None


def test_damaged_record(tmp_path):
    (tmp_path / "record.json").write_text('{"score": 0.2')
    with pytest.raises(UserError, match=r"record\.json is damaged"):
        read_record(tmp_path)


def test_verdicts_come_back(tmp_path):
    index = np.array([0, 2, 5])
    correct = {"clean": np.array([True, True, False]), "pgd20": np.array([False, True, False])}
    write_verdicts(tmp_path, index, correct)
    with np.load(tmp_path / "correct.npz", allow_pickle=False) as found:
        assert found["index"].tolist() == [0, 2, 5]
        assert found["clean"].dtype == np.bool_
        assert {name: found[name].tolist() for name in correct} == {
            name: each.tolist() for name, each in correct.items()
        }
    assert [path.name for path in tmp_path.iterdir()] == ["correct.npz"]


def test_failed_write_leaves_the_old_verdicts(tmp_path, monkeypatch):
    write_verdicts(tmp_path, np.arange(2), {"clean": np.array([True, False])})
    before = (tmp_path / "correct.npz").read_bytes()

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"^cannot write .*correct\.npz: No space left on device"):
        write_verdicts(tmp_path, np.arange(2), {"clean": np.array([False, False])})
    assert (tmp_path / "correct.npz").read_bytes() == before
