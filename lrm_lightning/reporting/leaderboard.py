"""Step 3, the leaderboard: one table of every network that the strong suite has judged."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from lrm_lightning.evaluation.metrics import weakness
from lrm_lightning.reporting.aggregate import (
    THREAT_KEYS,
    Evaluation,
    Group,
    Origin,
    Records,
    Results,
    Run,
)
from lrm_lightning.reporting.parts import (
    Cell,
    Missing,
    Row,
    Table,
    command,
    number_cell,
    percent_range,
)
from lrm_lightning.reporting.tables import INTERVALS, accuracy, stands_on
from lrm_lightning.runs.directory import CORRECT
from lrm_lightning.runs.files import override, shown_path
from lrm_lightning.runs.intervals import paired_difference, wilson_interval
from lrm_lightning.runs.records import EvaluationRecord, RunRecord, read_verdicts

PGD20, AUTOATTACK = "pgd20", "autoattack"
VERDICTS = "masked", "undecided", "not masked"
COLUMNS = (
    "natural", "PGD-20", "PGD, best loss", "AutoAttack", "verdict", "flatters by", "s an epoch",
    "memory, MiB",
)  # fmt: skip
NOTES = (
    INTERVALS,
    "All accuracies of a row are of the same images. PGD-20 is the customary number: cross-entropy,"
    " one random start. “flatters by” is PGD-20 minus AutoAttack in percentage points, in brackets"
    " its 95% interval, of paired differences.",
    "The seconds of an epoch include its validation. Memory is the most that was held at once: of"
    " a GPU's, else by the process. Both compare trainings of one machine that did nothing else.",
)


def leaderboard(results: Results) -> Sequence[Table | Missing]:
    """A row a training, by falling AutoAttack, and the command if PGD-20 is missing anywhere."""
    rows, missing = [], []
    for group in sorted(results.strong, key=_left_by_autoattack, reverse=True):
        customary, flattery = _customary(group, results.records)
        # A random network has several verdicts an image, which nothing is paired with.
        paired = AUTOATTACK in group.names and not group.evaluations[0].spread
        missing += [group] if group.runs and paired and not customary.origins else []
        cells = [
            accuracy(group, "clean"), customary, accuracy(group, "pgd_best"),
            accuracy(group, AUTOATTACK), _verdict(group), flattery, _cost(group, "epoch_s"),
            _cost(group, "peak_memory_bytes", unit=2**20, decimals=0),
        ]  # fmt: skip
        rows.append(Row(group.title, cells, stands_on(group)))
    caption = f"Leaderboard, {results.data.title}"
    table = Table("leaderboard", caption, "training", [*COLUMNS], rows, [*NOTES], sortable=True)
    subsets: dict[int | None, list[Group]] = {}
    for group in missing:
        subsets.setdefault(group.evaluations[0].subset.seed, []).append(group)
    return [table, *(_measure(groups, seed) for seed, groups in subsets.items())] if rows else []


def _left_by_autoattack(group: Group) -> float:
    return group.mean(AUTOATTACK) if AUTOATTACK in group.names else -1


def _measure(groups: Sequence[Group], seed: int | None) -> Missing:
    """How PGD-20 is measured: a subset of more images has all of a smaller one's."""
    folders = [shown_path(run.path.parent) for group in groups for run in group.runs]
    n = max(group.record.n for group in groups)
    images = f"n_images={n}", *([] if seed is None else [f"seed={seed}"])
    names = ", ".join(group.title for group in groups)
    again = command("evaluate", override("runs", folders), "suite=paper", *images)
    return Missing(f"No PGD-20 on AutoAttack's images yet of {names}", again)


def _customary(group: Group, records: Records) -> tuple[Cell, Cell]:
    """PGD-20 on AutoAttack's images, and how far it is above; nothing if a seed has none."""
    pairs = [pair for each in group.origins if (pair := _pair(each, records)) is not None]
    if len(pairs) < len(group.origins):
        return Cell(), Cell()
    origins = tuple(origin for origin, *_ in pairs)
    correct, n = [int(pgd20.sum()) for _, pgd20, _ in pairs], len(pairs[0][1])
    differences = [paired_difference(autoattack, pgd20) for _, pgd20, autoattack in pairs]
    difference, half = differences[0]
    bounds = wilson_interval(correct[0], n), (difference - half, difference + half)
    of_custom, of_difference = map(percent_range, bounds)
    mark = max(weakness(origin.record, PGD20) for origin in origins)
    custom, above = [100 * each / n for each in correct], [100 * each for each, _ in differences]
    seeds, both = group.seeds, group.origins + origins
    return (
        number_cell(custom, origins, bounds=of_custom, seeds=seeds, mark=mark),
        number_cell(above, both, bounds=of_difference, seeds=seeds),
    )


def _pair(
    strong: Run | Evaluation, records: Records
) -> tuple[Run | Evaluation, np.ndarray, np.ndarray] | None:
    """Verdicts of PGD-20, with their record, and of AutoAttack on its images, bool ``(n,)``.

    PGD-20 may have been measured on more images than AutoAttack.
    """
    ours = _verdicts(strong)
    # A random network has several passes.
    if not {"index", AUTOATTACK} <= ours.keys() or ours[AUTOATTACK].ndim > 1:
        return None
    for origin in _of_the_network(strong, records):
        theirs = _verdicts(origin)
        place = {image: place for place, image in enumerate(theirs.get("index", ()))}
        if PGD20 in theirs and place.keys() >= set(ours["index"]):
            places = [place[image] for image in ours["index"]]
            return origin, theirs[PGD20][places], ours[AUTOATTACK]
    return None


def _of_the_network(strong: Run | Evaluation, records: Records) -> list[Run | Evaluation]:
    """The records of the same weights on the same data in the same threat model."""
    assert isinstance(strong.record, EvaluationRecord)
    network = strong.record.network
    found: list[Run | Evaluation] = [
        each
        for each in records.evaluations
        if each.record.network.weights_sha256 == network.weights_sha256 != ""
    ]
    run = records.run_of(Origin(strong.path, strong.record))
    if run is not None and run.record.checkpoint == network.checkpoint:
        found.append(run)
    return [each for each in found if _problem(each) == _problem(strong)]


def _problem(origin: Run | Evaluation) -> tuple[object, ...]:
    record = origin.record
    return record.data.fingerprint, *(record.attack.get(key) for key in THREAT_KEYS)


def _verdicts(origin: Run | Evaluation) -> dict[str, np.ndarray]:
    """The arrays beside a record; empty if they are not kept."""
    name = CORRECT if isinstance(origin.record, RunRecord) else f"{origin.path.stem}.npz"
    with suppress(FileNotFoundError):
        return read_verdicts(origin.path.with_name(name), origin.record)
    return {}


def _verdict(group: Group) -> Cell:
    found = Counter(each.masking.verdict for each in group.evaluations if each.masking is not None)
    told = [
        each if found[each] == len(group.origins) else f"{each} ({found[each]})"
        for each in VERDICTS
        if found[each]
    ]
    return Cell(", ".join(told), origins=group.origins) if told else Cell()


def _cost(group: Group, name: str, *, unit: float = 1, decimals: int = 1) -> Cell:
    """What the trainings took, if all of them recorded it."""
    taken = [getattr(run.record, name) for run in group.runs]
    if not taken or None in taken:
        return Cell()
    values = [each / unit for each in taken]
    return number_cell(values, group.runs, seeds=group.seeds, decimals=decimals)
