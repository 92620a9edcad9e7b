"""The figures: what is drawn, when, and what files come of it."""

import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest

from lrm_lightning.reporting.discovery import find_records
from lrm_lightning.reporting.figures.logits import figure_1_left, figure_2_right
from lrm_lightning.reporting.figures.steps import step_curve
from lrm_lightning.reporting.figures.strength import figure_1_right, figure_2_left
from lrm_lightning.reporting.figures.style import inline, save, series_of, style
from lrm_lightning.reporting.figures.training import training_plots
from lrm_lightning.reporting.measurements import data_sets, evaluated, own_tests
from lrm_lightning.reporting.sources import SourceBook


@pytest.fixture
def read(records):
    def read():
        everything = find_records([str(records.folder)])
        assert everything.skipped == []
        data = data_sets(everything)[0]
        return SimpleNamespace(
            runs=own_tests(everything, data),
            suite=evaluated(everything, data, "paper"),
            rest=(data, SourceBook(everything)),
        )

    with style():
        yield read


def series(plot):
    """Label to points of everything that is in the legend."""
    (axes,) = plot.figure.axes
    return {line.get_label(): line.get_xydata() for line in series_of(axes)}


def test_figure_1_left_is_a_density(records, read):
    for name, variance in (("pgd", 8.0), ("alp", 4.0)):
        records.paper(records.run(name), scale=variance)
    found = read()
    plot = figure_1_left(found.suite, *found.rest)
    drawn = series(plot)
    assert list(drawn) == ["PGD, clean", "PGD, adversarial", "ALP, clean", "ALP, adversarial"]
    for points in drawn.values():
        edges, density = points.T
        assert np.sum(np.diff(edges) * density[:-1]) == pytest.approx(1)
    # A normal density of variance 4 is 0.199 at its middle.
    assert drawn["ALP, clean"][:, 1].max() == pytest.approx(0.199, abs=0.002)
    assert "PGD, clean: variance 8.00" in plot.alt
    assert len(plot.sources) == 2


def test_figure_1_left_needs_both(records, read):
    records.paper(records.run("pgd"))
    found = read()
    assert figure_1_left(found.suite, *found.rest) is None


def test_figure_1_left_is_of_the_papers_methods_alone(records, read):
    records.paper(records.run("pgd"))
    records.paper(records.run("alp", squeeze_weight=0.1))
    found = read()
    assert figure_1_left(found.suite, *found.rest) is None


def test_figure_2_right_is_of_three_quarters(records, read):
    records.paper(records.run("label_smoothing", smoothing=0.5))
    found = read()
    assert figure_2_right(found.suite, *found.rest) is None
    records.paper(records.run("label_smoothing", smoothing=0.75))
    found = read()
    plot = figure_2_right(found.suite, *found.rest)
    assert list(series(plot)) == ["Label smoothing, clean", "Label smoothing, adversarial"]
    assert "s = 0.75" in plot.caption


def test_figure_1_right_has_a_line_a_method_and_accuracy(records, read):
    for method, base in (("pgd", 0.40), ("alp", 0.45)):
        for weight in (0.1, 0.0, 0.01):
            metrics = (0.6, 0.5, 0.5, 0.5, base + weight)
            records.run(method, alpha=0.5, squeeze_weight=weight, metrics=metrics)
    records.run("pgd", squeeze_weight=0.05)  # another alpha: not of the sweep
    found = read()
    plot = figure_1_right([found.suite, found.runs], *found.rest)
    drawn = series(plot)
    assert set(drawn) == {"PGD under PGD-20", "PGD, natural", "ALP under PGD-20", "ALP, natural"}
    np.testing.assert_allclose(drawn["ALP under PGD-20"], [[0, 45], [0.01, 46], [0.1, 55]])
    np.testing.assert_allclose(drawn["PGD, natural"][:, 1], 60)
    assert len(plot.sources) == 6


