"""No process of a run outlives another: one that waits for a dead one waits forever."""

import os
import signal
import sys
import threading
from subprocess import Popen
from typing import Self

import lightning as L
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

POLL_S, GRACE_S = 0.5, 5.0
PARENT = "LRM_PARENT"  # names rank 0's process to those that it starts
AGAIN = "run the same command again to go on"


class RankWatch:
    """Ends this process when one dies that it depends on, whatever it waits for at that moment.

    Rank 0 looks after the ranks that Lightning lets it start, and they after rank 0. Those that
    torchrun or SLURM started look after torchrun or SLURM. A context, around what the Trainer does.

    Args:
        trainer: Before it has started other processes.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._told, self._over = threading.Event(), threading.Event()
        self._launcher = trainer.strategy.launcher
        if rank_zero_only.rank != 0:
            target = self._end_with_parent
        elif (
            isinstance(self._launcher, _SubprocessScriptLauncher)
            and not self._launcher.cluster_environment.creates_processes_externally
        ):
            os.environ[PARENT] = str(os.getpid())
            target = self._end_with_children
        else:
            return
        threading.Thread(target=target, name="rank-watch", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def explain(self, error: RuntimeError) -> str | None:
        """What to tell the user if ``error`` is that the processes could not talk; else ``None``.

        Raises:
            SystemExit: If all has been said, or will be by rank 0.
        """
        text = " ".join(str(error).split())
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

    def _end_with_parent(self) -> None:
        parent = int(os.environ.get(PARENT, os.getppid()))
        while not self._over.wait(POLL_S):
            if os.getppid() != parent:
                os._exit(1)

    def _end_with_children(self) -> None:
        processes = self._children()
        while not self._over.wait(POLL_S):
            for rank, process in enumerate(processes, 1):
                code = process.poll()
                if code and not self._told.is_set():
                    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
                    sys.stderr.write(f"error: rank {rank} of this run died ({how}); {AGAIN}\n")
                    self._told.set()
            # Time for the main thread to notice and to end in good order.
            if self._told.is_set() and not self._over.wait(GRACE_S):
                for process in processes:
                    process.kill()
                os._exit(1)

    def _children(self) -> list[Popen[bytes]]:
        """Wait until they are started and take them over.

        Lightning would watch them too, and kill this process without a word.
        """
        assert isinstance(self._launcher, _SubprocessScriptLauncher)
        started = self._launcher.procs
        while len(started) < self._launcher.num_processes - 1 and not self._over.wait(0.1):
            started = self._launcher.procs  # another list from the Trainer's start on
        processes = list(started)
        started.clear()
        return processes
