"""What a job sees of being a fork: nothing. And what becomes of one whose template fails."""

import json
import os
import signal
import sys
import time

import pytest

from hydra_plugins.lrm_process_launcher import _forking
from hydra_plugins.lrm_process_launcher._forking import ForkedProcess, Template
from hydra_plugins.lrm_process_launcher._process import JobProcess, open_log
from lrm_lightning.errors import UserError

LOOK = """
import warm
import json, os, random, signal, sys
print("said")
print("warned", file=sys.stderr)
umask = os.umask(0)
json.dump({
    "environment": dict(os.environ), "arguments": sys.argv, "command": sys.orig_argv,
    "main": [__name__, __spec__.name, sys.modules["__main__"].__file__], "path": sys.path,
    "folder": os.getcwd(), "leads": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "files": sorted(map(int, os.listdir("/proc/self/fd"))), "umask": umask,
    "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
    "unbuffered": [sys.stdout.write_through, sys.stderr.write_through],
}, open(sys.argv[1], "w"))
"""
ENDS = """
import atexit, os, signal, sys
atexit.register(print, "at exit")
match sys.argv[1]:
    case "exit": sys.exit(3)
    case "fail": sys.exit("error: no data")
    case "raise": raise KeyError("nothing here")
    case "abort": os.kill(os.getpid(), signal.SIGABRT)
"""
SLEEP = "import time; print('up'); time.sleep(300)"
DRAW = "import numpy, random; print(numpy.random.random(), random.random())"
THREADS = """
import torch
weight = torch.randn(512, 512, requires_grad=True)
(weight @ weight).tanh().sum().backward()
print(torch.get_num_threads())
"""
IS_FORK = "import sys; print('warm' in sys.modules)"

