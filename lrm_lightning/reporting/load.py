"""Step 1: every record below some folders; what cannot be read is named and left out."""

import csv
import itertools
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, TypeAlias, TypeVar

import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import EVALUATIONS, METRICS, RECORD, TRANSFER, finished_run
from lrm_lightning.runs.files import matches
from lrm_lightning.runs.records import (
    EvaluationRecord,
    Record,
    RunRecord,
    TransferRecord,
    check_file,
    printable,
    read_record,
    read_verdicts,
)

# Large or foreign folders of a run directory without records.
SKIPPED_FOLDERS = {"checkpoints", "wandb", ".hydra", ".git", "__pycache__"}
# Of the command line's settings of Hydra, those that a single run in a given directory replaces.
NOT_REPEATED = re.compile(
    r"[+~]*(rerun=|hydra[./](sweeper|launcher|sweep|mode|run|job\.(num|id))\b)"
)
# Version 0.1 wrote transfer.json; now its name ends with the hash of its settings.
TRANSFERS = re.compile(rf"{Path(TRANSFER).stem}(-[0-9a-f]{{8}})?\.json")

R = TypeVar("R", EvaluationRecord, TransferRecord)
R_co = TypeVar("R_co", bound=Record, covariant=True)
Points: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True)
class Origin(Generic[R_co]):
    """Where a number came from: a record, and the file that it was read from."""

    path: Path
    record: R_co


Run: TypeAlias = Origin[RunRecord]
Evaluation: TypeAlias = Origin[EvaluationRecord]
Transfer: TypeAlias = Origin[TransferRecord]


@dataclass
class Records:
    """Everything found; ``skipped`` has one line for each file that was left out: what and why."""

    runs: list[Run] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def everything(self) -> list[Origin[Record]]:
        """Every record, whatever its kind."""
        return [*self.runs, *self.evaluations, *self.transfers]

    def run_of(self, evaluation: Evaluation) -> Run | None:
        """The run whose network was measured, if its record was found."""
        folder = evaluation.path.parents[1]
        here = (run for run in self.runs if run.path.parent == folder)
        return next(here, None) or self.run_by_id(evaluation.record.network.run_id)

    def run_by_id(self, run_id: str) -> Run | None:
        """The run of that id, if its record was found."""
        return next((run for run in self.runs if run_id and run.record.run_id == run_id), None)


def load(folders: Sequence[str]) -> Records:
    """What is below folders or glob patterns of them, by path; raises if there is no such folder.

    A copied run counts once; an evaluation from before its run was trained again is left out.
    """
    records = Records()
    for path in sorted({path for pattern in folders for path in _files(pattern)}):
        try:
            if path.parent.name == EVALUATIONS:
                records.evaluations.append(Origin(path, _measured(path, EvaluationRecord)))
            elif path.name != RECORD:
                records.transfers.append(Origin(path, _measured(path, TransferRecord)))
            elif (record := finished_run(path.parent)) is not None:
                records.runs.append(Origin(path, record))
        except FileNotFoundError:  # a link to nowhere
            continue
        except UserError as error:
            records.skipped.append(printable(str(error)))
    records.runs = _without_copies(records.runs)
    records.evaluations = [each for each in records.evaluations if _is_current(each, records)]
    return records


def training_curves(run_dir: Path, record: RunRecord | None = None) -> dict[str, Points]:
    """Every metric in a run's ``metrics.csv`` as ``(epoch, mean value)`` by rising epoch.

    Epochs are counted from 1: what is logged in the first stands at 1. Empty if there is no file.
    The ``record`` is a finished run's.

    Raises:
        UserError: If the file can't be read, or is not as the run left it.
    """
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    path = run_dir / METRICS
    try:
        if record is not None:
            check_file(path, record)
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                epoch = row.pop("epoch", None)
                for name, text in row.items():
                    # Most cells are empty: a row is what one hook logged.
                    if epoch and text and name != "step" and math.isfinite(float(text)):
                        curves[name][float(epoch) + 1].append(float(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return {
        name: sorted((epoch, fmean(values)) for epoch, values in points.items())
        for name, points in curves.items()
    }


def command_line(run_dir: Path) -> list[str]:
    """What the command line that trained a run said, which Hydra keeps in the run's directory.

    The primary YAML file, settings of Hydra's own and overrides; ``rerun=`` is left out, and what a
    sweep gives its jobs. Empty if the directory does not tell.
    """
    given = _hydras(run_dir, "overrides.yaml", list)
    hydra = _hydras(run_dir, "hydra.yaml", lambda content: _options(content["hydra"]))
    return [printable(each) for each in (*hydra, *given) if not str(each).startswith("rerun=")]


def _hydras(run_dir: Path, name: str, read: Callable[[Any], list[str]]) -> list[str]:
    try:
        content = yaml.safe_load((run_dir / ".hydra" / name).read_text(encoding="utf-8"))
        return [each for each in read(content) if isinstance(each, str)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return []


def _options(hydra: Mapping[str, Any]) -> list[str]:
    """What a command line said to Hydra: the primary file, and settings of Hydra's own."""
    sources, name = hydra["runtime"]["config_sources"], hydra["job"]["config_name"]
    words = [
        f"--config-dir={each['path']}" for each in sources if each["provider"] == "command-line"
    ]
    words += [] if name == "config" else [f"--config-name={name}", "hydra.mode=RUN"]
    return words + [each for each in hydra["overrides"]["hydra"] if not NOT_REPEATED.match(each)]


def _measured(path: Path, kind: type[R]) -> R:
    """The record at ``path``, with whose numbers the verdicts beside it agree if they are there."""
    record = read_record(path, kind)
    with suppress(FileNotFoundError):
        read_verdicts(path.with_suffix(".npz"), record)
    return record


def walk(pattern: str) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at or below a folder or a glob pattern of them, and the names of its files."""
    folders = [each for each in matches(pattern)[0] if each.is_dir()]
    if not folders:
        raise UserError(f"no folder {pattern}; give runs_dir=<where the runs are>")
    for here, inside, names in itertools.chain.from_iterable(map(os.walk, folders)):
        inside[:] = [each for each in inside if each not in SKIPPED_FOLDERS]
        yield Path(here), names


def _files(pattern: str) -> Iterator[Path]:
    for folder, names in walk(pattern):
        is_suite = folder.name == EVALUATIONS
        for name in names:
            if name == RECORD or TRANSFERS.fullmatch(name) or (is_suite and name.endswith(".json")):
                yield folder / name


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    kept: dict[str, Run] = {}
    for run in runs:
        record = run.record
        same = f"{record.run_id} {record.written} {sorted(record.metrics.items())}"
        kept.setdefault(same if record.run_id else str(run.path), run)
    return list(kept.values())


def _is_current(evaluation: Evaluation, records: Records) -> bool:
    """Whether an evaluation is of the run in whose folder it lies, which wasn't trained since."""
    run, folder = records.run_of(evaluation), evaluation.path.parents[1]
    if run is None or run.path.parent != folder:
        return True
    written, run_id = evaluation.record.written, evaluation.record.network.run_id
    if run_id and run.record.run_id not in ("", run_id):
        why = f"of another run, {run_id}"
    elif written and written < run.record.written:
        why = "of before the run was trained again"
    else:
        return True
    records.skipped.append(printable(f"{evaluation.path}: {why}; evaluate it again"))
    return False
