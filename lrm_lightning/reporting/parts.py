"""What a section is made of; ``origins`` are the records that numbers came from."""

import shlex
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lrm_lightning.reporting.aggregate import Origin
from lrm_lightning.runs.records import Masking, Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # its import takes half a second

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

Origins: TypeAlias = tuple[Origin[Record], ...]


class Cell(NamedTuple):
    """One number as text."""

    value: str = NOTHING
    range: str = ""  # its 95% interval, or how many seeds its standard deviation is over
    paper: str = ""  # the paper's number
    difference: str = ""  # ours minus the paper's
    mark: str = ""  # a word on this number alone
    origins: Origins = ()


class Row(NamedTuple):
    """A row: ``head`` names it, ``detail`` says what it stands on or how to get what is missing."""

    head: str
    cells: list[Cell]
    detail: str
    command: str = ""


class Table(NamedTuple):
    """A table; ``slug`` is its anchor, ``corner`` the heading above its rows' names.

    The page sorts the rows of a ``sortable`` one by the column whose heading is pressed.
    """

    slug: str
    caption: str
    corner: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]
    sortable: bool = False


class Plot(NamedTuple):
    """A figure with what must stand beside it."""

    slug: str  # name of its files, of a-z, 0-9 and hyphens
    caption: str  # what it shows, on which data
    alt: str  # what one sees in it, with the main numbers
    figure: "Figure"
    origins: Origins


class Verdict(NamedTuple):
    """Whether the network ``title`` masks its gradients."""

    title: str
    masking: Masking
    weakness: str  # why the attacks that it stands on were weak, or nothing
    origins: Origins


class Example(NamedTuple):
    """One attacked image: its place in the test split, classes as names, pictures as data URIs."""

    index: int
    label: str
    clean: str  # what the network takes the image for
    adversarial: str  # and the attacked one
    image: str
    perturbation: str
    attacked: str


class Gallery(NamedTuple):
    """The attacked images of the network ``title``."""

    title: str
    examples: list[Example]
    origins: Origins


class Missing(NamedTuple):
    """What isn't there yet, and the command that makes it."""

    what: str
    command: str


Part: TypeAlias = Table | Plot | Verdict | Gallery | Missing


def command(name: str, *overrides: str) -> str:
    """The line that runs ``lrm_lightning.<name>``, to be pasted into a shell."""
    return f"python -m lrm_lightning.{name} {shlex.join(overrides)}"


def number(value: float, decimals: int = 1) -> str:
    """A number with a fixed number of decimals and never a minus before zero."""
    return f"{value:z.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 1) -> str:
    """The same with a plus or a minus before it, and ± before zero."""
    text = f"{value:+z.{decimals}f}"
    return (text if float(text) else text.replace("+", "±")).replace("-", MINUS)


def percent_range(interval: tuple[float, float]) -> str:
    """An interval of accuracies in [0, 1] as ``[73.1, 74.9]``."""
    low, high = interval
    return f"[{number(100 * low)}, {number(100 * high)}]"


def number_cell(
    values: Sequence[float],
    origins: Origins,
    printed: float | None = None,
    *,
    bounds: str = "",
    seeds: Sequence[int | None] = (),
    mark: str = "",
    decimals: int = 1,
) -> Cell:
    """One number with its ``bounds``, or mean and standard deviation of several, a seed each.

    The ``printed`` number of the paper stands beside it, or alone where there are no values.
    """
    beside = "" if printed is None else number(printed, decimals)
    if not values:
        return Cell(paper=beside)
    value, deviation = fmean(values), ""
    if len(values) > 1:
        bounds = f"{len(values)} {'seeds' if len(set(seeds)) == len(values) else 'runs'}"
        deviation = f" ± {number(stdev(values), decimals)}"
    difference = "" if printed is None else signed(value - printed, decimals)
    return Cell(number(value, decimals) + deviation, bounds, beside, difference, mark, origins)
