"""Jobs that are forked from a process in which all imports are done: the launcher's side."""

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, BinaryIO

from hydra_plugins.lrm_process_launcher._command import child_environment

PATIENCE = 60.0  # seconds for an answer that takes milliseconds; a template that is stuck is dead

# OpenBLAS, numpy's, starts its threads on import, and what has threads can't be forked safely. The
# price: in a forked job numpy's own linear algebra runs on one core. torch doesn't use it.
OPENBLAS = {"OPENBLAS_NUM_THREADS": "1"}
# Read on import, too, but every job has its own: _template.become sets torch's threads by it.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Template:
    """A process that imports a module and is forked for each job.

    It is a shortcut and nothing depends on it: if it can't import the module, can't be forked
    safely, or has died, :meth:`fork` declines and a job is started as a process of its own.

    Args:
        preload: The module.

    Raises:
        OSError: If there can be no new process.
    """

    def __init__(self, preload: str) -> None:
        self._connection, theirs = Pipe()
        environment = child_environment(os.environ, OPENBLAS)
        for name in THREADS:
            environment.pop(name, None)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"{__package__}._template"),
                    *(str(theirs.fileno()), preload),
                ],
                env=environment,
                pass_fds=[theirs.fileno()],
                # What goes wrong in the import will again in the job, where it is logged.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._ready = False
        # However we end. If even that fails, its socket tells it.
        atexit.register(self.close)

    def importing(self) -> bool:
        """Whether it is still at its import, which a job had better wait for."""
        if self._ready or self._connection.closed:
            return False
        try:
            if not self._connection.poll():
                return True
            self._connection.recv()
            self._ready = True
        except (OSError, EOFError):
            self.close()
        return False

    def fork(
        self, command: Sequence[str], environment: Mapping[str, str], log: BinaryIO
    ) -> "ForkedProcess | None":
        """Run ``python -m <module> <arguments>`` in a fork, or None if there can be none.

        Not while it is importing.

        Args:
            command: Command line.
            environment: Whole environment.
            log: File that takes its output.
        """
        try:
            pid = self._ask((list(command), dict(environment)), log)
        except ConnectionError:
            return None
        return None if pid is None else ForkedProcess(self, pid, Path(log.name))

    def exit_code(self, pid: int) -> int | None:
        """The job's exit code, once; None while it runs.

        Raises:
            ConnectionError: If the template has died.
        """
        return self._ask(pid)

    def close(self) -> None:
        """End it, whatever it is doing; it has nothing to lose."""
        self._connection.close()
        if self._process.returncode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _ask(self, request: object, *files: BinaryIO) -> Any:  # noqa: ANN401
        try:
            self._connection.send(request)
            for file in files:
                send_handle(self._connection, file.fileno(), self._process.pid)
            if not self._connection.poll(PATIENCE):
                raise TimeoutError
            return self._connection.recv()
        except (OSError, EOFError) as error:
            self.close()
            raise ConnectionError from error


class ForkedProcess:
    """A forked job: what of :class:`subprocess.Popen` a :class:`JobProcess` needs.

    Args:
        template: Its parent.
        pid: Its process id.
        log: Its log.
    """

    def __init__(self, template: Template, pid: int, log: Path) -> None:
        self.pid = pid
        self._template = template
        self._log = log
        self._code: int | None = None

    def poll(self) -> int | None:
        """Exit code, or None while it runs.

        Only its parent would know. Without that it counts as killed, which :class:`JobProcess` then
        makes true: it kills what is left of a job that has ended.
        """
        if self._code is None:
            try:
                self._code = self._template.exit_code(self.pid)
            except ConnectionError:
                self._code = -signal.SIGKILL
                with suppress(OSError), self._log.open("a") as log:
                    log.write(
                        "error: the process that this job was forked from died; run it again\n"
                    )
        return self._code

    def wait(self) -> int:
        """Exit code, when it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code
