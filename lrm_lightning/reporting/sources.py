"""Where each number came from: a numbered list that every table and figure points into."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.discovery import Records
from lrm_lightning.reporting.fields import printable
from lrm_lightning.reporting.records import Data, Evaluation, Origin, Run, Transfer
from lrm_lightning.reporting.settings import (
    attack_departures,
    departures,
    shown,
    training_settings,
)
from lrm_lightning.runs.files import shown_path

Facts = tuple[tuple[str, str], ...]
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Source:
    """One file, and what it says of how its numbers were made.

    Attributes:
        number: The one that cells show.
        title: What it is.
        facts: What a reader wants first: run, data, n, seed, commit.
        details: The rest.
        command: What makes the file again, or nothing if the record doesn't tell.
    """

    number: int
    title: str
    facts: Facts
    details: Facts
    command: str


class SourceBook:
    """Numbers sources in the order in which they are first cited.

    Args:
        records: Where an evaluation's run is looked up.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._found: dict[Path, Source] = {}

    @property
    def sources(self) -> list[Source]:
        """Those cited so far."""
        return list(self._found.values())

    def cite(self, origin: Run | Evaluation | Transfer) -> int:
        """The number of a record."""
        if origin.path not in self._found:
            number = len(self._found) + 1
            if isinstance(origin, Run):
                self._found[origin.path] = _of_run(number, origin)
            elif isinstance(origin, Evaluation):
                run = self._records.run_of(origin)
                self._found[origin.path] = _of_evaluation(number, origin, run)
            else:
                self._found[origin.path] = _of_transfer(number, origin, self._records)
        return self._found[origin.path].number


def evaluate_command(
    run_dir: str, suite: str, n: int | None = None, seed: int | None = None
) -> str:
    """The command that evaluates a run."""
    parts = [f"runs=[{run_dir}]", f"suite={suite}"]
    parts += [f"n_images={n}"] if n is not None else []
    parts += [f"seed={seed}"] if seed is not None else []
    return f"python -m lrm_lightning.evaluate {shlex.join(parts)}"


def _of_run(number: int, run: Run) -> Source:
    facts = (
        ("run", f"{run.method}, {shown_path(run.folder)}"),
        ("data", run.data.title),
        ("n", f"{run.n:,} test images"),
        ("seed", _or_not(run.seed)),
        ("commit", _commit(run.origin)),
    )
    command = ""
    if run.overrides:
        command = f"python -m lrm_lightning.train {shlex.join(run.overrides)}"
    details = (
        ("attack", _settings(run.attack)),
        *_training(run),
        *_making(run.path, run.data, run.origin),
    )
    return Source(
        number, f"Test at the end of training, {_name(run.folder)}", facts, details, command
    )


def _of_evaluation(number: int, evaluation: Evaluation, run: Run | None) -> Source:
    model = evaluation.model
    facts = (
        ("run", f"{model.label}, {model.run_dir or NOT_RECORDED}"),
        ("data", evaluation.data.title),
        ("n", f"{evaluation.n:,} test images"),
        (
            "seed",
            _seeds(_or_not(run.seed if run else None), evaluation.subset_seed),
        ),
        ("commit", _commit(evaluation.origin)),
    )
    details = (
        ("attack", _settings(evaluation.attack)),
        ("checkpoint", model.checkpoint or NOT_RECORDED),
        ("weights (SHA-256)", model.weights or NOT_RECORDED),
        *(_training(run) if run is not None else ()),
        *_making(evaluation.path, evaluation.data, evaluation.origin),
    )
    command = ""
    if model.run_dir:
        command = evaluate_command(
            model.run_dir, evaluation.suite, evaluation.n, evaluation.subset_seed
        )
    return Source(number, f"Suite “{evaluation.suite}” on {model.label}", facts, details, command)


def _of_transfer(number: int, transfer: Transfer, records: Records) -> Source:
    def listed(models: tuple[Any, ...]) -> str:
        return ", ".join(each.run_dir or each.label for each in models)

    runs = [records.run_by_id(each.run_id) for each in (*transfer.sources, *transfer.targets)]
    seeds = sorted({run.seed for run in runs if run is not None and run.seed is not None})
    facts = (
        ("run", f"{len(transfer.sources)} sources, {len(transfer.targets)} targets"),
        ("data", transfer.data.title),
        ("n", f"{transfer.n:,} test images"),
        (
            "seed",
            _seeds(", ".join(map(str, seeds)) or NOT_RECORDED, transfer.subset_seed),
        ),
        ("commit", _commit(transfer.origin)),
    )
    details = (
        ("attack", _settings(transfer.attack)),
        ("sources", listed(transfer.sources)),
        ("targets", listed(transfer.targets)),
        *_making(transfer.path, transfer.data, transfer.origin),
    )
    parts = [
        f"{key}=[{','.join(each.run_dir for each in models)}]"
        for key, models in (("sources", transfer.sources), ("targets", transfer.targets))
    ]
    parts += [f"n_images={transfer.n}"]
    parts += [f"seed={transfer.subset_seed}"] if transfer.subset_seed is not None else []
    known = all(each.run_dir for each in (*transfer.sources, *transfer.targets))
    command = f"python -m lrm_lightning.transfer {shlex.join(parts)}" if known else ""
    return Source(
        number, f"Black-box matrix, {_name(transfer.path.parent)}", facts, details, command
    )


def _training(run: Run) -> Facts:
    settings = training_settings(run.config)
    facts = [
        (
            "trained",
            f"{_or_not(run.epochs)} epochs, tested with the {run.checkpoint or '?'} weights",
        )
    ]
    if run.data.name == paper.DATA:
        facts += [("not as in the paper", "; ".join(departures(run.method, settings)) or "nothing")]
        wrong = attack_departures(run.attack)
        facts += [("attack not as in the paper", "; ".join(wrong))] if wrong else []
    facts += [("configuration", _settings(settings))]
    return tuple(facts)


def _making(path: Path, data: Data, origin: Origin) -> Facts:
    wall = NOT_RECORDED if origin.wall_s is None else f"{origin.wall_s:,.0f} s"
    return (
        ("file", shown_path(path)),
        ("data (SHA-256)", data.fingerprint or NOT_RECORDED),
        ("written", origin.written or NOT_RECORDED),
        ("time taken", wall),
        ("hardware", _settings(origin.hardware)),
        ("versions", _settings(origin.versions)),
    )


def _commit(origin: Origin) -> str:
    if not origin.commit:
        return NOT_RECORDED
    return origin.commit[:12] + (" with uncommitted changes" if origin.dirty else "")


def _settings(settings: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{printable(str(key))}={shown(each)}" for key, each in settings.items())
        or NOT_RECORDED
    )


def _seeds(training: str, subset: int | None) -> str:
    return f"{training} (training), {_or_not(subset)} (images)"


def _or_not(value: int | None) -> str:
    return NOT_RECORDED if value is None else str(value)


def _name(folder: Path) -> str:
    return printable(folder.name)
