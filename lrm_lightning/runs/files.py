"""Small files of which a reader, or a kill, never finds half; one writer at a time."""

import fcntl
import glob
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString

from lrm_lightning.errors import cannot_write, text_of
from lrm_lightning.runs.integrity import sealed


def expanded(path: str | Path) -> Path:
    """The path with the folder that ``~`` or ``~user`` means; as typed if there is no such user."""
    return Path(os.path.expanduser(path))


def shown_path(path: Path) -> str:
    """The path as short as it can be typed from here."""
    absolute = path.absolute()
    return str(
        absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
    )


def file_sha256(path: Path) -> str:
    """SHA-256 in hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(pattern: str) -> tuple[list[Path], bool]:
    """What a path or a glob pattern names, sorted, and whether it is a pattern.

    A path that is there is no pattern, whatever letters are in it.
    """
    path = expanded(pattern)
    if path.exists() or not glob.has_magic(str(path)):
        return [path], False
    return [Path(each) for each in sorted(glob.glob(str(path)))], True


def override(key: str, paths: Iterable[str]) -> str:
    """Hydra's override that sets ``key`` to a list of paths, whatever letters are in them."""
    return f"{key}=[{','.join(map(quoted, paths))}]"


def quoted(path: str) -> str:
    """The path in the form that Hydra's override grammar reads back unchanged."""
    plain = re.fullmatch(r"/?[\w.-]+(/[\w.-]+)+", path, re.ASCII)
    return path if plain else QuotedString(path, Quote.single).with_quotes()


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 epoch``, ``1,200 epochs``; ``many`` where that isn't ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place in one step at the context's end.

    It is on the disk before: neither a kill nor a power failure leaves half of it. What processes
    of this machine that were killed while they wrote it have left is removed.

    Raises:
        UserError: If it can't be written (no permission, disk full).
    """
    partial = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        with suppress(OSError):  # some file systems sync no folders
            _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    _remove_left(path)


def _remove_left(path: Path) -> None:
    ours = f"{path.name}.{platform.node()}-"
    for left in path.parent.glob(f"{glob.escape(ours)}*.partial"):
        with suppress(ValueError, OverflowError, OSError):  # not of a process; alive, and another's
            try:
                os.kill(int(left.name.removeprefix(ours).removesuffix(".partial")), 0)
            except ProcessLookupError:
                left.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step; raises as :func:`replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` by ``content`` as JSON in one step; raises as :func:`replacing`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_sealed_json(path: Path, content: dict[str, Any]) -> None:
    """As :func:`write_json`, with the content's own hash; numbers are those that JSON can say."""
    write_json(path, sealed(json.loads(json.dumps(content, allow_nan=False))))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace ``path``, an ``.npz``, by ``arrays`` in one step; raises as :func:`replacing`."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What :func:`write_arrays` wrote; nothing in the file is executed.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it can't be read or is no such file.
    """
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as saved:
            arrays = dict(saved)
    except FileNotFoundError:
        raise
    except Exception as error:  # any damage: numpy and zipfile raise a dozen types
        raise ValueError(f"it is damaged: {text_of(error)[:120]}") from error
    if not all(isinstance(each, np.ndarray) for each in arrays.values()):
        raise ValueError("it holds more than arrays")
    return arrays


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a context for ``folder``; a kill ends it too.

    On a file system without locks this does not wait, so the code inside must be safe when two
    processes run it at once.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
