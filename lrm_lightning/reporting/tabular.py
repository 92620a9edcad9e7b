"""Step 5, tables as files: LaTeX in booktabs' style, and CSV with a row a number."""

import csv
import io

from lrm_lightning.reporting.parts import MINUS, NOTHING, Cell, Row, Table
from lrm_lightning.runs.records import one_line

# What is special in LaTeX, or would be drawn as another letter; "[" and "*" after a line's end are
# arguments of \\.
ESCAPED = str.maketrans(
    {each: f"\\{each}" for each in "&%$#_{}"}
    | {each: f"{{{each}}}" for each in "[]*`"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"±": r"$\pm$", MINUS: "$-$", NOTHING: "--", "“": "``", "”": "''", "…": r"\dots{}"}
)
FIELDS = ("value", "sd", "low", "high", "paper", "mark", "on")
# A spreadsheet takes a text that begins so for a formula, which may start programs.
FORMULA = ("=", "+", "-", "@")


def latex(table: Table) -> str:
    r"""A table for ``\input``; it needs the package booktabs, and UTF-8 as LaTeX has by default.

    The paper's numbers stand in a row of their own below ours; notes and captions are comments.
    """
    lines = [f"% {one_line(each)}" for each in (table.caption, *table.notes)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [_latex_row(table.corner, list(map(escaped, table.columns))), r"\midrule"]
    for row in table.rows:
        lines.append(_latex_row(row.head, list(map(_latex_cell, row.cells))))
        if any(cell.paper for cell in row.cells):
            papers = [escaped(cell.paper or NOTHING) for cell in row.cells]
            lines.append(r"\quad " + _latex_row("paper", papers))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escaped(text: str) -> str:
    """``text`` so that LaTeX sets it as it is; nothing in it is a command."""
    return one_line(text).translate(ESCAPED)


def comma_separated(table: Table) -> str:
    """A table with a line a number: row, column, value, what it is uncertain by, the paper's."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([_cell(table.corner), "column", *FIELDS])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            lines.writerow([_cell(row.head), _cell(column), *_fields(row, cell)])
    return file.getvalue()


def _latex_row(head: str, cells: list[str]) -> str:
    return " & ".join([escaped(head), *cells]) + r" \\"


def _latex_cell(cell: Cell) -> str:
    value = escaped(cell.value)
    # How many seeds there are is the same for a whole row.
    interval = rf" {{\scriptsize {escaped(cell.range)}}}" if _is_interval(cell) else ""
    return value + interval + (rf" {{\scriptsize {escaped(cell.mark)}}}" if cell.mark else "")


def _fields(row: Row, cell: Cell) -> list[str]:
    mean, _, deviation = cell.value.partition(" ± ")
    low, _, high = cell.range.strip("[]").partition(", ") if _is_interval(cell) else ("", "", "")
    numbers = ("" if each == NOTHING else each for each in (mean, deviation, low, high, cell.paper))
    return [*(each.replace(MINUS, "-") for each in numbers), _cell(cell.mark), _cell(row.detail)]


def _is_interval(cell: Cell) -> bool:
    return cell.range.startswith("[")


def _cell(text: str) -> str:
    clean = one_line(text)
    return f"'{clean}" if clean.startswith(FORMULA) else clean
