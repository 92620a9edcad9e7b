"""Steps 1 and 2: every record below some folders; what they have on each data set.

What cannot be read is named and left out; runs that differ in the seed alone are put together.
"""

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Generic, TypeAlias, TypeVar

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import is_number
from lrm_lightning.reporting import paper, settings
from lrm_lightning.reporting.run_dir import command_line, experiment
from lrm_lightning.runs.directory import EVALUATIONS, RECORD, TRANSFER, finished_run, outdated
from lrm_lightning.runs.files import matches
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import (
    Data,
    EvaluationRecord,
    Record,
    RunRecord,
    TransferRecord,
    printable,
    read_record,
    read_verdicts,
)

# Large or foreign folders of a run directory without records.
SKIPPED_FOLDERS = {"checkpoints", "wandb", ".hydra", ".git", "__pycache__"}
# Version 0.1 wrote transfer.json; now its name ends with the hash of its settings.
TRANSFERS = re.compile(rf"{Path(TRANSFER).stem}(-[0-9a-f]{{8}})?\.json")

METHOD_TITLES = {name: row.title for name, row in paper.METHODS.items()} | {
    "mixup": "Mixup", "vh_mixup": "VH-mixup", "logit_squeezing": "Logit squeezing",
    "clean_logit_pairing": "Clean logit pairing",
    "trades": "TRADES", "score": "SCORE", "mart": "MART", "ikl": "IKL", "gat": "GAT",
    "nuat": "NuAT",
}  # fmt: skip
# Settings of an attack that make another one of it; how training used it isn't among them.
THREAT_KEYS = ("norm", "eps")
ATTACK_KEYS = (*THREAT_KEYS, "step_size")
# Of a suite's settings those that the others say already, and the networks' names.
SAID = re.compile(
    r"(?!large_eps).*\.(norm|eps|step_size)|large_eps\.step_size|pgd_(margin|dlr)\..*"
    r"|pgd_adaptive\.(?!loss).*"
)
SAID_OF_ALL = ("autoattack.version", "transfer.sources")
# How overrides begin that name one run (its defence, its seed) or say how it is started.
OF_ONE_RUN = (
    "method", "seed", "rerun", "sweep", "--", "hydra.mode", "extend", "init_from", "hparams_search",
)  # fmt: skip
# What says which images were attacked, not how.
OF_IMAGES = ("n", "subset seed")
# So many differences are a name; more are told beside it.
SHORT = 2

R = TypeVar("R", EvaluationRecord, TransferRecord)
R_co = TypeVar("R_co", bound=Record, covariant=True)


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

    A run that lies in two folders counts once, even if it was trained in both; an evaluation of
    other weights than those in its folder is left out.
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
    records.evaluations = [each for each in records.evaluations if _is_current(each, records)]
    records.runs = _without_copies(records.runs)
    return records


def walk(pattern: str) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at or below a folder or a glob pattern of them, and the names of its files."""
    folders = [each for each in matches(pattern)[0] if each.is_dir()]
    if not folders:
        raise UserError(f"no folder {pattern}; give runs_dir=<where the runs are>")
    for here, inside, names in itertools.chain.from_iterable(map(os.walk, folders)):
        inside[:] = [each for each in inside if each not in SKIPPED_FOLDERS]
        yield Path(here), names


@dataclass(frozen=True)
class Group:
    """The accuracies of one configuration, trained with one or more seeds and measured alike."""

    origins: tuple[Run | Evaluation, ...]  # the runs' tests or their evaluations, by rising seed
    runs: tuple[Run, ...]  # how the networks were trained; empty if that is unknown
    method: str  # name of the defence, or the network's own
    named: str  # how it is called alone
    settings: dict[str, Any]  # of the training, without the seed; empty if unknown
    training: str  # equal texts are equal trainings, whatever was measured
    measured: dict[str, Any]  # on how many images, and with which attacks
    measurement: str  # equal texts are equal measurements, the images' seed included
    row: paper.Method | None
    title: str = ""  # what to call it among the others
    differs: str = ""  # in what it differs from others of its method, if the title can't say it

    @property
    def record(self) -> RunRecord | EvaluationRecord:
        """That of the lowest seed."""
        return self.origins[0].record

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """Its records, if they are of evaluations."""
        records = (origin.record for origin in self.origins)
        return [record for record in records if isinstance(record, EvaluationRecord)]

    @property
    def network(self) -> str:
        """Which network the lowest seed's is, however often that was measured."""
        if self.runs:
            return f"{self.runs[0].path} {self.measured['checkpoint']}"
        return self.training

    @property
    def threat(self) -> str:
        """Under which norm and radius it was attacked; equal texts are equal threat models."""
        return canonical([self.measured[f"attacked {key}"] for key in THREAT_KEYS])

    @property
    def seeds(self) -> list[int | None]:
        """The seeds, rising."""
        return [run.record.seed for run in self.runs]

    @property
    def names(self) -> list[str]:
        """The accuracies that all seeds have."""
        first, *others = (origin.record.metrics for origin in self.origins)
        return [name for name in first if all(name in other for other in others)]

    def mean(self, name: str) -> float:
        """Mean accuracy over the seeds, in [0, 1]."""
        return fmean(origin.record.metrics[name] for origin in self.origins)

    def spread(self, name: str) -> float | None:
        """Standard deviation over the seeds (n - 1), ``None`` of a single one."""
        values = [origin.record.metrics[name] for origin in self.origins]
        return stdev(values) if len(values) > 1 else None

    def interval(self, name: str) -> tuple[float, float]:
        """The 95% interval of the lowest seed's accuracy, in [0, 1]."""
        correct = round(self.record.metrics[name] * self.record.n)
        return self.record.intervals.get(name) or wilson_interval(correct, self.record.n)


