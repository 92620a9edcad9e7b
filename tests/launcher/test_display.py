"""Lines, rows and log tails."""

import io
import os

import pytest
from rich.console import Console

from hydra_plugins.lrm_process_launcher._display import Display, labels, log_tail
from hydra_plugins.lrm_process_launcher._plan import Job, State

os.environ.pop("FORCE_COLOR", None)


@pytest.fixture
def job(tmp_path):
    def make(number=0, overrides=("a=1",), **more):
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        return Job(number, tuple(overrides), directory, **more)

    return make


def test_only_differing_overrides_are_shown(job):
    jobs = [job(0, ["a=1", "b=1", "c=[1,2]"]), job(1, ["a=2", "b=1", "c=[1,2]"])]
    assert labels(jobs) == ["a=1", "a=2"]
    assert labels(jobs[:1]) == ["a=1 b=1 c=[1,2]"]


def test_each_event_is_one_line_as_it_is(job):
    console = Console(file=io.StringIO(), markup=False, highlight=False, width=20)
    jobs = [job(0), job(1, ["a=2"]), job(2, ["a=1"], state=State.EARLIER)]
    display = Display(jobs, console)
    events = (
        *((State.RUNNING, "testing"), (State.RUNNING, "testing")),
        *((State.RUNNING, "[bold]saving[/bold]"), (State.DONE, "")),
    )
    jobs[0].seconds = 3661.9
    for jobs[0].state, jobs[0].message in events:
        display.show()
    jobs[1].state, jobs[1].message = State.FAILED, "disk full"
    display.show()
    assert console.file.getvalue().splitlines() == [
        "3 jobs: 2 waiting, 1 done earlier",
        "job 0 (a=1): testing",
        "job 0 (a=1): [bold]saving[/bold]",
        "job 0 (a=1): done after 1:01:01",
        "job 1 (a=2): failed after 0:00:00: disk full",
    ]


LOG = "# 2026-01-01 python -m x\n"


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        (LOG + "a\nerror: no data\nb\n", ["error: no data"]),
        (LOG + "\n".join("abcdefg") + "\n\n", list("cdefg")),
        (LOG + "\x1b[31mred\x1b[0m\n10%\r20%\n\xff", ["red", "10%", "20%", "\ufffd"]),
        (LOG, []),
    ],
)
def test_tail_of_the_log(job, text, tail):
    failed = job()
    failed.log.write_bytes(text.encode("latin-1"))
    assert log_tail(failed) == tail


def test_the_tail_is_of_the_last_attempt(job):
    before = LOG + "error: of yesterday\n"
    failed = job(log_start=len(before))
    failed.log.write_text(before + LOG + "killed\n")
    assert log_tail(failed) == ["killed"]
    failed.log.unlink()
    assert log_tail(failed) == []
