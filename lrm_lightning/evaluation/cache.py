"""A long evaluation: its finished pieces on disk, and what a person sees of it meanwhile."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import duration, read_arrays, write_arrays
from lrm_lightning.runs.identity import hashed
from lrm_lightning.runs.integrity import opened, sealed

SECONDS, WHERE = "wall_s", "where"  # how long a piece took, and whose folder and name it has
EVERY_S = 10.0

Piece = dict[str, np.ndarray]


class Cache:
    """Computes each named piece once: killed anywhere, an evaluation goes on where it was.

    A piece is written in one step, so there is never half of one. Pieces must be asked for in an
    order that depends on earlier pieces alone; then an interrupted evaluation ends like an
    undisturbed one. Without a folder nothing is kept. Evaluations of another identity, which is
    what determines the pieces as JSON, have pieces of their own beside these.
    """

    def __init__(
        self, folder: Path | None = None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self._folder = folder and folder / hashed(identity or {})[:16]
        self.wall_s = 0.0  # of all pieces so far, those before an interruption included

    def once(self, name: str, compute: Callable[[], Piece]) -> Piece:
        """Arrays by name: what ``compute()`` returns, or returned before an interruption."""
        path = self._folder and self._folder / f"{hashed(name)[:16]}.npz"
        piece = path and _read(path)
        if piece is None:
            begin = time.monotonic()
            piece = compute()
            seconds = np.array(time.monotonic() - begin)
            if path is not None:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise UserError(f"cannot write {path}: {error.strerror}") from error
                write_arrays(path, sealed(piece | {SECONDS: seconds, WHERE: _where(path)}))
        else:
            seconds = piece.pop(SECONDS)
        self.wall_s += float(seconds)
        return piece

    def remove(self) -> None:
        """Forget these pieces: the evaluation is finished and recorded."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # not there, or other evaluations have pieces
                self._folder.parent.rmdir()


def _read(path: Path) -> Piece | None:
    """The piece at ``path``; ``None`` if there is none, or what is there is another or damaged."""
    try:
        piece = opened(read_arrays(path))
    except (OSError, ValueError):
        return None
    return piece if piece.pop(WHERE, None) == _where(path) else None


def _where(path: Path) -> np.ndarray:
    return np.array(f"{path.parent.name}/{path.name}")


class Progress:
    """Prints a line at most every ten seconds: where it is, how long the stage will still take.

    Every line begins with the title; nothing is printed without one. The cache knows how long each
    batch took, those before an interruption included.
    """

    def __init__(self, title: str = "", cache: Cache | None = None) -> None:
        self._title, self._cache, self._printed = title, cache or Cache(), -EVERY_S
        self._images, self._before = 0, 0.0

    def __call__(self, stage: str, images: int, of: int) -> None:
        """So many more ``images`` of the stage's are done; none: the stage begins."""
        if not images:
            self._images, self._before = 0, self._cache.wall_s
        self._images += images
        now = time.monotonic()
        if self._title and now - self._printed >= EVERY_S:
            self._printed, left = now, ""
            if 0 < self._images < of:
                each = (self._cache.wall_s - self._before) / self._images
                left = f", about {duration((of - self._images) * each)} of it left"
            told = f"{self._title}: {stage} {self._images}/{of} images{left}"
            print(told, flush=True)  # noqa: T201  (a person reads it)
