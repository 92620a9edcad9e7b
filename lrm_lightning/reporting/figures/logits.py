"""Distributions of the logits: Fig. 1 left (PGD and ALP) and Fig. 2 right (label smoothing)."""

import numpy as np

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.aggregate import Group, Results, titled
from lrm_lightning.reporting.figures import style
from lrm_lightning.reporting.parts import Missing, Plot, command, number
from lrm_lightning.runs.files import shown_path

# Adversarial dashed, in print as on the screen.
KINDS = {"clean": "-", "adversarial": (0, (3, 1.3))}
TAIL = 1e-3  # share of the logits that may lie beyond the axis on either side


def figure_1_left(results: Results) -> list[Plot | Missing]:
    """Logits of PGD and ALP, natural and adversarial, if both were evaluated."""
    found = {
        group.row.name: group
        for group in reversed(results.paper)  # of several configurations the first
        if group.row is not None and group.evaluations[0].logits
    }
    if not {"pgd", "alp"} <= found.keys():
        what = "No Fig. 1 left yet, it needs the logits of PGD and ALP"
        return [Missing(what, command("evaluate", "runs=[RUN]", "suite=paper"))]
    groups = [found["pgd"], found["alp"]]
    return [_plot("fig-1-left", "Fig. 1 left. Logits of PGD and ALP", groups, results)]


def figure_2_right(results: Results) -> list[Plot | Missing]:
    """Logits of label smoothing with s = 0.75, if that was evaluated."""
    strength = paper.SMOOTHING_OF_FIGURE_2
    for group in filter(_is_figure_2, results.paper):
        if group.evaluations[0].logits:
            caption = f"Fig. 2 right. Logits of label smoothing with s = {strength}"
            return [_plot("fig-2-right", caption, [group], results)]
    what = f"No Fig. 2 right yet, it needs the logits of label smoothing with s = {strength}"
    for group in filter(_is_figure_2, results.tests):
        folder = shown_path(group.origins[0].path.parent)
        return [Missing(what, command("evaluate", f"runs=[{folder}]", "suite=paper"))]
    train = ("method=label_smoothing", f"method.smoothing={strength}", f"data={results.data.name}")
    return [Missing(what, command("train", *train))]


def _is_figure_2(group: Group) -> bool:
    is_strength = group.settings.get("method.smoothing") == paper.SMOOTHING_OF_FIGURE_2
    return group.method == "label_smoothing" and is_strength


def _plot(slug: str, caption: str, groups: list[Group], results: Results) -> Plot:
    groups = titled(groups)
    axes = style.new_axes("logit", "density")
    seen, ends = ["Densities of all logits"], []
    for group in groups:
        color = style.COLORS[group.method]
        for kind, histogram in group.evaluations[0].logits.items():
            edges, counts = np.asarray(histogram.edges), np.asarray(histogram.counts)
            density = counts / counts.sum() / np.diff(edges)
            heights, label = [*density, density[-1]], f"{group.title}, {kind}"
            look = {"color": color, "linestyle": KINDS[kind], "drawstyle": "steps-post"}
            style.draw(axes, edges, heights, label, **look)
            if kind == "clean":
                axes.fill_between(edges, heights, step="post", color=color, alpha=0.12, linewidth=0)
            seen.append(f"{label}: variance {number(histogram.variance, 2)}")
            ends.append(_middle(edges, counts))
    axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    axes.set_ylim(bottom=0)
    caption = f"{caption}, {results.data.title}{style.lowest(groups)}"
    origins = tuple(group.origins[0] for group in groups)
    return style.plot(axes, slug, caption, seen, origins)


def _middle(edges: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Where all but the outermost :data:`TAIL` of the logits lie."""
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    low = edges[np.searchsorted(below, TAIL, side="right") - 1]
    high = edges[np.searchsorted(below, 1 - TAIL)]
    return float(low), float(high)
