"""The tables as Markdown, number by number."""
# ruff: noqa: E501, RUF001 (tables are as wide as they are, and set with a true minus)

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrm_lightning.evaluation.metrics import attack_title
from lrm_lightning.reporting import page, paper
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.reporting.page import Chapter, Document, Section, compose
from lrm_lightning.reporting.parts import Table, number, signed
from lrm_lightning.reporting.references import References
from lrm_lightning.reporting.tables import (
    logit_variances,
    other_configurations,
    strong_table,
    table_1,
    table_2,
    verdicts,
)

TABLE_1 = """\
**Table 1. White-box accuracy, CIFAR-10 (not the official bytes)**

| training | natural | FGSM | PGD-5 | PGD-10 | PGD-20 | on |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| Regular | – (paper 87.4) | – (paper 6.1) | – (paper 0.0) | – (paper 0.0) | – (paper 0.0) | \
not trained yet: run `python -m lrm_lightning.train method=regular data=cifar10` |
| Label smoothing | – (paper 86.9) | – (paper 54.7) | – (paper 49.4) | – (paper 41.7) | – (paper 34.4) | \
not trained yet: run `python -m lrm_lightning.train method=label_smoothing data=cifar10` |
| PGD | 60.0 \\[50.2, 69.1\\] (paper 75.8, −15.8) [^1] | 50.5 \\[40.9, 60.1\\] (paper 50.5, ±0.0) [^1] \
| 52.0 \\[42.3, 61.5\\] (paper 51.0, +1.0) [^1] | 40.0 \\[30.9, 49.8\\] (paper 46.1, −6.1) [^1] \
| 0.0 \\[0.0, 3.7\\] (paper 45.3, −45.3) [^1] | n = 100; L-inf eps 0.03; seed 0; trained with 7 epochs (paper 101) |
| ALP | 72.0 ± 2.8 2 seeds (paper 74.0, −2.0) [^2][^3] | 50.0 ± 0.0 2 seeds (paper 52.6, −2.6) [^2][^3] \
| 50.0 ± 0.0 2 seeds (paper 53.6, −3.6) [^2][^3] | 50.0 ± 0.0 2 seeds (paper 49.1, +0.9) [^2][^3] \
| 50.0 ± 0.0 2 seeds (paper 48.5, +1.5) [^2][^3] | n = 10,000; L-inf eps 0.03; seeds 0, 1 |
| LRM | – (paper 68.5) | – (paper 52.8) | – (paper 53.8) | – (paper 51.4) | – (paper 51.0) | \
not trained yet: run `python -m lrm_lightning.train method=lrm data=cifar10` |

Accuracy in %, in brackets its 95% Wilson interval over the n test images; “±” is the standard \
deviation over seeds.
Beside it the paper's number and ours minus the paper's, in percentage points.
A row is a run with the paper's settings of the method, so label smoothing's s is 0.75; ALP's \
weight, which the paper leaves open, may be any. What else is not as in the paper stands beside it.
"""

TABLE_2 = """\
**Table 2. Black-box accuracy, CIFAR-10 (not the official bytes)**

| target \\\\ source | Regular | LRM | on |
| --- | ---: | ---: | --- |
| Regular | 26.0 \\[18.4, 35.4\\] (white-box) [^1] | 70.0 \\[60.4, 78.1\\] (paper 67.3, +2.7) [^1] | {regular} |
| LRM | 71.5 \\[62.0, 79.4\\] (paper 71.5, ±0.0) [^1] | 50.0 \\[40.4, 59.6\\] (white-box) [^1] | {lrm} |

Accuracy in %, in brackets its 95% Wilson interval over n = 100 test images. A column is the network \
that the examples were made on.
Beside it the paper's number and ours minus the paper's, in percentage points.
“white-box”: source and target are one network; the paper's are trained independently.
"""


def markdown(results, *parts):
    """The parts alone, without what stands around them."""
    chapter = Chapter("x", results.data, [Section("x", "Section", "Intro", list(parts))])
    document = Document("Summary.", [chapter], References(results.records), [])
    return page.markdown(document).split("\nIntro\n\n")[1].split("\n\n## Sources")[0] + "\n"


