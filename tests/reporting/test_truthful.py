"""Nothing is overwritten in the report, shown as what it isn't, or able to harm its readers."""
# ruff: noqa: RUF001 (tables are set with a true minus)

import csv
import json
import os
import re
import shlex
from html.parser import HTMLParser

import pytest
import yaml

from lrm_lightning.report import report
from lrm_lightning.reporting import paper, tabular
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.reporting.figures.curves import step_curve
from lrm_lightning.reporting.page import compose
from lrm_lightning.reporting.parts import Cell, Row, Table
from lrm_lightning.reporting.references import References
from lrm_lightning.reporting.run_dir import command_line
from lrm_lightning.reporting.tables import (
    other_configurations,
    strong_table,
    table_1,
    table_2,
    verdicts,
)

# ------------------------------------------------------------------ names that mean harm

NAMES = [
    "\\27 \\g<1>",
    "27",
    "<img src=x onerror=alert(1)>",
    "\"><script>alert(1)</script>",
    "](javascript:alert(1)) ![x](javascript:alert(1))",
    "`` ` <img src=x onerror=alert(1)> `",
    "a\\|b|<img src=x onerror=alert(1)>",
    "a\n\n<img src=x onerror=alert(1)>\n# heading",
    "a\x00b\x1b[31m",
    "\u202egnp.exe\u2066",
    "../../../../tmp/x",
    "-->]]><svg onload=alert(1)>",
    "$\\frac{$ \\input{/etc/passwd} % & # _ ^ ~ [ *",
    "=HYPERLINK(\"http://x\")",
    "{{ 7 * 7 }} {% raw %} ${oc.env:HOME}",
]  # fmt: skip


