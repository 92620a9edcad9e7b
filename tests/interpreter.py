"""A stand-in for Python, whose processes are forked where torch is imported: it saves seconds each.

The program takes the arguments of ``python``. It is the process that its parent sees; what it
stands for is forked elsewhere, sees its parent, streams, folder and environment, and starts others
by it, as ``sys.executable``. The program hands signals on, ends as that process does, and takes it
along when it is killed. Where it leads a session, signals are for all in it.
"""

import atexit
import gc
import marshal
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import types
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

WARM = ["lrm_lightning.training.run", "lrm_lightning.evaluation.suites", "sklearn.datasets"]
SELDOM = 50_000  # new objects until the garbage collector looks at them: a tenth of the tests' time
SIGNALS = [1, 2, 10, 12, 15]  # SIGHUP, SIGINT, SIGUSR1, SIGUSR2 and SIGTERM
# Options, which the processes of multiprocessing have, are for the real Python.
PROGRAM = """#!{real} -IS
import marshal, os, signal, socket, sys
if sys.argv[1][0] == "-" and sys.argv[1] not in ("-m", "-c"):
    os.execv("{real}", ["{real}", *sys.argv[1:]])
signal.signal(signal.SIGINT, signal.SIG_DFL)
leads = os.getsid(0) == os.getpid()

def pass_on(number, _):
    try:
        (os.killpg if leads else os.kill)(pid, number)
    except ProcessLookupError:  # it has just ended
        pass

with socket.socket(socket.AF_UNIX) as link, link.makefile("rwb") as file:
    link.connect("{address}")
    socket.send_fds(link, [b"."], [0, 1, 2])
    marshal.dump((sys.argv, os.getcwd(), dict(os.environ), os.getpid(), leads), file)
    file.flush()
    pid = marshal.load(file)
    for number in {signals}:
        signal.signal(number, pass_on)
    code = marshal.load(file)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextmanager
def stand_in(folder):
    """A context in which the program works, whose path it gives; it is in the folder."""
    program, address = folder / "python", str(folder / "socket")
    program.write_text(PROGRAM.format(real=sys.executable, address=address, signals=SIGNALS))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = warm_forks().Process(target=_serve, args=(listener,))
        server.start()
    yield str(program)
    server.kill()
    server.join()


def warm_forks():
    """The fork server, which imports :data:`WARM` unless something else has started it before."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(WARM)
    return forks


def _serve(listener):
    """Fork for each that calls, until the tests are over."""
    for module in WARM:  # if something else has started the fork server
        import_module(module)
    tests = multiprocessing.parent_process()
    gc.freeze()  # or each fork would copy what it never changes
    gc.set_threshold(SELDOM)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while select.select([listener, tests.sentinel], [], [])[0] == [listener]:
        link = listener.accept()[0]
        if os.fork():
            link.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, *_ = socket.recv_fds(link, 1, 3)
        file = link.makefile("rwb")
        told = marshal.load(file)
        if (pid := os.fork()) == 0:
            listener.close()
            _become(*told, streams, link, file)
            return
        ended, leads = os.pidfd_open(pid), told[-1]
        if ended not in select.select([link, ended], [], [])[0]:  # the program has been killed
            if leads:
                with suppress(ProcessLookupError):  # so young that it does not lead a group yet
                    os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            marshal.dump(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file)
            file.flush()
        os._exit(0)


def _become(arguments, folder, environment, program, leads, streams, link, file):
    """Be what the program would have become."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if leads:
        os.setsid()
    with link, file:
        marshal.dump(os.getpid(), file)
    stat = Path(f"/proc/{program}/stat")
    os.getppid = lambda: int(stat.read_text().rpartition(")")[2].split()[1])
    sys.modules["numpy.random"].seed()
    sys.modules["torch"].set_num_threads(int(environment.get("OMP_NUM_THREADS", os.cpu_count())))
    ranks = sys.modules["lightning.fabric.utilities.rank_zero"]  # which reads them when imported
    ranks.rank_zero_only.rank = ranks._get_rank() or 0
    sys.executable, kind, *sys.argv[1:] = arguments
    sys.argv[0] = kind
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if kind == "-m":
            module = sys.argv.pop(1)
            sys.modules.pop(module, None)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(sys.argv.pop(1), main.__dict__)
        else:
            sys.path[0] = str(Path(kind).parent)
            runpy.run_path(kind, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
