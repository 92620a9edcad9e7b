"""From the sweeper's overrides to jobs: composed, checked, with a directory each."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.lrm_process_launcher._job import Job, State
from hydra_plugins.lrm_process_launcher._resources import Machine
from lrm_lightning.errors import UserError

Validator = Callable[[DictConfig], object]


def plan(
    batch: Sequence[Sequence[str]],
    *,
    first_number: int,
    master: DictConfig,
    loader: ConfigLoader,
    validator: str | None,
    machine: Machine,
) -> tuple[list[Job], list[str]]:
    """Compose and check every job before any is started.

    Args:
        batch: Overrides of each job.
        first_number: Number of the batch's first job in the sweep.
        master: The multirun's config.
        loader: Composes a job's config.
        validator: Dotted name of the function that raises for a bad config.
        machine: What the jobs will run on.

    Returns:
        The jobs, and one line for each that can't be run.
    """
    validate = _load(validator)
    jobs: list[Job] = []
    problems: list[str] = []
    for number, overrides in enumerate(batch, first_number):
        config = loader.load_sweep_config(master, list(overrides))
        try:
            with _as_current(config, number):
                job = _job(number, overrides, config)
                validate(job.config)
                if job.record() is not None and not job.rerun:
                    job.state = State.EARLIER
                else:
                    job.on_gpu, job.devices = _wanted_devices(job.config, machine)
                job.twin = _twin(job, jobs)
            jobs.append(job)
        except (UserError, ValueError, OmegaConfBaseException) as problem:
            line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            problems.append(f"job {number} ({' '.join(overrides)}): {line}")
    return jobs, problems


def _load(dotted: str | None) -> Validator:
    if dotted is None:
        return lambda _: None
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


@contextmanager
def _as_current(config: DictConfig, number: int) -> Iterator[None]:
    """Let ``${hydra:...}`` resolve as it will in the job."""
    with open_dict(config), read_write(config.hydra):
        config.hydra.job.num = number
        config.hydra.job.id = str(number)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _job(number: int, overrides: Sequence[str], config: DictConfig) -> Job:
    directory = Path(str(OmegaConf.select(config, "hydra.run.dir", throw_on_missing=True)))
    directory = Path.cwd() / directory
    with open_dict(config), read_write(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)
    HydraConfig.instance().set_config(config)
    task = copy.deepcopy(config)
    with open_dict(task), read_write(task):
        del task["hydra"]
    return Job(number, tuple(overrides), task, config, directory)


def _twin(job: Job, earlier: Sequence[Job]) -> Job | None:
    """The earlier job in the same directory, which then runs for both.

    Raises:
        UserError: If the two differ, as one of them would be lost.
    """
    for other in earlier:
        if other.directory == job.directory and other.twin is None:
            if OmegaConf.to_container(job.config) != OmegaConf.to_container(other.config):
                raise UserError(
                    f"differs from job {other.number} but would share its directory"
                    f" {job.directory}; name what differs in hydra.run.dir"
                )
            return other
    return None


def _wanted_devices(config: DictConfig, machine: Machine) -> tuple[bool, int]:
    """Whether the job runs on GPUs, and how many devices it takes."""
    accelerator = OmegaConf.select(config, "trainer.accelerator", default="auto")
    on_gpu = accelerator in ("gpu", "cuda") or (
        accelerator in ("auto", None) and bool(machine.gpus)
    )
    if on_gpu and not machine.gpus:
        raise UserError(f"trainer.accelerator={accelerator}: no GPU is visible")
    wanted = OmegaConf.select(config, "trainer.devices", default="auto")
    if wanted in ("auto", None):
        return on_gpu, 1
    if on_gpu and wanted in (-1, "-1"):
        return on_gpu, len(machine.gpus)
    try:
        devices = int(wanted)
    except (TypeError, ValueError):
        devices = 0
    if devices < 1:
        raise UserError(
            f"trainer.devices={wanted} must be a whole number >= 1 or auto"
            " (the launcher picks which)"
        )
    if on_gpu and devices > len(machine.gpus):
        raise UserError(
            f"trainer.devices={devices}: only {len(machine.gpus)} GPUs are there to share out"
            " (hydra.launcher.gpus)"
        )
    return on_gpu, devices
