"""Figures 1 and 2: distributions of the logits, and accuracy by a regulariser's strength."""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lrm_lightning.evaluation.metrics import attack_title, is_number
from lrm_lightning.reporting import paper, settings
from lrm_lightning.reporting.aggregate import (
    OF_IMAGES,
    Group,
    Results,
    alike,
    canonical,
    rows_of_paper,
    titled,
    worth,
)
from lrm_lightning.reporting.figures import style
from lrm_lightning.reporting.parts import Missing, Plot, command, number
from lrm_lightning.runs.files import override, shown_path

# Adversarial dashed, in print as on the screen.
KINDS = {"clean": "-", "adversarial": (0, (3, 1.3))}
TAIL = 1e-3  # share of the logits that may lie beyond the axis on either side
SQUEEZING, SMOOTHING = "method.squeeze_weight", "method.smoothing"
SWEEP = ("--config-dir", "sweeps", "--config-name")
# The attack that Fig. 1 right judges robustness by: the strongest of Table 1.
ROBUST = "pgd20"
# A colour an attack, from natural to the strongest.
SHADES = {
    "clean": "#6b7280",
    "fgsm": "#b45309",
    "pgd5": "#047857",
    "pgd10": "#1d4ed8",
    "pgd20": "#be123c",
    "pgd200": "#7c3aed",
}


def figure_1_left(results: Results) -> list[Plot | Missing]:
    """Logits of PGD and ALP, natural and adversarial, if both were evaluated."""
    found = {
        group.row.name: group
        for group in reversed(rows_of_paper(results.paper))  # of several configurations the first
        if group.row is not None and group.evaluations[0].logits
    }
    if not {"pgd", "alp"} <= found.keys():
        what = "No Fig. 1 left yet, it needs the logits of PGD and ALP"
        return [Missing(what, command("evaluate", "runs=[RUN]", "suite=paper"))]
    groups = [found["pgd"], found["alp"]]
    differs = settings.unlike(found["pgd"].settings, paper.LOSS_OF_SECTION_3)
    caption = ", ".join(["Fig. 1 left. Logits of PGD and ALP", *differs])
    return [_plot("fig-1-left", caption, groups, results)]


def figure_2_right(results: Results) -> list[Plot | Missing]:
    """Logits without smoothing and with s = 0.75, a plot for each, as their sizes are far apart."""
    strength = paper.SMOOTHING_OF_FIGURE_2
    drawn = [group for group in rows_of_paper(results.paper) if group.evaluations[0].logits]
    smoothed = sorted(filter(_is_figure_2, drawn), key=worth, reverse=True)[:1]
    if smoothed:
        plain = [group for group in drawn if group.row is paper.METHODS["regular"]][:1]
        halves = {"fig-2-right-0": (plain, "s = 0"), "fig-2-right": (smoothed, f"s = {strength}")}
        return [
            _plot(slug, f"Fig. 2 right. Logits of label smoothing with {what}", groups, results)
            for slug, (groups, what) in halves.items()
            if groups
        ]
    what = f"No Fig. 2 right yet, it needs the logits of label smoothing with s = {strength}"
    for group in filter(_is_figure_2, results.tests):
        folders = [shown_path(each.path.parent) for each in group.origins]
        return [Missing(what, command("evaluate", override("runs", folders), "suite=paper"))]
    train = ("method=label_smoothing", f"method.smoothing={strength}")
    return [Missing(what, command("train", *train, *results.recipe))]


def _is_figure_2(group: Group) -> bool:
    return group.row is paper.METHODS["label_smoothing"]


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


def figure_1_right(results: Results) -> list[Plot | Missing]:
    """PGD and ALP with squeezing: natural and PGD-20 accuracy by its weight.

    Each must have been trained with two weights and everything else alike.
    """
    found = _sweeps(results, SQUEEZING)
    sweeps = [each for name in ("pgd", "alp") for each in found if each[1][0].method == name]
    if not sweeps:
        what = "No Fig. 1 right yet, it needs PGD or ALP trained with several squeezing strengths"
        return [Missing(what, command("train", *SWEEP, "figure1", *results.recipe))]
    axes = style.new_axes("squeezing strength β", "accuracy, %")
    seen = ["Accuracy against squeezing strength"]
    for place, (title, sweep) in enumerate(sweeps):
        marker = style.MARKERS[place % len(style.MARKERS)]
        labels = {ROBUST: f"{title} under {attack_title(ROBUST)}", "clean": f"{title}, natural"}
        for line, (name, label) in zip(style.LINES, labels.items(), strict=False):
            look = {"color": style.COLORS[sweep[0].method], "linestyle": line, "marker": marker}
            seen += _line(axes, sweep, SQUEEZING, name, label, look)
    weights = sorted({_strength(group, SQUEEZING) for _, sweep in sweeps for group in sweep})
    axes.set_xscale("symlog", linthresh=min(filter(None, weights)), linscale=0.5)
    axes.set_xticks(weights, [f"{each:g}" for each in weights])
    axes.minorticks_off()
    caption = f"Fig. 1 right. PGD and ALP with logit squeezing, {results.data.title}"
    origins = tuple(each for _, sweep in sweeps for group in sweep for each in group.origins)
    return [style.plot(axes, "fig-1-right", caption, seen, origins)]


