"""Tables in the terminal: what a run, a sweep, an evaluation and a transfer matrix end with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrm_lightning.evaluation.metrics import (
    FOLLOWING,
    NORMS,
    STANDARD_ATTACKS,
    attack_title,
    is_number,
    pgd_steps,
    raised,
    shown_eps,
    weakness,
)
from lrm_lightning.runs.files import shown_path
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import (
    EvaluationRecord,
    Record,
    RunRecord,
    TransferRecord,
    printable,
)

TEXTS = ("run", "data", "state", "directory")  # columns of text beside the first
NUMBER = len("100.0")  # the widest share in %
PARTS = tuple(name.replace("-", "_") for name in STANDARD_ATTACKS)  # of AutoAttack


def print_runs(rows: Sequence[tuple[str, RunRecord, Path]]) -> None:
    """Print one row a run: its accuracies with their 95% intervals, and its directory.

    Of PGD the most steps that each run was tested with are shown.
    Labels say what distinguishes a run from the others; that of a single one is empty.
    """
    labelled = any(label for label, _, _ in rows)
    most = {
        max((pgd_steps(name) or 0 for name in record.metrics), default=0) or 20
        for _, record, _ in rows
    }
    metrics = ["clean", "fgsm", *(f"pgd{steps}" for steps in sorted(most))]
    shown = [f"{name if name == 'clean' else attack_title(name)} %" for name in metrics]
    headings = ["method", *["run"] * labelled, *shown, "directory"]
    cells = [
        [
            record.method,
            *[label] * labelled,
            *(_accuracy(record, name) for name in metrics),
            shown_path(folder),
        ]
        for label, record, folder in rows
    ]
    notes = [f"95% intervals over {images(record)}" for _, record, _ in rows]
    notes += _weaknesses([record for _, record, _ in rows], metrics)
    print_table(headings, cells, notes)


def print_evaluations(records: Sequence[EvaluationRecord]) -> None:
    """Print one row a network and one column an attack of a suite, then verdicts on masking.

    AutoAttack's parts, and what is left after gradient attacks and then Square or other networks'
    images, are told with the verdicts: a column for each would leave no room for the numbers.
    """
    metrics = dict.fromkeys(name for record in records for name in record.metrics)
    metrics = sorted(metrics, key="worst".__eq__)  # it comes last
    metrics = [name for name in metrics if not name.startswith(FOLLOWING) and name not in PARTS]
    cells = [
        [
            each.network.label,
            *(percent(each.metrics.get(name)) + _star(each, name) for name in metrics),
        ]
        for each in records
    ]
    notes = [*_weaknesses(records, metrics), *(line for each in records for line in _verdict(each))]
    notes += [
        f"{each.network.label}: adaptive PGD raises the loss {raised(each)}"
        for each in records
        if raised(each)
    ]
    notes += [line for each in records for line in (*_eps_curve(each), *_kept(each))]
    notes += [_note(record) for record in records]
    print_table(["accuracy %", *map(attack_title, metrics)], cells, notes)


def print_matrix(record: TransferRecord) -> None:
    """Print the black-box matrix: one row a target, one column a source."""
    own = record.same_network
    cells = [
        [target.label, *(percent(share) + "*" * same for share, same in zip(*row, strict=True))]
        for target, *row in zip(record.targets, record.accuracy, own, strict=True)
    ]
    notes = ["* the source is the target itself: a white-box number"] * any(map(any, own))
    headings = ["target \\ source", *(source.label for source in record.sources)]
    print_table(headings, cells, [*notes, _note(record)])


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> None:
    """Print a table, in a file or a pipe as wide as it needs, then each note once."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, heading in enumerate(headings):
        text = place == 0 or heading in TEXTS
        # A name may be folded, a number not.
        side, width = ("left", None) if text else ("right", NUMBER)
        table.add_column(Text(heading), justify=side, min_width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not str: rich would take a list in a label for markup
    console = Console()
    if not console.is_terminal:
        table.width = Console(width=10_000).measure(table).maximum
        console = Console(width=max(table.width, 80))
    console.print(table, highlight=False)
    for note in dict.fromkeys(notes):
        console.print(Text(note), soft_wrap=True)


def percent(share: float | None) -> str:
    """A share in [0, 1] as a cell."""
    return "-" if share is None else f"{100 * share:.1f}"


def _accuracy(record: RunRecord, name: str) -> str:
    ends = ", ".join(percent(end) for end in record.intervals.get(name, ()))
    interval = f" [{ends}]" if ends else ""
    return percent(record.metrics.get(name)) + _star(record, name) + interval


def _star(record: Record, name: str) -> str:
    """What marks an accuracy that :func:`_weaknesses` has a note on."""
    return "*" if weakness(record, name) else ""


def _weaknesses(records: Sequence[Record], metrics: Sequence[str]) -> list[str]:
    """Why starred accuracies may be too high, each reason once."""
    reasons = dict.fromkeys(weakness(record, name) for record in records for name in metrics)
    return [f"* {reason}; the accuracy may be too high" for reason in reasons if reason]


def _eps_curve(record: EvaluationRecord) -> list[str]:
    curve, norm = record.eps_curve, str(record.attack.get("norm"))
    if curve is None:
        return []
    points = zip(curve.eps, curve.accuracy, strict=True)
    told = ", ".join(f"{percent(share)} at {shown_eps(eps, norm)}" for eps, share in points)
    lines = [f"{record.network.label}: accuracy % by eps in {NORMS.get(norm, norm)}: {told}"]
    sign = curve.large_eps
    return lines + [f"  the gradient is hidden: {sign.explanation}"] * sign.fired


def _kept(record: EvaluationRecord) -> list[str]:
    kept, norm = record.kept, str(record.attack.get("norm"))
    if kept is None:
        return []
    files = [name for name in record.files if not name.endswith(f"{record.evaluation_id}.npz")]
    where = f"images of {attack_title(kept.attack)} in {', '.join(files)}" if kept.attack else ""
    return [
        f"{record.network.label}: {where or f'images of {kept.file}'}: at most {kept.distance:.6g}"
        f" from the originals in {NORMS.get(norm, norm)}, accuracy {percent(kept.accuracy)}%"
    ]


def _verdict(record: EvaluationRecord) -> list[str]:
    masking = record.masking
    if masking is None:
        return []
    lines = [f"{record.network.label}: verdict: {masking.verdict}, {masking.summary}"]
    left = {
        name.removeprefix("transfer_").replace("pgd_square", "Square"): percent(share)
        for name, share in record.metrics.items()
        if name.startswith(FOLLOWING)
    }
    parts = {name: record.metrics[name] for name in PARTS if name in record.metrics}
    told = ", ".join(f"{percent(parts[name])} {attack_title(name)}" for name in parts)
    lines += [f"  AutoAttack's parts: {told}"] * bool(told)
    told = ", ".join(f"{share} by {name}" for name, share in left.items())
    lines += [f"  left after gradient attacks and then others: {told}"] * bool(left)
    lines += [f"  {sign.name}: {sign.explanation}" for sign in masking.signs if sign.fired]
    lines += [f"  {masking.loss.explanation}"] * bool(masking.loss.count)
    lines += [f"  {weakness(record, 'autoattack')}"] * bool(weakness(record, "autoattack"))
    if record.spread:
        most = 100 * max(record.spread.values())
        told = "the output is random: accuracies are means over passes"
        lines.append(f"  {told}, whose standard deviation is at most {most:.1f} points")
    flags = record.autoattack.flags if record.autoattack else []
    return lines + [f"  AutoAttack warns: {flag}" for flag in flags]


def images(record: Record) -> str:
    """Which images the accuracies are of."""
    return f"{record.n:,} test images of {record.data.title}"


def _note(record: EvaluationRecord | TransferRecord) -> str:
    low, high = wilson_interval(record.n // 2, record.n)  # the widest of n images
    seed = record.subset.seed  # images from a file are no subset that a seed drew
    drawn = "" if seed is None else f", subset seed {seed}"
    width = f"95% intervals are at most {100 * (high - low):.1f} points wide"
    norm, within, eps = printable(str(record.attack.get("norm"))), "", record.attack.get("eps")
    if isinstance(eps, (int, float)) and is_number(eps):  # a stranger's record may not say
        within = f", {NORMS.get(norm, norm)} eps {shown_eps(eps, norm)}"
    return f"{images(record)}{drawn}{within}; {width}"
