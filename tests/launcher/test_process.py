"""One process group, of a process of its own and of a fork."""

import os
import signal
import sys
import time

import pytest

from hydra_plugins.lrm_process_launcher._forking import ForkedProcess, Template
from hydra_plugins.lrm_process_launcher._process import JobProcess, open_log
from lrm_lightning.errors import UserError

# Starts a child, both deaf to SIGTERM; the child's id is the last line of the log.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(300)
"""
# Ends at once and leaves a child that has left its group.
DEFECTOR = """
import os, time
reader, writer = os.pipe()
if os.fork():
    os.read(reader, 1)
else:
    os.setsid()
    print(os.getpid(), flush=True)
    os.write(writer, b"x")
    time.sleep(300)
"""
SILENT = "import signal; signal.pause()"


@pytest.fixture(params=["new process", "fork"])
def start(request, tmp_path, monkeypatch):
    """``start(log, code)``: a job that runs the code, started in either way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "warm.py").touch()
    (tmp_path / "job.py").write_text("import sys; exec(sys.argv[1])")
    template = Template("warm") if request.param == "fork" else None
    while template is not None and template.importing():
        time.sleep(0.01)

    def start_job(log, code):
        with open_log(log) as opened:
            command = [sys.executable, "-m", "job", code]
            process = JobProcess(command, os.environ, opened, template)
        assert isinstance(process._process, ForkedProcess) == (template is not None)
        return process

    yield start_job
    if template is not None:
        template.close()


def wait(process):
    while (code := process.poll()) is None:
        time.sleep(0.01)
    return code


@pytest.fixture
def log(tmp_path):
    return tmp_path / "new" / "job.log"


def test_stop_kills_what_ignores_it_once_grace_is_over(start, log, app):
    process = start(log, FAMILY)
    while not log.read_text().splitlines()[-1].isdigit():
        time.sleep(0.01)
    child = int(log.read_text().splitlines()[-1])
    process.stop(grace=1000.0)
    assert process.poll() is None
    assert app.alive(child)
    process.stop(grace=0.0)
    assert wait(process) == -9
    app.assert_gone([child])


def test_stop_is_first_a_request(start, log):
    process = start(log, SILENT)
    process.stop(grace=1000.0)
    assert wait(process) == -15
    process.stop(grace=1000.0)  # there is nobody left, which is fine
    process.kill()


def test_output_and_command_are_appended_to_the_log(start, log):
    for word in ("one", "two"):
        wait(start(log, f"import sys; print({word!r}); print({word!r} * 2, file=sys.stderr)"))
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("# ")] in (
        ["one", "oneone", "two", "twotwo"],
        ["oneone", "one", "twotwo", "two"],
    )
    assert len(lines) == 6
    assert sys.executable in lines[0]


def test_the_log_is_locked_while_anyone_has_it_open(start, log, app):
    process = start(log, DEFECTOR)
    with pytest.raises(UserError, match="another process is still at work in "):
        open_log(log)
    assert wait(process) == 0
    defector = int(log.read_text().splitlines()[-1])
    try:
        with pytest.raises(UserError, match="still at work"):
            open_log(log)
    finally:
        os.kill(defector, signal.SIGKILL)
    app.assert_gone([defector])
    open_log(log).close()
