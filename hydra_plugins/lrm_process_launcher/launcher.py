"""The Hydra plugin ``hydra/launcher=process``: plan the jobs, run them, tell how they ended."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.lrm_process_launcher._forking import Template
    from hydra_plugins.lrm_process_launcher._job import Job


@dataclass
class ProcessLauncherConf:
    """Schema of ``hydra.launcher``.

    Attributes:
        jobs: How many jobs run at once; null: as many as there are devices for (on the CPU: cores).
        gpus: GPUs to share out: null for all visible ones, a number, or a list of ids as in
            CUDA_VISIBLE_DEVICES; 0 for none.
        cores: CPU cores to share out; null for all that this process may use.
        jobs_per_gpu: How many jobs may share one GPU.
        timeout: Seconds after which a job is stopped and counts as failed; null for never.
        grace: Seconds between SIGTERM and SIGKILL, in which a job can save a checkpoint.
        poll: Seconds between two looks at the running jobs.
        module: What each job runs: ``python -m <module>``.
        preload: Module that is imported once, in a process that is forked for each job of a single
            process (on Linux, if there are two such jobs); null: each job imports for itself.
        validator: Dotted name of the function that checks a job's config before anything starts;
            null for none.
    """

    _target_: str = "hydra_plugins.lrm_process_launcher.launcher.ProcessLauncher"
    jobs: int | None = None
    gpus: Any = None
    cores: int | None = None
    jobs_per_gpu: int = 1
    timeout: float | None = None
    grace: float = 30.0
    poll: float = 0.2
    module: str = "lrm_lightning.train"
    preload: str | None = "lrm_lightning.training.run"
    validator: str | None = "lrm_lightning.training.build.validate"


ConfigStore.instance().store(
    group="hydra/launcher",
    name="process",
    node=ProcessLauncherConf,
    provider="lrm_process_launcher",
)


class ProcessLauncher(Launcher):
    """Runs each job as ``python -m <module> <overrides>`` on its share of the machine.

    The keyword arguments are the fields of :class:`ProcessLauncherConf`.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        self.settings = ProcessLauncherConf(**settings)
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.jobs: list[Job] = []
        self._template: Template | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what :meth:`launch` needs; exit with one line if a setting is out of range."""
        self.config = config
        self.hydra_context = hydra_context
        try:
            check_settings(self.settings)
        except ValueError as problem:
            _exit_with([f"hydra.launcher.{problem}"])
        # Sweepers may launch several batches; only Hydra's end-of-multirun event knows the last.
        # In front: the event goes through the list backwards and ours may end the process.
        hydra_context.callbacks.callbacks.insert(0, _AtTheEnd(self.finish))

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one batch of jobs and return when the last has ended.

        Raises:
            SystemExit: 1 if a job's config is bad (nothing was started then), 128 + the signal's
                number after an interruption.
        """
        # Imported here: every start of Hydra, also in the jobs, imports this module.
        from hydra_plugins.lrm_process_launcher._plan import plan
        from hydra_plugins.lrm_process_launcher._resources import Machine
        from hydra_plugins.lrm_process_launcher._schedule import run_jobs

        assert self.config is not None
        assert self.hydra_context is not None
        self._start_template(len(job_overrides))
        try:
            machine = Machine(self.settings.gpus, self.settings.cores)
            jobs, problems = plan(
                job_overrides,
                first_number=initial_job_idx,
                master=self.config,
                loader=self.hydra_context.config_loader,
                validator=self.settings.validator,
                machine=machine,
            )
            if problems:
                _exit_with(problems)
            self.jobs += jobs
            if sum(job.can_be_forked for job in self.jobs) < 2:
                self._close_template()
            signal_number = run_jobs(jobs, machine, self.config, self.settings, self._template)
        except KeyboardInterrupt:  # while planning: nothing runs yet
            raise SystemExit(130) from None
        if signal_number is not None:
            self._summarise()
            raise SystemExit(128 + signal_number)
        return [_job_return(job) for job in jobs]

    def finish(self) -> None:
        """Print the summary of all batches; exit with 1 if a job failed."""
        self._close_template()
        self._summarise()
        if any(job.failed for job in self.jobs):
            raise SystemExit(1)

    def _start_template(self, more_jobs: int) -> None:
        """Let it import while we plan, seconds both; a single job would gain nothing by it."""
        preload = self.settings.preload
        if self._template is not None or preload is None or sys.platform != "linux":
            return
        if len(self.jobs) + more_jobs > 1:
            from hydra_plugins.lrm_process_launcher._forking import Template

            with suppress(OSError):
                self._template = Template(preload)

    def _close_template(self) -> None:
        if self._template is not None:
            self._template.close()
            self._template = None

    def _summarise(self) -> None:
        from hydra_plugins.lrm_process_launcher._display import summarise

        summarise(self.jobs)


class _AtTheEnd(Callback):
    """Calls a function when the multirun is over."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Hydra's event, after the sweeper has returned."""
        self.function()


class _ScoredReturn(JobReturn):
    """A job's outcome whose value can always be read: NaN for a failed job.

    The base class raises for a failed job, and the basic sweeper would skip its later batches.
    """

    @property
    def return_value(self) -> float | None:
        return self._return_value

    @return_value.setter
    def return_value(self, value: float | None) -> None:
        self._return_value = value


def check_settings(settings: ProcessLauncherConf) -> None:
    """Raise :class:`ValueError` if a setting is out of range."""
    from lrm_lightning.checks import check_integer, check_number

    for name in ("jobs", "cores"):
        if getattr(settings, name) is not None:
            check_integer(name, getattr(settings, name), low=1)
    check_integer("jobs_per_gpu", settings.jobs_per_gpu, low=1)
    if settings.timeout is not None:
        check_number("timeout", settings.timeout, above=0.0)
    check_number("grace", settings.grace, low=0.0)
    check_number("poll", settings.poll, above=0.0)
    if OmegaConf.is_list(settings.gpus) or isinstance(settings.gpus, list | tuple):
        ids = [str(gpu) for gpu in settings.gpus]
        if len(set(ids)) < len(ids):
            raise ValueError(f"gpus={ids} names a GPU twice; use jobs_per_gpu to share one")
    elif settings.gpus is not None:
        check_integer("gpus", settings.gpus, low=0)


def _exit_with(problems: Sequence[str]) -> None:
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    raise SystemExit(1)


def _job_return(job: "Job") -> JobReturn:
    from hydra.core.utils import JobStatus

    outcome = _ScoredReturn(
        overrides=list(job.overrides),
        cfg=job.config,
        hydra_cfg=job.hydra_config,
        working_dir=str(job.directory),
        task_name=job.hydra_config.hydra.job.name,
        status=JobStatus.FAILED if job.failed else JobStatus.COMPLETED,
    )
    outcome.return_value = float("nan") if job.failed else job.score
    return outcome