@dataclass(frozen=True)
class Results:
    """What the records have on one data set: all that a table or a figure is made from."""

    data: Data
    records: Records  # everything that was found, to look runs up
    tests: list[Group]  # what each run measured itself when its training ended
    paper: list[Group]  # what evaluate suite=paper measured
    strong: list[Group]  # what evaluate suite=strong measured
    by_eps: list[Group]  # what evaluate suite=eps_curve measured
    # Of each network and threat model the best of tests and paper: with the paper's attack, then on
    # more images.
    white_box: list[Group]
    transfers: list[Transfer]

    @property
    def recipe(self) -> list[str]:
        """Overrides that train as a run here was trained, but for its defence and seed."""
        run = next((each for each in self.tests if each.row is not None), None)
        path = run.origins[0].path.parent if run else None
        given = [*experiment(path), *command_line(path)] if path else []
        kept = [each for each in given if not each.lstrip("+~").startswith(OF_ONE_RUN)]
        return kept or [f"data={self.data.name}"]

    @property
    def comparable(self) -> bool:
        """Whether the paper has numbers for these images."""
        return self.data.name == paper.DATA


def aggregate(records: Records) -> list[Results]:
    """The results on each data set: the paper's data first, and official bytes before others."""
    found: list[Data] = []
    for origin in records.everything:
        found += [images(origin.record)] if images(origin.record) not in found else []
    found.sort(
        key=lambda data: (data.name != paper.DATA, data.name, not data.official, data.fingerprint)
    )
    return [_results(records, data) for data in found]


def images(record: Record) -> Data:
    """Which images a record is about, however they were split to train and to validate."""
    of_a_record = {"n_train": None, "n_val": None, "n_test": None, "class_names": ()}
    return record.data.model_copy(update=of_a_record)


def titled(groups: Sequence[Group], ignoring: Sequence[str] = ()) -> list[Group]:
    """The groups with titles that tell them apart by their settings, some of them ignored."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(group.method if group.runs else group.network, []).append(group)
    differing = {}
    for same in alike.values():
        trained = settings.telling([group.settings for group in same])
        measured = settings.differences([group.measured for group in same])
        differing |= zip(map(id, same), zip(trained, measured, strict=True), strict=True)
    titles, trainings = [], Counter(group.training for group in groups)
    for group in groups:
        trained, measured = differing[id(group)]
        trained = {key: value for key, value in trained.items() if key not in ignoring}
        said = OF_IMAGES if trainings[group.training] == 1 else ()  # beside the title
        measured = {k: each for k, each in measured.items() if each is not None and k not in said}
        named, beside = [settings.summary(trained)], ""
        if len(trained) > SHORT:
            run = group.runs[0]
            named, beside = [f"run {run.record.run_id or run.path.parent.name}"], *named
        told = ", ".join(filter(None, [*named, settings.summary(measured)]))
        title = f"{group.named} ({told})" if told else group.named
        titles.append(replace(group, title=title, differs=beside))
    return titles


def rows_of_paper(groups: Sequence[Group]) -> list[Group]:
    """Of each configuration that is a row of the paper, the group that was measured best."""
    best: dict[str, Group] = {}
    for group in (each for each in groups if each.row is not None):
        if worth(group) > worth(best.setdefault(group.training, group)):
            best[group.training] = group
    return [group for group in groups if best.get(group.training) is group]


def measurement(record: RunRecord | EvaluationRecord) -> dict[str, Any]:
    """On which images, of which checkpoint and with which attacks a record's accuracies are."""
    found = {"n": record.n} | {f"attacked {key}": record.attack.get(key) for key in ATTACK_KEYS}
    if isinstance(record, RunRecord):
        return found | {"checkpoint": record.checkpoint}
    found |= {"checkpoint": record.network.checkpoint, "subset seed": record.subset.seed}
    given = {"images": record.kept.sha256[:8]} if record.kept and record.kept.sha256 else {}
    return found | given | _suite(record)


def alike(found: settings.Settings) -> dict[str, Any]:
    """Settings of which equal ones are equal, whether a number was typed as 0 or as 0.0."""
    return {key: float(each) if is_number(each) else each for key, each in found.items()}


