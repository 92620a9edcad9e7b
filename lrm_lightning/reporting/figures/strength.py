"""Accuracy by a regulariser's strength: Fig. 1 right (squeezing), Fig. 2 left (smoothing)."""

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from lrm_lightning.reporting import paper
from lrm_lightning.reporting.figures.style import (
    LINES,
    MARKERS,
    Plot,
    color_of,
    draw_mark_of_paper,
    draw_series,
    figure_of,
    legend,
    new_axes,
    sources_of,
)
from lrm_lightning.reporting.groups import METHOD_TITLES, Group
from lrm_lightning.reporting.records import Data
from lrm_lightning.reporting.settings import differences, summary
from lrm_lightning.reporting.sources import SourceBook
from lrm_lightning.reporting.table import number
from lrm_lightning.reporting.white_box import attack_title

SQUEEZING, SMOOTHING = "method.squeeze_weight", "method.smoothing"
# The attack that Fig. 1 right judges robustness by: the strongest of Table 1.
ROBUST = "pgd20"
# A colour an attack, from natural to the strongest.
SHADES = ("#6b7280", "#b45309", "#047857", "#1d4ed8", "#be123c", "#7c3aed")


def figure_1_right(
    measured: Sequence[Sequence[Group]], data: Data, book: SourceBook
) -> Plot | None:
    """PGD and ALP with squeezing: natural and PGD-20 accuracy by its weight.

    Args:
        measured: Groups of the same runs, measured in one way and in another; the way that has
            more of a sweep's runs is drawn, of equal ones the first.
        data: The images.
        book: Where the runs are cited.

    Returns:
        The plot, or ``None`` if neither was trained with two weights and everything else alike.
    """
    sweeps = [sweep for method in ("pgd", "alp") for sweep in _sweeps(measured, method, SQUEEZING)]
    if not sweeps:
        return None
    axes = new_axes("squeezing strength β", "accuracy, %")
    seen = []
    for title, sweep in zip(_titles(sweeps), sweeps, strict=True):
        method = sweep[0].first.method
        alike = [each for each in sweeps if each[0].first.method == method]
        marker = MARKERS[2 * alike.index(sweep) + (method == "alp")]
        for name, line in ((ROBUST, LINES[0]), ("clean", LINES[1])):
            label = (
                f"{title}, natural" if name == "clean" else f"{title} under {attack_title(name)}"
            )
            points = _line(axes, sweep, SQUEEZING, name, label, color_of(method), line, marker)
            if points:
                seen.append(f"{label}: {points}")
    weights = {_strength(group, SQUEEZING) for sweep in sweeps for group in sweep}
    positive = [weight for weight in weights if weight > 0]
    axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    axes.set_xticks(sorted(weights), [f"{each:g}" for each in sorted(weights)])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    legend(axes, columns=2)
    everything = [group for sweep in sweeps for group in sweep]
    return Plot(
        slug="fig-1-right",
        caption=f"Fig. 1 right. PGD and ALP with logit squeezing, {data.title}",
        alt="Accuracy against squeezing strength. " + "; ".join(seen) + ".",
        sources=sources_of(everything, book),
        figure=figure_of(axes),
    )


def figure_2_left(measured: Sequence[Sequence[Group]], data: Data, book: SourceBook) -> list[Plot]:
    """Accuracy under each attack by the strength of label smoothing, a plot for each sweep."""
    methods = dict.fromkeys(group.first.method for groups in measured for group in groups)
    found = [sweep for method in methods for sweep in _sweeps(measured, method, SMOOTHING)]
    found.sort(key=lambda sweep: sweep[0].first.method != "label_smoothing")
    plots = []
    for place, (title, sweep) in enumerate(zip(_titles(found), found, strict=True)):
        plot = _smoothing(title, sweep, data, book)
        if place:
            plot = Plot(
                f"{plot.slug}-{place + 1}", plot.caption, plot.alt, plot.sources, plot.figure
            )
        plots.append(plot)
    return plots


