"""The table of results."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lrm_lightning.evaluation.summary import print_summary

RECORD = {
    "method": "alp",
    "n": 10000,
    "metrics": {"clean": 0.7401, "fgsm": 0.5, "pgd5": 0.4, "pgd10": 0.4, "pgd20": 1.0},
    "intervals": {"clean": [0.7314, 0.7486], "fgsm": [0.49, 0.51], "pgd20": [0.9996, 1.0]},
    "data": {"name": "CIFAR-10", "official": True, "note": ""},
}
UNOFFICIAL = {"name": "CIFAR-10 (JPEG)", "official": False, "note": "not the official bytes"}


def printed(*rows, **console):
    file = io.StringIO()
    print_summary(rows, Console(file=file, **console))
    return file.getvalue()


def test_accuracies_are_percent_with_their_intervals():
    lines = printed(("s=0.1", RECORD, Path("/runs/a"))).splitlines()
    assert lines[1].split() == [
        "method",
        "run",
        "clean",
        "%",
        "FGSM",
        "%",
        "PGD-20",
        "%",
        "directory",
    ]
    cells = "alp s=0.1 74.0 [73.1, 74.9] 50.0 [49.0, 51.0] 100.0 [100.0, 100.0] /runs/a"
    assert lines[3].split() == cells.split()
    assert lines[-1] == "95% intervals over 10,000 test images"


def test_what_is_missing_is_a_dash():
    text = printed(("", {"method": "pgd", "metrics": {"clean": 0.5}}, Path("/runs/a")))
    assert text.splitlines()[3].split() == ["pgd", "50.0", "-", "-", "/runs/a"]
    assert "intervals" not in text
    assert " run " not in text  # no label, no column for it


def test_unofficial_data_are_named_once():
    rows = [("a", RECORD | {"data": UNOFFICIAL}, Path("a")), ("b", RECORD, Path("b"))]
    text = printed(*rows, rows[0])
    assert text.count("CIFAR-10 (JPEG): not the official bytes") == 1
    assert "not the official" not in printed(rows[1])


@pytest.mark.parametrize("width", [20, 300])
def test_a_file_gets_the_whole_table_whatever_the_width(width):
    label, path = "model.widths=[16,16,32,64] " * 4, Path("/runs") / ("x" * 120)
    text = printed((label, RECORD, path), width=width)
    assert label.strip() in text
    assert str(path) in text
    assert len({len(line) for line in text.splitlines()[:4]}) == 1


def test_a_narrow_terminal_wraps_and_loses_nothing():
    path = Path("/runs") / ("x" * 60)
    text = printed(("s=0.1", RECORD, path), width=60, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("x") == 60


def test_paths_are_relative_to_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert " runs/a" in printed(("", RECORD, tmp_path / "runs" / "a"))
