"""The figures: what is drawn, when, what files come of it, and how one is added."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lrm_lightning.reporting import page
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.reporting.figures import style
from lrm_lightning.reporting.figures.curves import eps_curves, step_curve, training_plots
from lrm_lightning.reporting.figures.logits import (
    figure_1_left,
    figure_1_right,
    figure_2_left,
    figure_2_right,
)
from lrm_lightning.reporting.figures.style import inline, save, series_of
from lrm_lightning.reporting.page import compose
from lrm_lightning.reporting.parts import Missing


def series(plot):
    """Label to points of everything that is in the legend."""
    (axes,) = plot.figure.axes
    return {line.get_label(): line.get_xydata() for line in series_of(axes)}


def is_missing(parts):
    """Whether there is nothing to draw, but the command that makes it."""
    return [type(part) for part in parts] == [Missing] and parts[0].command.startswith("python -m ")


def test_figure_1_left_is_a_density(records, read):
    for name, variance in (("pgd", 8.0), ("alp", 4.0)):
        records.paper(records.run(name), scale=variance)
    (plot,) = figure_1_left(read())
    drawn = series(plot)
    assert list(drawn) == ["PGD, clean", "PGD, adversarial", "ALP, clean", "ALP, adversarial"]
    for points in drawn.values():
        edges, density = points.T
        assert np.sum(np.diff(edges) * density[:-1]) == pytest.approx(1)
    # A normal density of variance 4 is 0.199 at its middle.
    assert drawn["ALP, clean"][:, 1].max() == pytest.approx(0.199, abs=0.002)
    assert "PGD, clean: variance 8.00" in plot.alt
    assert "Logits of PGD and ALP, alpha 0 (paper 0.5)" in plot.caption
    assert len(plot.origins) == 2


def test_figure_1_left_needs_both_of_the_papers_methods(records, read):
    records.paper(records.run("pgd"))
    assert is_missing(figure_1_left(read()))
    records.paper(records.run("alp", squeeze_weight=0.1))
    assert is_missing(figure_1_left(read()))


def test_figure_2_right_is_of_three_quarters(records, read):
    records.paper(records.run("label_smoothing", smoothing=0.5))
    assert is_missing(figure_2_right(read()))
    records.paper(records.run("label_smoothing", smoothing=0.75))
    (plot,) = figure_2_right(read())
    smoothed = ["Label smoothing, clean", "Label smoothing, adversarial"]
    assert list(series(plot)) == smoothed
    assert "s = 0.75" in plot.caption
    records.paper(records.run("regular"))  # the figure's other half, s = 0
    halves = figure_2_right(read())
    assert [half.slug for half in halves] == ["fig-2-right-0", "fig-2-right"]
    plain = ["Regular, clean", "Regular, adversarial"]
    assert [list(series(half)) for half in halves] == [plain, smoothed]


def test_figure_1_right_has_a_line_a_method_and_accuracy(records, read):
    for method, base in (("pgd", 0.40), ("alp", 0.45)):
        for weight in (0.1, 0.0, 0.01):
            metrics = (0.6, 0.5, 0.5, 0.5, base + weight)
            records.run(method, alpha=0.5, squeeze_weight=weight, metrics=metrics)
    records.run("pgd", squeeze_weight=0.05)  # another alpha: not of the sweep
    (plot,) = figure_1_right(read())
    drawn = series(plot)
    assert set(drawn) == {"PGD under PGD-20", "PGD, natural", "ALP under PGD-20", "ALP, natural"}
    np.testing.assert_allclose(drawn["ALP under PGD-20"], [[0, 45], [0.01, 46], [0.1, 55]])
    np.testing.assert_allclose(drawn["PGD, natural"][:, 1], 60)
    assert len(plot.origins) == 6


def test_figure_2_left_has_a_line_an_attack_and_the_papers_points(records, read):
    for s in (0.5, 0.0, 0.01):
        records.run("label_smoothing", smoothing=s, metrics=(0.8, s, s / 2, s / 4, s / 8))
    (plot,) = figure_2_left(read())
    drawn = series(plot)
    assert list(drawn) == ["natural", "FGSM", "PGD-5", "PGD-10", "PGD-20", "paper"]
    np.testing.assert_allclose(drawn["FGSM"], [[0, 0], [0.01, 1], [0.5, 50]], atol=1e-9)
    marks = [line for line in plot.figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [[0.0, 6.1], [0.01, 38.3]] in [line.get_xydata().tolist() for line in marks]


def test_a_sweep_is_drawn_as_most_of_it_was_measured(records, read):
    paths = [
        records.run("label_smoothing", smoothing=s, attack=records.attack | {"step_size": 0.015})
        for s in (0.0, 0.25, 0.5)
    ]
    for path in paths[:2]:
        records.paper(path)
    (plot,) = figure_2_left(read())
    assert len(series(plot)["natural"]) == 3
    assert "PGD-200" not in series(plot)
    records.paper(paths[2])
    (plot,) = figure_2_left(read())
    assert len(series(plot)["PGD-200"]) == 3


def test_a_sweep_takes_each_strength_as_best_measured_on_whichever_images(records, read):
    for s, natural, n, evaluated in (
        (0.5, 0.8, 10_000, [400]),
        (0.0, 0.7, 2_000, [300, 200]),
        (0.25, 0.6, 2_000, []),
    ):
        path = records.run("label_smoothing", smoothing=s, n=n, metrics=(natural, *[0.1] * 4))
        for each in evaluated:
            written = records.paper(path, n=each)
            written.rename(written.with_stem(f"paper-{each}"))
    (plot,) = figure_2_left(read())
    np.testing.assert_allclose(series(plot)["natural"], [[0, 70], [0.25, 60], [0.5, 80]])
    records.paper(path, n=500)
    (plot,) = figure_2_left(read())
    assert [origin.record.n for origin in plot.origins] == [300, 500, 400]


def test_a_sweep_is_one_whether_a_number_was_typed_as_0_or_as_0_0(records, read):
    for alpha, weight in ((0.0, 0.0), (0, 0.01), (0.0, 0.1)):
        records.run("pgd", alpha=alpha, squeeze_weight=weight)
    (plot,) = figure_1_right(read())
    assert len(series(plot)["PGD, natural"]) == 3


def test_one_strength_is_no_sweep(records, read):
    records.run("label_smoothing")
    records.run("pgd")
    assert is_missing(figure_1_right(read()))
    assert is_missing(figure_2_left(read()))


def test_the_step_curve_marks_the_papers_numbers(records, read):
    records.paper(records.run("label_smoothing", metrics=(0.8, 0.5, 0.4, 0.3, 0.2)))
    records.paper(records.run("pgd"))
    records.paper(records.run("mixup"))  # no row of the paper
    plot, _ = step_curve(read())
    drawn = series(plot)
    assert list(drawn) == ["Label smoothing", "PGD", "paper"]
    points = drawn["Label smoothing"]
    assert points[:, 0].tolist() == list(range(201))
    assert points[0, 1] == pytest.approx(80)
    assert points[-1, 1] == pytest.approx(16)  # the fixture's floor, 0.8 of PGD-20
    marks = [line.get_xydata().tolist() for line in plot.figure.axes[0].lines]
    assert [[5, 49.4], [10, 41.7], [20, 34.4], [200, 13.6]] in marks
    assert [each.get_text() for each in plot.figure.axes[0].texts] == ["paper: 13.6"]


def test_other_defences_have_step_curves_of_their_own_eight_in_a_plot(records, read):
    records.paper(records.run("pgd"))
    for number in range(9):
        records.paper(records.run(f"mine{number}"))
    plots = step_curve(read())
    assert [plot.slug for plot in plots] == [
        "step-curve", "step-curve-others", "step-curve-others-2"
    ]  # fmt: skip
    assert [len(series(plot)) for plot in plots] == [2, 8, 1]  # with the paper's marks, without


def test_the_step_curve_of_seeds_is_their_mean(records, read):
    for seed, clean in ((0, 0.6), (1, 0.8)):
        records.paper(records.run("pgd", seed=seed, metrics=(clean, 0.5, 0.5, 0.5, 0.5)))
    (plot,) = step_curve(read())
    assert series(plot)["PGD"][0, 1] == pytest.approx(70)
    assert len(plot.origins) == 2


def test_other_data_have_no_marks_of_the_papers(records, read):
    records.paper(records.run("label_smoothing", data=records.digits))
    (plot,) = step_curve(read())
    assert list(series(plot)) == ["Label smoothing"]


def test_training_curves_are_three_plots_of_at_most_eight_runs(records, read):
    for s in np.linspace(0, 0.9, 9).round(1).tolist():
        records.run("label_smoothing", smoothing=s)
    records.run("pgd", curves=False)
    plots = training_plots(read())
    kinds = ("training-natural", "training-robust", "training-loss")
    assert [plot.slug for plot in plots] == [*kinds, *(f"{kind}-2" for kind in kinds)]
    assert [len(series(plot)) for plot in plots] == [8, 8, 8, 1, 1, 1]
    first = next(iter(series(plots[0]).values()))
    assert first[0].tolist() == pytest.approx([1, 35])  # half of 0.7 after the first epoch
    assert plots[1].caption.startswith("PGD-10 accuracy of the validation split")


def test_any_name_can_stand_in_a_legend(records, read, tmp_path):
    names = {"$x^2$", "_private", "$\\frac{$", "日本 \N{GRINNING FACE}", "-->", "<script>"}
    for name in names:
        records.run(name)
    plot, *_ = training_plots(read())
    (legend,) = plot.figure.legends
    assert {text.get_text() for text in legend.get_texts()} == names
    assert "<script>" not in save(plot, tmp_path)
    ET.parse(tmp_path / f"{plot.slug}.svg")


@pytest.mark.parametrize("letters", [6, 14, 18, 22, 26, 50, 80])
def test_a_legend_is_not_cut_off(letters):
    with style.style():
        axes = style.new_axes("x", "y")
        name = ("LRM (run 06cd3562) " * 5)[: letters - 1]
        for number in range(4):
            style.draw(axes, [0, 1], [0, 1], f"{name}{number}")
        figure = style.plot(axes, "a", "", ["a"], (), columns=3).figure
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_files_are_valid_and_the_same_every_time(records, read, tmp_path):
    records.paper(records.run("pgd"))
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (plot,) = step_curve(read())
        save(plot, tmp_path / name)
        files.append({each.name: each.read_bytes() for each in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    assert set(files[0]) == {"step-curve.pdf", "step-curve.svg"}
    pdf, svg = files[0]["step-curve.pdf"], files[0]["step-curve.svg"]
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_an_inlined_svg_names_nothing_outside_itself():
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://x"><svg width="9pt" '
        'viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
        "<metadata>http://purl.org</metadata><!-- name -->"
        '<defs>\n<style type="text/css">*{stroke-linecap: butt}</style>\n</defs>'
        '<g id="a" style="fill: #1f2933; clip-path: url(#c)"><use xlink:href="#b"/></g></svg>'
    )
    assert inline(svg, "p") == (
        '<svg viewBox="0 0 9 9" aria-hidden="true"><defs>\n</defs>'
        '<g id="p-a" style="fill: var(--ink); clip-path: url(#p-c)"><use href="#p-b" /></g></svg>'
    )


def test_a_slug_that_begins_with_a_digit_is_inlined():
    svg = '<svg viewBox="0 0 9 9"><g id="a"/></svg>'
    assert (
        inline(svg, "27-x") == '<svg viewBox="0 0 9 9" aria-hidden="true"><g id="27-x-a" /></svg>'
    )


def test_a_figure_names_a_section_that_there_is(records, monkeypatch):
    records.run("pgd")
    monkeypatch.setattr(page, "FIGURES", [("conclusions", lambda results: [])])
    with pytest.raises(
        ValueError, match=r"section='conclusions' is unknown; choose one of: ranking, white-"
    ):
        compose(load([str(records.folder)]))


def test_eps_curves_are_of_all_networks_and_of_each(records, read):
    sign = {"name": "large_eps", "fired": False}
    fired = sign | {"fired": True, "explanation": "PGD left 9 of 90 images correct at eps = 0.5"}
    eps = [0.0, 4 / 255, 8 / 255]
    for method, accuracy, large in (("pgd", [0.8, 0.6, 0.45], sign), ("alp", [0.7] * 3, fired)):
        intervals = [[0.0, 1.0]] * 3
        curve = {"eps": eps, "accuracy": accuracy, "intervals": intervals, "large_eps": large}
        path = records.run(method)
        records.evaluation(path, "eps_curve", {"clean": accuracy[0]}, eps_curve=curve)
    both, pgd, alp = eps_curves(read())
    assert [each.slug for each in (both, pgd, alp)] == [
        f"eps-curve-linf{suffix}" for suffix in ("", "-1", "-2")
    ]
    drawn = series(both)
    assert list(drawn) == ["PGD", "ALP"]
    np.testing.assert_allclose(drawn["PGD"], [[0, 80], [4, 60], [8, 45]])
    assert list(series(pgd)) == ["PGD"]
    assert "PGD: 80.0% at 0 to 45.0% at 8/255, a half at most from 8/255" in both.alt
    assert "ALP: PGD left 9 of 90 images correct at eps = 0.5" in both.caption
    assert "left 9" not in pgd.caption
    assert "left 9" in alp.caption
    # The band of 45% of 500 images, from Wilson's formula.
    band = both.figure.axes[0].collections[0].get_paths()[0].vertices
    at_8 = band[np.isclose(band[:, 0], 8), 1]
    np.testing.assert_allclose([at_8.min(), at_8.max()], [40.7, 49.4], atol=0.05)