def _smoothing(title: str, sweep: list[Group], data: Data, book: SourceBook) -> Plot:
    axes = new_axes("smoothing strength s", "accuracy, %")
    seen = []
    for place, name in enumerate(("clean", "fgsm", "pgd5", "pgd10", "pgd20", "pgd200")):
        line, marker = LINES[place % len(LINES)], MARKERS[place]
        label = attack_title(name)
        points = _line(axes, sweep, SMOOTHING, name, label, SHADES[place], line, marker)
        if points:
            seen.append(f"{label}: {points}")
    if sweep[0].first.method == "label_smoothing" and data.name == paper.DATA:
        axes.plot(
            list(paper.FGSM_BY_SMOOTHING), list(paper.FGSM_BY_SMOOTHING.values()), "s",
            color=SHADES[1], markerfacecolor="none", clip_on=False,
        )  # fmt: skip
        draw_mark_of_paper(axes, "s")
    axes.set_ylim(0, 100)
    legend(axes, columns=3)
    return Plot(
        slug="fig-2-left",
        caption=f"Fig. 2 left. {title} of rising strength, {data.title}",
        alt="Accuracy against the strength of smoothing. " + "; ".join(seen) + ".",
        sources=sources_of(sweep, book),
        figure=figure_of(axes),
    )


def _line(
    axes: Axes,
    sweep: list[Group],
    key: str,
    name: str,
    label: str,
    color: str,
    line: Any,  # noqa: ANN401
    marker: str,
) -> str:
    """Draw one accuracy of a sweep with its error bars; returns its points as text."""
    measured = [group for group in sweep if name in group.names]
    if not measured:
        return ""
    strengths = [_strength(group, key) for group in measured]
    means = [100 * group.mean(name) for group in measured]
    below, above = zip(*(_error(group, name) for group in measured), strict=True)
    draw_series(axes, strengths, means, label, color=color, linestyle=line, marker=marker)
    axes.errorbar(
        strengths, means, yerr=[below, above], fmt="none", ecolor=color, elinewidth=0.8, capsize=2
    )
    return ", ".join(
        f"{number(mean)}% at {strength:g}" for strength, mean in zip(strengths, means, strict=True)
    )


def _error(group: Group, name: str) -> tuple[float, float]:
    """How far down and up the error bar goes: the deviation over seeds, or the interval."""
    spread = group.spread(name)
    if spread is not None:
        return 100 * spread, 100 * spread
    low, high = group.first.interval(name)
    mean = group.mean(name)
    # Rounding may put an end a hair inside.
    return max(100 * (mean - low), 0.0), max(100 * (high - mean), 0.0)


def _sweeps(measured: Sequence[Sequence[Group]], method: str, key: str) -> list[list[Group]]:
    """Groups of a method that differ in ``key`` alone, by its rising value; at least two values."""
    best: dict[str, list[Group]] = {}
    for groups in measured:
        together: dict[tuple[str, str], list[Group]] = {}
        for group in groups:
            entry = group.first
            if entry.method == method and _strength(group, key) >= 0:
                rest = {name: each for name, each in entry.settings.items() if name != key}
                alike = (_text(rest), _text([entry.measurement, entry.subset]))
                together.setdefault(alike, []).append(group)
        for (training, _), sweep in together.items():
            if len(sweep) > max(1, len(best.get(training, []))):
                best[training] = sorted(sweep, key=lambda group: _strength(group, key))
    return list(best.values())


def _text(content: object) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _strength(group: Group, key: str) -> float:
    value = group.first.settings.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return -1.0


def _titles(sweeps: Sequence[list[Group]]) -> list[str]:
    titles = []
    for sweep in sweeps:
        method = sweep[0].first.method
        alike = [each for each in sweeps if each[0].first.method == method]
        settings = [
            {
                name: value
                for name, value in (each[0].first.settings | each[0].first.measurement).items()
                if name not in (SQUEEZING, SMOOTHING)
            }
            for each in alike
        ]
        differing = differences(settings)[alike.index(sweep)]
        title = METHOD_TITLES.get(method, method)
        titles.append(f"{title} ({summary(differing)})" if differing else title)
    return titles
