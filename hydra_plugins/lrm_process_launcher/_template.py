"""The process that imports once what all jobs need, and forks for each of them.

``python -m hydra_plugins.lrm_process_launcher._template DESCRIPTOR MODULE`` imports MODULE, says on
the socket DESCRIPTOR that it is ready, and answers there until the launcher is gone:

* a command, an environment and then an open log: with the new job's process id, or None if there
  can be no new process;
* a process id: with that job's exit code as :mod:`subprocess` gives it, or None while it runs.

What a job gets to see is what ``python -m`` would show it, and its end is an ordinary one: the fork
returns to this file's last lines and runs the job's module from there.
"""

import gc
import os
import runpy
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from types import ModuleType

# A job's command and whole environment.
Request = tuple[list[str], dict[str, str]]


def serve(launcher: Connection) -> Request | None:
    """Answer the launcher; returns None when it is gone, and in a job's process the request."""
    try:
        launcher.send("ready")
        while True:
            request = launcher.recv()
            if isinstance(request, int):
                pid, status = os.waitpid(request, os.WNOHANG)
                launcher.send(os.waitstatus_to_exitcode(status) if pid else None)
            elif _fork(launcher, recv_handle(launcher)):
                return request
    except (OSError, EOFError):
        return None


def _fork(launcher: Connection, log: int) -> bool:
    """Fork, and tell the launcher; True in the job's process, once its id is known."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            pid = os.fork()
        except OSError:
            pid = None
        if pid == 0:
            ours.close()
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            with suppress(OSError):
                theirs.send(b"!")
                if theirs.recv(1):
                    return True
            os._exit(1)  # the template has died and nobody knows of us
        # Before the answer: the job alone holds the log's lock, and can be killed as a group.
        os.close(log)
        theirs.close()
        if pid is not None:
            ours.recv(1)
        launcher.send(pid)
        with suppress(OSError):  # killed already, or never born
            ours.send(b"!")
    return False


def become(request: Request, of_imports: Mapping[str, str]) -> None:
    """Turn the fork into what a new process with the same imports would be.

    Args:
        request: What to run.
        of_imports: What the imports have put into the environment.
    """
    command, environment = request
    os.environ.clear()
    os.environ.update(environment)
    torch = sys.modules.get("torch")
    if torch is not None:
        if environment.get("CUDA_VISIBLE_DEVICES") != "" and not _cuda_works(torch):
            os.execvpe(command[0], command, environment)
        # OpenMP has read the variable at its import, when it wasn't set. At that torch doesn't use
        # more threads than there are cores, whatever the variable says.
        threads = environment.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(min(int(threads), torch.get_num_threads()))
    random = sys.modules.get("numpy.random")
    if random is not None:  # Python's own generator is seeded anew by the fork
        random.seed()
    os.environ.update({**environment, **of_imports})
    sys.orig_argv[:] = command
    sys.argv[1:] = command[3:]


def _cuda_works(torch: ModuleType) -> bool:
    """Whether CUDA is as good in this fork as in a new process.

    It is unless it was initialised before the fork. Written from torch's documentation; it hasn't
    run on a GPU yet. If in doubt the answer is no, and the job pays for its own imports.
    """
    # Lightning lets torch ask NVML, which answers in a spoilt process too; here it has to ask CUDA.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    cuda = torch.cuda
    return not (cuda.is_initialized() or cuda._is_in_bad_fork()) and cuda.is_available()


def can_fork() -> bool:
    """Whether this process has a single thread: others would be missing in its forks."""
    return len(os.listdir("/proc/self/task")) == 1


if __name__ == "__main__":
    # Closed in a job, too, and on any failure: a thread of the imports might delay our end.
    with Connection(int(sys.argv[1])) as connection:
        before = dict(os.environ)
        import_module(sys.argv[2])
        if not can_fork():
            sys.exit(1)
        imported = {name: value for name, value in os.environ.items() if before.get(name) != value}
        gc.freeze()  # a collection in a job would write to, and so copy, all memory that it shares
        job = serve(connection)
    if job is not None:
        become(job, imported)
        runpy.run_module(job[0][2], run_name="__main__", alter_sys=True)
