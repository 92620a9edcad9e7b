"""The step curve of section 5.3: accuracy by the number of PGD steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.figures.style import (
    Plot,
    draw_mark_of_paper,
    draw_series,
    figure_of,
    legend,
    new_axes,
    sources_of,
    style_of,
)
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.records import Curve, Data, Evaluation
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import number
from lrm_lightning.runs.intervals import wilson_interval

TICKS = (0, 5, 10, 20, 50, 100, 150, 200)


def step_curve(groups: Sequence[Group], data: Data, book: SourceBook) -> Plot | None:
    """Accuracy against PGD steps of the paper's rows, with the paper's numbers as hollow marks.

    Returns:
        The plot, or ``None`` if no network was evaluated step by step. With several seeds a curve
        is their mean; the band is the 95% interval of one seed.
    """
    drawn = titled([group for group in groups if group.row is not None and _curves(group)])
    if not drawn:
        return None
    comparable = data.name == paper.DATA
    axes = new_axes("PGD steps", "accuracy, %")
    seen = []
    for group in drawn:
        color, line, marker = style_of(group, drawn)
        steps, accuracy, n = _mean(group)
        low, high = zip(*(wilson_interval(round(each * n), n) for each in accuracy), strict=True)
        axes.fill_between(
            steps, 100 * np.array(low), 100 * np.array(high), color=color, alpha=0.12, linewidth=0
        )
        draw_series(axes, steps, 100 * accuracy, group.title, color=color, linestyle=line)
        assert group.row is not None
        if comparable:
            _mark_papers(axes, group.row, color, marker, steps[-1])
        seen.append(
            f"{group.title}: {number(100 * accuracy[0])}% at {steps[0]} steps,"
            f" {number(100 * accuracy[-1])}% at {steps[-1]}"
        )
    if comparable:
        draw_mark_of_paper(axes, "o")
    last = max(curve.steps[-1] for group in drawn for curve in _curves(group))
    # The first steps, where the paper's numbers are, get as much room as the last hundred.
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_xticks([tick for tick in TICKS if tick <= last])
    axes.set_xlim(0, last)
    axes.set_ylim(-2, 100)
    legend(axes, columns=3)
    return Plot(
        slug="step-curve",
        caption=f"Section 5.3. Accuracy by the number of PGD steps, {data.title}",
        alt="Accuracy against PGD steps. " + "; ".join(seen) + ".",
        sources=sources_of(drawn, book),
        figure=figure_of(axes),
    )


def _mark_papers(axes: Axes, row: paper.Method, color: str, marker: str, last: int) -> None:
    points = {
        int(name[3:]): accuracy
        for name, accuracy in row.white_box.items()
        if name.startswith("pgd") and int(name[3:]) <= last
    }
    axes.plot(
        list(points), list(points.values()), marker, color=color, markerfacecolor="none",
        markeredgewidth=1.1, clip_on=False,
    )  # fmt: skip
    if 200 in points:
        axes.annotate(
            f"paper: {points[200]}", (200, points[200]), textcoords="offset points", xytext=(-4, 7),
            ha="right", color=color, fontsize=8,
        )  # fmt: skip


def _curves(group: Group) -> list[Curve]:
    origins = [entry.origin for entry in group.entries]
    curves = [each.curve for each in origins if isinstance(each, Evaluation)]
    found = [each for each in curves if each is not None and each.steps]
    return found if len({each.steps for each in found}) == 1 else found[:1]


def _mean(group: Group) -> tuple[tuple[int, ...], np.ndarray, int]:
    curves = _curves(group)
    accuracy = np.mean([each.accuracy for each in curves], axis=0)
    return curves[0].steps, accuracy, group.first.origin.n
