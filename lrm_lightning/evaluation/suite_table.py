"""What an evaluation prints at its end: accuracies side by side, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrm_lightning.runs.intervals import wilson_interval


def print_evaluations(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print one row an attack and one column a network, then the verdicts on masking.

    Args:
        records: Of one suite, as ``evaluate`` writes them.
        console: Where to print; standard output by default. In a file or a pipe the table is as
        wide
            as it needs.
    """
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("accuracy %")
    for record in records:
        table.add_column(Text(record["model"]["label"]), justify="right")
    for metric in dict.fromkeys(name for record in records for name in record["metrics"]):
        table.add_row(Text(metric), *(Text(_accuracy(record, metric)) for record in records))
    console = _fitting(console, table)
    console.print(table, highlight=False)
    for record in records:
        if "masking" in record:
            _print_verdict(record, console)
    for note in dict.fromkeys(_note(record) for record in records):
        console.print(Text(note), soft_wrap=True)


def print_matrix(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the black-box matrix: one row a target, one column a source."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("target \\ source")
    for source in record["sources"]:
        table.add_column(Text(source["label"]), justify="right")
    rows = zip(record["targets"], record["accuracy"], record["same_network"], strict=True)
    for target, accuracy, same in rows:
        cells = [
            f"{100 * each:.1f}{'*' if own else ''}"
            for each, own in zip(accuracy, same, strict=True)
        ]
        table.add_row(Text(target["label"]), *(Text(cell) for cell in cells))
    console = _fitting(console, table)
    console.print(table, highlight=False)
    if any(map(any, record["same_network"])):
        console.print(Text("* the source is the target itself: a white-box number"), soft_wrap=True)
    console.print(Text(_note(record)), soft_wrap=True)


def _fitting(console: Console, table: Table) -> Console:
    if console.is_terminal:
        return console
    table.width = Console(width=10_000).measure(table).maximum
    return Console(file=console.file, width=max(table.width, 80))


def _accuracy(record: Mapping[str, Any], metric: str) -> str:
    value = record["metrics"].get(metric)
    if value is None:
        return "-"
    low, high = record["intervals"][metric]
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _print_verdict(record: Mapping[str, Any], console: Console) -> None:
    masking = record["masking"]
    label = record["model"]["label"]
    console.print(Text(f"{label}: gradient {masking['verdict']}"), soft_wrap=True)
    for sign in masking["signs"]:
        if sign["fired"]:
            console.print(Text(f"  {sign['name']}: {sign['explanation']}"), soft_wrap=True)
    if masking["loss"]["count"]:
        console.print(Text(f"  {masking['loss']['explanation']}"), soft_wrap=True)
    for flag in record["autoattack"]["flags"]:
        console.print(Text(f"  AutoAttack warns: {flag}"), soft_wrap=True)


def _note(record: Mapping[str, Any]) -> str:
    data, n = record["data"], record["n"]
    half = 100 * (wilson_interval(n // 2, n)[1] - 0.5) if n > 1 else 50
    name = data["name"] if data.get("official", True) else f"{data['name']} ({data['note']})"
    seed = record["subset"]["seed"]
    return f"{n:,} test images of {name}, subset seed {seed}; 95% within {half:.1f} points"