class Elements(HTMLParser):
    """What a browser would find: elements, and attributes that run or load something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.harmful = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            value = value or ""
            if name.startswith("on") or ("javascript:" in value and name in ("href", "src")):
                self.harmful.append((tag, name, value))
            if name == "src" and not value.startswith("data:image/png;base64,"):
                self.harmful.append((tag, name, value))


def tags_of_markdown(text):
    """Tags that a Markdown viewer would see: not in code, and not escaped."""
    without_code = re.sub(r"(?<![\\`])(`+)(?!`)(?:(?!\n\n).)*?(?<!`)\1(?!`)", "", text, flags=re.S)
    return set(re.findall(r"<[a-zA-Z!/][^>\s]*", without_code))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_record_does_harm(records, tmp_path, name):
    folder = name.replace("/", "").replace("\x00", "")[:100]
    path = records.run("pgd", data=records.jpeg | {"name": "x"}, smoothing=name)
    os.rename(path, path.with_name(folder))
    path = path.with_name(folder)
    record = json.loads((path / "record.json").read_text())
    record["method"] = record["config"]["method"]["name"] = name
    record["config"][name] = {name: name}
    for key in ("hardware", "versions", "attack"):
        record[key] = record[key] | {name: name}
    record["git"]["commit"] = name
    record["data"] |= {"name": name, "note": name}
    records.write(path / "record.json", record)
    given = [f"method={name}", "--config-dir", name]
    records.write_text(path / ".hydra" / "overrides.yaml", yaml.safe_dump(given))
    network = dict.fromkeys(("name", "label", "run_dir", "checkpoint"), name)
    network |= {"run_id": record["run_id"]}
    records.paper(path, model=network, data=record["data"], overrides=[name, f"x={name}"])
    written = records.strong(path, verdict="masked", **{name: 0.25})
    strong = json.loads(written.read_text())
    strong["data"], strong["model"] = record["data"], network
    strong["settings"] = {name: {name: name}, "autoattack": {"iterations": 2, "attacks": [name]}}
    for sign in strong["masking"]["signs"]:
        sign |= {"name": name, "explanation": name, "source": name, "undecided": name}
        sign["evidence"] |= {name: name}
    records.write(written, strong)
    matrix = records.transfer([path], [path], [[0.5]], data=record["data"])
    content = json.loads(matrix.read_text())
    content |= {"sources": [network], "targets": [network], "overrides": [name]}
    records.write(matrix, content)
    records.write_text(records.folder / folder / "evaluations" / "other.json", "{")

    before = set(tmp_path.rglob("*"))
    page = report([str(records.folder)], tmp_path / "out")
    made = set(tmp_path.rglob("*")) - before
    assert all(each == page.parent or page.parent in each.parents for each in made)
    for each in (page.parent / "figures", page.parent / "tables"):
        names = [file.name for file in each.iterdir()]
        assert names
        assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|pdf|tex|csv)", file) for file in names)
    html = page.read_text(encoding="utf-8")
    found = Elements(html)
    assert found.harmful == []
    assert html.count("<script") == 1  # which sorts tables
    assert not found.tags & {"iframe", "object", "embed", "form", "input", "image"}
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    assert tags_of_markdown(markdown) <= {f"<{paper.URL}", "<code", "</code"}
    assert not re.search(r"(?<!\\)\]\(javascript", re.sub("`[^`\n]*`", "", markdown))
    assert "\n# heading" not in markdown
    for file in (page.parent / "tables").glob("*.tex"):
        text = re.sub("^%.*\n", "", file.read_text(encoding="utf-8"), flags=re.M)
        assert "\\input" not in text
        assert "\n[" not in text
    for file in (page.parent / "tables").glob("*.csv"):
        with file.open(newline="", encoding="utf-8") as lines:
            texts = [row[place] for row in csv.reader(lines) for place in (0, 1)]
        assert not [each for each in texts if each.startswith(("=", "@", "+", "-"))]


# ------------------------------------------------------------------ two evaluations of a network

OTHER = {"norm": "linf", "eps": 0.06, "step_size": 0.0156}


def also(records, written, name, **fields):
    """A second evaluation beside the first, with other fields."""
    content = json.loads(written.read_text()) | fields
    return records.write(written.with_name(f"{name}.json"), content)


def test_evaluations_at_two_radii_stand_side_by_side(records, read):
    first = records.paper(records.run("pgd"), n=20000)
    also(records, first, "paper-0123abcd", attack=OTHER)
    results = read()
    told = ["PGD (attacked eps=0.03, attacked step_size=0.0078)"]
    told += ["PGD (attacked eps=0.06, attacked step_size=0.0156)"]
    assert [group.title for group in results.paper] == told
    (plot,) = step_curve(results)
    assert all(each in plot.alt for each in told)
    # Table 1 has the paper's radius, and the other is not lost.
    rows = {row.head: row.detail for row in table_1(results)[0].rows}
    assert "L-inf eps 0.03" in rows["PGD"]
    ((other,),) = [table.rows for table in other_configurations(results)]
    assert "L-inf eps 0.06" in other.detail
    assert "attacked with eps 0.06 (paper 0.03)" in other.detail


@pytest.mark.parametrize(
    ("first", "second", "titles"),
    [
        ({"n": 500}, {"n": 400}, ("PGD (n=400)", "PGD (n=500)")),
        (
            {"subset": {"seed": 0}},
            {"subset": {"seed": 1}},
            ("PGD (subset seed=0)", "PGD (subset seed=1)"),
        ),
        (
            {"settings": {"autoattack": {"iterations": 100, "version": "standard"}}},
            {"settings": {"autoattack": {"iterations": 2, "version": "reduced"}}},
            ("PGD (autoattack.iterations=100)", "PGD (autoattack.iterations=2)"),
        ),
        (
            {"settings": {"pgd_ce": {"restarts": 1, "eps": 0.03}}},
            {"settings": {"pgd_ce": {"restarts": 5, "eps": 0.03}}},
            ("PGD (pgd_ce.restarts=1)", "PGD (pgd_ce.restarts=5)"),
        ),
        (
            {"settings": {"transfer": {"sources": []}}},
            {"settings": {"transfer": {"sources": ["a", "b"]}}},
            ("PGD (sources=0)", "PGD (sources=2)"),
        ),
    ],
    ids=["n", "seed", "autoattack", "restarts", "sources"],
)
def test_strong_evaluations_are_named_by_their_settings(records, read, first, second, titles):
    written = records.strong(records.run("pgd"))
    also(records, written, "strong", **first)
    also(records, written, "strong-0123abcd", **second)
    (table,) = strong_table(read())
    assert tuple(row.head for row in table.rows) == titles


def test_two_matrices_are_told_apart(records, read):
    path = records.run("pgd")
    written = records.transfer([path], [path], [[0.5]])
    also(records, written, "transfer-0123abcd", attack=records.attack | {"eps": 0.06})
    also(records, written, "transfer-notahash")
    tables = table_2(read())
    captions = [table.caption.partition("CIFAR-10 ")[2] for table in tables]
    assert sorted(captions) == ["(eps=0.03)", "(eps=0.06)"]


def test_another_checkpoint_is_another_network(records, read):
    written = records.paper(records.run("pgd"))
    content = json.loads(written.read_text())
    also(records, written, "paper-0123abcd", model=content["model"] | {"checkpoint": "best"})
    titles = [group.title for group in read().paper]
    assert titles == ["PGD (checkpoint=best)", "PGD (checkpoint=last)"]


# ------------------------------------------------------------------ weak attacks, debug runs


def test_a_weak_attack_says_so_in_every_table(records, read):
    attack = records.attack | {"eps": 0.3}
    path = records.run("pgd", attack=attack)
    written = records.strong(path)
    settings = {"autoattack": {"iterations": 2, "queries": 10}}
    also(records, written, "strong", settings=settings)
    written = records.transfer([path], [path], [[0.5]])
    also(records, written, "transfer", attack=attack)
    results = read()
    row = table_1(results)[0].rows[2]
    assert row.cells[2].mark == "weak search: 5 steps of 0.0078 are shorter than eps = 0.3"
    assert row.cells[1].mark == ""  # FGSM's one step is eps itself
    (table,) = strong_table(results)
    reduced = "reduced AutoAttack: 2 of 100 iterations, 10 of 5000 queries"
    marks = dict(zip(table.columns, (cell.mark for cell in table.rows[0].cells), strict=True))
    assert marks["AutoAttack"] == marks["APGD-CE"] == reduced
    assert marks["natural"] == marks["PGD, CE"] == ""
    assert [each.weakness for each in verdicts(results)] == [reduced]
    assert (
        "Weak search: 10 steps of 0.0078 are shorter than eps = 0.3." in table_2(results)[0].notes
    )


@pytest.mark.parametrize(
    ("key", "value", "is_limited"),
    [
        ("limit_train_batches", 1, True),
        ("limit_train_batches", 0.1, True),
        ("limit_train_batches", 1.0, False),
        ("limit_train_batches", None, False),
        ("overfit_batches", 2, True),
        ("max_steps", 3, True),
        ("max_steps", -1, False),
    ],
)
def test_a_debug_run_is_no_row_of_the_paper(records, read, key, value, is_limited):
    path = records.run("pgd") / "record.json"
    content = json.loads(path.read_text())
    content["config"]["trainer"][key] = value
    records.write(path, content)
    results = read()
    assert (results.tests[0].row is None) == is_limited
    others = [row.detail for table in other_configurations(results) for row in table.rows]
    assert [f"a debug run: {key} {value}" in each for each in others] == [True] * is_limited


# ------------------------------------------------------------------ commands


def test_a_run_is_made_again_by_the_command_line_it_was_made_by(records, read):
    path = records.run("pgd")
    records.write_text(path / ".hydra" / "overrides.yaml", "[experiment=cpu, method=pgd]")
    assert command_line(path) == ["experiment=cpu", "method=pgd"]
    places = [{"path": "pkg", "provider": "main"}, {"path": "my", "provider": "command-line"}]
    hydra = {
        "overrides": {"hydra": ["hydra.searchpath=[file://conf]", "hydra.mode=MULTIRUN"]},
        "job": {"config_name": "sweep"},
        "runtime": {"config_sources": places},
    }
    records.write_text(path / ".hydra" / "hydra.yaml", yaml.safe_dump({"hydra": hydra}))
    assert command_line(path) == [
        *("--config-dir=my", "--config-name=sweep", "hydra.searchpath=[file://conf]"),
        *("experiment=cpu", "method=pgd", "hydra.mode=RUN"),
    ]
    # What is missing is suggested with the recipe of what there is, for another defence.
    rows = {row.head: row.command for row in table_1(read())[0].rows}
    train = "python -m lrm_lightning.train"
    assert rows["ALP"] == f"{train} method=alp 'hydra.searchpath=[file://conf]' experiment=cpu"
    # A trial of a search is one run, and a sweep's YAML may have chosen the experiment.
    long = f"init_from={'x' * 500}"
    given = ["++rerun=true", "hparams_search=optuna", long, "method=pgd"]
    records.write_text(path / ".hydra" / "overrides.yaml", yaml.safe_dump(given))
    hydra["runtime"]["choices"] = {"experiment": "robustbench"}
    hydra["job"] = {"config_name": "config"}
    records.write_text(path / ".hydra" / "hydra.yaml", yaml.safe_dump({"hydra": hydra}))
    assert command_line(path) == [
        *("--config-dir=my", "hydra.searchpath=[file://conf]", "hparams_search=optuna", long),
        *("method=pgd", "hydra.mode=RUN"),
    ]
    assert read().recipe == ["experiment=robustbench", "hydra.searchpath=[file://conf]"]


def test_an_evaluation_is_made_again_by_its_overrides(records, read):
    given = ["runs=[a]", "suite=strong", "suite.autoattack_iterations=2", "attack.eps=0.1"]
    path = records.run("pgd")
    also(records, records.strong(path), "strong", overrides=given)
    everything = read().records
    (reference,) = References(everything).cite((*everything.evaluations,))
    assert shlex.split(reference.command)[3:] == given


# ------------------------------------------------------------------ tables as files


def test_a_table_as_latex_and_csv():
    cells = [Cell("−0.5", "[−1.0, 2.0]", "3.0", "−3.5"), Cell("72.0 ± 2.8", "2 seeds"), Cell()]
    row = Row("a_b & [c]", cells, "n = 100")
    table = Table("slug", "Cap%tion", "training", ["x", "y", "z"], [row], ["A note."])
    assert tabular.latex(table) == "\n".join([
        "% Cap%tion",
        "% A note.",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"training & x & y & z \\",
        r"\midrule",
        r"a\_b \& {[}c{]} & $-$0.5 {\scriptsize {[}$-$1.0, 2.0{]}} & 72.0 $\pm$ 2.8 & -- \\",
        r"\quad paper & 3.0 & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip
    assert list(csv.reader(tabular.comma_separated(table).splitlines())) == [
        ["training", "column", "value", "sd", "low", "high", "paper", "mark", "on"],
        ["a_b & [c]", "x", "-0.5", "", "-1.0", "2.0", "3.0", "", "n = 100"],
        ["a_b & [c]", "y", "72.0", "2.8", "", "", "", "", "n = 100"],
        ["a_b & [c]", "z", "", "", "", "", "", "", "n = 100"],
    ]


def test_every_table_is_written_both_ways(records, tmp_path):
    records.strong(records.run("pgd"))
    page = report([str(records.folder)], tmp_path / "out")
    slugs = [
        part.slug for part in compose(load([str(records.folder)])).parts if isinstance(part, Table)
    ]
    assert len(slugs) >= 3
    files = sorted(each.name for each in (page.parent / "tables").iterdir())
    assert files == sorted(f"{slug}.{kind}" for slug in slugs for kind in ("csv", "tex"))
