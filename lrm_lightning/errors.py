"""Errors that callers tell apart."""

import errno
from pathlib import Path


class UserError(Exception):
    """Something outside the code is wrong: a file, a value, a device, a directory.

    The message is a single line that names what is wrong, where, and what to do about it. Entry
    points print it as ``error: ...`` and exit with 1, without a traceback.
    """


class NotFiniteError(ValueError):
    """A network gave NaN or infinite logits or gradients: when training, it diverged."""


def text_of(error: object) -> str:
    """An error's text on one line; its class's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def cannot_write(path: Path | str, error: OSError, choose: str = "another directory") -> UserError:
    """The error to raise when writing ``path`` failed: what, where and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    mend = f"{'free space' if full else 'make it writable'} or choose {choose}"
    return UserError(f"cannot write {path}: {error.strerror or error}; {mend}")
