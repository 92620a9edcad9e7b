"""Tables in the terminal: what a run, a sweep, an evaluation and a transfer matrix end with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrm_lightning.runs.files import shown_path
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import EvaluationRecord, Record, RunRecord, TransferRecord

RUN_HEADINGS = {"clean": "clean %", "fgsm": "FGSM %", "pgd20": "PGD-20 %"}


def print_runs(rows: Sequence[tuple[str, RunRecord, Path]], console: Console | None = None) -> None:
    """Print one row a run: its accuracies with their 95% intervals, and its directory.

    Args:
        rows: For each run its label (what distinguishes it from the others; empty for a single
            one), its record and its directory.
        console: Where to print; standard output by default. In a file or a pipe a table is as wide
            as it needs.
    """
    labels = ["run"] if any(label for label, _, _ in rows) else []
    table = _table("method", *labels, numbers=RUN_HEADINGS.values())
    table.add_column("directory", overflow="fold")
    for label, record, folder in rows:
        numbers = [_with_interval(record, metric) for metric in RUN_HEADINGS]
        _add(table, record.method, *([label] if labels else []), *numbers, shown_path(folder))
    _print(table, [f"95% intervals over {_images(record)}" for _, record, _ in rows], console)


def print_evaluations(records: Sequence[EvaluationRecord], console: Console | None = None) -> None:
    """Print one row a network and one column an attack, then the verdicts on masking.

    Args:
        records: Of one suite.
        console: As for :func:`print_runs`.
    """
    metrics = dict.fromkeys(name for record in records for name in record.metrics)
    metrics = sorted(metrics, key="worst".__eq__)  # it comes last
    table = _table("accuracy %", numbers=metrics)
    for record in records:
        numbers = [f"{100 * record.metrics[name]:.1f}" if name in record.metrics else "-"
                   for name in metrics]  # fmt: skip
        _add(table, record.network.label, *numbers)
    verdicts = [line for record in records for line in _verdict(record)]
    _print(table, verdicts + [_note(record) for record in records], console)


def print_matrix(record: TransferRecord, console: Console | None = None) -> None:
    """Print the black-box matrix: one row a target, one column a source."""
    table = _table("target \\ source", numbers=[source.label for source in record.sources])
    for target, accuracies, same in zip(
        record.targets, record.accuracy, record.same_network, strict=True
    ):
        cells = [
            f"{100 * value:.1f}{'*' * own}" for value, own in zip(accuracies, same, strict=True)
        ]
        _add(table, target.label, *cells)
    whitebox = "* the source is the target itself: a white-box number"
    notes = [whitebox] if any(map(any, record.same_network)) else []
    _print(table, [*notes, _note(record)], console)


def _table(*texts: str, numbers: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in texts:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(Text(heading), justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    # Text, not str: rich would take a list in an override for markup.
    table.add_row(*map(Text, cells))


def _print(table: Table, notes: Iterable[str], console: Console | None) -> None:
    """Print a table and below it each note once."""
    console = console or Console()
    if not console.is_terminal:
        table.width = Console(width=10_000).measure(table).maximum
        console = Console(file=console.file, width=max(table.width, 80))
    console.print(table, highlight=False)
    for note in dict.fromkeys(notes):
        console.print(Text(note), soft_wrap=True)


def _with_interval(record: RunRecord, metric: str) -> str:
    if metric not in record.metrics:
        return "-"
    low, high = record.intervals.get(metric, (None, None))
    bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * record.metrics[metric]:.1f}{bounds}"


def _verdict(record: EvaluationRecord) -> list[str]:
    masking = record.masking
    if masking is None:
        return []
    lines = [f"{record.network.label}: gradient {masking.verdict}"]
    lines += [f"  {sign.name}: {sign.explanation}" for sign in masking.signs if sign.fired]
    lines += [f"  {masking.loss.explanation}"] if masking.loss.count else []
    flags = record.autoattack.flags if record.autoattack else []
    return lines + [f"  AutoAttack warns: {flag}" for flag in flags]


def _images(record: Record) -> str:
    return f"{record.n:,} test images of {record.data.title}"


def _note(record: EvaluationRecord | TransferRecord) -> str:
    half = 100 * (wilson_interval(record.n // 2, record.n)[1] - 0.5) if record.n > 1 else 50
    return f"{_images(record)}, subset seed {record.subset.seed}; 95% within {half:.1f} points"
