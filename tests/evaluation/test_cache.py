"""Pieces are computed once, whatever happens in between; progress and its estimate."""

import io
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation import cache
from lrm_lightning.evaluation.cache import Cache, Progress


def piece(value):
    return {"a": np.arange(value), "b": np.array([value > 3])}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_computes_once(tmp_path):
    for value in (5, 3):  # the second is not asked for
        kept = Cache(tmp_path / "kept", {"seed": 1})
        found = kept.once("x", lambda value=value: piece(value))
        assert set(found) == {"a", "b"}
        assert found["a"].tolist() == [0, 1, 2, 3, 4]
        assert found["b"].dtype == bool


def test_a_name_may_be_any_text(tmp_path):
    for value, name in enumerate(("x", "../x/y", "a\0b", "ä" * 300)):
        Cache(tmp_path).once(name, lambda value=value: piece(value))
    assert len(files(tmp_path)) == 4
    assert len(Cache(tmp_path).once("../x/y", lambda: piece(9))["a"]) == 1


def test_time_of_earlier_processes_counts(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    Cache(tmp_path).once("x", lambda: piece(1))
    again = Cache(tmp_path)
    again.once("x", lambda: piece(1))
    again.once("y", lambda: piece(1))
    assert again.wall_s == 5


def test_each_identity_has_its_own_pieces(tmp_path):
    one, other = (Cache(tmp_path / "kept", {"seed": seed}) for seed in (1, 2))
    for kept, value in ((one, 5), (other, 3)):
        assert len(kept.once("x", lambda value=value: piece(value))["a"]) == value
    other.remove()
    assert len(one.once("x", lambda: piece(1))["a"]) == 5
    one.remove()
    assert not (tmp_path / "kept").exists()
    one.remove()  # nothing is left to remove


@pytest.mark.parametrize("damage", [b"", b"PK", b"\x00" * 50, "flipped", "cut"])
def test_damaged_piece_is_computed_again(tmp_path, damage):
    Cache(tmp_path).once("x", lambda: piece(5))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 4
    changed = {
        "flipped": whole[:middle] + bytes(255 - each for each in whole[middle:][:40]),
        "cut": whole[: len(whole) // 2],
    }
    path.write_bytes(changed.get(damage, damage))
    assert len(Cache(tmp_path).once("x", lambda: piece(4))["a"]) == 4


def test_another_piece_is_not_taken(tmp_path):
    """Of another name or identity, of another shape, without its time, or no archive at all."""
    Cache(tmp_path).once("x", lambda: piece(5))
    (path,) = files(tmp_path)
    whole = dict(np.load(path))
    Cache(tmp_path).once("y", lambda: piece(6))
    (other,) = set(files(tmp_path)) - {path}
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    shutil.copy(path, moved)
    for damaged in (
        lambda: shutil.copy(other, path),
        lambda: np.savez(path, **whole | {"a": whole["a"][:2]}),
        lambda: np.savez(path, **whole | {"b": ~whole["b"]}),
        lambda: np.savez(path, **{name: whole[name] for name in whole if name != "wall_s"}),
        lambda: path.write_bytes(_npy(whole["a"])),
    ):
        damaged()
        assert Cache(tmp_path).once("x", lambda: piece(4))["a"].tolist() == [0, 1, 2, 3]
    assert cache._read(path) is not None
    assert cache._read(moved) is None


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_nothing_is_left_of_a_piece_that_failed(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).once("x", fail)
    assert files(tmp_path) == []


def test_without_a_folder_nothing_is_kept():
    nothing = Cache()
    assert len(nothing.once("x", lambda: piece(2))["a"]) == 2
    assert len(nothing.once("x", lambda: piece(3))["a"]) == 3
    nothing.remove()


def test_whoever_is_killed_while_pieces_are_removed_has_left_the_lock(tmp_path, monkeypatch):
    kept = Cache(tmp_path / "kept")

    def killed(folder, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt), kept.shared():
        kept.once("x", lambda: piece(2))
    monkeypatch.undo()
    assert files(tmp_path)
    assert kept.begun
    with Cache(tmp_path / "kept").shared():
        pass
    assert not files(tmp_path)
    assert not kept.begun


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Cache(tmp_path / "file" / "kept").once("x", lambda: piece(2))


def test_progress_estimates_from_what_the_pieces_took(tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 20.0])  # it is computed
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    Cache(tmp_path).once("x", lambda: piece(1))
    clock = iter([0.0, 1.0, 2.0, 41.0, 42.0, 43.0])
    kept = Cache(tmp_path)
    progress = Progress("strong", kept)
    progress("pgd_ce", 0, 400)
    kept.once("x", lambda: piece(1))  # read: it took 20 s before the interruption
    progress("pgd_ce", 100, 400)  # too soon to say something
    kept.once("y", lambda: piece(1))
    progress("pgd_ce", 100, 400)
    progress("square", 0, 50)
    assert capsys.readouterr().out.splitlines() == [
        "strong: pgd_ce 0/400 images",
        "strong: pgd_ce 200/400 images, about 59 s of it left",
    ]


def test_a_terminal_gets_a_bar_instead_of_lines(monkeypatch, capsys):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(cache, "Console", lambda: console)
    with Progress("strong mine") as progress:
        progress("pgd_ce", 0, 40)
        progress("pgd_ce", 40, 40)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"strong mine: pgd_ce .* 40/40 images", shown)
    assert capsys.readouterr().out == ""
