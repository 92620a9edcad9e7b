"""Curves: accuracy by the number of PGD steps (section 5.3) and by eps, and training by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import NORMS, attack_title, pgd_steps, shown_eps
from lrm_lightning.reporting.aggregate import Group, Results, titled
from lrm_lightning.reporting.figures import style
from lrm_lightning.reporting.parts import Missing, Plot, command, number
from lrm_lightning.reporting.run_dir import VALIDATION, Points, strongest, training_curves
from lrm_lightning.runs.intervals import wilson_interval
from lrm_lightning.runs.records import Curve, EpsCurve, printable

TICKS = (0, 5, 10, 20, 50, 100, 150, 200)
# More lines in one figure can't be told apart.
LINES_AT_MOST = 8


def step_curve(results: Results) -> list[Plot]:
    """Accuracy against PGD steps: of the paper's rows, and of others at most eight in a plot.

    The paper's numbers are hollow marks. With several seeds a curve is their mean; the band is the
    95% interval of one seed.
    """
    measured = titled([group for group in results.paper if _curves(group)])
    others = [group for group in measured if group.row is None]
    parts = {"step-curve": [group for group in measured if group.row is not None]}
    for place in range(0, len(others), LINES_AT_MOST):
        suffix = f"-{place // LINES_AT_MOST + 1}" if place else ""
        parts[f"step-curve-others{suffix}"] = others[place:][:LINES_AT_MOST]
    return [_step_plot(slug, drawn, results) for slug, drawn in parts.items() if drawn]


def _step_plot(slug: str, drawn: list[Group], results: Results) -> Plot:
    axes = style.new_axes("PGD steps", "accuracy, %")
    seen, last = ["Accuracy against PGD steps"], 0
    for group in drawn:
        color, line, marker = style.look_of(group, drawn)
        curves = _curves(group)
        steps = curves[0].steps
        accuracy = _draw_mean(axes, steps, curves, group, color=color, linestyle=line)
        if results.comparable and group.row is not None:
            named = {pgd_steps(name): value for name, value in group.row.white_box.items()}
            printed = {each: value for each, value in named.items() if each and each <= steps[-1]}
            style.draw_papers(axes, printed, color, marker)
            if 200 in printed:
                axes.annotate(
                    f"paper: {printed[200]}", (200, printed[200]), textcoords="offset points",
                    xytext=(-3, 5), ha="right", color=color, fontsize=6,
                )  # fmt: skip
        ends = (f"{number(100 * accuracy[end])}% at {steps[end]}" for end in (0, -1))
        seen.append(f"{group.title}: {' steps, '.join(ends)}")
        last = max(last, steps[-1])
    if results.comparable and any(group.row is not None for group in drawn):
        style.name_papers(axes, "o")
    # The first steps, where the paper's numbers are, get as much room as the last hundred.
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_xticks([tick for tick in TICKS if tick <= last])
    axes.set_xlim(0, last)
    axes.set_ylim(-2, 100)
    caption = f"Section 5.3. Accuracy by the number of PGD steps, {results.data.title}"
    origins = tuple(origin for group in drawn for origin in group.origins)
    return style.plot(axes, slug, caption, seen, origins, columns=3)


def eps_curves(results: Results) -> list[Plot]:
    """Accuracy against eps: of each norm all networks together, then each network alone.

    With several seeds a curve is their mean; the band is the 95% interval of one seed. What a large
    eps left, if that is a sign of masking, stands in the caption.
    """
    plots: list[Plot] = []
    for norm, title in NORMS.items():
        groups = [each for each in results.by_eps if each.record.attack.get("norm") == norm]
        drawn = titled([group for group in groups if _eps(group)])
        alone = [[group] for group in drawn] if len(drawn) > 1 else []
        for place, part in enumerate([drawn, *alone] if drawn else []):
            slug = f"eps-curve-{norm}" + (f"-{place}" if place else "")
            what = f"Accuracy by eps in {title}{f' of {part[0].title}' if place else ''}"
            plots.append(_eps_plot(slug, what, norm, part, drawn, results))
    return plots


def _eps_plot(
    slug: str, what: str, norm: str, part: list[Group], drawn: list[Group], results: Results
) -> Plot:
    unit, scale = (", 255ths", 255) if norm == "linf" else ("", 1)
    axes = style.new_axes(f"eps{unit}", "accuracy, %")
    seen, signs, last = ["Accuracy against eps"], [], 0.0
    for group in part:
        color, line, marker = style.look_of(group, drawn)
        curves = _eps(group)
        eps, radii = curves[0].eps, scale * np.array(curves[0].eps)
        look = {"color": color, "linestyle": line, "marker": marker, "markersize": 2}
        accuracy = _draw_mean(axes, radii, curves, group, **look)
        ends = (f"{number(100 * accuracy[k])}% at {shown_eps(eps[k], norm)}" for k in (0, -1))
        half = next((eps[k] for k, each in enumerate(accuracy) if each <= 0.5), None)
        told = f", a half at most from {shown_eps(half, norm)}" if half is not None else ""
        seen.append(f"{group.title}: {' to '.join(ends)}{told}")
        fired = [each.large_eps for each in curves if each.large_eps.fired]
        signs += [f"{group.title}: {sign.explanation}" for sign in fired]
        last = max(last, radii[-1])
    axes.set_xlim(0, last)
    axes.set_ylim(-2, 100)
    caption = ". ".join([f"{what}, {results.data.title}", *signs])
    origins = tuple(origin for group in part for origin in group.origins)
    return style.plot(axes, slug, caption, seen, origins, columns=3)


def _draw_mean(
    axes: Axes, x: ArrayLike, curves: Sequence[Curve | EpsCurve], group: Group, **look: Any
) -> np.ndarray:
    """Draw the mean of the curves of a group's seeds in %, with the band of one's 95% intervals.

    Returns the mean accuracies, in [0, 1].
    """
    accuracy, n = np.mean([each.accuracy for each in curves], axis=0), group.record.n
    intervals = [wilson_interval(round(each * n), n) for each in accuracy]
    low, high = 100 * np.transpose(intervals)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    style.draw(axes, x, 100 * accuracy, group.title, **look)
    return accuracy


def training_plots(results: Results) -> list[Plot] | list[Missing]:
    """Validation accuracies, natural and robust, and training loss, at most eight runs a plot.

    Of several seeds the lowest is drawn. A file that can't be read is added to what the records
    ``skipped``.
    """
    logged: dict[str, dict[str, Points]] = {}
    for each in results.tests:
        run, logged[each.network] = each.runs[0], {}
        try:
            logged[each.network] = training_curves(run.path.parent, run.record)
        except UserError as error:
            results.records.skipped.append(printable(str(error)))
    groups = titled([each for each in results.tests if logged[each.network]])
    plots = []
    for start in range(0, len(groups), LINES_AT_MOST):
        part = [(each, logged[each.network]) for each in groups[start:][:LINES_AT_MOST]]
        robust = [strongest(curves) for _, curves in part]
        attacks = sorted({attack_title(name.removeprefix(VALIDATION)) for name in robust if name})
        suffix = f"-{start // LINES_AT_MOST + 1}" if start else ""
        for kind, what, names in (
            ("natural", "natural accuracy", [f"{VALIDATION}clean"] * len(part)),
            ("robust", f"{', '.join(attacks)} accuracy", robust),
            ("loss", "training loss", ["train/loss"] * len(part)),
        ):
            drawn = [
                (group, curves[name])
                for (group, curves), name in zip(part, names, strict=True)
                if name in curves
            ]
            if drawn:
                plots.append(_training_plot(f"training-{kind}{suffix}", what, drawn, results))
    train = command("train", "-m", "method=alp,pgd,lrm", *results.recipe)
    what = "No training curves: no run directory with a metrics.csv is among the records"
    return plots or [Missing(what, train)]


def _training_plot(
    slug: str, what: str, drawn: list[tuple[Group, Points]], results: Results
) -> Plot:
    is_loss = what == "training loss"
    where = "of each method, mean over what was logged in an epoch"
    unit, scale, where = ("", 1, where) if is_loss else (", %", 100, "of the validation split")
    axes = style.new_axes("epoch", what + unit)
    groups, seen = [group for group, _ in drawn], [f"{what} by epoch"]
    for group, points in drawn:
        color, line, _ = style.look_of(group, groups)
        epochs, values = np.transpose(points)
        look = {"marker": "o" if len(epochs) <= 12 else "", "markersize": 2}
        style.draw(axes, epochs, scale * values, group.title, color=color, linestyle=line, **look)
        last = number(scale * values[-1], 2 if is_loss else 1)
        seen.append(f"{group.title}: {last} at the end")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = f"{what[0].upper()}{what[1:]} {where}, {results.data.title}{style.lowest(groups)}"
    origins = tuple(group.origins[0] for group in groups)
    return style.plot(axes, slug, caption, seen, origins, columns=3)


def _curves(group: Group) -> list[Curve]:
    """The curves of a group's seeds; of the lowest alone if they have other steps."""
    curves = [each.curve for each in group.evaluations if each.curve is not None]
    return curves if len({tuple(curve.steps) for curve in curves}) == 1 else curves[:1]


def _eps(group: Group) -> list[EpsCurve]:
    """The same of accuracy by eps."""
    curves = [each.eps_curve for each in group.evaluations if each.eps_curve is not None]
    return curves if len({tuple(curve.eps) for curve in curves}) == 1 else curves[:1]