def test_figure_2_left_has_a_line_an_attack_and_the_papers_points(records, read):
    for s in (0.5, 0.0, 0.01):
        records.run("label_smoothing", smoothing=s, metrics=(0.8, s, s / 2, s / 4, s / 8))
    found = read()
    (plot,) = figure_2_left([found.suite, found.runs], *found.rest)
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
    found = read()
    (plot,) = figure_2_left([found.suite, found.runs], *found.rest)
    assert len(series(plot)["natural"]) == 3
    assert "PGD-200" not in series(plot)
    records.paper(paths[2])
    found = read()
    (plot,) = figure_2_left([found.suite, found.runs], *found.rest)
    assert len(series(plot)["PGD-200"]) == 3


def test_one_strength_is_no_sweep(records, read):
    records.run("label_smoothing")
    records.run("pgd")
    found = read()
    assert figure_1_right([found.runs], *found.rest) is None
    assert figure_2_left([found.runs], *found.rest) == []


def test_the_step_curve_marks_the_papers_numbers(records, read):
    records.paper(records.run("label_smoothing", metrics=(0.8, 0.5, 0.4, 0.3, 0.2)))
    records.paper(records.run("pgd"))
    records.paper(records.run("mixup"))  # no row of the paper
    found = read()
    plot = step_curve(found.suite, *found.rest)
    drawn = series(plot)
    assert list(drawn) == ["Label smoothing", "PGD", "paper"]
    points = drawn["Label smoothing"]
    assert points[:, 0].tolist() == list(range(201))
    assert points[0, 1] == pytest.approx(80)
    assert points[-1, 1] == pytest.approx(16)  # the fixture's floor, 0.8 of PGD-20
    marks = [line.get_xydata().tolist() for line in plot.figure.axes[0].lines]
    assert [[5, 49.4], [10, 41.7], [20, 34.4], [200, 13.6]] in marks
    assert [each.get_text() for each in plot.figure.axes[0].texts] == ["paper: 13.6"]


def test_the_step_curve_of_seeds_is_their_mean(records, read):
    for seed, clean in ((0, 0.6), (1, 0.8)):
        records.paper(records.run("pgd", seed=seed, metrics=(clean, 0.5, 0.5, 0.5, 0.5)))
    found = read()
    plot = step_curve(found.suite, *found.rest)
    assert series(plot)["PGD"][0, 1] == pytest.approx(70)
    assert len(plot.sources) == 2


def test_other_data_have_no_marks_of_the_papers(records, read):
    records.paper(records.run("label_smoothing", data=records.digits))
    found = read()
    assert list(series(step_curve(found.suite, *found.rest))) == ["Label smoothing"]


def test_training_curves_are_three_plots_of_at_most_eight_runs(records, read):
    for s in np.linspace(0, 0.9, 9).round(1).tolist():
        records.run("label_smoothing", smoothing=s)
    records.run("pgd", curves=False)
    found = read()
    plots = training_plots(found.runs, *found.rest)
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
    found = read()
    plot = training_plots(found.runs, *found.rest)[0]
    (legend,) = plot.figure.legends
    assert {text.get_text() for text in legend.get_texts()} == names
    assert "<script>" not in save(plot, tmp_path)
    ET.parse(tmp_path / f"{plot.slug}.svg")


def test_files_are_valid_and_the_same_every_time(records, read, tmp_path):
    records.paper(records.run("pgd"))
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found = read()
        save(step_curve(found.suite, *found.rest), tmp_path / name)
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
        'viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg">'
        "<metadata>http://purl.org</metadata><!-- name -->"
        '<defs>\n<style type="text/css">*{stroke-linecap: butt}</style>\n</defs>'
        '<g id="a" style="fill: #1f2933; clip-path: url(#c)"><use xlink:href="#b"/></g></svg>'
    )
    assert inline(svg, "p") == (
        '<svg viewBox="0 0 9 9" aria-hidden="true">'
        '<g id="p-a" style="fill: var(--ink); clip-path: url(#p-c)"><use href="#p-b"/></g></svg>'
    )
