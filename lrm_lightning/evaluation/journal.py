"""The finished pieces of a long evaluation, on disk: killed anywhere, it goes on where it was."""

import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import read_json, write_json

IDENTITY = "identity.json"
SECONDS = "wall_s"

Piece = dict[str, np.ndarray]


class Journal:
    """Computes each named piece once, however often the process is killed.

    A piece is written in one step, so there is never half of one. Pieces must be asked for in an
    order that depends on earlier pieces alone; then an interrupted evaluation ends like an
    undisturbed one.

    Args:
        folder: Where the pieces are kept; ``None`` keeps nothing.
        identity: What determines the pieces, as JSON. A folder of another identity is emptied.

    Attributes:
        computed: Whether the last piece was computed, and not read.

    Raises:
        UserError: If the folder can't be written.
    """

    def __init__(self, folder: Path | None = None, identity: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._seconds = 0.0
        self.computed = False
        if folder is None:
            return
        identity = identity or {}
        try:
            if _read_identity(folder) != identity:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        write_json(folder / IDENTITY, identity)

    @property
    def wall_s(self) -> float:
        """Seconds that all pieces so far took, those before an interruption included."""
        return self._seconds

    def once(self, name: str, compute: Callable[[], Piece]) -> Piece:
        """``compute()``, or what it returned before an interruption.

        Args:
            name: Unique in this evaluation; a file name.
            compute: Returns arrays by name.
        """
        path = None if self._folder is None else self._folder / f"{name}.npz"
        piece = None if path is None else _read(path)
        self.computed = piece is None
        if piece is None:
            begin = time.monotonic()
            piece = compute()
            seconds = np.array(time.monotonic() - begin)
            if path is not None:
                _write(path, piece | {SECONDS: seconds})
        else:
            seconds = piece.pop(SECONDS)
        self._seconds += float(seconds)
        return piece

    def remove(self) -> None:
        """Forget all pieces: the evaluation is finished and recorded."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _read_identity(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / IDENTITY)
    except UserError:
        return None


def _read(path: Path) -> Piece | None:
    """The piece at ``path``; ``None`` if there is none, or a crash of the machine damaged it."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, piece: Piece) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **piece)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror}; free space or evaluate a copy of the run elsewhere"
    )
