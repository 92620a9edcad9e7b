"""One job of the sweep: what it is, where it runs, how far it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import RECORD, STATUS, finished_run
from lrm_lightning.runs.records import RunRecord


class State(StrEnum):
    """Where a job stands, in the words shown to the user."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    EARLIER = "done earlier"
    FAILED = "failed"
    STOPPED = "interrupted"


@dataclass
class Job:
    """One job of the sweep.

    Attributes:
        number: Its number in the sweep, from 0.
        overrides: The sweep's overrides, ``key=value`` each.
        config: The composed config without the ``hydra`` node.
        hydra_config: The composed config with it.
        directory: Absolute path of the run directory.
        devices: How many devices it wants.
        on_gpu: Whether those are GPUs (else CPU processes).
        state: Where it stands.
        message: Its latest progress, or why it failed.
        twin: The earlier job with the same directory and config, which runs for both.
        seconds: Wall time so far.
        log_start: Where in the log file this attempt begins, bytes.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    hydra_config: DictConfig
    directory: Path
    devices: int = 1
    on_gpu: bool = False
    state: State = State.WAITING
    message: str = ""
    twin: "Job | None" = None
    seconds: float = 0.0
    log_start: int = 0

    @property
    def log(self) -> Path:
        """File that takes everything the job prints."""
        return self.directory / "job.log"

    @property
    def rerun(self) -> bool:
        """Whether the user wants it again although it is finished."""
        return bool(OmegaConf.select(self.config, "rerun", default=False))

    @property
    def can_be_forked(self) -> bool:
        """Whether it will run, or has run, as a single process.

        Of a job of several Lightning starts all but the first with the command line, and they had
        better be all alike.
        """
        return self.devices == 1 and self.twin is None and self.state is not State.EARLIER

    @property
    def failed(self) -> bool:
        """Whether it, or the job that runs for it, failed."""
        return (self.twin or self).state is State.FAILED

    @property
    def score(self) -> float | None:
        """What a sweeper optimises: ``score`` of the run's record."""
        record = self.record()
        return None if record is None else record.score

    def record(self) -> RunRecord | None:
        """The run's record, or None where it is not finished or its record is damaged."""
        try:
            return finished_run(self.directory)
        except UserError:
            return None

    def progress(self) -> dict[str, Any]:
        """Content of ``status.json``, which the run rewrites as it goes; empty if there is none."""
        return read_object(self.directory / STATUS) or {}

    def set_aside(self) -> None:
        """Move away what an earlier run left: what lies there afterwards is the new run's."""
        (self.directory / STATUS).unlink(missing_ok=True)
        record = self.directory / RECORD
        if record.exists():
            record.replace(record.with_suffix(".previous.json"))


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None if the file is absent, half-written or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def differing_overrides(jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    """For each job the overrides that not all jobs share (all of them for a single job)."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [tuple(item for item in job.overrides if item not in common) for job in jobs]
