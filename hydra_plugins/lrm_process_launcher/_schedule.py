"""The loop that starts jobs as devices come free and watches them to their end."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Self

from omegaconf import DictConfig

from hydra_plugins.lrm_process_launcher._command import child_command, child_environment
from hydra_plugins.lrm_process_launcher._display import Display, open_display
from hydra_plugins.lrm_process_launcher._forking import Template
from hydra_plugins.lrm_process_launcher._job import Job, State
from hydra_plugins.lrm_process_launcher._process import JobProcess, open_log
from hydra_plugins.lrm_process_launcher._resources import Machine, Resources, Share
from lrm_lightning.errors import UserError

if TYPE_CHECKING:
    from hydra_plugins.lrm_process_launcher.launcher import ProcessLauncherConf


def run_jobs(
    jobs: Sequence[Job],
    machine: Machine,
    master: DictConfig,
    settings: "ProcessLauncherConf",
    template: Template | None,
) -> int | None:
    """Run all waiting jobs; a failure of one stops no other.

    Args:
        jobs: The batch; states and messages are updated in place.
        machine: What they run on.
        master: The multirun's config.
        settings: The launcher's settings.
        template: What jobs of a single process are forked from.

    Returns:
        Number of the signal that ended it early, or None.
    """
    pending = [job for job in jobs if job.state is State.WAITING and job.twin is None]
    resources = Resources(machine, pending, settings.jobs, settings.jobs_per_gpu)
    with Interruption() as interruption, open_display(jobs) as display:
        schedule = _Schedule(pending, resources, master, settings, template, display)
        try:
            schedule.run(interruption)
        finally:  # whatever went wrong in here: leave no process behind
            schedule.kill()
    return interruption.signal_number


class Interruption:
    """Within this context Ctrl-C, SIGTERM and SIGHUP are noted instead of ending the process.

    Attributes:
        signal_number: The first one that came, or None.
        count: How many came.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.count = 0

    def __enter__(self) -> Self:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # A signal that the shell told us to ignore (nohup) stays ignored.
        self._before = {
            number: signal.signal(number, self._note)
            for number in numbers
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        self.count += 1


@dataclass
class _Running:
    job: Job
    share: Share
    process: JobProcess
    timed_out: bool = False


class _Schedule:
    def __init__(
        self,
        pending: Sequence[Job],
        resources: Resources,
        master: DictConfig,
        settings: "ProcessLauncherConf",
        template: Template | None,
        display: Display,
    ) -> None:
        self._waiting = list(pending)
        self._running: list[_Running] = []
        self._resources = resources
        self._master = master
        self._settings = settings
        self._template = template
        self._display = display

    def run(self, interruption: Interruption) -> None:
        while self._waiting or self._running:
            for running in list(self._running):
                self._watch(running, interrupted=interruption.count > 0)
            if interruption.count:
                self._stop_all(at_once=interruption.count > 1)
            elif self._template is None or not self._template.importing():
                self._start_what_fits()
            self._display.refresh()
            if self._waiting or self._running:
                time.sleep(self._settings.poll)

    def kill(self) -> None:
        for running in self._running:
            running.process.kill()

    def _start_what_fits(self) -> None:
        for job in list(self._waiting):
            share = self._resources.take(job)
            if share is None:
                continue
            self._waiting.remove(job)
            if not self._start(job, share):
                self._resources.give_back(job, share)

    def _start(self, job: Job, share: Share) -> bool:
        if job.record() is not None and not job.rerun:  # another sweep has finished it meanwhile
            return self._end(job, State.EARLIER)
        command = child_command(self._settings.module, self._master, job)
        environment = child_environment(os.environ, share.environment)
        template = self._template if job.can_be_forked else None
        try:
            with open_log(job.log) as log:
                job.log_start = log.tell()
                job.set_aside()
                process = JobProcess(command, environment, log, template)
        except (UserError, OSError) as problem:
            return self._end(job, State.FAILED, str(problem))
        self._running.append(_Running(job, share, process))
        job.state, job.message = State.RUNNING, f"started on {share.text}"
        self._display.changed(job)
        return True

    def _end(self, job: Job, state: State, message: str = "") -> bool:
        job.state, job.message = state, message
        self._display.changed(job)
        return False

    def _watch(self, running: _Running, *, interrupted: bool) -> None:
        job, process = running.job, running.process
        job.seconds = process.seconds
        code = process.poll()
        if code is None:
            self._display.progress(job, job.progress())
            timeout = self._settings.timeout
            running.timed_out |= (
                timeout is not None and process.seconds > timeout and not interrupted
            )
            if running.timed_out:
                process.stop(self._settings.grace)
            return
        self._running.remove(running)
        self._resources.give_back(job, running.share)
        if code == 0 and job.record() is not None:
            self._end(job, State.DONE)
        elif interrupted:
            self._end(job, State.STOPPED)
        elif running.timed_out:
            self._end(
                job,
                State.FAILED,
                f"stopped after {self._settings.timeout:g} s (hydra.launcher.timeout)",
            )
        else:
            self._end(job, State.FAILED, _why(code))

    def _stop_all(self, *, at_once: bool) -> None:
        for job in self._waiting:
            job.state = State.STOPPED
        self._waiting.clear()
        for running in self._running:
            running.process.stop(0.0 if at_once else self._settings.grace)


def _why(code: int) -> str:
    if code == 0:
        return "ended without a record.json"
    return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
