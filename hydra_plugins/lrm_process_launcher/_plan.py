"""From the sweeper's overrides to jobs: composed, checked, with a directory each."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.lrm_process_launcher._hydra import Composer
from hydra_plugins.lrm_process_launcher._processes import start_fork_server
from hydra_plugins.lrm_process_launcher.launcher import ProcessLauncherConf
from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import JOB_LOG, finished_run
from lrm_lightning.runs.identity import numeric
from lrm_lightning.runs.records import RunRecord


class State(StrEnum):
    """Where a job stands, in the words shown to the user."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    EARLIER = "done earlier"
    FAILED = "failed"
    STOPPED = "interrupted"
    QUEUED = "in the queue"
    SUBMITTED = "submitted"


@dataclass
class Job:
    """One job of the sweep."""

    number: int  # in the sweep, from 0
    overrides: tuple[str, ...]  # of the sweep, key=value each
    directory: Path  # absolute path of the run directory
    config: Any = None  # as plain dicts and lists, not resolved
    devices: int = 1  # on each node
    nodes: int = 1
    on_gpu: bool = False  # else the devices are CPU processes
    state: State = State.WAITING
    message: str = ""  # latest progress, or why it failed
    twin: "Job | None" = None  # earlier job with the same directory, which runs for both
    seconds: float = 0.0  # wall time so far
    log_start: int = 0  # where in the log this attempt begins, bytes

    @property
    def log(self) -> Path:
        """File that takes everything the job prints."""
        return self.directory / JOB_LOG

    @property
    def failed(self) -> bool:
        """Whether it, or the job that runs for it, failed."""
        return (self.twin or self).state is State.FAILED

    @property
    def record(self) -> RunRecord | None:
        """The run's record, or None where it is not finished or its record is damaged."""
        with suppress(UserError):
            return finished_run(self.directory)


Check = Callable[[DictConfig, Job], None]


def plan(
    batch: Sequence[Sequence[str]],
    first_number: int,
    composer: Composer,
    prepare: Callable[[], Check],
) -> tuple[list[Job], list[str]]:
    """Compose every job and check those that are not finished, before any is started.

    What ``prepare`` returns checks a configuration and says in the job what it takes. It is called
    when there is something to check.

    Returns the jobs, and one line for each that can't be run.
    """
    check: Check | None = None
    jobs: list[Job] = []
    problems: list[str] = []
    for number, overrides in enumerate(batch, first_number):
        try:
            with composer.job(number, overrides) as (config, directory):
                plain = numeric(OmegaConf.to_container(config))
                job = Job(number, tuple(overrides), directory, plain)
                job.twin = _twin(job, jobs)
                record, rerun = job.record, OmegaConf.select(config, "rerun")
                if record is not None and not rerun and not _may_have_other_data(record, config):
                    job.state = State.EARLIER
                elif job.twin is None:
                    check = check or prepare()
                    check(config, job)
            jobs.append(job)
        except (UserError, ValueError, OmegaConfBaseException) as problem:
            line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            problems.append(f"job {number} ({' '.join(overrides)}): {line}")
    return jobs, problems


def _may_have_other_data(record: RunRecord, config: DictConfig) -> bool:
    """Whether the data may differ from the record's: only the job can tell, as it reads them."""
    if OmegaConf.select(config, "data.root") is None:
        return False
    return not record.data.official or OmegaConf.select(config, "data.require_official") is False


def on_this_machine(settings: ProcessLauncherConf) -> Check:
    """The check of a job that runs here; where one will be forked, it starts the fork server.

    That imports while we do.
    """
    validate: Callable[[DictConfig], object] | None = None

    def check(config: DictConfig, job: Job) -> None:
        nonlocal validate
        devices = OmegaConf.select(config, "trainer.devices")
        if settings.preload is not None and not (isinstance(devices, int) and devices > 1):
            start_fork_server(settings.preload)
        validate = validate or get_method(settings.validator)
        validate(config)
        job.on_gpu, job.devices = wanted_devices(config, settings)

    return check


def _twin(job: Job, earlier: Sequence[Job]) -> Job | None:
    """The earlier job in the same directory; one of two that differ would be lost."""
    twin = next((other for other in earlier if other.directory == job.directory), None)
    if twin is not None and twin.config != job.config:
        shared = f"differs from job {twin.number} but would share its directory {job.directory}"
        raise UserError(f"{shared}; name what differs in hydra.sweep.subdir")
    return twin


def wanted_devices(config: DictConfig, settings: ProcessLauncherConf) -> tuple[bool, int]:
    """Whether the job runs on GPUs, and how many devices it takes."""
    accelerator = OmegaConf.select(config, "trainer.accelerator") or "auto"
    gpus = visible_gpus(settings.gpus) if accelerator in ("auto", "gpu", "cuda") else []
    if not gpus and accelerator in ("gpu", "cuda"):
        mend = "take trainer=auto or trainer=cpu"
        raise UserError(f"trainer.accelerator={accelerator}: no GPU is visible; {mend}")
    devices = OmegaConf.select(config, "trainer.devices")
    if devices in ("auto", None):
        devices = 1
    if devices == -1 and gpus:
        devices = len(gpus)
    most = len(gpus) or math.inf
    if not isinstance(devices, int) or not 1 <= devices <= most:
        limit = f" and <= {most}, the GPUs to share out (hydra.launcher.gpus)" if gpus else ""
        raise UserError(f"trainer.devices={devices} must be auto or a whole number >= 1{limit}")
    return bool(gpus), devices


def visible_gpus(setting: int | Sequence[Any] | None) -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES of the GPUs to share out; see ``hydra.launcher.gpus``."""
    if setting == 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = [] if visible is None else [entry.strip() for entry in visible.split(",")]
    if setting is not None and not isinstance(setting, int):
        chosen = list(dict.fromkeys(str(gpu) for gpu in setting))
        if visible is not None and not set(chosen) <= set(known):
            wrong = f"not all are in CUDA_VISIBLE_DEVICES={visible}"
            raise UserError(f"hydra.launcher.gpus={chosen}: {wrong}")
        return chosen
    import torch

    count = torch.cuda.device_count()  # of those that are visible
    if setting is not None and setting > count:
        raise UserError(f"hydra.launcher.gpus={setting}: only {count} GPUs are visible")
    return (known or [str(gpu) for gpu in range(count)])[: count if setting is None else setting]
