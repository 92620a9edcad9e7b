"""Pieces are computed once, whatever happens in between."""

import numpy as np
import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.journal import Journal


def piece(value):
    return {"a": np.arange(value), "b": np.array([value > 3])}


def test_computes_once(tmp_path):
    for computed in (True, False):
        journal = Journal(tmp_path / "kept", {"seed": 1})
        found = journal.once("x", lambda: piece(5))
        assert journal.computed is computed
        assert set(found) == {"a", "b"}
        assert found["a"].tolist() == [0, 1, 2, 3, 4]
        assert found["b"].dtype == bool


def test_time_of_earlier_processes_counts(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr("lrm_lightning.evaluation.journal.time.monotonic", lambda: next(clock))
    Journal(tmp_path, {}).once("x", lambda: piece(1))
    journal = Journal(tmp_path, {})
    journal.once("x", lambda: piece(1))
    journal.once("y", lambda: piece(1))
    assert journal.wall_s == 5


def test_another_identity_forgets(tmp_path):
    Journal(tmp_path / "kept", {"seed": 1}).once("x", lambda: piece(5))
    found = Journal(tmp_path / "kept", {"seed": 2}).once("x", lambda: piece(3))
    assert len(found["a"]) == 3


@pytest.mark.parametrize("damage", [b"", b"PK", b"\x00" * 50])
def test_damaged_piece_is_computed_again(tmp_path, damage):
    Journal(tmp_path, {}).once("x", lambda: piece(5))
    (tmp_path / "x.npz").write_bytes(damage)
    assert len(Journal(tmp_path, {}).once("x", lambda: piece(4))["a"]) == 4


def test_damaged_identity_forgets(tmp_path):
    Journal(tmp_path, {}).once("x", lambda: piece(5))
    (tmp_path / "identity.json").write_text("{")
    assert len(Journal(tmp_path, {}).once("x", lambda: piece(4))["a"]) == 4


def test_nothing_is_left_of_a_piece_that_failed(tmp_path):
    def fail():
        raise KeyboardInterrupt

    journal = Journal(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        journal.once("x", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


def test_without_a_folder_nothing_is_kept():
    journal = Journal()
    assert len(journal.once("x", lambda: piece(2))["a"]) == 2
    assert len(journal.once("x", lambda: piece(3))["a"]) == 3
    journal.remove()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Journal(tmp_path / "file" / "kept", {})


def test_removed(tmp_path):
    journal = Journal(tmp_path / "kept", {})
    journal.once("x", lambda: piece(2))
    journal.remove()
    assert not (tmp_path / "kept").exists()
