"""Runs at hand: which there are, in what two differ, how to go on with each, what to delete."""

import difflib
import json
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.tables import images, percent, print_table
from lrm_lightning.reporting.aggregate import measurement, walk
from lrm_lightning.reporting.parts import percent_range
from lrm_lightning.reporting.run_dir import command_line, strongest, training_curves
from lrm_lightning.reporting.settings import differences, shown, summary, telling, training_settings
from lrm_lightning.runs.directory import (
    CONFIG,
    CORRECT,
    EVALUATIONS,
    RECORD,
    STATUS,
    RunDir,
    finished_run,
    is_training,
    outdated,
)
from lrm_lightning.runs.files import quoted, shown_path
from lrm_lightning.runs.identity import flat, identifying
from lrm_lightning.runs.intervals import paired_difference
from lrm_lightning.runs.records import (
    EvaluationRecord,
    RunRecord,
    printable,
    read_record,
    read_verdicts,
)
from lrm_lightning.runs.settings import read_settings

FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"
# The data's fingerprint, which of its images, and whether each is classified correctly.
Verdicts: TypeAlias = tuple[str, np.ndarray, np.ndarray]
# The file of its verdicts, and its record.
Evaluated: TypeAlias = tuple[Path, EvaluationRecord]


@dataclass(frozen=True)
class Listed:
    """One run directory."""

    folder: Path
    config: dict[str, Any]  # resolved
    identity: dict[str, Any]  # what of it determines the result
    record: RunRecord | None  # of a finished run

    @property
    def state(self) -> str:
        """``"finished"``, ``"running"`` or ``"stopped"``."""
        if self.record is not None:
            return FINISHED
        return RUNNING if is_training(self.folder) else STOPPED

    @property
    def facts(self) -> dict[str, Any]:
        """What it can be chosen by: method, data, seed and state, and every setting."""
        found = flat(self.config)
        names = {key: found.get(f"{key}.name") for key in ("method", "data")}
        return {"seed": None} | found | names | {"state": self.state}

    @property
    def progress(self) -> tuple[int, float | None]:
        """How many epochs are finished, and the latest robust validation accuracy, in [0, 1]."""
        if self.record is not None:
            return self.record.epochs or 0, self.record.score
        try:
            curves = training_curves(self.folder)
        except UserError as error:
            sys.stderr.write(f"skipped: {error}\n")
            curves = {}
        try:  # there may be none, and an older one doesn't tell
            epochs = int(json.loads((self.folder / STATUS).read_text(encoding="utf-8"))["epochs"])
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            epochs = int(max((points[-1][0] for points in curves.values()), default=1)) - 1
        name = strongest(curves)
        return epochs, curves[name][-1][1] if name else None


def find(pattern: str, wanted: Mapping[str, str]) -> list[Listed]:
    """The runs below a folder or a glob pattern of folders, by path.

    Args:
        pattern: Searched with everything below; a run that cannot be read is named on stderr.
        wanted: What a run must have: setting to value, or values with commas between them.

    Raises:
        UserError: If there is no such folder, no run in it, or none with what is wanted.
    """
    found = []
    for folder in sorted({here for here, names in walk(pattern) if {RECORD, CONFIG} & set(names)}):
        try:
            found.append(_read(folder))
        except UserError as error:
            sys.stderr.write(f"skipped: {printable(str(error))}\n")
    known = {key for run in found for key in run.facts}
    for key, text in wanted.items():
        if found and key not in known:
            (near,) = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise UserError(f"no run has a setting {key}; the nearest is {near}")
        values = {text, *text.split(",")}
        found = [
            run for run in found if {shown(run.facts.get(key)), str(run.facts.get(key))} & values
        ]
    if not found:
        given = "".join(f" with {key}={text}" for key, text in wanted.items())
        raise UserError(f"no run{given} below {pattern}; give runs_dir=<another folder>")
    return found


def show(runs: Sequence[Listed]) -> None:
    """Print one row a run: what tells it from others of its method and data, how far it is."""
    alike: dict[tuple[Any, Any], list[Listed]] = defaultdict(list)
    for run in runs:
        alike[run.facts["method"], run.facts["data"]].append(run)
    labels: dict[Path, str] = {}
    for same in alike.values():
        differing = telling([training_settings(run.config) for run in same])
        labels |= {run.folder: summary(each, 2) for run, each in zip(same, differing, strict=True)}
    rows = []
    for run in runs:
        facts, (epoch, validated) = run.facts, run.progress
        tested = run.record.metrics if run.record else {}
        rows.append([
            shown(facts["method"]), labels[run.folder], shown(facts["data"]), shown(facts["seed"]),
            facts["state"], f"{epoch}/{shown(facts.get('trainer.max_epochs'))}", percent(validated),
            percent(tested.get("clean")), percent(tested.get("pgd20")), shown_path(run.folder),
        ])  # fmt: skip
    headings = [
        "method", "run", "data", "seed", "state", "epoch", "val PGD %", "clean %", "PGD-20 %",
        "directory",
    ]  # fmt: skip
    print_table(headings, rows, [images(run.record) for run in runs if run.record])


