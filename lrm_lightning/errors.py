"""The error that a user can mend: one line that says what, where and what to do."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a value, a device, a directory.

    The message is a single line that names what is wrong, where, and what to do about it. Entry points
    print it as ``error: ...`` and exit with 1, without a traceback.
    """
