"""A long evaluation: its finished pieces on disk, and what a person sees of it meanwhile."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn
from rich.progress import Progress as Bar

from lrm_lightning.errors import cannot_write
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

    Several processes may do one evaluation together: a piece is locked while it is computed, and
    who needs it waits for it. The lock of a process that is killed is free: another computes the
    piece. Where the file system has no locks, pieces are computed more than once, to equal results,
    and several processes leave them behind.
    ``share`` is which of how many processes this is, from 1.
    """

    def __init__(
        self,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        share: tuple[int, int] = (1, 1),
    ) -> None:
        self._folder = folder and folder / hashed(identity or {})[:16]
        self.resumed = self._folder is not None and any(self._folder.glob("*.npz"))
        self.share = share
        self.wall_s = 0.0  # of all pieces so far, those before an interruption included

    def each(self, pieces: Mapping[str, Callable[[], Piece]]) -> Iterator[tuple[str, Piece]]:
        """Names and arrays of these pieces, which don't depend on each other.

        A process begins with its own share and goes on with the rest; what others are computing
        comes last.
        """
        number, of = self.share
        names, others = list(pieces), []
        first = len(names) * (number - 1) // of
        for name in names[first:] + names[:first]:
            piece = self._once(name, pieces[name], wait=False)
            if piece is None:
                others.append(name)
            else:
                yield name, piece
        for name in others:
            yield name, self.once(name, pieces[name])

    def once(self, name: str, compute: Callable[[], Piece]) -> Piece:
        """Arrays by name: what ``compute()`` returns, or returned before an interruption."""
        piece = self._once(name, compute, wait=True)
        assert piece is not None
        return piece

    def _once(self, name: str, compute: Callable[[], Piece], *, wait: bool) -> Piece | None:
        path = self._folder and self._folder / f"{hashed(name)[:16]}.npz"
        piece = _timed(compute) if path is None else _read(path) or _made(path, compute, wait=wait)
        if piece is not None:
            self.wall_s += float(piece.pop(SECONDS))
        return piece

    @contextmanager
    def shared(self) -> Iterator[None]:
        """A context for each process that uses these pieces: the last to leave forgets them.

        Whoever fails in it leaves them for later.
        """
        if self._folder is None:
            yield
            return
        lock = self._folder.with_suffix(".lock")
        with _locked(lock, fcntl.LOCK_SH):
            yield
        with _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if alone or (alone is None and self.share[1] == 1):
                self.remove()

    @property
    def begun(self) -> bool:
        """Whether there are pieces, or other processes make some."""
        return self._folder is not None and self._folder.with_suffix(".lock").exists()

    def remove(self) -> None:
        """Forget these pieces: the evaluation is finished and recorded."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            # After them: whoever is killed here has left what says that there may be pieces.
            self._folder.with_suffix(".lock").unlink(missing_ok=True)
            with suppress(OSError):  # not there, or other evaluations have pieces
                self._folder.parent.rmdir()


def _made(path: Path, compute: Callable[[], Piece], *, wait: bool) -> Piece | None:
    """The piece, kept at ``path``; ``None`` if another process computes it and we do not wait."""
    lock = path.with_suffix(".lock")
    with _locked(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)) as ours:
        if ours is False:
            return None
        try:
            piece = _read(path)  # it may have been finished since
            if piece is None:
                piece = _timed(compute)
                write_arrays(path, sealed(piece | {WHERE: _where(path)}))
            return piece
        finally:
            lock.unlink(missing_ok=True)


def _timed(compute: Callable[[], Piece]) -> Piece:
    begin = time.monotonic()
    piece = compute()
    return piece | {SECONDS: np.array(time.monotonic() - begin)}


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[bool | None]:
    """A context with a lock of this kind on a file, and whether it was free; a kill ends it too.

    ``None`` where the file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")  # NFS wants to read for a shared lock, to write for another
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            yield False
            return
        except OSError:
            yield None
            return
        yield True


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
    """Says where an evaluation is and how long the stage will still take.

    As a context it is a bar on a terminal; else it prints a line at most every ten seconds. Both
    begin with the title; nothing is shown without one. The cache knows how long each batch took,
    those before an interruption included.
    """

    def __init__(self, title: str = "", cache: Cache | None = None) -> None:
        self._title, self._cache, self._printed = title, cache or Cache(), -EVERY_S
        self._images, self._before = 0, 0.0
        console = Console()
        self._bar = Bar(
            "{task.description}", BarColumn(), MofNCompleteColumn(), "images{task.fields[left]}",
            console=console, transient=True, disable=not (title and console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=None, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def cost(self, n: int, passes: Mapping[str, int], seconds: float) -> None:
        """Say what is ahead for each of ``n`` images at most: ``passes`` by kind, and how long."""
        if self._title:
            number = self._cache.share[1]
            told = ", ".join(f"{count:,} {kind}" for kind, count in passes.items() if count)
            total = n * seconds
            shared = f", {duration(total / number)} in {number} shares" * (number > 1)
            told = f"an image takes at most {told}; {n:,} images at most {duration(total)}{shared}"
            told += ", less what is there from before" * self._cache.resumed
            print(f"{self._title}: {told}", flush=True)  # noqa: T201

    def __call__(self, stage: str, images: int, of: int) -> None:
        """So many more ``images`` of the stage's are done; none: the stage begins."""
        if not images:
            self._images, self._before = 0, self._cache.wall_s
        self._images += images
        left = ""
        if 0 < self._images < of:
            each = (self._cache.wall_s - self._before) / self._images
            left = f", about {duration((of - self._images) * each)} of it left"
        told, now = f"{self._title}: {stage}", time.monotonic()
        self._bar.update(self._task, description=told, completed=self._images, total=of, left=left)
        if self._title and self._bar.disable and now - self._printed >= EVERY_S:
            self._printed = now
            print(f"{told} {self._images}/{of} images{left}", flush=True)  # noqa: T201
