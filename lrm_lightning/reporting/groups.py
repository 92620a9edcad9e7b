"""Measured accuracies, with the runs of one configuration and several seeds put together."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.records import Evaluation, Run
from lrm_lightning.reporting.settings import (
    differences,
    paper_method,
    summary,
    training_settings,
)
from lrm_lightning.runs.intervals import wilson_interval

METHOD_TITLES = {
    **{name: row.title for name, row in paper.METHODS.items()},
    "mixup": "Mixup",
    "vh_mixup": "VH-mixup",
    "logit_squeezing": "Logit squeezing",
    "clean_logit_pairing": "Clean logit pairing",
}
# Settings of an attack that make another one of it; how training used it isn't among them.
ATTACK_KEYS = ("norm", "eps", "step_size")
# So many differences are a name; more are told beside it.
SHORT = 2


@dataclass(frozen=True)
class Entry:
    """The accuracies that one file has of one trained network.

    Attributes:
        origin: The file's record: a run's own test, or an evaluation.
        run: How the network was trained, if that is known.
    """

    origin: Run | Evaluation
    run: Run | None

    @property
    def method(self) -> str:
        """Name of the method."""
        if self.run is not None:
            return self.run.method
        assert isinstance(self.origin, Evaluation)
        return self.origin.model.name

    @property
    def network(self) -> str:
        """Which network it is of, however often that was measured."""
        return str(self.run.path if self.run is not None else self.origin.path)

    @property
    def settings(self) -> dict[str, Any]:
        """What its training was set to, without the seed; empty if unknown."""
        return training_settings(self.run.config) if self.run is not None else {}

    @property
    def measurement(self) -> dict[str, Any]:
        """On what was measured, and with which attack."""
        attack = {f"attacked {key}": self.origin.attack.get(key) for key in ATTACK_KEYS}
        return {"n": self.origin.n, **attack}

    @property
    def subset(self) -> int | None:
        """Which images, if it wasn't all or the first ones."""
        return self.origin.subset_seed if isinstance(self.origin, Evaluation) else None

    def interval(self, name: str) -> tuple[float, float]:
        """The 95% interval of an accuracy, in [0, 1]; computed if the record has none."""
        found = self.origin.intervals.get(name)
        n = self.origin.n
        return found or wilson_interval(round(self.origin.metrics[name] * n), n)


@dataclass(frozen=True)
class Group:
    """The same configuration trained with one or more seeds, measured alike.

    Attributes:
        title: What to call it among the others.
        differs: In what it differs from others of its method, if the title can't say it.
        row: The paper's row that it is, if any.
    """

    entries: tuple[Entry, ...]
    title: str
    differs: str
    row: paper.Method | None

    @property
    def first(self) -> Entry:
        """The one with the lowest seed."""
        return self.entries[0]

    @property
    def training(self) -> str:
        """What was trained, whatever it was measured on: equal texts are equal configurations."""
        entry = self.first
        known = [entry.settings] if entry.run is not None else [entry.network]
        return json.dumps([entry.method, *known], sort_keys=True, default=str)

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds, rising."""
        return tuple(entry.run.seed if entry.run else None for entry in self.entries)

    @property
    def names(self) -> list[str]:
        """The accuracies that all of its entries have."""
        return [
            name
            for name in self.first.origin.metrics
            if all(name in entry.origin.metrics for entry in self.entries)
        ]

    def mean(self, name: str) -> float:
        """Mean accuracy over the seeds, in [0, 1]."""
        return fmean(entry.origin.metrics[name] for entry in self.entries)

    def spread(self, name: str) -> float | None:
        """Standard deviation over the seeds (n - 1), ``None`` of a single one."""
        values = [entry.origin.metrics[name] for entry in self.entries]
        return stdev(values) if len(values) > 1 else None


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """Put entries together that differ in nothing but the seed; in the paper's order."""
    together: dict[str, list[Entry]] = {}
    for entry in entries:
        identity = [entry.method, entry.settings, entry.measurement, entry.subset]
        identity += [] if entry.run is not None else [entry.network]
        together.setdefault(json.dumps(identity, sort_keys=True, default=str), []).append(entry)
    groups = []
    for part in together.values():
        entries = tuple(sorted(part, key=_seed))
        row = paper_method(entries[0].method, entries[0].settings)
        groups.append(Group(entries, _title(entries[0]), "", row))
    order = list(METHOD_TITLES)

    def place(group: Group) -> tuple[Any, ...]:
        method = group.first.method
        known = order.index(method) if method in order else len(order)
        return group.first.run is None, known, method, group.row is None, group.title

    return sorted(titled(groups), key=place)


def titled(groups: Sequence[Group]) -> list[Group]:
    """The groups with titles that tell them apart, and say no more than that takes."""
    found = [replace(group, title=_title(group.first), differs="") for group in groups]
    for method in {group.first.method for group in groups if group.first.run is not None}:
        same = [
            place
            for place, group in enumerate(groups)
            if group.first.method == method and group.first.run is not None
        ]
        all_settings: list[Mapping[str, Any]] = [
            groups[place].first.settings | groups[place].first.measurement for place in same
        ]
        for place, differing in zip(same, differences(all_settings), strict=True):
            title, run = found[place].title, groups[place].first.run
            if 0 < len(differing) <= SHORT:
                found[place] = replace(found[place], title=f"{title} ({summary(differing)})")
            elif differing and run is not None:
                name = f"{title} (run {run.run_id or run.folder.name})"
                found[place] = replace(found[place], title=name, differs=summary(differing))
    return found


def _seed(entry: Entry) -> tuple[int, str]:
    seed = entry.run.seed if entry.run is not None else None
    return -1 if seed is None else seed, str(entry.origin.path)


def _title(entry: Entry) -> str:
    if entry.run is None and isinstance(entry.origin, Evaluation):
        return entry.origin.model.label
    return METHOD_TITLES.get(entry.method, entry.method)
