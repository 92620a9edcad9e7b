"""Finding the records below some folders; what can't be read is named and left out."""

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.reporting.fields import FieldError, printable
from lrm_lightning.reporting.parsing import parse_evaluation, parse_run, parse_transfer
from lrm_lightning.reporting.records import Evaluation, Run, Transfer
from lrm_lightning.runs.directory import RECORD
from lrm_lightning.runs.files import read_json

EVALUATIONS, TRANSFER = "evaluations", "transfer.json"
# Large or foreign folders of a run directory without records.
SKIPPED_FOLDERS = {"checkpoints", "wandb", ".git", "__pycache__"}

Parsed = TypeVar("Parsed")


@dataclass
class Records:
    """Everything found.

    Attributes:
        skipped: One line for each file that was left out: what and why.
    """

    runs: list[Run] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.runs or self.evaluations or self.transfers)

    def run_of(self, evaluation: Evaluation) -> Run | None:
        """The run whose network was evaluated, if its record was found."""
        folder = evaluation.path.parent.parent
        for run in self.runs:
            if run.folder == folder:
                return run
        return self.run_by_id(evaluation.model.run_id)

    def run_by_id(self, run_id: str) -> Run | None:
        """The run of that id, if its record was found."""
        return next((run for run in self.runs if run_id and run.run_id == run_id), None)


def find_records(folders: Sequence[str]) -> Records:
    """Read every ``record.json``, ``evaluations/*.json`` and ``transfer.json`` below folders.

    Args:
        folders: Folders or glob patterns of folders.

    Returns:
        What was found, by path.

    Raises:
        UserError: If a folder doesn't exist.
    """
    records = Records()
    for path in sorted(_files(_expanded(folders))):
        if path.parent.name == EVALUATIONS:
            _add(path, parse_evaluation, records.evaluations, records.skipped)
        elif path.name == TRANSFER:
            _add(path, parse_transfer, records.transfers, records.skipped)
        else:
            _add(path, _run_with_overrides, records.runs, records.skipped)
    records.runs = _without_copies(records.runs)
    records.evaluations = [each for each in records.evaluations if _is_current(each, records)]
    return records


def _expanded(folders: Sequence[str]) -> list[Path]:
    found = []
    for pattern in folders:
        matches = [Path(each) for each in glob.glob(os.path.expanduser(pattern))]
        matches = [each for each in matches if each.is_dir()]
        if not matches:
            raise UserError(f"no folder {pattern}; give runs_dir=<where the runs are>")
        found += matches
    return found


def _files(folders: Iterable[Path]) -> set[Path]:
    found = set()
    for folder in folders:
        for here, inside, names in os.walk(folder):
            inside[:] = [each for each in inside if each not in SKIPPED_FOLDERS]
            is_suite = os.path.basename(here) == EVALUATIONS
            wanted = [
                name
                for name in names
                if name in (RECORD, TRANSFER) or (is_suite and name.endswith(".json"))
            ]
            found |= {Path(here) / name for name in wanted}
    return found


def _add(
    path: Path,
    parse: Callable[[Path, object], Parsed],
    found: list[Parsed],
    skipped: list[str],
) -> None:
    try:
        content = read_json(path)
        if content is not None:
            found.append(parse(path, content))
    except RecursionError:
        skipped.append(f"{path}: nested too deeply")
    except UserError as error:
        # What the file's own reader advises, to train again, isn't for a report to say.
        skipped.append(printable(str(error).split(";")[0]))
    except FieldError as error:
        skipped.append(printable(f"{path}: {error}"))


def _run_with_overrides(path: Path, content: object) -> Run:
    return parse_run(path, content, _overrides(path.parent / ".hydra" / "overrides.yaml"))


def _overrides(path: Path) -> tuple[str, ...]:
    """The overrides that Hydra kept of the command line; none if there is no such file."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ()
    is_list = isinstance(found, list) and all(isinstance(each, str) for each in found)
    return tuple(printable(each) for each in found) if is_list else ()


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    """The same record in two places, a copied run directory, counts once."""
    kept: dict[tuple[str, ...], Run] = {}
    for run in runs:
        key = (run.run_id, run.origin.written, str(sorted(run.metrics.items())))
        kept.setdefault(key if run.run_id else (str(run.path),), run)
    return list(kept.values())


def _is_current(evaluation: Evaluation, records: Records) -> bool:
    run = records.run_of(evaluation)
    if run is None or run.folder != evaluation.path.parent.parent:
        return True
    if evaluation.origin.written and evaluation.origin.written < run.origin.written:
        records.skipped.append(
            f"{evaluation.path}: of before the run was trained again; evaluate it again"
        )
        return False
    return True
