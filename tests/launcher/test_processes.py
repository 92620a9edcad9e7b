"""One job's processes: a fork must look like a new process, and all of them must end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydra_plugins.lrm_process_launcher import _processes
from hydra_plugins.lrm_process_launcher._processes import (
    GRACE_S,
    JobProcess,
    _end_after,
    start_fork_server,
)

REPOSITORY = Path(__file__).parents[2]

# What a job sees of its surroundings.
LOOK = """
import json, os, signal, sys
print("said")
print("warned", file=sys.stderr)
json.dump({
    "environment": dict(os.environ), "arguments": sys.argv,
    "main": [__name__, __spec__.name, sys.modules["__main__"].__file__],
    "folder": os.getcwd(), "leads": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
}, open(sys.argv[1], "w"))
"""
# Starts a child, both deaf to SIGTERM; the child's id is the last line of the log.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child)
time.sleep(300)
"""
# What is as it was when the fork server started: pytest's, this module's, readline's and those of
# W&B (set when another test first logged to it); its own, those that scikit-learn sets, and Hydra's
# that our command line sets, in another test in this process.
OF_A_FORK = ("PYTEST_CURRENT_TEST", "PYTHONPATH", "LINES", "COLUMNS", "OPENBLAS_NUM_THREADS")
OF_A_FORK += ("HYDRA_FULL_ERROR",)
BOTH = pytest.mark.parametrize("fork", [False, True])


@pytest.fixture
def start(tmp_path, monkeypatch):
    """``start(code, *arguments)`` runs it as a job; numpy has been imported before a fork."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    start_fork_server("lrm_lightning.training.run")  # numpy, and what other tests' forks import
    started, forked, fork_one = [], [], _processes._fork

    def noted(*arguments):
        process = fork_one(*arguments)
        forked.append(process is not None)
        return process

    monkeypatch.setattr(_processes, "_fork", noted)

    def start_job(code, *arguments, fork, log="log", **environment):
        (tmp_path / "job.py").write_text(code)
        forked.clear()
        command = [sys.executable, "-m", "job", *arguments]
        started.append(JobProcess(command, environment, tmp_path / "new" / log, fork=fork))
        assert forked == [True] * fork
        return started[-1]

    yield start_job
    for process in started:
        process.stop(grace=0.0)
        wait(process)


def wait(process):
    while (code := process.poll()) is None:
        time.sleep(0.01)
    return code


def words(tmp_path, log="log"):
    """What the log holds without the lines with the command."""
    lines = (tmp_path / "new" / log).read_text().splitlines()
    return [line for line in lines if not line.startswith("# ")]


def test_a_fork_sees_what_a_new_process_sees(start, tmp_path):
    odd = {"ODD": "\udcff = 'ä\n", "LONG": "x" * 100_000}
    seen = []
    for fork in (False, True):
        log = f"log of {fork}"
        assert wait(start(LOOK, "seen", "it's", "", fork=fork, log=log, **odd)) == 0
        assert words(tmp_path, log) == ["said", "warned"]
        seen.append(json.loads((tmp_path / "seen").read_text()))
        streams = seen[-1].pop("streams")
        assert streams == ["/dev/null", *[str(tmp_path / "new" / log)] * 2]
    new, forked = seen
    for each in seen:
        kept = each["environment"].items()
        each["environment"] = {
            key: value
            for key, value in kept
            if not key.startswith(("WANDB_", "KMP_")) and key not in OF_A_FORK
        }
    assert forked == new
    assert forked["environment"].items() >= odd.items()


@BOTH
@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        ("", 0, None),
        ("raise SystemExit(3)", 3, None),
        ("raise SystemExit('error: no data')", 1, "error: no data"),
        ("raise KeyError('nothing here')", 1, "KeyError: 'nothing here'"),
        ("import os, signal; print('begun'); os.kill(os.getpid(), signal.SIGABRT)", -6, "begun"),
    ],
)
def test_how_a_job_ends(start, tmp_path, fork, code, exit_code, last):
    assert wait(start(code, fork=fork)) == exit_code
    assert words(tmp_path)[-1:] == ([last] if last else [])


@BOTH
def test_a_stop_kills_what_ignores_it_once_grace_is_over(start, tmp_path, app, fork):
    process = start(FAMILY, fork=fork)
    while not words(tmp_path):
        time.sleep(0.01)
    child = int(words(tmp_path)[-1])
    process.stop(grace=1000.0)
    assert process.poll() is None
    assert app.alive(child)
    process.stop(grace=0.0)
    assert wait(process) == -9
    app.assert_gone([child])


@BOTH
def test_a_stop_reaches_a_job_that_has_just_been_started(start, fork):
    process = start("import time; time.sleep(300)", fork=fork)
    process.stop(grace=1000.0)
    assert wait(process) == -15
    process.stop(grace=1000.0)  # there is nobody left, which is fine


def test_a_job_that_ignores_the_end_of_its_launcher_is_killed(monkeypatch):
    done = []
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append((pid, number)))
    monkeypatch.setattr(os, "killpg", lambda group, number: done.append((group, number)))
    monkeypatch.setattr(time, "sleep", lambda seconds: done.append(seconds))
    _end_after(lambda: done.append("the launcher ended"))
    own, group = (os.getpid(), signal.SIGTERM), (os.getpgrp(), signal.SIGKILL)
    assert done == ["the launcher ended", own, GRACE_S, group]


def test_forks_draw_different_numbers(start, tmp_path):
    for _ in range(2):
        wait(start("import numpy, random; print(numpy.random.rand(), random.random())", fork=True))
    first, second = (line.split() for line in words(tmp_path))
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.slow
def test_what_jobs_are_forked_from_has_one_thread(tmp_path):
    """A fork has but the thread that forked; what others hold, a lock maybe, is held forever."""
    code = (
        "import os, hydra_plugins.lrm_process_launcher._preload, lrm_lightning.training.run;"
        "open('threads', 'w').write(str(len(os.listdir('/proc/self/task'))))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "threads").read_text() == "1"
