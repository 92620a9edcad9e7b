"""The Hydra plugin ``hydra/launcher=process``: it plans jobs, runs them and tells how they ended.

Every start of Hydra, also in the jobs, imports this module. What it needs beyond Hydra is imported
when a multirun begins.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

if TYPE_CHECKING:
    from hydra_plugins.lrm_process_launcher._plan import Job


@dataclass
class ProcessLauncherConf:
    """Schema of ``hydra.launcher``."""

    _target_: str = "hydra_plugins.lrm_process_launcher.launcher.ProcessLauncher"
    jobs: int | None = None  # that run at once; null: as many as devices, on the CPU as cores
    # To share out: null for all visible ones, a number, or ids as in CUDA_VISIBLE_DEVICES.
    gpus: Any = None
    cores: int | None = None  # to share out; null for all that this process may use
    jobs_per_gpu: int = 1
    timeout: float | None = None  # seconds after which a job has failed; null for never
    grace: float = 30.0  # seconds between SIGTERM and SIGKILL, in which it can save a checkpoint
    module: str = "lrm_lightning.train"  # what each job runs: python -m <module>
    # Module that is imported once, in a process that is forked for each job of one device (on
    # Linux); null: each job imports for itself.
    preload: str | None = "lrm_lightning.training.run"
    validator: str = "lrm_lightning.training.build.validate"  # checks configs before any job starts


ConfigStore.instance().store("process", ProcessLauncherConf, group="hydra/launcher")


class ProcessLauncher(Launcher):
    """Runs each job as ``python -m <module> <overrides>`` on its share of the machine."""

    def __init__(self, **settings: Any) -> None:
        self.settings = ProcessLauncherConf(**settings)
        self.jobs: list[Job] = []

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what :meth:`launch` needs; exit with one line if a setting is out of range."""
        from hydra_plugins.lrm_process_launcher._hydra import Composer, call_after_multirun

        try:
            check_settings(self.settings)
        except ValueError as problem:
            exit_with([f"hydra.launcher.{problem}"])
        self.composer = Composer(config, hydra_context)
        call_after_multirun(hydra_context, self.finish)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one batch; exit before any starts if a configuration is bad, or after a signal."""
        from hydra_plugins.lrm_process_launcher._plan import on_this_machine, plan
        from hydra_plugins.lrm_process_launcher._schedule import Schedule

        prepare = partial(on_this_machine, self.settings)
        jobs, problems = plan(job_overrides, initial_job_idx, self.composer, prepare)
        if problems:
            exit_with(problems)
        self.jobs += jobs
        number = Schedule(jobs, self.composer, self.settings).run()
        if number is not None:
            self.finish(code=128 + number)
        return [_job_return(job) for job in jobs]

    def finish(self, code: int = 0) -> None:
        """Print the summary of all batches; exit with the code, or with 1 if a job failed."""
        from hydra_plugins.lrm_process_launcher._display import summarise

        summarise(self.jobs)
        if code or any(job.failed for job in self.jobs):
            raise SystemExit(code or 1)


def check_settings(settings: ProcessLauncherConf) -> None:
    """Raise :class:`ValueError` if a setting is out of range."""
    from lrm_lightning.checks import check_integer, check_number

    for name in ("jobs", "cores", "jobs_per_gpu"):
        if getattr(settings, name) is not None:
            check_integer(name, getattr(settings, name), low=1)
    if settings.timeout is not None:
        check_number("timeout", settings.timeout, above=0.0)
    check_number("grace", settings.grace, low=0.0)
    if settings.gpus is not None and not isinstance(settings.gpus, ListConfig | list):
        check_integer("gpus", settings.gpus, low=0)


def exit_with(problems: Sequence[str]) -> NoReturn:
    """Print one line for each problem, and exit with 1."""
    sys.stderr.writelines(f"error: {problem}\n" for problem in problems)
    raise SystemExit(1)


def _job_return(job: "Job") -> JobReturn:
    # COMPLETED even if it failed: to read a FAILED one's value raises, and Hydra's basic sweeper
    # would skip the batches that are left.
    record = job.record
    score = float("nan") if job.failed or record is None else record.score
    return JobReturn(
        overrides=job.overrides,
        working_dir=str(job.directory),
        status=JobStatus.COMPLETED,
        _return_value=score,
    )
