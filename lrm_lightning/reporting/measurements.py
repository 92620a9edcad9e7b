"""Which of the numbers that records have of a network a table or a figure takes."""

from collections.abc import Sequence
from typing import Any

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.discovery import Records
from lrm_lightning.reporting.groups import Entry, Group, grouped
from lrm_lightning.reporting.records import Data, Evaluation
from lrm_lightning.reporting.settings import attack_departures


def data_sets(records: Records) -> list[Data]:
    """The data that records speak of: the paper's first, and official bytes before others."""
    found = {each.data for each in (*records.runs, *records.evaluations, *records.transfers)}
    return sorted(
        found,
        key=lambda data: (data.name != paper.DATA, data.name, not data.official, data.fingerprint),
    )


def white_box(records: Records, data: Data) -> list[Group]:
    """Natural, FGSM and PGD accuracies: of each network the best measurement there is.

    That is the one with the paper's attack, then the one on more images, then the ``paper`` suite.
    """
    best: dict[str, Entry] = {}
    for entry in _candidates(records, data):
        if entry.network not in best or _worth(entry) > _worth(best[entry.network]):
            best[entry.network] = entry
    return grouped(best.values())


def evaluated(records: Records, data: Data, suite: str) -> list[Group]:
    """What ``evaluate suite=<suite>`` measured."""
    newest: dict[str, Entry] = {}
    for each in sorted(records.evaluations, key=lambda found: found.origin.written):
        if each.suite == suite and each.data == data:
            entry = Entry(each, records.run_of(each))
            newest[entry.network] = entry  # of a run and its export, one is enough
    return grouped(newest.values())


def own_tests(records: Records, data: Data) -> list[Group]:
    """What each run measured itself when its training ended."""
    return grouped(Entry(run, run) for run in records.runs if run.data == data)


def best_measured(groups: Sequence[Group]) -> list[Group]:
    """Of each configuration the group that was measured best; its other seeds are left out."""
    best: dict[str, Group] = {}
    for group in groups:
        known = best.get(group.training)
        if known is None or _worth(group.first) > _worth(known.first):
            best[group.training] = group
    return [group for group in groups if best[group.training] is group]


def _candidates(records: Records, data: Data) -> list[Entry]:
    of_runs = [Entry(run, run) for run in records.runs if run.data == data]
    of_suite = [
        Entry(each, records.run_of(each))
        for each in records.evaluations
        if each.suite == "paper" and each.data == data
    ]
    return of_runs + of_suite


def _worth(entry: Entry) -> tuple[Any, ...]:
    is_papers = entry.origin.data.name != paper.DATA or not attack_departures(entry.origin.attack)
    return is_papers, entry.origin.n, isinstance(entry.origin, Evaluation)