def figure_2_left(results: Results) -> list[Plot | Missing]:
    """Accuracy under each attack by the strength of label smoothing, a plot for each sweep."""
    sweeps = _sweeps(results, SMOOTHING)
    sweeps.sort(key=lambda sweep: sweep[1][0].method != "label_smoothing")
    if not sweeps:
        what = "No Fig. 2 left yet, it needs several strengths of smoothing"
        return [Missing(what, command("train", *SWEEP, "smoothing", *results.recipe))]
    plots = []
    for place, (title, sweep) in enumerate(sweeps):
        axes = style.new_axes("smoothing strength s", "accuracy, %")
        seen = ["Accuracy against the strength of smoothing"]
        lines = itertools.cycle(style.LINES)
        for (name, color), line, marker in zip(SHADES.items(), lines, style.MARKERS, strict=False):
            look = {"color": color, "linestyle": line, "marker": marker}
            seen += _line(axes, sweep, SMOOTHING, name, attack_title(name), look)
        if sweep[0].method == "label_smoothing" and results.comparable:
            style.draw_papers(axes, paper.FGSM_BY_SMOOTHING, SHADES["fgsm"], "s")
            style.name_papers(axes, "s")
        axes.set_ylim(0, 100)
        slug = f"fig-2-left-{place + 1}" if place else "fig-2-left"
        caption = f"Fig. 2 left. {title} of rising strength, {results.data.title}"
        origins = tuple(each for group in sweep for each in group.origins)
        plots.append(style.plot(axes, slug, caption, seen, origins, columns=3))
    return plots


def _line(
    axes: Axes, sweep: list[Group], key: str, name: str, label: str, look: dict[str, Any]
) -> list[str]:
    """Draw one accuracy of a sweep with its error bars; returns its points as text."""
    measured = [group for group in sweep if name in group.names]
    if not measured:
        return []
    strengths = [_strength(group, key) for group in measured]
    means = [100 * group.mean(name) for group in measured]
    style.draw(axes, strengths, means, label, **look)
    bars = {"fmt": "none", "elinewidth": 0.6, "capsize": 1.5, "ecolor": look["color"]}
    errors = np.transpose([_error(group, name) for group in measured])
    axes.errorbar(strengths, means, yerr=errors, **bars)
    points = zip(strengths, means, strict=True)
    return [f"{label}: " + ", ".join(f"{number(mean)}% at {s:g}" for s, mean in points)]


def _error(group: Group, name: str) -> tuple[float, float]:
    """How far down and up the error bar goes: the deviation over seeds, or the interval."""
    mean, spread, (low, high) = group.mean(name), group.spread(name), group.interval(name)
    if spread is not None:
        return 100 * spread, 100 * spread
    # Rounding may put an end a hair inside.
    return max(100 * (mean - low), 0.0), max(100 * (high - mean), 0.0)


def _strength(group: Group, key: str) -> float:
    return float(group.settings[key])


def _sweeps(results: Results, key: str) -> list[tuple[str, list[Group]]]:
    """Groups that differ in a setting alone, by its rising value; at least two values.

    They may have been measured on other images, but with the same attacks; each threat model has
    its own sweep. The same runs may have been measured by a suite and by their own tests: the way
    that has more of them is taken, of equal ones the suite's. Each sweep has its title.
    """
    best: dict[tuple[str, str], list[Group]] = {}
    for groups in (results.paper, results.tests):
        together: dict[tuple[str, str], dict[float, Group]] = {}
        for group in sorted(groups, key=worth):
            if is_number(group.settings.get(key)):
                rest = canonical([group.method, alike(group.settings | {key: None})])
                attacks = canonical(group.measured | dict.fromkeys(OF_IMAGES))
                together.setdefault((rest, attacks), {})[_strength(group, key)] = group
        for (rest, _), found in together.items():
            sweep = [found[strength] for strength in sorted(found)]
            of = rest, sweep[0].threat
            if len(sweep) > max(1, len(best.get(of, []))):
                best[of] = sweep
    firsts = titled([sweep[0] for sweep in best.values()], ignoring=(SQUEEZING, SMOOTHING))
    return [(each.title, sweep) for each, sweep in zip(firsts, best.values(), strict=True)]
