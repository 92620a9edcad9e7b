"""What a job's process is started with: its command line and its environment."""

import re
import sys
from collections.abc import Mapping

from omegaconf import DictConfig

from hydra_plugins.lrm_process_launcher._job import Job

# What Lightning, torchrun, a cluster's scheduler or another run of ours left in the environment
# would make a job believe that it is one rank of that run. Of SLURM only the variables that number
# processes: the rest describes the machine.
_FOREIGN = re.compile(
    r"(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|TORCHELASTIC_.*|PL_.*|LRM_(RUN_DIR|PARENT)"
    r"|SLURM_(NTASKS|NPROCS|PROCID|LOCALID|NODEID|NTASKS_PER_NODE|STEP_NUM_TASKS)"
)

# Hydra settings that belong to the sweep or that we set ourselves; all others hold for the job too.
_OF_THE_SWEEP = re.compile(r"[+~]*hydra[./](sweeper|launcher|sweep|mode|run)\b")


def child_environment(environment: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: the given one without another run's ranks and ports, plus ``own``."""
    kept = {name: value for name, value in environment.items() if not _FOREIGN.fullmatch(name)}
    # Unbuffered, so that the log holds the last words of a job that gets killed.
    return kept | {"PYTHONUNBUFFERED": "1"} | dict(own)


def child_command(module: str, master: DictConfig, job: Job) -> list[str]:
    """Command line that composes the same config as the job's and runs it alone.

    Args:
        module: Module to run.
        master: The multirun's config, which knows where its config files came from and the user's
            Hydra settings.
        job: The job.
    """
    hydra = master.hydra
    command = [sys.executable, "-m", module]
    options = {"main": "--config-path", "command-line": "--config-dir"}
    for source in hydra.runtime.config_sources:
        if source.provider in options:
            scheme = "" if source.schema == "file" else f"{source.schema}://"
            command += [options[source.provider], scheme + source.path]
    if hydra.job.config_name is not None:
        command += ["--config-name", hydra.job.config_name]
    command += [line for line in hydra.overrides.hydra if not _OF_THE_SWEEP.match(line)]
    command += job.overrides
    return [
        *command,
        "hydra.mode=RUN",
        f"hydra.run.dir={_quoted(str(job.directory))}",
        f"hydra.job.num={job.number}",
        f"hydra.job.id={job.number}",
    ]


def _quoted(value: str) -> str:
    """The value in the form that Hydra's override grammar reads back unchanged."""
    if re.fullmatch(r"[A-Za-z0-9_./@%+-]+", value):
        return value
    # Backslashes are literal but for those in front of a quote, the closing one included.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + m[2].replace("'", r"\'"), value) + "'"