def test_table_1(records, read):
    records.run("pgd", n=100, epochs=7, data=records.jpeg, metrics=(0.6, 0.505, 0.52, 0.4, 0.0))
    for seed, clean in ((1, 0.74), (0, 0.70)):
        records.run("alp", seed=seed, data=records.jpeg, metrics=(clean, 0.5, 0.5, 0.5, 0.5))
    results = read()
    assert markdown(results, *table_1(results)) == TABLE_1


def test_table_2(records, read):
    regular, lrm = (records.run(name, data=records.jpeg) for name in ("regular", "lrm"))
    accuracy = [[0.26, 0.70], [0.715, 0.5]]
    records.transfer([regular, lrm], [regular, lrm], accuracy, n=100, data=records.jpeg)
    results = read()
    paths = {"regular": page.text(regular), "lrm": page.text(lrm)}
    assert markdown(results, *table_2(results)) == TABLE_2.format(**paths)


def test_two_networks_of_one_row_of_the_paper_are_told_apart(records, read):
    runs = [records.run("pgd", seed=seed) for seed in (0, 1)] + [records.run("lrm")]
    records.transfer(runs, runs, [[0.5] * 3] * 3)
    (table,) = table_2(read())
    titles = [*(f"PGD ({each.name})" for each in runs[:2]), "LRM"]
    assert table.columns == titles
    assert [row.head for row in table.rows] == titles


def test_a_network_from_elsewhere_is_one_however_often_it_was_measured(records, read):
    network = {"name": "net", "label": "net", "weights_sha256": "ab" * 32}
    for n, eps in ((500, 0.03), (1000, 0.03), (500, 0.1)):
        attack = {"norm": "linf", "eps": eps, "step_size": 0.0078}
        folder, metrics = records.folder / f"{n} {eps}", {"clean": 0.8, "pgd20": 0.4}
        given = {"model": network, "n": n, "attack": attack, "data": records.official}
        records.evaluation(folder, "paper", metrics, **given)
    found = [(group.title, group.record.n) for group in read().white_box]
    assert [n for _, n in found] == [1000, 500]
    assert len({title for title, _ in found}) == 2


def test_the_papers_diagonal_needs_an_independent_source(records, read):
    target, source = records.run("pgd", seed=0), records.run("pgd", seed=1)
    records.transfer([source], [target], [[0.6]])
    (table,) = table_2(read())
    cell = table.rows[0].cells[0]
    assert (cell.value, cell.paper, cell.difference, cell.mark) == ("60.0", "58.0", "+2.0", "")


def test_a_network_that_is_no_row_of_the_paper_stands_beside_nothing(records, read):
    one, other = records.run("pgd"), records.run("pgd", squeeze_weight=0.1)
    records.transfer([other], [one], [[0.6]])
    (table,) = table_2(read())
    assert table.columns == [f"PGD ({other.name})"]
    assert table.rows[0].cells[0].paper == ""


def test_other_data_stand_beside_nothing(records, read):
    records.paper(records.run("pgd", data=records.digits))
    results = read()
    (table,) = table_1(results)
    assert not any(cell.paper or cell.difference for row in table.rows for cell in row.cells)
    assert "The paper has no numbers for Digits." in table.notes
    assert "CIFAR" not in markdown(results, table)


def test_pgd_200_stands_beside_section_5_3(records, read):
    path = records.run("label_smoothing")
    metrics = dict.fromkeys(("clean", "fgsm", "pgd5", "pgd10", "pgd20", "pgd200"), 0.15)
    records.evaluation(path, "paper", metrics, n=10000)
    (table,) = table_1(read())
    assert table.columns[-1] == "PGD-200"
    last = {row.head: row.cells[-1] for row in table.rows}
    assert (last["Label smoothing"].paper, last["Label smoothing"].difference) == ("13.6", "+1.4")
    assert last["PGD"].paper == ""


