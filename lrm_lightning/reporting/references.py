"""Where each number came from: a numbered list that every table and figure points into."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lrm_lightning.evaluation.metrics import raised
from lrm_lightning.reporting import paper, settings
from lrm_lightning.reporting.aggregate import Origin, Records, Run
from lrm_lightning.reporting.parts import Origins, command
from lrm_lightning.reporting.run_dir import command_line
from lrm_lightning.runs.files import override, shown_path
from lrm_lightning.runs.records import (
    EvaluationRecord,
    Record,
    RunRecord,
    TransferRecord,
    one_line,
    printable,
)

NOT_RECORDED = "not recorded"
# Title, run, seed, details and command of a reference.
Description = tuple[str, str, str, dict[str, str], str]


class Reference(NamedTuple):
    """One record, and what it says of how its numbers were made."""

    number: int  # the one that cells show
    title: str
    facts: dict[str, str]  # what a reader wants first: run, data, n, seed, commit
    details: dict[str, str]
    command: str  # what makes the record again, or nothing if it doesn't tell

    @property
    def summary(self) -> str:
        """Number and facts on one line."""
        return f"[{self.number}] " + "; ".join(f"{k}: {each}" for k, each in self.facts.items())


class References:
    """The references of a report, in the order in which they were first cited."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._found: dict[Path, Reference] = {}

    def __iter__(self) -> Iterator[Reference]:
        return iter(self._found.values())

    def cite(self, origins: Origins) -> list[Reference]:
        """The references of records; new ones get the next numbers."""
        for origin in origins:
            if origin.path not in self._found:
                number = len(self._found) + 1
                self._found[origin.path] = _reference(number, origin, self._records)
        return [self._found[origin.path] for origin in origins]


def _reference(number: int, origin: Origin[Record], records: Records) -> Reference:
    record = origin.record
    if isinstance(record, RunRecord):
        described = _of_run(origin.path, record)
    elif isinstance(record, EvaluationRecord):
        described = _of_evaluation(record, records.run_of(Origin(origin.path, record)))
    else:
        assert isinstance(record, TransferRecord)
        described = _of_transfer(origin.path, record, records)
    title, run, seed, details, again = described
    commit = (record.git.commit or "")[:12]
    facts = {
        "run": run,
        "data": record.data.title,
        "n": f"{record.n:,} test images",
        "seed": seed,
        "commit": f"{commit} with uncommitted changes" if commit and record.git.dirty else commit,
    }
    details = {
        "attack": _listed(record.attack),
        **details,
        "file": shown_path(origin.path),
        "data (SHA-256)": record.data.fingerprint,
        "written": record.written,
        "time taken": "" if record.wall_s is None else f"{record.wall_s:,.0f} s",
        "hardware": _listed(record.hardware),
        "versions": _listed(record.versions),
    }
    facts, details = (
        {key: each or NOT_RECORDED for key, each in d.items()} for d in (facts, details)
    )
    return Reference(number, title, facts, details, again)


def _of_run(path: Path, record: RunRecord) -> Description:
    title = f"Test at the end of training, {printable(path.parent.name)}"
    run, given = f"{record.method}, {shown_path(path.parent)}", command_line(path.parent)
    again = command("train", *given) if given else ""
    return title, run, _seeds([record.seed]), _training(record), again


def _of_evaluation(record: EvaluationRecord, run: Run | None) -> Description:
    network = record.network
    label = network.label or network.name
    details = {"checkpoint": network.checkpoint, "weights (SHA-256)": network.weights_sha256}
    details |= _training(run.record) if run is not None else {}
    given = record.overrides
    if not given and network.run_dir:  # a record of version 0.1
        given = [override("runs", [network.run_dir]), f"suite={record.suite}", *_images(record)]
        given += [f"attack_loss={raised(record)}"] * bool(raised(record))
    return (
        f"Suite “{record.suite}” on {label}",
        f"{label}, {network.run_dir or NOT_RECORDED}",
        _seeds([run.record.seed] if run is not None else [], record),
        details,
        command("evaluate", *map(one_line, given)) if given else "",
    )


def _of_transfer(path: Path, record: TransferRecord, records: Records) -> Description:
    sides = {"sources": record.sources, "targets": record.targets}
    runs = [records.run_by_id(each.run_id) for side in sides.values() for each in side]
    given = record.overrides
    if not given and all(each.run_dir for side in sides.values() for each in side):
        given = [override(key, [each.run_dir for each in side]) for key, side in sides.items()]
        given += _images(record)
    return (
        f"Black-box matrix, {printable(path.parent.name)}",
        f"{len(record.sources)} sources, {len(record.targets)} targets",
        _seeds({run.record.seed for run in runs if run is not None}, record),
        {
            key: ", ".join(each.run_dir or each.label or each.name for each in side)
            for key, side in sides.items()
        },
        command("transfer", *map(one_line, given)) if given else "",
    )


def _training(record: RunRecord) -> dict[str, str]:
    set_to = settings.training_settings(record.config)
    epochs = NOT_RECORDED if record.epochs is None else record.epochs
    facts = {"trained": f"{epochs} epochs, tested with the {record.checkpoint or '?'} weights"}
    if record.data.name == paper.DATA:
        departures = settings.departures(record.method, set_to)
        facts["not as in the paper"] = "; ".join(departures) or "nothing"
        attacked = settings.unlike(record.attack, paper.THREAT_MODEL)
        facts |= {"attack not as in the paper": "; ".join(attacked)} if attacked else {}
    return facts | {"configuration": _listed(set_to)}


def _images(record: EvaluationRecord | TransferRecord) -> list[str]:
    seed = record.subset.seed
    return [f"n_images={record.n}"] + ([f"seed={seed}"] if seed is not None else [])


def _seeds(
    seeds: Iterable[int | None], record: EvaluationRecord | TransferRecord | None = None
) -> str:
    known = sorted(seed for seed in seeds if seed is not None)
    training = ", ".join(map(str, known)) or NOT_RECORDED
    if record is None:
        return training
    drawn = NOT_RECORDED if record.subset.seed is None else record.subset.seed
    return f"{training} (training), {drawn} (images)"


def _listed(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{printable(key)}={settings.shown(each)}" for key, each in given.items())
