"""What the user sees of a sweep: rows on a terminal, lines elsewhere, and a summary at the end."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hydra_plugins.lrm_process_launcher._job import Job, State, differing_overrides
from lrm_lightning.evaluation.tables import print_runs
from lrm_lightning.runs.files import shown_path

# Which jobs stay in sight longest on a terminal with too few lines.
URGENCY = (
    *(State.RUNNING, State.FAILED, State.WAITING),
    *(State.STOPPED, State.DONE, State.EARLIER),
)
TAIL_LINES = 5
TAIL_BYTES = 1 << 16


class Display:
    """One plain line whenever a job starts, gets on or ends.

    Args:
        jobs: The batch.
        console: Where to write.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs = jobs
        self.console = console
        self.labels = {
            job.number: " ".join(overrides)
            for job, overrides in zip(jobs, differing_overrides(jobs), strict=True)
        }
        self._told: dict[int, str] = {}

    def changed(self, job: Job) -> None:
        """The job's state is another."""
        after = (
            f" after {_clock(job.seconds)}"
            if job.seconds and job.state is not State.RUNNING
            else ""
        )
        state = "" if job.state is State.RUNNING else f"{job.state}{after}"
        self._say(job, ": ".join(part for part in (state, job.message) if part))

    def progress(self, job: Job, status: Mapping[str, Any]) -> None:
        """The job may have got on; each message is said once."""
        message = status.get("message")
        if message is not None and self._told.get(job.number) != message:
            self._told[job.number] = message
            self._say(job, str(message))

    def refresh(self) -> None:
        """Called after each look at the jobs."""

    def _say(self, job: Job, text: str) -> None:
        say(self.console, f"job {job.number} ({self.labels[job.number]}): {text}")


class LiveDisplay(Display):
    """A table that is redrawn in place, for terminals."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        super().__init__(jobs, console)
        self.live = Live(
            console=console, get_renderable=self.rows, auto_refresh=False, transient=True
        )

    def changed(self, job: Job) -> None:
        """Seen at the next refresh."""

    def progress(self, job: Job, status: Mapping[str, Any]) -> None:
        """Keep the message for the job's row."""
        job.message = str(status.get("message", job.message))

    def refresh(self) -> None:
        """Draw the table anew."""
        self.live.refresh()

    def rows(self) -> Group:
        """The jobs and their counts, cut to the terminal's height by urgency."""
        room = max(self.console.height - 4, 1)
        chosen = sorted(self.jobs, key=lambda job: URGENCY.index((job.twin or job).state))[:room]
        table = Table(box=None, pad_edge=False)
        for heading in ("job", "overrides", "state", "time", "progress"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for job in sorted(chosen, key=lambda job: job.number):
            state = job.twin or job
            cells = (
                str(job.number),
                self.labels[job.number],
                str(state.state),
                _clock(state.seconds) if state.seconds else "",
                f"runs as job {job.twin.number}" if job.twin else job.message,
            )
            table.add_row(*(Text(cell) for cell in cells))
        return Group(table, Text(_counts(self.jobs), no_wrap=True))


@contextmanager
def open_display(jobs: Sequence[Job]) -> Iterator[Display]:
    """The display that fits standard output."""
    console = Console(highlight=False)
    for job in jobs:
        if job.twin is not None:
            say(console, f"job {job.number}: the same run as job {job.twin.number}, runs once")
    if console.file.isatty() and not console.is_dumb_terminal:
        display = LiveDisplay(jobs, console)
        with display.live:
            yield display
    else:
        say(console, _counts(jobs))
        yield Display(jobs, console)


def say(console: Console, line: str) -> None:
    """Write one line as it is: no markup, no wrapping."""
    console.print(Text(line), soft_wrap=True)


def summarise(jobs: Sequence[Job]) -> None:
    """Print the results of the finished jobs, why others failed, and the counts."""
    console = Console(highlight=False)
    own = [job for job in jobs if job.twin is None]
    labels = [
        " ".join(item for item in overrides if not item.startswith("method="))
        for overrides in differing_overrides(own)
    ]
    results = [
        (label, record, job.directory)
        for job, label in zip(own, labels, strict=True)
        if job.state in (State.DONE, State.EARLIER) and (record := job.record()) is not None
    ]
    if results:
        print_runs(results, console)
    for job in own:
        if job.state is State.FAILED:
            say(console, f"\njob {job.number} failed: {job.message} ({' '.join(job.overrides)})")
            for line in log_tail(job):
                say(console, f"    {line}")
            say(console, f"    log: {shown_path(job.log)}")
    say(console, f"\n{_counts(jobs)}")
    if any(job.state is State.STOPPED for job in own):
        say(console, "The same command continues where it stopped.")


def log_tail(job: Job) -> list[str]:
    """The last lines of the job's log that tell why it failed.

    The lines ``error: ...``, of several processes maybe, if this attempt wrote any, else up to five
    that aren't blank.
    """
    try:
        with job.log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(job.log_start, stream.tell() - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in text.splitlines()]
    lines = [
        line
        for line in lines
        if line and not line.startswith(("# ", "Set the environment variable HYDRA"))
    ]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines)[-TAIL_LINES:]


def _counts(jobs: Sequence[Job]) -> str:
    """E.g. ``5 jobs: 3 done, 1 failed, 1 the same as another``."""
    count = Counter(job.state for job in jobs if job.twin is None)
    parts = [f"{count[state]} {state}" for state in State if count[state]]
    twins = sum(job.twin is not None for job in jobs)
    parts += [f"{twins} the same as another"] if twins else []
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {', '.join(parts)}"


def _clock(seconds: float) -> str:
    """E.g. ``0:07`` or ``2:00:09``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
