"""Numbers and pictures of the README and of docs/ are those of the records in results/."""

import importlib.util
import re
from pathlib import Path

import pytest

from lrm_lightning.runs.records import EvaluationRecord, RunRecord, read_record

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/cifar10-jpeg-cpu"
METHODS = {
    "regular": "regular",
    "label smoothing, s = 0.5": "label_smoothing",
    "PGD": "pgd",
    "ALP": "alp",
    "LRM": "lrm",
}
# Heading of a column: the record's file, and the attack's name in it.
README = {
    "natural": ("evaluations/strong*.json", "clean"),
    "PGD-20": ("evaluations/paper*.json", "pgd20"),
    "PGD-200 x 5, cross-entropy": ("evaluations/strong*.json", "pgd_ce"),
    "PGD-200 x 5, margin": ("evaluations/strong*.json", "pgd_margin"),
    "AutoAttack": ("evaluations/strong*.json", "autoattack"),
}
WHITE_BOX = {
    "natural": ("record.json", "clean"),
    "FGSM": ("record.json", "fgsm"),
    "PGD-5": ("record.json", "pgd5"),
    "PGD-10": ("record.json", "pgd10"),
    "PGD-20": ("record.json", "pgd20"),
}
STRONG = {key: each for key, each in README.items() if key != "PGD-20"} | {
    "targeted PGD": ("evaluations/strong*.json", "pgd_targeted")
}


def _record(method, file):
    (path,) = FOLDER.glob(f"{method}-*/{file}")
    return read_record(path, RunRecord if file == "record.json" else EvaluationRecord)


def _tables(path):
    """Every table of a Markdown file: its headings, and its rows by their first cell."""
    for block in re.findall(r"(?:^\|.*\|\n)+", path.read_text(encoding="utf-8"), re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        yield head, {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("file", "columns"),
    [("README.md", README), ("docs/results.md", WHITE_BOX), ("docs/results.md", STRONG)],
    ids=["readme", "white-box", "strong"],
)
def test_a_table_of_results_is_that_of_the_records(file, columns):
    found = [
        rows for head, rows in _tables(ROOT / file) if columns.keys() <= set(head) and "PGD" in rows
    ]
    (rows,) = found
    assert rows.keys() == METHODS.keys()
    for title, method in METHODS.items():
        for heading, (source, attack) in columns.items():
            record = _record(method, source)
            low, high = (100 * each for each in record.intervals[attack])
            wanted = f"{100 * record.metrics[attack]:.1f} [{low:.1f}, {high:.1f}]"
            assert rows[title][heading] == wanted, (title, heading)
        masked = _record(method, "evaluations/strong*.json").masking.verdict == "masked"
        for heading in rows[title].keys() & {"gradient masked?", "masked?"}:
            assert rows[title][heading] == ("yes" if masked else "no")


def test_the_picture_is_that_of_the_records(tmp_path):
    spec = importlib.util.spec_from_file_location("make_picture", ROOT / "docs/make_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw(tmp_path / "picture.svg")
    drawn, kept = (path.read_text() for path in (tmp_path / "picture.svg", module.PICTURE))
    assert re.sub(r"<!--.*?-->|Matplotlib v[\d.]+", "", drawn) == re.sub(
        r"<!--.*?-->|Matplotlib v[\d.]+", "", kept
    )


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    names = re.findall(
        r"`((?:lrm_lightning|conf|tests|benchmarks|docs|examples|hydra_plugins)/[^` *]+)`", text
    )
    for target in links:
        assert (path.parent / target).exists(), target
    for target in names:
        assert (ROOT / target).exists(), target


def test_the_speed_in_the_readme_is_that_of_the_table():
    ((_, rows),) = _tables(ROOT / "docs/speed.md")
    ratios = {"training steps": [], "evaluations": []}
    for title, row in rows.items():
        kind = "training steps" if "training step" in title else "evaluations"
        ratios[kind] += [value for heading, value in row.items() if heading != "ours"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind, found in ratios.items():
        low, high = min(found, key=float), max(found, key=float)
        assert re.search(rf"{kind} (are )?{low} to {high} times", text)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200
