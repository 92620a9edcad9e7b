"""The command."""

import errno
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lrm_lightning import report as command


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder; returns its exit code, output and errors."""

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["report", *overrides])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        code = 0
        try:
            command.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run


def test_it_writes_a_page_markdown_and_figures_and_nothing_else(records, run, tmp_path):
    records.run("pgd", curves=False)
    code, out, err = run("runs_dir=runs", "out=there/report")
    assert (code, err) == (0, "")
    wrote, where = out.splitlines()
    assert wrote == "wrote there/report/index.html, report.md, figures/ and tables/ beside it"
    assert where == f"open file://{tmp_path}/there/report/index.html"
    assert sorted(os.listdir(tmp_path / "there/report")) == [
        *("figures", "index.html", "report.md", "tables"),
    ]
    assert sorted(os.listdir(tmp_path)) == ["runs", "there"]


def test_the_same_records_give_the_same_report(records, run, tmp_path):
    records.run("pgd", curves=False)
    for out in ("one", "two"):
        assert run(f"out={out}")[0] == 0
    for name in ("index.html", "report.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_killed_while_it_writes(records, processes, killed_at):
    records.run("pgd")

    def written(out):
        paths = (path for path in (processes.folder / out).rglob("*") if path.is_file())
        return {str(path.relative_to(processes.folder / out)): path.read_bytes() for path in paths}

    processes.run("lrm_lightning.report", "out=undisturbed")
    for name in (".pdf", ".csv", "report.md", "index.html"):
        killed = killed_at("os.rename", name)
        processes.start("lrm_lightning.report", "out=report", prelude=killed).ends(-9)
        assert "index.html" not in written("report")
    processes.run("lrm_lightning.report", "out=report")
    assert written("report") == written("undisturbed")


def test_neither_torch_nor_lightning_is_needed(records, tmp_path):
    records.paper(records.run("pgd"))
    code = (
        "import sys; from pathlib import Path; from lrm_lightning.report import report;"
        f"report([{str(records.folder)!r}], Path({str(tmp_path / 'report')!r}));"
        "sys.exit(' '.join({'torch', 'lightning', 'wandb'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_name_of_data_leads_out_of_the_page(records, run, tmp_path):
    names = ["27", "\\g<1>", "../../x", "a|b`<script>", "${oc.env:HOME}"]
    records.run("pgd", data=records.jpeg | {"name": "x"})
    for seed, name in enumerate(names):
        path = records.run("alp", seed=seed, data=records.jpeg | {"name": "y"}) / "record.json"
        path.write_text(path.read_text().replace('"y"', json.dumps(name)))
    assert run()[0] == 0
    figures = os.listdir(tmp_path / "report/figures")
    assert len(figures) == 6 * (1 + len(names))
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|pdf)", each) for each in figures)
    page = (tmp_path / "report/index.html").read_text()
    for name in names:
        assert f"Table 1. White-box accuracy, {html.escape(name)} (not the official bytes)" in page
    assert page.count("<script") == 1  # which sorts tables


def test_no_records_is_one_line(run, tmp_path):
    (tmp_path / "runs").mkdir()
    code, out, err = run()
    assert (code, out) == (1, "")
    assert err.startswith("error: no records below runs; train with ")
    assert err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_damaged_records_are_named_and_the_rest_is_reported(records, run, tmp_path):
    records.run("pgd", curves=False)
    records.write_text(records.folder / "x" / "record.json", "{")
    code, _, err = run("runs_dir=[runs]")
    assert code == 0
    assert err.startswith("skipped: runs/x/record.json is no RunRecord of this version (")
    assert err.count("\n") == 1
    assert (tmp_path / "report" / "index.html").exists()


def test_nothing_but_damaged_records_is_an_error(records, run):
    records.write_text(records.folder / "record.json", "[]")
    code, _, err = run()
    assert code == 1
    assert [line.split(":")[0] for line in err.splitlines()] == ["skipped", "error"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runs_dir=nowhere", "error: runs_dir=nowhere: no folder nowhere"),
        ("runs_dir=[]", "error: out='report' and runs_dir=[] must name folders"),
        ("runs_dir=3", "error: runs_dir=3 must be a text or a list of texts"),
        ("out=null", "error: out=null: out=None must be text"),
        ("colour=red", "error: Could not override 'colour'"),
    ],
)
def test_a_mistake_is_one_line(records, run, override, message):
    records.run("pgd")
    code, _, err = run(override)
    assert code == 1
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_full_disk_is_one_line(records, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    curve = {"steps": [0, 1], "accuracy": [0.5, 0.25]}
    records.evaluation(records.run("pgd"), "paper", {"clean": 0.5}, curve=curve)
    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run()
    assert code == 1
    assert re.fullmatch(r"error: cannot write report/.*\.pdf: No space left on device; .*\n", err)


def test_a_folder_that_cannot_be_written_is_one_line(records, run, tmp_path):
    records.run("pgd")
    (tmp_path / "report").write_text("a file")
    code, _, err = run()
    assert code == 1
    assert err.startswith("error: cannot write report")
    assert err.count("\n") == 1