def test_the_papers_table_is_in_the_papers_order_and_names_another_attack(records, read):
    records.run("mixup")
    records.run("pgd", attack=records.attack | {"step_size": 0.015})
    (table,) = table_1(read())
    assert [row.head for row in table.rows] == [row.title for row in paper.METHODS.values()]
    assert "attacked with step size 0.015 (paper 0.0078)" in table.rows[2].detail


def test_what_is_no_row_of_the_paper_has_a_table_of_its_own(records, read):
    records.run("pgd")
    records.run("mixup")
    records.run("logit_squeezing", squeeze_weight=0.05)
    (others,) = other_configurations(read())
    assert [row.head for row in others.rows] == ["Mixup", "Logit squeezing"]
    assert all(cell.paper == "" for row in others.rows for cell in row.cells)


def test_variances_stand_beside_the_papers(records, read):
    records.paper(records.run("pgd"), n=20000, scale=8.0)
    records.run("alp")
    (table,) = logit_variances(read())
    cells = {row.head: row.cells for row in table.rows}
    assert (cells["PGD"][0].value, cells["PGD"][0].difference) == ("8.00", "−0.31")
    # No evaluation: from the test at the end of training.
    assert (cells["ALP"][0].value, cells["ALP"][1].value) == ("3.00", "2.00")
    assert cells["ALP"][0].difference == "−1.02"
    # The paper's are of section 3.
    assert all("alpha 0 (paper 0.5)" in row.detail for row in table.rows)


def test_variances_of_other_defences_stand_beside_nothing(records, read):
    records.run("pgd", alpha=0.3)
    records.run("mine")
    (table,) = logit_variances(read())
    assert [row.head for row in table.rows] == ["PGD", "mine"]
    assert all(cell.value == "3.00" for row in table.rows for cell in row.cells[:1])
    assert not any(cell.paper for row in table.rows for cell in row.cells)


def test_the_strong_evaluation_and_its_verdicts(records, read):
    following = {"pgd_square": 0.1, "transfer_alp-1": 0.1}  # told with the verdicts
    attacks = {"square": 0.123, "new_attack": 0.2} | following
    records.strong(records.run("label_smoothing"), verdict="masked", **attacks)
    records.strong(records.run("pgd"))
    results = read()
    (table,) = strong_table(results)
    assert table.columns[-2:] == ["all together", "new_attack"]
    assert table.rows[0].cells[table.columns.index("Square")].value == "12.3"
    masked, honest = (markdown(results, each) for each in verdicts(results))
    assert masked.startswith(
        "**Label smoothing: masked** [^1]\n\n1 of 2 signs that could be decided\n\n- black box: yes. Square, which"
    )
    assert (
        "(31 of 500 images, 95% interval \\[4.4, 8.7\\] %; a sign if all of it is above 1 %;"
        in masked
    )
    assert "- steps: no." in masked
    assert "accuracy by steps: (20: 0.5); Athalye et al. 2018, arXiv:1802.00420)" in masked
    assert "- no sign, but: PGD on the margin &lt;b&gt;broke&lt;/b&gt; 7 more" in masked
    assert honest.startswith("**PGD: not masked**")


def test_adaptive_pgd_has_a_column_and_says_what_it_raised(records, read):
    found = {"clean": 0.7, "pgd20": 0.4, "pgd_adaptive": 0.31}
    path = records.run("alp", n=500)
    for suite, loss in (("paper", "method"), ("strong", "mine:loss")):
        settings = {"pgd_adaptive": {"loss": loss, "steps": 20}}
        records.evaluation(path, suite, found, settings=settings)
    results = read()
    for table, loss in ((table_1(results)[0], "method"), (strong_table(results)[0], "mine:loss")):
        place = table.columns.index("PGD, adaptive")
        (row,) = (each for each in table.rows if each.head.startswith("ALP"))
        assert row.cells[place].value == "31.0"
        assert any(f"“PGD, adaptive” raises the loss {loss}" in each for each in table.notes)
    assert any("that of the network's own training" in each for each in table_1(results)[0].notes)
    assert other_configurations(results) == []


