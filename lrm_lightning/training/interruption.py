"""Signals end a run between two batches, on every rank after the same one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lrm_lightning.training.lightning_internals import (
    end_after_this_batch,
    send_no_signals_each_batch,
)

# Ctrl-C; kill, schedulers, preemption; what sbatch is often told to send before the time is over.
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Every how many of the optimiser's steps the ranks agree on signals and checkpoints. Not after each
# one, because agreeing makes every rank wait until its GPU has finished its queue.
TALK_EVERY = 8
DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


def ranks_talk(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether ranks agree on anything after this training batch; a single one after each step.

    A step may have the gradients of several batches; a run that ended within it would lose those.
    """
    step = trainer.accumulate_grad_batches
    every = step if trainer.world_size == 1 else step * TALK_EVERY
    return trainer.is_last_batch or batch_idx % every == step - 1


class Interruption(L.Callback):
    """Ends a run after the batch in which a signal came: there, resuming is exact.

    Lightning's own handler talks to the other ranks from within the signal, wherever they may be,
    and all wait for each other from then on. Here a signal is only noted, and after every batch (of
    training: every step of the optimiser, of several ranks every eighth) the ranks agree whether
    one of them has got one.

    A signal that is ignored (``nohup``) stays ignored. Somebody else's handler, such as that of a
    scheduler's client that puts the job into the queue again, is called when the run has ended.
    SIGUSR2 matters to such a client alone. A second Ctrl-C ends the run at once.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @contextmanager
    def around(self) -> Iterator[None]:
        """Where the Trainer is called.

        Raises:
            KeyboardInterrupt: When it has stopped for Ctrl-C.
            SIGTERMException: When it has stopped for another signal, on this rank or another.
        """
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in NUMBERS}
            if found[signal.SIGUSR2] in DEFAULT:
                del found[signal.SIGUSR2]
            self._before = {
                number: handler for number, handler in found.items() if handler != signal.SIG_IGN
            }
        try:
            yield
        except SIGTERMException:
            handler = self._before.get(self._received) if self._received else None
            if self._received and callable(handler) and handler not in DEFAULT:
                handler(self._received, None)
            if self._received is signal.SIGINT:
                raise KeyboardInterrupt from None
            raise
        except SystemExit as ended:  # how Lightning passes on a second Ctrl-C
            if isinstance(ended.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()  # in place of Lightning's handlers
        send_no_signals_each_batch(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: object, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if ranks_talk(trainer, batch_idx):
            self._agree(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._agree(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self._agree(trainer)

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _agree(self, trainer: L.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            end_after_this_batch(trainer)
