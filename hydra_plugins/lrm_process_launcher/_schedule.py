"""The loop that starts jobs as devices come free and watches them to their end."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hydra_plugins.lrm_process_launcher._display import Display
from hydra_plugins.lrm_process_launcher._hydra import Composer
from hydra_plugins.lrm_process_launcher._plan import Job, State, visible_gpus
from hydra_plugins.lrm_process_launcher._processes import JobProcess
from hydra_plugins.lrm_process_launcher.launcher import ProcessLauncherConf
from lrm_lightning.runs.directory import STATUS
from lrm_lightning.runs.files import counted

POLL_S = 0.1


@dataclass(frozen=True)
class Share:
    """What one job holds while it runs: GPUs, or else CPU cores."""

    gpus: tuple[str, ...] = ()
    cores: int = 0

    def environment(self, devices: int) -> dict[str, str]:
        """Variables that confine the job's processes, one a device, to its share."""
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        if not self.gpus:
            threads = str(max(1, self.cores // devices))
            environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        return environment

    def __str__(self) -> str:
        return f"GPU {','.join(self.gpus)}" if self.gpus else counted(self.cores, "CPU core")


class Resources:
    """Shares out the machine's GPUs and CPU cores among the jobs of one batch.

    On the CPU every job gets the same number of cores, so that its speed and its rounding don't
    depend on when it happens to start, or on how many others are done already. Where the user has
    set ``OMP_NUM_THREADS``, that is the most for each process.
    """

    def __init__(self, jobs: Sequence[Job], settings: ProcessLauncherConf) -> None:
        on_cpu = sum(not job.on_gpu for job in jobs)
        gpus = visible_gpus(settings.gpus) if on_cpu < len(jobs) else ()
        has_affinity = hasattr(os, "sched_getaffinity")  # macOS has not
        usable = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        self._machine_cores = settings.cores or usable
        wide = min(settings.jobs or self._machine_cores, max(on_cpu, 1))
        self._cores_each = max(1, self._machine_cores // wide)
        most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # the others: for nested loops
        self._threads = int(most) if most.isdecimal() else self._machine_cores
        # What is free.
        self._cores = max(self._machine_cores, wide)
        self._gpus = dict.fromkeys(gpus, settings.jobs_per_gpu)
        self._places = settings.jobs or len(jobs)

    def take(self, job: Job) -> Share | None:
        """The job's share, of GPUs the least used, or None while too little is free."""
        if job.on_gpu:
            free = sorted((gpu for gpu, n in self._gpus.items() if n), key=lambda x: -self._gpus[x])
            share = Share(gpus=tuple(free[: job.devices]))
            fits = len(free) >= job.devices
        else:
            cores = min(self._cores_each, self._threads * job.devices)
            share = Share(cores=max(cores, min(job.devices, self._machine_cores)))
            fits = share.cores <= self._cores
        if not fits or self._places == 0:
            return None
        self.give_back(share, -1)
        return share

    def give_back(self, share: Share, sign: int = 1) -> None:
        """Make the share free for another job."""
        self._places += sign
        self._cores += sign * share.cores
        for gpu in share.gpus:
            self._gpus[gpu] += sign


class Schedule:
    """Runs all waiting jobs of a batch and keeps their states and messages up to date."""

    def __init__(
        self, jobs: Sequence[Job], composer: Composer, settings: ProcessLauncherConf
    ) -> None:
        self._jobs, self._composer, self._settings = jobs, composer, settings
        self._waiting = [job for job in jobs if job.state is State.WAITING and job.twin is None]
        self._running: list[tuple[Job, Share, JobProcess]] = []
        # Shares are counted as if the jobs that an earlier attempt finished ran too, so that the
        # others get as much as they had then.
        done = [job for job in jobs if job.state is State.EARLIER and job.twin is None]
        self._resources = Resources([*self._waiting, *done], settings)

    def run(self) -> int | None:
        """Return the number of the signal that ended it early, or None."""
        display = Display(self._jobs)
        with noted_signals() as signals, display.live:
            try:
                while self._waiting or self._running:
                    self._watch(interrupted=bool(signals))
                    if signals:
                        self._stop(self._settings.grace if len(signals) == 1 else 0.0)
                    for job in list(self._waiting):
                        if (share := self._resources.take(job)) is not None:
                            self._waiting.remove(job)
                            self._start(job, share)
                    display.show()
                    time.sleep(POLL_S)
            finally:  # whatever went wrong in here: leave no process behind
                self._stop(grace=0.0)
        return signals[0] if signals else None

    def _start(self, job: Job, share: Share) -> None:
        command = self._composer.command_line(self._settings.module, job)
        fork = self._settings.preload is not None and job.devices == 1
        try:
            (job.directory / STATUS).unlink(missing_ok=True)  # an earlier attempt's
            job.log_start = job.log.stat().st_size if job.log.exists() else 0
            process = JobProcess(command, share.environment(job.devices), job.log, fork=fork)
        except OSError as problem:
            self._resources.give_back(share)
            job.state, job.message = State.FAILED, str(problem)
        else:
            self._running.append((job, share, process))
            job.state, job.message = State.RUNNING, f"started on {share}"

    def _watch(self, *, interrupted: bool) -> None:
        for job, share, process in list(self._running):
            code = process.poll()
            job.seconds = time.monotonic() - process.started
            late = self._settings.timeout is not None and job.seconds > self._settings.timeout
            if code is not None:
                self._running.remove((job, share, process))
                self._resources.give_back(share)
                self._end(job, code, interrupted=interrupted, late=late)
            else:
                with suppress(OSError, ValueError):  # there is none before the training begins
                    status = json.loads((job.directory / STATUS).read_text(encoding="utf-8"))
                    job.message = status["message"]
                if late:
                    process.stop(self._settings.grace)

    def _end(self, job: Job, code: int, *, interrupted: bool, late: bool) -> None:
        job.message = ""
        if code == 0 and job.record is not None:
            job.state = State.DONE
        elif interrupted:
            job.state = State.STOPPED
        else:
            job.state = State.FAILED
            if late:
                job.message = f"stopped after {self._settings.timeout:g} s (hydra.launcher.timeout)"
            elif code < 0:
                job.message = f"killed by {signal.Signals(-code).name}"
            else:
                job.message = f"exit code {code}" if code else "ended without a record.json"

    def _stop(self, grace: float) -> None:
        for job in self._waiting:
            job.state = State.STOPPED
        self._waiting.clear()
        for _, _, process in self._running:
            process.stop(grace)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Within this context Ctrl-C, SIGTERM and SIGHUP are noted instead of ending the process."""
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # by nohup, and stays ignored
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
