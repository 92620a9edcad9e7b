"""Errors that callers tell apart."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a value, a device, a directory.

    The message is a single line that names what is wrong, where, and what to do about it. Entry
    points print it as ``error: ...`` and exit with 1, without a traceback.
    """


class NotFiniteError(ValueError):
    """A network gave NaN or infinite logits or gradients: when training, it diverged."""