def test_every_table_is_marked_if_its_data_are_not_official(records):
    path = records.run("pgd", data=records.jpeg)
    records.run("mixup", data=records.jpeg)
    records.paper(path)
    records.strong(path)
    records.transfer([path], [path], [[0.5]], data=records.jpeg)
    document = compose(load([str(records.folder)]))
    tables = [part for part in document.parts if isinstance(part, Table)]
    assert [table.slug for table in tables] == [
        "cifar10-leaderboard",
        "cifar10-table-1",
        "cifar10-table-2",
        "cifar10-logit-variance",
        "cifar10-strong-evaluation",
        "cifar10-other-configurations",
    ]
    assert all("CIFAR-10 (not the official bytes)" in table.caption for table in tables)


def test_every_number_names_its_origin(records):
    path = records.run("pgd")
    records.strong(path)
    records.transfer([path], [path], [[0.5]])
    document = compose(load([str(records.folder)]))
    page.markdown(document)
    for part in document.parts:
        for row in part.rows if isinstance(part, Table) else ():
            for cell in row.cells:
                assert bool(cell.origins) == (cell.value != "–")
    references = list(document.references)
    assert [each.number for each in references] == [1, 2, 3]
    for each in references:
        assert list(each.facts) == ["run", "data", "n", "seed", "commit"]
        assert "not recorded" not in each.facts.values()
        assert each.facts["commit"] == "0123456789ab"
        assert each.command.startswith("python -m lrm_lightning.")


def test_commands_can_be_pasted(records, read):
    records.evaluation(records.run("a b"), "paper", {"clean": 0.5}, n=7)
    everything = read().records
    references = References(everything)
    evaluate, train = references.cite((*everything.evaluations, *everything.runs))
    assert evaluate.command.endswith("suite=paper n_images=7 seed=0")
    assert train.command == "python -m lrm_lightning.train 'method=a b' seed=0"


@pytest.mark.parametrize("field", ["git", "hardware", "versions", "wall_s", "written"])
def test_what_a_record_does_not_say_is_said(records, read, field):
    path = records.run("pgd") / "record.json"
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    everything = read().records
    (reference,) = References(everything).cite((*everything.runs,))
    assert "not recorded" in (reference.facts | reference.details).values()


@given(st.floats(0, 1, allow_subnormal=False), st.integers(0, 1000).map(lambda tenths: tenths / 10))
def test_the_difference_is_that_of_the_numbers_shown(accuracy, printed):
    ours = 100 * accuracy
    shown = number(ours)
    told = signed(ours - printed)
    assert "-" not in told  # the typographical minus, always
    difference = float(told.replace("−", "-").replace("±", ""))
    # To the last digit, but for a tie that binary rounds elsewhere.
    assert abs(float(shown) - printed - difference) < 0.1 + 1e-6
    assert abs(ours - printed - difference) <= 0.05 + 1e-6
    assert told[0] == {True: "+", False: "−"}[difference > 0] if difference else told == "±0.0"


def test_a_negative_zero_has_no_sign():
    assert number(-0.04) == "0.0"
    assert signed(-0.04) == "±0.0"
    assert signed(0.06) == "+0.1"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("*x* _y_ `z`", "\\*x\\* \\_y\\_ \\`z\\`"),
        ("[a](b)", "\\[a\\](b)"),
        ("$x$", "\\$x\\$"),
        ("a\n\n# b", "a \\# b"),
    ],
)
def test_markdown_shows_names_as_they_are(raw, shown):
    assert page.text(raw) == shown


def test_code_cannot_be_left_early():
    assert page.code("a`b``c") == "```a`b``c```"
    assert page.code("`a`") == "`` `a` ``"
    assert page.code("a\n\n<b>") == "`a <b>`"
    assert page.code("a\\|<b>") == "<code>a\\\\\\|&lt;b&gt;</code>"


@pytest.mark.parametrize(
    ("name", "title"),
    [("clean", "natural"), ("pgd50", "PGD-50"), ("pgd²", "pgd²"), ("pgd" + 5000 * "9",) * 2],
)
def test_attacks_are_named_as_the_paper_does(name, title):
    assert attack_title(name) == title
