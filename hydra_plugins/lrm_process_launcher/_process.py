"""A job's operating-system process group."""

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from hydra_plugins.lrm_process_launcher._forking import Template
from lrm_lightning.errors import UserError


class JobProcess:
    """A started job.

    The process leads a session and group of its own: a Ctrl-C in the terminal doesn't reach it past
    us, and all that it starts can be signalled together.

    Args:
        command: Command line.
        environment: Whole environment.
        log: File that takes its output, from :func:`open_log`.
        template: What it is forked from, if possible; None for a process of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: BinaryIO,
        template: Template | None = None,
    ) -> None:
        log.write(f"# {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(command)}\n".encode())
        log.flush()
        forked = template.fork(command, environment, log) if template is not None else None
        self._process = forked or subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started = time.monotonic()
        self._terminated: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self._started

    def poll(self) -> int | None:
        """Exit code, or None while it runs; what it leaves behind is killed with its end."""
        code = self._process.poll()
        if code is not None:
            self._signal(signal.SIGKILL)
        return code

    def stop(self, grace: float) -> None:
        """Ask the group to end; when asked for ``grace`` seconds without effect, kill it."""
        now = time.monotonic()
        if self._terminated is None:
            self._terminated = now
            self._signal(signal.SIGTERM)
        if now - self._terminated >= grace:
            self.kill()

    def kill(self) -> None:
        """End the whole group now."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The leader's number is the group's. Errors: nobody is left (macOS: a zombie).
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def open_log(path: Path) -> BinaryIO:
    """Open a job's log for appending and lock it while any process of the job has it open.

    Two sweeps started beside each other, or a job that outlived a killed launcher, would otherwise
    train in the same directory.

    Raises:
        UserError: If a process of an earlier start still has it open.
        OSError: If the folder or the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        raise UserError(f"another process is still at work in {path.parent}") from None
    except OSError:  # a file system without locks
        pass
    return log