FAKE_TORCH = """
import os, sys
from types import ModuleType, SimpleNamespace
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as lightning does
sys.modules["torch"] = torch = ModuleType("torch")
torch.get_num_threads, torch.set_num_threads = lambda: 1, lambda number: None
torch.cuda = SimpleNamespace(
    is_initialized=lambda: "initialised" in os.environ["FAKE"],
    _is_in_bad_fork=lambda: "bad fork" in os.environ["FAKE"],
    is_available=lambda: "PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ
    or "available" in os.environ["FAKE"],
)
"""
DIES_BEFORE_IT_ANSWERS = """
import os, signal, socket
PID = os.getpid()
class Socket(socket.socket):
    def recv(self, size):
        data = super().recv(size)
        if os.getpid() == PID:
            os.kill(PID, signal.SIGKILL)
        return data
pair = socket.socketpair
socket.socketpair = lambda: tuple(Socket(fileno=each.detach()) for each in pair())
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield jobs
    jobs.clean_up()


class Jobs:
    """Starts jobs from a template, with modules of its own folder."""

    def __init__(self, folder):
        self.folder = folder
        self.template = None
        self.started = []

    def warm(self, preload="", wait=True, **modules):
        """Start the template; the modules are there for the jobs."""
        for name, code in {"warm": preload, **modules}.items():
            (self.folder / f"{name}.py").write_text(code)
        self.template = Template("warm")
        while wait and self.template.importing():
            time.sleep(0.01)
        return self.template

    def start(self, *arguments, environment=None, forked=True):
        command = [sys.executable, "-m", *arguments]
        template = self.template if forked else None
        with open_log(self.folder / f"{len(self.started)}.log") as log:
            process = JobProcess(command, os.environ | (environment or {}), log, template)
        self.started.append(process)
        return process

    def run(self, *arguments, **settings):
        """Exit code, and what it said."""
        process = self.start(*arguments, **settings)
        while (code := process.poll()) is None:
            time.sleep(0.01)
        return code, self.log()

    def log(self):
        """Of the last job, without the command."""
        return (self.folder / f"{len(self.started) - 1}.log").read_text().partition("\n")[2]

    def clean_up(self):
        for process in self.started:
            process.kill()
        if self.template is not None:
            self.template.close()


def is_fork(process):
    return isinstance(process._process, ForkedProcess)


def test_a_fork_sees_what_a_new_process_sees(jobs, monkeypatch):
    monkeypatch.setenv("OF_THE_LAUNCHER", "1")
    jobs.warm("import os; os.environ['OF_IMPORTS'] = 'yes'", look=LOOK)
    monkeypatch.delenv("OF_THE_LAUNCHER")
    odd = {"ODD": "\udcff = 'ä\n", "LONG": "x" * 100_000, "PYTHONUNBUFFERED": "1"}
    seen = []
    for forked in (False, True):
        code, log = jobs.run("look", "seen", "it's", "", environment=odd, forked=forked)
        assert (code, log) == (0, "said\nwarned\n")
        assert is_fork(jobs.started[-1]) == forked
        seen.append(json.loads((jobs.folder / "seen").read_text()))
    new, fork = seen
    assert [found.pop("streams") for found in seen] == [
        ["/dev/null", *[str(jobs.folder / f"{number}.log")] * 2] for number in range(2)
    ]
    assert fork == new
    assert fork["environment"].items() >= (odd | {"OF_IMPORTS": "yes"}).items()


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [
        ("return", 0, ["at exit"]),
        ("exit", 3, ["at exit"]),
        ("fail", 1, ["error: no data", "at exit"]),
        ("raise", 1, ["KeyError: 'nothing here'", "at exit"]),
        ("abort", -signal.SIGABRT, []),
    ],
)
def test_a_fork_ends_as_a_new_process_does(jobs, how, code, last):
    jobs.warm(ends=ENDS)
    for forked in (False, True):
        found, log = jobs.run("ends", how, forked=forked)
        assert is_fork(jobs.started[-1]) == forked
        assert found == code
        assert log.splitlines()[-2:] == last


def test_forks_draw_different_numbers(jobs):
    jobs.warm("import numpy.random", draw=DRAW)
    drawn = [jobs.run("draw")[1].split() for _ in range(2)]
    assert all(map(is_fork, jobs.started))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


@pytest.mark.slow
def test_threads_are_the_jobs_own(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jobs.warm("import torch", threads=THREADS)

    def threads(number, *, forked=True):
        own = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "CUDA_VISIBLE_DEVICES": ""}
        code, log = jobs.run("threads", environment=own, forked=forked)
        assert (code, is_fork(jobs.started[-1])) == (0, forked), log
        return int(log)

    assert threads("1") == 1
    assert threads("1000") == threads("1000", forked=False)  # torch knows how many cores there are


@pytest.mark.parametrize(
    ("fake", "visible", "stays"),
    [
        ("available", "0", True),
        ("initialised, available", "0", False),
        ("bad fork, available", "0", False),
        ("none", "0", False),
        ("none", "", True),  # it isn't to use a GPU
    ],
)
def test_a_fork_whose_cuda_is_in_doubt_becomes_a_new_process(jobs, fake, visible, stays):
    jobs.warm(FAKE_TORCH, is_fork=IS_FORK)
    environment = {"FAKE": fake, "CUDA_VISIBLE_DEVICES": visible}
    assert jobs.run("is_fork", environment=environment) == (0, f"{stays}\n")
    assert is_fork(jobs.started[-1])


@pytest.mark.parametrize(
    "preload",
    [
        "import nowhere",
        "import threading; threading.Thread(target=threading.Event().wait).start()",
        "import threading; threading.Thread(target=threading.Event().wait).start(); 1 / 0",
        "import os; os._exit(0)",
    ],
)
def test_what_cannot_be_imported_or_forked_is_left_alone(jobs, app, preload):
    template = jobs.warm(preload, is_fork=IS_FORK)
    app.assert_gone([template._process.pid])
    assert jobs.run("is_fork") == (0, "False\n")


def test_without_forks_a_job_is_a_new_process(jobs, app):
    none_left = "import os\ndef fork(): raise BlockingIOError('no more processes')\nos.fork = fork"
    template = jobs.warm(none_left, is_fork=IS_FORK)
    for _ in range(2):
        assert jobs.run("is_fork") == (0, "False\n")
        open_log(jobs.folder / f"{len(jobs.started) - 1}.log").close()  # nobody holds it
    assert app.alive(template._process.pid)  # other jobs may be its forks


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_dies_with_its_template(jobs, app, monkeypatch, number):
    monkeypatch.setattr(_forking, "PATIENCE", 0.5)
    template = jobs.warm(sleep=SLEEP, is_fork=IS_FORK)
    process = jobs.start("sleep")
    while "up" not in jobs.log():
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(template._process.pid, number)
    while (code := process.poll()) is None:
        time.sleep(0.01)
    assert code == -signal.SIGKILL
    assert "error: the process that this job was forked from died" in jobs.log()
    app.assert_gone([process._process.pid, template._process.pid])
    assert jobs.run("is_fork") == (0, "False\n")


def test_a_job_that_nobody_knows_of_does_not_run(jobs):
    """The template dies between its fork and its answer: the job starts anew, and not twice."""
    jobs.warm(DIES_BEFORE_IT_ANSWERS, name="print('warm' in __import__('sys').modules)")
    assert jobs.run("name")[0] == 0
    assert not is_fork(jobs.started[0])
    while True:
        try:  # the fork, too, has the log open until it ends
            open_log(jobs.folder / "0.log").close()
            break
        except UserError:
            time.sleep(0.01)
    assert jobs.log() == "False\n"
