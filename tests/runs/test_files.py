"""A reader, or a kill, never finds half of a file."""

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import duration, override, write_arrays, write_json, write_text


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "first\n")
    write_text(path, "zweitens: größer\n")
    assert path.read_bytes() == "zweitens: größer\n".encode()
    assert _names(tmp_path) == ["a.txt"]


def _fails(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize(
    ("write", "old", "new"),
    [(write_text, "old", "new"), (write_arrays, {"a": np.zeros(2)}, {"a": np.ones(3)})],
)
def test_failed_write_leaves_what_was_there(write, old, new, number, tmp_path, monkeypatch):
    path = tmp_path / "file"
    for there in (False, True):
        if there:
            write(path, old)
        before = path.read_bytes() if there else None
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", _fails(number))
            with pytest.raises(UserError) as error:
                write(path, new)
        message = str(error.value)
        assert message.startswith(f"cannot write {path}: {os.strerror(number)}")
        assert "\n" not in message
        assert _names(tmp_path) == (["file"] if there else [])
        assert not there or path.read_bytes() == before


def test_disk_full_half_way(tmp_path, monkeypatch):
    def half(self, text, encoding):
        with self.open("w", encoding=encoding) as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(UserError, match="No space left on device"):
        write_json(path, {"a": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"a": 1}
    assert _names(tmp_path) == ["a.json"]


def test_killed_between_writing_and_replacing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self, target):
        raise Killed

    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    node = platform.node()
    kept = [f"a.json.{node}-1.partial", f"a.json.{node}-mine.partial"]
    kept += [f"a.json.other{node}-{ended.pid}.partial", f"ba.json.{node}-{ended.pid}.partial"]
    for name in (*kept, f"a.json.{node}-{ended.pid}.partial"):
        (tmp_path / name).touch()
    write_text(tmp_path / "a.json", "{}")
    assert _names(tmp_path) == sorted(["a.json", *kept])


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*No such file or directory"):
        write_text(tmp_path / "nowhere" / "a.txt", "text")


def test_json_comes_back_in_order(tmp_path):
    content = {"b": [1, 2.5, None, True], "a": {"c": "é\n"}}
    write_json(tmp_path / "a.json", content)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == content
    assert list(found) == ["b", "a"]


def test_arrays_come_back(tmp_path):
    arrays = {"index": np.array([0, 2, 5]), "clean": np.array([True, True, False])}
    write_arrays(tmp_path / "correct.npz", arrays)
    with np.load(tmp_path / "correct.npz", allow_pickle=False) as found:
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert found[name].tolist() == array.tolist()
    assert _names(tmp_path) == ["correct.npz"]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@given(
    st.lists(
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1), min_size=1
    )
)
def test_any_path_can_stand_in_an_override(paths):
    (parsed,) = OverridesParser.create().parse_overrides([override("runs", paths)])
    assert [str(each) for each in parsed.value()] == paths
