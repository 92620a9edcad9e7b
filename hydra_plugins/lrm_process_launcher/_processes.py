"""The processes of a job: how they start, what surrounds them, and how all of them end.

A job of one device is forked, where that is safe (Linux), from a process that has done the imports:
the fork server of :mod:`multiprocessing`. A job of several devices is started by its command line,
because Lightning starts its other ranks by that, too. The command line runs this module, which then
runs the job's module. Both kinds of job watch the launcher and end when it has been killed, because
nothing else would end them.
"""

import multiprocessing
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

# What Lightning, torchrun, a cluster's scheduler or another run of ours left in the environment
# would make a job believe that it is one rank of that run. Of SLURM only the variables that number
# processes: the rest describes the machine.
_FOREIGN = re.compile(
    r"(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|TORCHELASTIC_.*|PL_.*|LRM_(RUN_DIR|PARENT)"
    r"|SLURM_(NTASKS|NPROCS|PROCID|LOCALID|NODEID|NTASKS_PER_NODE|STEP_NUM_TASKS)"
)
POLL_S, GRACE_S = 0.5, 30.0  # the second: between SIGTERM and SIGKILL, to save a checkpoint
_CAN_FORK = sys.platform == "linux"
_FORKS = multiprocessing.get_context("forkserver")


def job_environment(environment: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: the given one without another run's ranks and ports, plus ``own``."""
    kept = {name: value for name, value in environment.items() if not _FOREIGN.fullmatch(name)}
    # Unbuffered, so that the log holds the last words of a job that gets killed.
    return kept | {"PYTHONUNBUFFERED": "1"} | dict(own)


def start_fork_server(preload: str) -> None:
    """Start the process that is forked for jobs; it imports the module, and ends with us."""
    if _CAN_FORK:
        _FORKS.set_forkserver_preload([f"{__package__}._preload", preload])
        forkserver.ensure_running()


class JobProcess:
    """A started job: ``python -m <module> <arguments>``, its output added to a log.

    Its process leads a session and group of its own: a Ctrl-C in the terminal doesn't reach it past
    us, and all that it starts can be signalled together.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, *, fork: bool
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"# {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(command)}\n".encode())
            output.flush()
            process = _fork(command, environment, log) if fork and _CAN_FORK else None
            if process is not None:
                self._exit_code = lambda: process.exitcode
            else:
                process = subprocess.Popen(
                    [*command[:2], __name__, str(os.getpid()), *command[2:]],
                    env=job_environment(os.environ, environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._exit_code = process.poll
        assert process.pid is not None
        self._pid = process.pid
        self.started = time.monotonic()
        self._terminated: float | None = None

    def poll(self) -> int | None:
        """Exit code, or None while it runs; what it leaves behind is killed with its end."""
        code = self._exit_code()
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
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left (macOS: a zombie)
            if self._exit_code() is None and os.getpgid(self._pid) != self._pid:
                os.kill(self._pid, number)  # a fork so young that it doesn't lead a group yet
            else:
                os.killpg(self._pid, number)


def _fork(command: Sequence[str], environment: Mapping[str, str], log: Path) -> BaseProcess | None:
    """A started fork, or None if the fork server can't be reached: its imports may have failed."""
    process = _FORKS.Process(target=_become, args=(list(command), dict(environment), log))
    try:
        process.start()
    except (OSError, EOFError):
        return None
    return process


def _become(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Turn a fork into what the command line would have started."""
    os.setsid()
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(environment)
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:  # which was read on import
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if "numpy.random" in sys.modules:  # Python's own generator is seeded anew by the fork
        sys.modules["numpy.random"].seed()
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    _run(command[2], command[3:], launcher.join)


def _run(module: str, arguments: Sequence[str], launcher_ended: Callable[[], object]) -> None:
    """Be ``python -m <module> <arguments>``, and end with the launcher."""
    threading.Thread(target=_end_after, args=(launcher_ended,), daemon=True).start()
    sys.argv[1:] = arguments
    sys.modules.pop(module, None)  # there if the launcher's script imports it
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_after(launcher_ended: Callable[[], object]) -> None:
    """Ask this job to end when the launcher has been killed, and kill its group if it does not."""
    launcher_ended()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait_for_parent(parent: int) -> None:
    """Return when ``parent`` is no longer this process's parent, which happens as it ends."""
    while os.getppid() == parent:
        time.sleep(POLL_S)


if __name__ == "__main__":
    _parent, _module, *_arguments = sys.argv[1:]
    _run(_module, _arguments, partial(_wait_for_parent, int(_parent)))
