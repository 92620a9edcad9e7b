"""The Hydra plugin ``hydra/launcher=slurm``: it submits a sweep as job arrays, and doesn't wait.

Like ``launcher``, this module is imported by every start of Hydra, also in the jobs.
"""

import os
import shlex
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.lrm_process_launcher.launcher import exit_with

if TYPE_CHECKING:
    from hydra_plugins.lrm_process_launcher._plan import Job

QUEUED_AS = ".slurm"  # in a run directory: the name of its array, and its index in it
OPTIONS = ("time", "partition", "account", "qos", "mem", "cpus_per_task", "gpus_per_node")
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
# Steps get signals from srun, not from SLURM: the script has to learn that the time is almost over.
SCRIPT = r"""#!/bin/bash
# A sweep: each task of the array is one of its jobs, and says in its run directory what it does.
run() {
  mkdir -p "$1" && exec >> "$1/job.log" 2>&1 || exit
  echo "# $(date '+%F %T') task ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID on $(hostname)"
  trap 'late=yes; kill -USR1 $job' USR1  # before the time is over: what has been done is saved
  trap 'kill -TERM $job' TERM
  srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2}" &
  job=$!
  while kill -0 $job 2> /dev/null; do wait $job; done  # which a signal ends
  wait $job
  code=$?
  if [ "$late" ] && [ $code != 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt LIMIT ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  fi
  exit $code
}
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
"""


@dataclass
class SlurmLauncherConf:
    """Schema of ``hydra.launcher``; what is null is left to the cluster's defaults."""

    _target_: str = "hydra_plugins.lrm_process_launcher.slurm.SlurmLauncher"
    time: Any = 240  # of one go, in minutes or as sbatch takes it; then it goes on in the next
    max_restarts: int = 20  # goes after the first
    save_s: int = 120  # seconds before the time is over in which a job saves what it has
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem: Any = None  # e.g. 16G, of a node
    cpus_per_task: int = 4  # a task is a device
    gpus_per_node: Any = None  # as many as trainer.devices, or e.g. a100:4; null: on the processor
    sbatch: dict[str, Any] = field(default_factory=dict)  # more options of sbatch: constraint: ssd
    array_parallelism: int | None = None  # jobs that run at once
    array_size: int = 1000  # jobs that one sbatch takes; more are several arrays
    setup: list[str] = field(default_factory=list)  # lines of shell before: module load cuda
    module: str = "lrm_lightning.train"  # what each job runs: python -m <module>
    validator: str = "lrm_lightning.training.build.validate"  # checks configs before any is sent


ConfigStore.instance().store("slurm", SlurmLauncherConf, group="hydra/launcher")


