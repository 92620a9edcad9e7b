"""What the user sees of a sweep: lines, a table of the running jobs, and a summary."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from hydra_plugins.lrm_process_launcher._plan import Job, State
from lrm_lightning.evaluation.tables import print_runs
from lrm_lightning.runs.files import counted, shown_path

CONSOLE = Console(highlight=False, markup=False, emoji=False)  # shows a text as it is
TAIL_LINES = 5


class Display:
    """A line for each job that has ended; for those that run a table on a terminal, else lines."""

    def __init__(self, jobs: Sequence[Job], console: Console = CONSOLE) -> None:
        self._jobs, self._labels = jobs, labels(jobs)
        self._console = console
        self._shown: dict[int, str] = {}
        self.live = Live(
            console=console, get_renderable=self._rows, auto_refresh=False, transient=True
        )
        console.out(_counts(jobs))

    def show(self) -> None:
        """Say what has changed."""
        for job, label in zip(self._jobs, self._labels, strict=True):
            text = job.message
            if job.state is not State.RUNNING and (job.seconds or text):
                text = f"{job.state} after {_clock(job.seconds)}{': ' * bool(text)}{text}"
            elif self._console.is_terminal:
                continue
            if text and self._shown.get(job.number) != text:
                self._shown[job.number] = text
                self._console.out(f"job {job.number} ({label}): {text}")
        self.live.refresh()

    def _rows(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("job", "overrides", "time", "progress"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for job, label in zip(self._jobs, self._labels, strict=True):
            if job.state is State.RUNNING:
                table.add_row(str(job.number), label, _clock(job.seconds), job.message)
        return Group(table, _counts(self._jobs))


def labels(jobs: Sequence[Job]) -> list[str]:
    """For each job the overrides that not all jobs share (all of them for a single job)."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(item for item in job.overrides if item not in common) for job in jobs]


def summarise(jobs: Sequence[Job]) -> None:
    """Print the results of the finished jobs, why others failed, and the counts."""
    own = [job for job in jobs if job.twin is None]
    results = [
        (re.sub(r"(^| )method=\S+", "", label).strip(), record, job.directory)
        for job, label in zip(own, labels(own), strict=True)
        if job.state in (State.DONE, State.EARLIER) and (record := job.record) is not None
    ]
    if results:
        print_runs(results)
    for job in own:
        if job.state is State.FAILED:
            CONSOLE.out(f"\njob {job.number} failed: {job.message} ({' '.join(job.overrides)})")
            for line in log_tail(job):
                CONSOLE.out(f"    {line}")
            CONSOLE.out(f"    log: {shown_path(job.log)}")
    CONSOLE.out(f"\n{_counts(jobs)}")
    if any(job.state is State.STOPPED for job in own):
        CONSOLE.out("The same command continues where it stopped.")


def log_tail(job: Job) -> list[str]:
    """The lines ``error: ...`` that this attempt has logged, or else its last lines."""
    try:
        text = job.log.read_bytes()[job.log_start :].decode(errors="replace")
    except OSError:
        return []
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in text.splitlines()]
    comments = ("# ", "Set the environment variable HYDRA")
    lines = [line for line in lines if line and not line.startswith(comments)]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines)[-TAIL_LINES:]


def _counts(jobs: Sequence[Job]) -> str:
    """E.g. ``5 jobs: 3 done, 1 failed, 1 the same as another``."""
    same = "the same as another"
    count = Counter(same if job.twin else str(job.state) for job in jobs)
    parts = ", ".join(f"{count[state]} {state}" for state in (*State, same) if count[state])
    return f"{counted(len(jobs), 'job')}: {parts}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
