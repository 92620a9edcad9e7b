"""A table as text, for Markdown and HTML: numbers, the paper's beside them, their sources."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lrm_lightning.reporting.groups import Group
from lrm_lightning.reporting.sources import SourceBook

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        value: The number, or :data:`NOTHING`.
        range: Its 95% interval, or how many seeds its standard deviation is over.
        paper: The paper's number.
        difference: Ours minus the paper's.
        mark: A word on this number alone.
        sources: Numbers of its sources.
    """

    value: str = NOTHING
    range: str = ""
    paper: str = ""
    difference: str = ""
    mark: str = ""
    sources: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row: ``head`` names it, ``detail`` says what it stands on or how to get what is missing."""

    head: str
    cells: tuple[Cell, ...]
    detail: str = ""
    command: str = ""

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the sources of all its cells."""
        return tuple(dict.fromkeys(each for cell in self.cells for each in cell.sources))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        slug: A name for anchors and files.
        caption: What it shows, on which data.
        corner: Heading of the rows' names.
        columns: Headings.
        notes: What a reader must know of it.
    """

    slug: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def number(value: float, decimals: int = 1) -> str:
    """A number with a fixed number of decimals and never a minus before zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float, decimals: int = 1) -> str:
    """The same with a plus or a minus before it, and ± before zero."""
    text = number(value, decimals)
    if float(text.replace(MINUS, "-")) == 0:
        return f"±{text}"
    return text if text.startswith(MINUS) else f"+{text}"


def percent_range(interval: tuple[float, float]) -> str:
    """An interval of accuracies in [0, 1] as ``[73.1, 74.9]``."""
    low, high = interval
    return f"[{number(100 * low)}, {number(100 * high)}]"


def accuracy_cell(
    group: Group, name: str, book: SourceBook, printed: float | None = None, mark: str = ""
) -> Cell:
    """The cell of one accuracy.

    Args:
        group: What was measured.
        name: Which accuracy.
        book: Where its sources are cited.
        printed: The paper's number in %, if it has one.
        mark: A word on this number alone.

    Returns:
        Accuracy in % with its interval, or mean and standard deviation over seeds; the difference
        to the paper's in percentage points.
    """
    beside = number(printed) if printed is not None else ""
    if name not in group.names:
        return Cell(paper=beside)
    value, spread = 100 * group.mean(name), group.spread(name)
    if spread is None:
        shown, bounds = number(value), percent_range(group.first.interval(name))
    else:
        shown = f"{number(value)} ± {number(100 * spread)}"
        distinct = len(set(group.seeds)) == len(group.entries)
        bounds = f"{len(group.entries)} {'seeds' if distinct else 'runs'}"
    return Cell(
        value=shown,
        range=bounds,
        paper=beside,
        difference=signed(value - printed) if printed is not None else "",
        mark=mark,
        sources=cited(group, book),
    )


def cited(group: Group, book: SourceBook) -> tuple[int, ...]:
    """Numbers of a group's sources."""
    return tuple(book.cite(entry.origin) for entry in group.entries)


def stands_on(group: Group, extra: Sequence[str] = ()) -> str:
    """On how many images and seeds a row stands, and what else there is to say of it."""
    parts = [f"n = {group.first.origin.n:,}"]
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    if seeds:
        parts.append(f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(seeds)}")
    parts += [group.differs] if group.differs else []
    return "; ".join([*parts, *extra])
