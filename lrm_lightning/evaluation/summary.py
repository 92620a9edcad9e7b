"""The table that every run and every sweep ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrm_lightning.runs.files import shown_path

HEADINGS = {"clean": "clean %", "fgsm": "FGSM %", "pgd20": "PGD-20 %"}

Row = tuple[str, Mapping[str, Any], Path]


def results_table(rows: Sequence[Row]) -> Table:
    """Accuracies with their intervals, one row a run.

    Args:
        rows: For each run its label (what distinguishes it from the others), its record and its
            directory. The record's ``metrics`` and ``intervals`` are in [0, 1]; what is missing is
            shown as ``-``.

    Returns:
        Table with the columns method, run, one for each attack (accuracy in % and 95% interval),
        directory.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    labelled = any(label for label, _, _ in rows)
    table.add_column("method", overflow="fold")
    if labelled:
        table.add_column("run", overflow="fold")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    table.add_column("directory", overflow="fold")
    for label, record, path in rows:
        # Text, not str: rich would take a list in an override for markup.
        cells = [Text(str(record.get("method", "?")))]
        cells += [Text(label)] if labelled else []
        cells += [Text(_accuracy(record, key)) for key in HEADINGS]
        table.add_row(*cells, Text(shown_path(path)))
    return table


def print_summary(records: Sequence[Row], console: Console | None = None) -> None:
    """Print :func:`results_table` and below it what its numbers stand on.

    Args:
        records: As for :func:`results_table`.
        console: Where to print; standard output by default. In a file or a pipe the table is as
            wide as it needs.
    """
    console = console or Console()
    table = results_table(records)
    if not console.is_terminal:
        wide = Console(width=10_000)
        table.width = wide.measure(table).maximum
        console = Console(file=console.file, width=max(table.width, 80))
    console.print(table, highlight=False)
    for note in _notes(records):
        console.print(Text(note), soft_wrap=True)


def _accuracy(record: Mapping[str, Any], key: str) -> str:
    value = (record.get("metrics") or {}).get(key)
    if value is None:
        return "-"
    interval = (record.get("intervals") or {}).get(key)
    bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * value:.1f}{bounds}"


def _notes(records: Sequence[Row]) -> list[str]:
    """How many images, and which data aren't what their name says; each said once."""
    sizes = sorted({record["n"] for _, record, _ in records if record.get("n")})
    notes = []
    if sizes:
        notes.append(f"95% intervals over {' or '.join(f'{size:,}' for size in sizes)} test images")
    for _, record, _ in records:
        data = record.get("data") or {}
        if data.get("official", True):
            continue
        note = data.get("note") or "not the official bytes"
        name = data.get("name")
        notes.append(f"{name}: {note}" if name and not note.startswith(name) else note)
    return list(dict.fromkeys(notes))