def compare(one: Path, other: Path) -> None:
    """Print the settings in which two runs differ, and the accuracies of both side by side.

    Where both have their verdicts on the same images, the difference comes with its own interval.
    """
    runs = [_read(one), _read(other)]
    ours, theirs = differences([flat(run.identity) for run in runs])
    rows = [[key, shown(ours[key]), shown(theirs[key]), ""] for key in ours]
    if not rows:
        print("one configuration")  # noqa: T201
    measured = [_measured(*each) for each in zip(runs, _evaluations(runs), strict=True)]
    for name in dict.fromkeys([*measured[0], *measured[1]]):
        (first, ours), (second, theirs) = (each.get(name, ("-", None)) for each in measured)
        rows.append([name, first, second, _difference(ours, theirs)])
    heads = ["", *(shown_path(run.folder) for run in runs)]
    if any(row[-1] for row in rows):
        heads.append("second minus first, paired")
    print_table(heads, [row[: len(heads)] for row in rows], [])


def command(run: Listed) -> str:
    """The line for a shell that goes on with a run, or repeats a finished one."""
    words, told = command_line(run.folder), run.folder / ".hydra/overrides.yaml"
    if not words and not (told.is_file() and told.stat().st_size):  # a full disk has emptied it
        return f"# {shown_path(run.folder)}: its command is not recorded"
    words += [f"hydra.run.dir={quoted(shown_path(run.folder))}", *["rerun=true"] * bool(run.record)]
    return shlex.join(["python", "-m", "lrm_lightning.train", *words])


def delete(run: Listed) -> None:
    """Remove a run's directory; raises if a process trains in it."""
    with RunDir(run.folder, run.identity).locked():
        shutil.rmtree(run.folder)


def _read(folder: Path) -> Listed:
    record = finished_run(folder)
    if record is not None:
        return Listed(folder, record.config, identifying(record.config), record)
    try:
        saved = read_settings(folder / CONFIG)
    except FileNotFoundError as error:
        raise UserError(f"no run in {folder}: {CONFIG} is missing; give a run directory") from error
    return Listed(folder, saved["config"], saved.get("identity", {}), None)


def _evaluations(runs: Sequence[Listed]) -> list[dict[str, Evaluated]]:
    """Each run's evaluations by suite and by how they were made, where not all were made alike.

    Of equal ones the newest counts. Which checkpoint was attacked matters only where evaluations of
    one run differ in it.
    """
    by_suite: dict[str, list[tuple[int, Path, EvaluationRecord]]] = defaultdict(list)
    for place, run in enumerate(runs):
        for path in (run.folder / EVALUATIONS).glob("*.json"):
            record = read_record(path, EvaluationRecord)
            if why := outdated(record, run.folder, run.record):
                line = printable(f"{path}: {why}; evaluate it again")
                sys.stderr.write(f"skipped: {line}\n")
            else:
                by_suite[record.suite].append((place, path, record))
    found: list[dict[str, Evaluated]] = [{} for _ in runs]
    for suite, same in sorted(by_suite.items()):
        same.sort(key=lambda each: each[2].written)
        attacked = {(place, record.network.checkpoint) for place, _, record in same}
        told = [measurement(record) for _, _, record in same]
        if len(attacked) == len({place for place, _ in attacked}):
            told = [each | {"checkpoint": None} for each in told]
        for (place, path, record), each in zip(same, differences(told), strict=True):
            differing = {key: value for key, value in each.items() if value is not None}
            how = f" ({summary(differing, len(differing))})" if differing else ""
            found[place][suite + how] = path.with_suffix(".npz"), record
    return found


def _measured(
    run: Listed, evaluations: Mapping[str, Evaluated]
) -> dict[str, tuple[str, Verdicts | None]]:
    """Everything that was measured of a run, in % with its 95% interval, and verdicts if kept."""
    found: dict[str, tuple[str, Verdicts | None]] = {}
    found["epochs"] = f"{run.progress[0]} ({run.state})", None
    tests = [("test", run.record, run.folder / CORRECT)] if run.record else []
    suites = [(name, record, path) for name, (path, record) in evaluations.items()]
    for source, record, path in (*tests, *suites):
        arrays: dict[str, np.ndarray] = {}
        with suppress(FileNotFoundError):
            arrays = read_verdicts(path, record)
        for name, share in record.metrics.items():
            interval = record.intervals.get(name)
            text = percent(share) + (f" {percent_range(interval)}" if interval else "")
            verdicts = None
            if {"index", name} <= arrays.keys():
                verdicts = record.data.fingerprint, arrays["index"], arrays[name]
            found[f"{source} {name} %"] = text, verdicts
    return found


def _difference(ours: Verdicts | None, theirs: Verdicts | None) -> str:
    """The difference of two accuracies in points; empty if they are not of the same images."""
    if ours is None or theirs is None or ours[0] != theirs[0]:
        return ""
    (_, images, first), (_, others, second) = ours, theirs
    # Of a random network each image has several verdicts, a pass each.
    if not (np.array_equal(images, others) and first.shape == second.shape == images.shape):
        return ""
    difference, half = paired_difference(first, second)
    return f"{100 * difference:+.1f} ± {100 * half:.1f}"
