"""Lines, rows and log tails."""

import io
import os

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from hydra_plugins.lrm_process_launcher._display import Display, LiveDisplay, log_tail, summarise
from hydra_plugins.lrm_process_launcher._job import Job, State, differing_overrides

os.environ.pop("FORCE_COLOR", None)


@pytest.fixture
def job(tmp_path):
    def make(number=0, overrides=("a=1",), **more):
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        empty = OmegaConf.create()
        return Job(number, tuple(overrides), empty, empty, directory, **more)

    return make


def test_only_differing_overrides_are_shown(job):
    jobs = [job(0, ["a=1", "b=1", "c=[1,2]"]), job(1, ["a=2", "b=1", "c=[1,2]"])]
    assert differing_overrides(jobs) == [("a=1",), ("a=2",)]
    assert differing_overrides(jobs[:1]) == [("a=1", "b=1", "c=[1,2]")]


def test_progress_is_said_once_a_message(job):
    console = Console(file=io.StringIO())
    display = Display([job()], console)
    for message in ("testing", "testing", "[bold]saving[/bold]"):
        display.progress(display.jobs[0], {"message": message})
    assert console.file.getvalue() == "job 0 (a=1): testing\njob 0 (a=1): [bold]saving[/bold]\n"


def test_the_table_keeps_what_matters_when_the_terminal_is_low(job):
    states = [State.DONE] * 10 + [State.RUNNING, State.FAILED] + [State.WAITING] * 10
    jobs = [job(number, [f"n={number}"], state=state) for number, state in enumerate(states)]
    console = Console(file=io.StringIO(), width=80, height=8)
    console.print(LiveDisplay(jobs, console).rows())
    shown = console.file.getvalue()
    assert [line.split()[0] for line in shown.splitlines()[1:5]] == ["10", "11", "12", "13"]
    assert "22 jobs: 10 waiting, 1 running, 10 done, 1 failed" in shown


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


def test_summary_of_a_failed_and_a_finished_job(job, capsys):
    done, failed = (
        job(0, ["method=alp", "s=0"], state=State.DONE),
        job(1, ["method=pgd", "s=1"], state=State.FAILED, message="exit code 1"),
    )
    (done.directory / "record.json").write_text(
        '{"method": "alp", "data": {"name": "digits"}, "n": 4, "metrics": {"clean": 0.5}}'
    )
    summarise([done, failed])
    printed = capsys.readouterr().out
    assert "alp      s=0      50.0" in printed
    assert "job 1 failed: exit code 1 (method=pgd s=1)" in printed
    assert f"log: {failed.log}" in printed
    assert printed.rstrip().endswith("2 jobs: 1 done, 1 failed")
