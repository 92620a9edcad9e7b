"""How figures look, and how they become PDF, SVG and a part of a page."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lrm_lightning.reporting.aggregate import Group
from lrm_lightning.reporting.parts import Origins, Plot
from lrm_lightning.runs.files import replacing, write_text

SHEET = Path(__file__).parents[1] / "templates" / "figures.mplstyle"
LABEL_WIDTH, LINE_HEIGHT = 54, 0.12  # letters across a figure, inches a line of the legend
KEY_WIDTH = 6  # letters that fit into the room of the line before a name, and of the gaps around it
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
    **{INK: "--ink", FAINT: "--faint", GRID: "--grid"},
    **{color: f"--{name.replace('_', '-')}" for name, color in COLORS.items()},
    **{color: f"--more-{place}" for place, color in enumerate(MORE_COLORS)},
}
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
SERIES = "series-"
# Namespaces, as ElementTree writes them before a name.
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures are drawn and saved the project's way, whatever matplotlib is set to."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(SHEET, use_default_template=False))
        # Names may have letters that the font lacks: a box stands for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_axes(xlabel: str, ylabel: str) -> Axes:
    """Empty axes in a figure of their own."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_axisbelow(True)
    return axes


def draw(axes: Axes, x: ArrayLike, y: ArrayLike, label: str, **look: Any) -> None:
    """Draw a line, or marks, that the legend names by any label; looks are ``Axes.plot``'s."""
    # Matplotlib's own way leaves out labels that begin with an underscore.
    axes.plot(x, y, label=label, gid=f"{SERIES}{len(axes.lines)}", **look)


def draw_papers(axes: Axes, points: Mapping[Any, float], color: str, marker: str) -> None:
    """Draw the paper's numbers, ``x`` to ``y``, as hollow marks."""
    look = {"markerfacecolor": "none", "markeredgewidth": 0.8, "clip_on": False}
    axes.plot(list(points), list(points.values()), marker, color=color, **look)


def name_papers(axes: Axes, marker: str) -> None:
    """Put the paper's hollow marks into the legend."""
    look = {"color": FAINT, "markerfacecolor": "none", "linestyle": ""}
    draw(axes, [], [], "paper", marker=marker, **look)


def series_of(axes: Axes) -> list[Line2D]:
    """What :func:`draw` drew, in order."""
    return [line for line in axes.lines if (line.get_gid() or "").startswith(SERIES)]


def plot(
    axes: Axes, slug: str, caption: str, seen: Sequence[str], origins: Origins, columns: int = 2
) -> Plot:
    """Axes as a part of the report, with a legend of everything that :func:`draw` drew.

    The first of ``seen`` says what is drawn, the others the main numbers of each line: the text for
    who can't see it. The legend has fewer ``columns`` if names are long.
    """
    handles = series_of(axes)
    labels = ["\n".join(textwrap.wrap(str(each.get_label()), LABEL_WIDTH)) for each in handles]
    widest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(columns, len(handles), (LABEL_WIDTH + KEY_WIDTH) // (widest + KEY_WIDTH)))
    rows = sum(label.count("\n") + 1 for label in labels) / columns
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * max(0, rows - 1))
    look = {"loc": "outside upper left", "columnspacing": 1.2, "handlelength": 2.2}
    figure.legend(handles, labels, ncols=columns, **look)
    what, *numbers = seen
    return Plot(slug, caption, f"{what}. {'; '.join(numbers)}.", figure, origins)


def look_of(group: Group, groups: Sequence[Group]) -> tuple[str, Any, str]:
    """Colour, line and marker that tell a group from the others of a figure."""
    methods = list(dict.fromkeys(each.method for each in groups))
    more = [method for method in methods if method not in COLORS]
    colors = COLORS | {each: MORE_COLORS[k % len(MORE_COLORS)] for k, each in enumerate(more)}
    place = [each for each in groups if each.method == group.method].index(group)
    marker = MARKERS[methods.index(group.method) % len(MARKERS)]
    return colors[group.method], LINES[place % len(LINES)], marker


def lowest(groups: Sequence[Group]) -> str:
    """What a caption adds where of several seeds one is drawn."""
    return (
        " (of several seeds, the lowest)" if any(len(each.origins) > 1 for each in groups) else ""
    )


def save(plot: Plot, folder: Path) -> str:
    """Write a plot as PDF and SVG into a folder; returns the SVG to put into a page."""
    svg, pdf, metadata = io.StringIO(), io.BytesIO(), {"Title": plot.caption}
    plot.figure.draw_without_rendering()
    plot.figure.set_layout_engine("none")  # what was laid out once needn't be again for each file
    plot.figure.savefig(svg, format="svg", metadata=metadata | {"Date": None})
    write_text(folder / f"{plot.slug}.svg", svg.getvalue())
    plot.figure.savefig(pdf, format="pdf", metadata=metadata | {"CreationDate": None})
    with replacing(folder / f"{plot.slug}.pdf") as partial:
        partial.write_bytes(pdf.getvalue())  # matplotlib hides why it could not write a file
    return inline(svg.getvalue(), plot.slug)


def inline(svg: str, slug: str) -> str:
    """An SVG file's text as a part of a page that has others too.

    Without prolog, metadata and comments; ids get the slug before them, for those of several
    figures are alike; colours become variables of the page.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet's rule for * would hold for the whole page, which has it for figures.
            if child.tag in (f"{SVG}metadata", f"{SVG}title", f"{SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        given = {key.removeprefix(XLINK): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib |= {key: _inlined(key, value, slug) for key, value in given.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true"}
    return ElementTree.tostring(root, encoding="unicode")


def _inlined(key: str, value: str, slug: str) -> str:
    """An attribute's value with the slug in what refers to an id, and variables for colours."""
    if key == "id":
        return f"{slug}-{value}"
    if key == "href":
        return value.replace("#", f"#{slug}-", 1)
    for color, variable in CSS_VARIABLES.items():
        value = value.replace(color, f"var({variable})")
    return value.replace("url(#", f"url(#{slug}-")
