"""Ctrl-C ends a training as SIGTERM does: after the current batch, where resuming is exact."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException


@contextmanager
def between_batches() -> Iterator[None]:
    """Make a Trainer that runs inside answer Ctrl-C between two batches, and a second one at once.

    Raises:
        KeyboardInterrupt: When it has stopped for Ctrl-C.
        SIGTERMException: When it has stopped for SIGTERM.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:  # somebody else decides
        yield
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before)
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # between two of the Trainer's loops
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    # A terminal's Ctrl-C reaches every rank; the first one tells the others.
    signal.signal(signal.SIGINT, stop if rank_zero_only.rank == 0 else signal.SIG_IGN)
    try:
        yield
    except SIGTERMException:
        if received:
            raise KeyboardInterrupt from None
        raise
    except SystemExit as ended:  # how Lightning passes on a second Ctrl-C
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
