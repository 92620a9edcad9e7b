"""The run directory: fresh, half done, finished, or somebody else's."""

import fcntl
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lrm_lightning.errors import UserError
from lrm_lightning.runs.identity import flat, hashed
from lrm_lightning.runs.records import (
    EvaluationRecord,
    RunRecord,
    printable,
    read_record,
    read_verdicts,
)
from lrm_lightning.runs.settings import read_settings, write_settings

RECORD, CORRECT = "record.json", "correct.npz"  # of a finished run, and its verdict an image
CONFIG, CHECKPOINTS, METRICS = "config.yaml", "checkpoints", "metrics.csv"
LAST, INTERRUPTED, BEST = "last", "interrupted", "best"  # the checkpoints
PREVIOUS = "previous"  # what was the last before; gone when the run is finished
EVALUATIONS, TRANSFER = "evaluations", "transfer.json"  # names before their hashes
EXPORTED, EXPORTED_WEIGHTS = "model.json", "model.safetensors"  # what export leaves
STATUS = "status.json"  # the latest progress, for whoever started the run
JOB_LOG = "job.log"  # what a sweep's job prints
LOCK = ".lock"  # held by the process that trains here; says which it is
LOGGED = ("wandb", "tensorboard", "mlflow", "mlflow.db")  # by conf/logger/
LEFTOVERS = (RECORD, CHECKPOINTS, METRICS, STATUS, CORRECT, *LOGGED)

# What a start has made by the time that a run is refused: before its first step.
OF_A_START = {".hydra", "train.log", CONFIG, METRICS, LOCK}


def checkpoint_path(folder: Path, name: str) -> Path:
    """File of the checkpoint of that name in a run directory."""
    return folder / CHECKPOINTS / f"{name}.ckpt"


def finished_run(folder: Path) -> RunRecord | None:
    """The record of a finished run, ``None`` of an unfinished one.

    Raises:
        UserError: If it or its verdicts are damaged, or of another run than the directory.
    """
    path = folder / RECORD
    try:
        record = read_record(path, RunRecord)
        with suppress(FileNotFoundError):  # somebody may have kept the numbers alone
            read_verdicts(folder / CORRECT, record)
    except FileNotFoundError:
        return None
    except UserError as error:
        raise UserError(f"{error}; it may be damaged: delete {path} and run it again") from error
    with suppress(FileNotFoundError):
        saved = read_settings(folder / CONFIG)
        ours = saved.get("run_id"), saved["config"].get("method", {}).get("name")
        theirs = record.run_id, record.method
        if any(one not in (None, other) for one, other in zip(ours, theirs, strict=True)):
            what = f"{record.method} {record.run_id}, while the directory is of"
            raise UserError(
                f"{path} is of the run {what} {printable(f'{ours[1]} {ours[0]}')}; delete it"
            )
    return record


def outdated(evaluation: EvaluationRecord, folder: Path, run: RunRecord | None) -> str:
    """Why an evaluation in a folder is not of the weights there, in a few words; empty if it is.

    The weights' hash tells. A run of an older version recorded none: then its id and the time tell.

    Args:
        evaluation: One that lies in the folder.
        folder: Of a run, of an export, or of a network from elsewhere, which nothing tells of.
        run: The record in the folder, if it is of a finished run.
    """
    known = set(run.weights.values()) if run else set()
    with suppress(FileNotFoundError, UserError):
        known |= {str(read_settings(folder / EXPORTED).get("weights_sha256", ""))} - {""}
    network, written = evaluation.network, evaluation.written
    if known and network.weights_sha256:
        return "" if network.weights_sha256 in known else "of weights that are no longer there"
    if run and network.run_id and run.run_id not in ("", network.run_id):
        return f"of another run, {network.run_id}"
    return "of before the run was trained again" if run and "" < written < run.written else ""


def is_training(folder: Path) -> bool:
    """Whether a process trains in a run directory; never where the file system has no locks."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def forget_refused(folder: Path) -> None:
    """Remove the directory of a run that was refused before its first step.

    Left there, every glob pattern would find a run in it. It stays if anything else is in it, if a
    log or ``metrics.csv`` says anything, and if another process trains there.
    """
    files = [each for each in folder.rglob("*") if each.is_file()]
    names = {each.relative_to(folder).parts[0] for each in files}
    told = any(each.suffix in {".log", ".csv"} and each.stat().st_size for each in files)
    if names <= OF_A_START and not told and not is_training(folder):
        shutil.rmtree(folder, ignore_errors=True)


class RunDir:
    """One run's directory.

    Args:
        path: Where; made if absent.
        identity: What determines the run's result; a directory serves one identity alone.

    Raises:
        UserError: If it can't be written, or holds a run of another configuration.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self._identity, self.run_id = identity, hashed(identity)[:8]
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"run directory {path} cannot be written ({error.strerror});"
                " choose another with runs_dir=..."
            ) from error
        self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        try:
            found = flat(read_settings(self.path / CONFIG).get("identity", {}))
        except FileNotFoundError:
            return
        except UserError as error:
            mend = f"delete {self.path} or choose another run directory"
            raise UserError(f"{error}; {mend}") from error
        ours = flat(self._identity)
        if found != ours:
            keys = sorted(k for k in found.keys() | ours.keys() if found.get(k) != ours.get(k))
            raise UserError(
                f"run directory {self.path} holds a run of another configuration"
                f" (differs in {printable(', '.join(keys[:4]))}); choose another with"
                " hydra.run.dir=..."
            )

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """A context in which at most one process is at a time; the kernel ends a killed one's.

        Where the file system has no locks, nobody is refused.

        Raises:
            UserError: If another process is in it and we don't ``wait``; the message says which,
                and where it runs.
        """
        # Opened for appending: the holder's name must not go when another process opens the file.
        with (self.path / LOCK).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                busy = f"{file.read() or 'another process'} is training in {self.path}"
                if not wait:
                    raise UserError(f"{busy}; wait until it ends, or end it") from error
                print(f"{busy}; waiting until it ends", flush=True)  # noqa: T201
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            for left in self.checkpoints.glob("*.partial"):  # by a killed process
                left.unlink(missing_ok=True)
            yield

    def clear(self) -> None:
        """Forget the run, to train it again; raises if a part of it is a link to elsewhere."""
        links = [name for name in LEFTOVERS if (self.path / name).is_symlink()]
        if links:
            raise UserError(
                f"{self.path / links[0]} is a symbolic link, and what it leads to is not deleted;"
                " remove the link, then run the command again"
            )
        for name in LEFTOVERS:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    def write_config(self, config: dict[str, Any], network: dict[str, Any]) -> None:
        """Keep the resolved configuration, the run's identity, and how to build its network."""
        content = {"run_id": self.run_id, "network": network, "identity": self._identity}
        write_settings(self.path / CONFIG, content | {"config": config})

    def resumable(self) -> list[Path]:
        """Checkpoints to go on from, the newest first."""
        found = [checkpoint_path(self.path, name) for name in (LAST, INTERRUPTED, PREVIOUS)]
        existing = [path for path in found if path.exists()]
        return sorted(existing, key=lambda path: path.stat().st_mtime_ns, reverse=True)