def canonical(content: object) -> str:
    """A text that is equal for equal content."""
    return json.dumps(content, sort_keys=True, default=str)


def _measured(path: Path, kind: type[R]) -> R:
    """The record at ``path``, with whose numbers the verdicts beside it agree if they are there."""
    record = read_record(path, kind)
    with suppress(FileNotFoundError):
        read_verdicts(path.with_suffix(".npz"), record)
    return record


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
        same = f"{record.run_id} {sorted(record.metrics.items())}"
        kept.setdefault(same if record.run_id else str(run.path), run)
    return list(kept.values())


def _is_current(evaluation: Evaluation, records: Records) -> bool:
    """Whether an evaluation is of the weights in its folder."""
    folder = evaluation.path.parents[1]
    run = next((run.record for run in records.runs if run.path.parent == folder), None)
    why = outdated(evaluation.record, folder, run)
    if why:
        records.skipped.append(printable(f"{evaluation.path}: {why}; evaluate it again"))
    return not why


def _results(records: Records, data: Data) -> Results:
    tests = [_group(run, run) for run in records.runs if images(run.record) == data]
    suites: dict[str, list[Group]] = {"paper": [], "strong": [], "eps_curve": []}
    for each in records.evaluations:
        if images(each.record) == data:
            suites.setdefault(each.record.suite, []).append(_group(each, records.run_of(each)))
    # Of equal measurements of a run and its export one is enough: that with most accuracies, then
    # the newest.
    newest = {
        suite: {
            (each.network, each.measurement): each
            for each in sorted(groups, key=lambda each: (len(each.names), each.record.written))
        }
        for suite, groups in suites.items()
    }
    best: dict[tuple[str, str], Group] = {}
    for group in (*tests, *newest["paper"].values()):
        key = group.network, group.threat
        if worth(group) > worth(best.setdefault(key, group)):
            best[key] = group
    return Results(
        data=data,
        records=records,
        tests=_merged(tests),
        paper=_merged(newest["paper"].values()),
        strong=_merged(newest["strong"].values()),
        by_eps=_merged(newest["eps_curve"].values()),
        white_box=_merged(best.values()),
        transfers=[each for each in records.transfers if images(each.record) == data],
    )


def _group(origin: Run | Evaluation, run: Run | None) -> Group:
    """The accuracies that one record has of one network."""
    record = origin.record
    if run is not None:
        method = run.record.method
        named = METHOD_TITLES.get(method, method)
        set_to = settings.training_settings(run.record.config)
        training = canonical([method, alike(set_to)])
    else:
        assert isinstance(record, EvaluationRecord)
        method, named = record.network.name, record.network.label or record.network.name
        weights = record.network.weights_sha256 or str(origin.path)
        set_to, training = {}, canonical([method, named, weights])
    measured = measurement(record)
    return Group(
        origins=(origin,),
        runs=(run,) if run is not None else (),
        method=method,
        named=named,
        settings=set_to,
        training=training,
        measured=measured,
        measurement=canonical(measured),
        row=settings.paper_row(method, set_to),
    )


def _merged(groups: Iterable[Group]) -> list[Group]:
    """Put groups together that differ in nothing but the seed; in the paper's order."""
    merged: dict[tuple[str, str], Group] = {}
    for group in sorted(groups, key=lambda each: (_seed(each), each.network)):
        key = group.training, group.measurement
        if key in merged:
            origins, runs = merged[key].origins + group.origins, merged[key].runs + group.runs
            group = replace(group, origins=origins, runs=runs)
        merged[key] = group
    order = list(METHOD_TITLES)

    def place(group: Group) -> tuple[Any, ...]:
        known = order.index(group.method) if group.method in order else len(order)
        return not group.runs, known, group.method, group.row is None, group.title

    return sorted(titled(list(merged.values())), key=place)


def _suite(record: EvaluationRecord) -> dict[str, Any]:
    """The settings of a suite's attacks, each once; of the sources how many there are."""
    found = settings.flat(record.settings)
    sources = found.get("transfer.sources")
    kept = {
        key: each
        for key, each in found.items()
        if key not in SAID_OF_ALL and not SAID.fullmatch(key)
    }
    return kept | ({"sources": len(sources)} if isinstance(sources, list) else {})


def _seed(group: Group) -> int:
    (seed,) = group.seeds or [None]
    return -1 if seed is None else seed


def worth(group: Group) -> tuple[bool, int, bool, int]:
    """What makes one measurement of a network better than another, most important first.

    Its attack is the paper's or, on data that the paper has no numbers for, of the threat model
    that the network was trained against; it is on more images; a suite made it; it has more
    attacks.
    """
    record = group.record
    wanted = paper.THREAT_MODEL
    if record.data.name != paper.DATA:
        wanted = {key: group.settings.get(f"attack.{key}") for key in THREAT_KEYS}
    is_wanted = not settings.unlike(record.attack, wanted)
    return is_wanted, record.n, isinstance(record, EvaluationRecord), len(group.names)
