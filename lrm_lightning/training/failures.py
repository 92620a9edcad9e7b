"""What goes wrong while a Trainer is at work and a user can mend: one line, and no process left."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from lrm_lightning.errors import NotFiniteError, UserError, text_of
from lrm_lightning.training.lightning_internals import starts_processes, take_over_processes

POLL_S, GRACE_S = 0.5, 5.0
PARENT = "LRM_PARENT"  # names rank 0's process to those that it starts
SMALLER = "lower data.batch_size and data.eval_batch_size, or take a smaller model"
AGAIN = "run the same command again to go on"


@contextmanager
def in_one_line(trainer: L.Trainer) -> Iterator[None]:
    """A context around what a Trainer does, from before it starts other processes.

    Raises:
        UserError: For divergence, too little memory, values that Lightning finds out only now, and
            processes that lost each other.
    """
    watch = RankWatch(trainer)
    try:
        yield
    except NotFiniteError as error:
        raise UserError(f"training diverged: {error}; lower optimizer.lr") from error
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of GPU memory: {SMALLER}") from error
    except MisconfigurationException as error:  # what Lightning finds out only now
        raise UserError(f"trainer: {text_of(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(f"out of memory: {SMALLER}") from error
        if str(error).startswith("Early stopping conditioned on metric"):
            raise UserError(f"callbacks: {text_of(error)}") from error
        problem = watch.explain(error)
        if problem is None:
            raise
        raise UserError(problem) from error
    finally:
        watch.over.set()


class RankWatch:
    """Ends this process when one dies that it depends on, whatever it waits for at that moment.

    A process that waits for a dead one in a collective operation would wait forever. Rank 0 watches
    the ranks that Lightning lets it start, and they watch rank 0. Ranks that torchrun or SLURM
    started watch torchrun or SLURM.

    Args:
        trainer: Before it has started other processes.

    Attributes:
        over: To be set when nothing is to be watched any more.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.over, self._told = threading.Event(), threading.Event()
        self._trainer = trainer
        if rank_zero_only.rank != 0:
            target = self._watch_parent
        elif starts_processes(trainer):
            os.environ[PARENT] = str(os.getpid())
            target = self._watch_children
        else:
            return
        threading.Thread(target=target, name="rank-watch", daemon=True).start()

    def explain(self, error: RuntimeError) -> str | None:
        """What to tell the user if ``error`` is that the processes could not talk; else ``None``.

        Raises:
            SystemExit: If the user has been told, or rank 0 will do it.
        """
        text = text_of(error)
        if "EADDRINUSE" in text:
            port = os.environ.get("MASTER_PORT", "")
            return (
                f"port {port}, where the run's processes meet, is taken by another program;"
                f" {AGAIN}, with another MASTER_PORT if you have set it"
            )
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in text:
            return None
        started_by_rank_0 = rank_zero_only.rank != 0 and PARENT in os.environ
        if started_by_rank_0 or self._told.wait(4 * POLL_S):
            raise SystemExit(1)
        return f"the connection to another process of this run broke; {AGAIN} ({text[:160]})"

    def _watch_parent(self) -> None:
        parent = int(os.environ.get(PARENT, os.getppid()))
        while not self.over.wait(POLL_S):
            if os.getppid() != parent:
                os._exit(1)

    def _watch_children(self) -> None:
        children: list[Popen[bytes]] = []
        while not self.over.wait(POLL_S):
            children += take_over_processes(self._trainer)
            died = [(rank, child) for rank, child in enumerate(children, 1) if child.poll()]
            if not died:
                continue
            rank, child = died[0]
            code = child.returncode
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            sys.stderr.write(f"error: rank {rank} of this run died ({how}); {AGAIN}\n")
            self._told.set()
            # Time for the main thread to notice and to end in good order.
            if not self.over.wait(GRACE_S):
                for child in children:
                    child.kill()
                os._exit(1)