class SlurmLauncher(Launcher):
    """Submits what is neither finished nor in the queue, and says how to look at it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = SlurmLauncherConf(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what :meth:`launch` needs; exit with one line where it can't work."""
        from hydra_plugins.lrm_process_launcher._hydra import Composer
        from lrm_lightning.checks import check_integer

        try:
            for name in ("max_restarts", "save_s"):
                check_integer(name, getattr(self.settings, name), low=0)
            for name in ("array_parallelism", "array_size"):
                if getattr(self.settings, name) is not None:
                    check_integer(name, getattr(self.settings, name), low=1)
        except ValueError as problem:
            exit_with([f"hydra.launcher.{problem}"])
        if config.hydra.sweeper._target_ != BASIC_SWEEPER:
            exit_with([
                "hydra/launcher=slurm doesn't wait for scores, which this sweeper chooses the next"
                " jobs by; submit the search itself with sbatch, without hydra/launcher=slurm"
            ])  # fmt: skip
        self.folder = Path.cwd() / config.hydra.sweep.dir / ".slurm"
        self.composer = Composer(config, hydra_context)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit one batch; there are no results yet."""
        from hydra_plugins.lrm_process_launcher._display import CONSOLE, summarise
        from hydra_plugins.lrm_process_launcher._plan import State, plan
        from lrm_lightning.errors import UserError
        from lrm_lightning.runs.files import counted, shown_path

        jobs, problems = plan(job_overrides, initial_job_idx, self.composer, self._prepare)
        if problems:
            exit_with(problems)
        waiting = [job for job in jobs if job.state is State.WAITING and job.twin is None]
        alike: dict[tuple[int, int], list[Job]] = {}
        try:
            queued = in_queue() if waiting else set()
            for job in waiting:
                entry = job.directory / QUEUED_AS
                if entry.exists() and entry.read_text() in queued:
                    job.state = State.QUEUED
                else:
                    alike.setdefault((job.nodes, job.devices), []).append(job)
            for same in alike.values():
                for start in range(0, len(same), self.settings.array_size):
                    part = same[start : start + self.settings.array_size]
                    number = self._submit(part)
                    for job in part:
                        job.state = State.SUBMITTED
                    CONSOLE.out(
                        f"submitted {counted(len(part), 'job')} as array {number}:"
                        f" squeue --job {number}, scancel {number}"
                    )
        except (UserError, OSError) as problem:
            exit_with([str(problem)])
        summarise(jobs)
        if any(job.state in (State.QUEUED, State.SUBMITTED) for job in jobs):
            where = shlex.quote(shown_path(self.folder.parent))
            progress = f"python -m lrm_lightning.runs runs_dir={where}"
            CONSOLE.out(f"progress: {progress}; results: the same command again")
        return []

    def _prepare(self) -> Any:  # noqa: ANN401
        from hydra.utils import get_method

        from lrm_lightning.errors import UserError

        validate = get_method(self.settings.validator)

        def check(config: DictConfig, job: "Job") -> None:
            validate(config)
            if OmegaConf.select(config, "rerun"):
                raise UserError("rerun=true would begin again after each stop; delete the run")
            devices, nodes = (OmegaConf.select(config, f"trainer.{key}") for key in
                              ("devices", "num_nodes"))  # fmt: skip
            job.devices = 1 if devices in ("auto", None) else devices
            job.nodes, job.on_gpu = nodes or 1, self.settings.gpus_per_node is not None
            if not isinstance(job.devices, int) or job.devices < 1:
                raise UserError(f"trainer.devices={devices} must be auto or a whole number >= 1")

        return check

    def _submit(self, jobs: Sequence["Job"]) -> str:
        """The number of the array in which these jobs are."""
        settings, name = self.settings, f"lrm-{uuid.uuid4().hex[:8]}"
        lines = [SCRIPT.replace("LIMIT", str(settings.max_restarts)), *settings.setup]
        lines.append("case $SLURM_ARRAY_TASK_ID in")
        for index, job in enumerate(jobs):
            command = self.composer.command_line(settings.module, job)
            lines.append(f"{index}) run {shlex.join([str(job.directory), *command])} ;;")
            job.directory.mkdir(parents=True, exist_ok=True)
            # Before it is submitted: what a kill leaves in the queue is known.
            (job.directory / QUEUED_AS).write_text(f"{name} {index}")
        script = self.folder / f"{name}.sh"
        self.folder.mkdir(parents=True, exist_ok=True)
        script.write_text("\n".join([*lines, "esac", ""]))
        at_once = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
        options = {
            "job-name": name,
            "array": f"0-{len(jobs) - 1}{at_once}",
            "output": self.folder / f"{name}-%a.out",  # what goes wrong before job.log is open
            "signal": f"B:USR1@{settings.save_s}",
            "nodes": jobs[0].nodes,
            "ntasks-per-node": jobs[0].devices,
            **{key: getattr(settings, key) for key in OPTIONS},
            **settings.sbatch,
        }
        given = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()
                 if value is not None]  # fmt: skip
        return (
            _asked("sbatch", "--parsable", "--requeue", *given, str(script)).split(";")[0].strip()
        )


def in_queue() -> set[str]:
    """Name and index of each of this user's tasks that wait or run."""
    states = "pending,configuring,running,suspended,completing"
    listed = _asked(
        "squeue", "--me", "--array", "--noheader", f"--states={states}", "--format=%j %K"
    )
    return {line.strip() for line in listed.splitlines()}


def _asked(*command: str) -> str:
    """What a command of SLURM prints; where it refuses, a UserError with its words."""
    from hydra_plugins.lrm_process_launcher._processes import job_environment
    from lrm_lightning.errors import UserError

    # A job that submits has its own description in SLURM_..., which sbatch would take for options.
    environment: Mapping[str, str] = {
        key: value
        for key, value in job_environment(os.environ, {}).items()
        if not key.startswith("SLURM_") or key == "SLURM_CONF"
    }
    try:
        done = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(
            f"hydra/launcher=slurm: there is no {command[0]} on this machine"
        ) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise UserError(f"{command[0]}: {said.removeprefix(f'{command[0]}: ')}")
    return done.stdout
