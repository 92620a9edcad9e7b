"""Training curves: validation accuracies and loss by epoch."""

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from lrm_lightning.reporting.figures.style import (
    Plot,
    draw_series,
    figure_of,
    legend,
    new_axes,
    style_of,
)
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.metrics import Points, largest_pgd, training_curves
from lrm_lightning.reporting.records import Data, Run
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import number
from lrm_lightning.reporting.white_box import attack_title

# More lines in one figure can't be told apart.
LINES_AT_MOST = 8


def training_plots(groups: Sequence[Group], data: Data, book: SourceBook) -> list[Plot]:
    """Natural and robust validation accuracy and training loss, at most eight runs a plot.

    Args:
        groups: The runs' own tests; of several seeds the lowest is drawn.
        data: The images.
        book: Where the runs are cited.

    Returns:
        The plots; none if no run has its ``metrics.csv``.
    """
    found = titled([group for group in groups if _curves(group)])
    with_curves = [(group, _curves(group)) for group in found]
    plots = []
    for start in range(0, len(with_curves), LINES_AT_MOST):
        part = with_curves[start : start + LINES_AT_MOST]
        suffix = f"-{start // LINES_AT_MOST + 1}" if start else ""
        plots += _part(part, suffix, data, book)
    return plots


def _part(
    part: list[tuple[Group, dict[str, Points]]], suffix: str, data: Data, book: SourceBook
) -> list[Plot]:
    robust = {curves_of: largest_pgd(curves) for curves_of, (_, curves) in enumerate(part)}
    attacks = sorted({attack_title(name.split("/")[-1]) for name in robust.values() if name})
    wanted = [
        ("natural", "natural accuracy", ["val/acc/clean"] * len(part)),
        ("robust", f"{', '.join(attacks)} accuracy", [robust[place] for place in range(len(part))]),
        ("loss", "training loss", ["train/loss"] * len(part)),
    ]
    plots = []
    for kind, what, names in wanted:
        drawn = [
            (group, curves[name])
            for (group, curves), name in zip(part, names, strict=True)
            if name is not None and curves.get(name)
        ]
        if drawn:
            plots.append(_plot(kind, what, drawn, suffix, data, book))
    return plots


def _plot(
    kind: str,
    what: str,
    drawn: list[tuple[Group, Points]],
    suffix: str,
    data: Data,
    book: SourceBook,
) -> Plot:
    is_accuracy = kind != "loss"
    axes = new_axes("epoch", f"{what}, %" if is_accuracy else what)
    groups = [group for group, _ in drawn]
    seen = []
    for group, points in drawn:
        color, line, _ = style_of(group, groups)
        scale = 100 if is_accuracy else 1
        epochs, values = zip(*((epoch, scale * value) for epoch, value in points), strict=True)
        marker = "o" if len(epochs) <= 12 else ""
        look = {"color": color, "linestyle": line, "marker": marker, "markersize": 3}
        draw_series(axes, epochs, values, group.title, **look)
        seen.append(f"{group.title}: {number(values[-1], 1 if is_accuracy else 2)} at the end")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, columns=3)
    where = (
        "of the validation split"
        if is_accuracy
        else "of each method, mean over what was logged in an epoch"
    )
    several = any(len(group.entries) > 1 for group in groups)
    return Plot(
        slug=f"training-{kind}{suffix}",
        caption=f"{what[0].upper()}{what[1:]} {where}, {data.title}"
        + (" (of several seeds, the lowest)" if several else ""),
        alt=f"{what} by epoch. " + "; ".join(seen) + ".",
        sources=tuple(book.cite(group.first.origin) for group in groups),
        figure=figure_of(axes),
    )


def _curves(group: Group) -> dict[str, Points]:
    origin = group.first.origin
    return training_curves(origin.folder) if isinstance(origin, Run) else {}
