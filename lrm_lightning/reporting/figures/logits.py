"""Distributions of the logits: Fig. 1 left (PGD and ALP) and Fig. 2 right (label smoothing)."""

from collections.abc import Sequence

import numpy as np

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.figures.style import (
    Plot,
    color_of,
    draw_series,
    figure_of,
    legend,
    new_axes,
)
from lrm_lightning.reporting.groups import Group, titled
from lrm_lightning.reporting.records import Data, Evaluation, Histogram
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import number

# Adversarial dashed, in print as on the screen.
KINDS = {"clean": "-", "adversarial": (0, (3, 1.3))}
TAIL = 1e-3  # share of the logits that may lie beyond the axis on either side


def figure_1_left(groups: Sequence[Group], data: Data, book: SourceBook) -> Plot | None:
    """Logits of PGD and ALP, natural and adversarial; ``None`` unless both were evaluated."""
    chosen = [
        group
        for name in ("pgd", "alp")
        for group in groups
        if group.row is not None and group.row.name == name and _histograms(group)
    ]
    # With several configurations of one method, the first of each.
    chosen = list({group.first.method: group for group in reversed(chosen)}.values())[::-1]
    if len(chosen) < 2:
        return None
    return _plot("fig-1-left", "Fig. 1 left. Logits of PGD and ALP", chosen, data, book)


def figure_2_right(groups: Sequence[Group], data: Data, book: SourceBook) -> Plot | None:
    """Logits of label smoothing with s = 0.75; ``None`` if that wasn't evaluated."""
    chosen = [group for group in groups if is_figure_2(group) and _histograms(group)]
    if not chosen:
        return None
    caption = f"Fig. 2 right. Logits of label smoothing with s = {paper.SMOOTHING_OF_FIGURE_2}"
    return _plot("fig-2-right", caption, chosen[:1], data, book)


def is_figure_2(group: Group) -> bool:
    """Whether a group is label smoothing of the strength that Fig. 2 right has."""
    is_strength = group.first.settings.get("method.smoothing") == paper.SMOOTHING_OF_FIGURE_2
    return group.first.method == "label_smoothing" and is_strength


def _plot(slug: str, caption: str, groups: list[Group], data: Data, book: SourceBook) -> Plot:
    groups = titled(groups)
    axes = new_axes("logit", "density")
    seen, ends = [], []
    for group in groups:
        method = group.first.method
        for kind, line in KINDS.items():
            histogram = _histograms(group).get(kind)
            if histogram is None:
                continue
            edges, density = _density(histogram)
            label = f"{group.title}, {kind}"
            color, heights = color_of(method), [*density, density[-1]]
            draw_series(
                axes, edges, heights, label, color=color, linestyle=line, drawstyle="steps-post"
            )
            if kind == "clean":
                axes.fill_between(edges, heights, step="post", color=color, alpha=0.12, linewidth=0)
            seen.append(f"{label}: variance {number(histogram.variance, 2)}")
            ends.append(_middle(histogram))
    axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    axes.set_ylim(bottom=0)
    legend(axes, columns=2)
    several = any(len(group.entries) > 1 for group in groups)
    return Plot(
        slug=slug,
        caption=f"{caption}, {data.title}" + (" (of several seeds, the lowest)" if several else ""),
        alt="Densities of all logits. " + "; ".join(seen) + ".",
        sources=tuple(book.cite(group.first.origin) for group in groups),
        figure=figure_of(axes),
    )


def _histograms(group: Group) -> dict[str, Histogram]:
    origin = group.first.origin
    return dict(origin.logits) if isinstance(origin, Evaluation) else {}


def _density(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    edges, counts = np.asarray(histogram.edges), np.asarray(histogram.counts)
    return edges, counts / counts.sum() / np.diff(edges)


def _middle(histogram: Histogram) -> tuple[float, float]:
    """Where all but the outermost :data:`TAIL` of the logits lie."""
    edges, counts = np.asarray(histogram.edges), np.asarray(histogram.counts)
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    low = edges[np.searchsorted(below, TAIL, side="right") - 1]
    high = edges[np.searchsorted(below, 1 - TAIL)]
    return float(low), float(high)
