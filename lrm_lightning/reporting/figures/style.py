"""How figures look, and how they become PDF, SVG and a part of a page."""

import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lrm_lightning.errors import UserError
from lrm_lightning.reporting.groups import Group
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import cited

SIZE = (4.8, 3.4)  # inches; one column of a paper, and legible on a phone
LABEL_WIDTH, LINE_HEIGHT = 62, 0.16  # letters across a figure, inches a line of the legend
INK, FAINT, GRID = "#1f2933", "#5b6672", "#dde2e7"
# One colour a method, told apart by the colour-blind and in grey by line style and marker too.
COLORS = {
    "regular": "#6b7280",
    "label_smoothing": "#b45309",
    "pgd": "#1d4ed8",
    "alp": "#047857",
    "lrm": "#be123c",
}
MORE_COLORS = ("#7c3aed", "#0e7490", "#a16207", "#9d174d")
# On a page these follow the reader's light or dark scheme.
CSS_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    **{color: f"--{name.replace('_', '-')}" for name, color in COLORS.items()},
    **{color: f"--more-{place}" for place, color in enumerate(MORE_COLORS)},
}
SERIES = "series-"
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
RC: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text stays text
    "savefig.transparent": True,
    "svg.fonttype": "path",  # the same on every machine
    "svg.hashsalt": "lrm_lightning",  # the same records give the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a name with $ is a name
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Plot:
    """A figure with what must stand beside it.

    Attributes:
        slug: Name of its files.
        caption: What it shows, on which data.
        alt: What one sees in it, with the main numbers.
        sources: Numbers of its sources.
    """

    slug: str
    caption: str
    alt: str
    sources: tuple[int, ...]
    figure: Figure


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures are drawn and saved the project's way, whatever matplotlib is set to."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        # Names may have letters that the font lacks: a box stands for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_axes(xlabel: str, ylabel: str) -> Axes:
    """Empty axes in a figure of their own."""
    figure = Figure(figsize=SIZE)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_axisbelow(True)
    return axes


def figure_of(axes: Axes) -> Figure:
    """The figure that :func:`new_axes` made."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def draw_series(axes: Axes, x: ArrayLike, y: ArrayLike, label: str, **look: Any) -> None:  # noqa: ANN401
    """Draw a line, or marks, that the legend shall name.

    Args:
        axes: Where.
        x: Abscissas.
        y: Ordinates.
        label: Any name; matplotlib's own way leaves out those that begin with ``_``.
        **look: As for ``Axes.plot``.
    """
    axes.plot(x, y, label=label, gid=f"{SERIES}{len(axes.lines)}", **look)


def draw_mark_of_paper(axes: Axes, marker: str) -> None:
    """Put the paper's hollow marks into the legend."""
    look = {"color": FAINT, "markerfacecolor": "none", "linestyle": ""}
    draw_series(axes, [], [], "paper", marker=marker, **look)


def series_of(axes: Axes) -> list[Line2D]:
    """What :func:`draw_series` drew, in order."""
    return [line for line in axes.lines if (line.get_gid() or "").startswith(SERIES)]


def legend(axes: Axes, columns: int = 1) -> None:
    """A legend above the axes of everything drawn as a series.

    Args:
        axes: The axes.
        columns: At most so many, fewer if names are long; the figure grows with the rows.
    """
    handles = series_of(axes)
    names = [str(each.get_label()) for each in handles]
    labels = ["\n".join(textwrap.wrap(name, LABEL_WIDTH)) for name in names]
    widest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(columns, len(handles), LABEL_WIDTH // widest))
    rows = sum(label.count("\n") + 1 for label in labels) / columns
    figure = figure_of(axes)
    figure.set_figheight(SIZE[1] + LINE_HEIGHT * max(0, rows - 1))
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2,
        handlelength=2.2,
    )  # fmt: skip


def color_of(method: str, place: int = 0) -> str:
    """A method's colour; one of the others for the ``place``-th method without its own."""
    return COLORS.get(method, MORE_COLORS[place % len(MORE_COLORS)])


def style_of(group: Group, groups: list[Group]) -> tuple[str, object, str]:
    """Colour, line and marker that tell a group from the others of a figure."""
    methods = list(dict.fromkeys(each.first.method for each in groups))
    unknown = [method for method in methods if method not in COLORS]
    method = group.first.method
    same = [each for each in groups if each.first.method == method]
    color = color_of(method, unknown.index(method) if method in unknown else 0)
    return (
        color,
        LINES[same.index(group) % len(LINES)],
        MARKERS[methods.index(method) % len(MARKERS)],
    )


def sources_of(groups: list[Group], book: SourceBook) -> tuple[int, ...]:
    """Numbers of the sources of several groups."""
    return tuple(dict.fromkeys(each for group in groups for each in cited(group, book)))


def save(plot: Plot, folder: Path) -> str:
    """Write a plot as PDF and SVG.

    Args:
        plot: The plot.
        folder: Where.

    Returns:
        The SVG to put into a page.

    Raises:
        UserError: If the files can't be written.
    """
    svg = io.StringIO()
    plot.figure.draw_without_rendering()
    plot.figure.set_layout_engine("none")  # what was laid out once needn't be again for each file
    try:
        plot.figure.savefig(
            folder / f"{plot.slug}.pdf", metadata={"CreationDate": None, "Title": plot.caption}
        )
        plot.figure.savefig(svg, format="svg", metadata={"Date": None, "Title": plot.caption})
        (folder / f"{plot.slug}.svg").write_text(svg.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; choose another with out=..."
        ) from error
    return inline(svg.getvalue(), plot.slug)


def inline(svg: str, prefix: str) -> str:
    """An SVG file's text as a part of a page that has others too.

    Without prolog, metadata and comments; ids get a prefix, for those of several figures are alike;
    colours become variables of the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Its rule for * would hold for the whole page; the style sheet has it for figures.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id|xlink:href|href)="(#?)', rf'\1="\2{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    for color, variable in CSS_VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.strip()
