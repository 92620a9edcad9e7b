"""Tables in the terminal."""

import io
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console

from lrm_lightning.attacks.autoattack import STANDARD
from lrm_lightning.evaluation import tables
from lrm_lightning.evaluation.metrics import ATTACK_TITLES, STANDARD_ATTACKS, weakness
from lrm_lightning.evaluation.randomised import RAND
from lrm_lightning.evaluation.tables import print_evaluations, print_matrix, print_runs
from lrm_lightning.runs.records import EvaluationRecord, RunRecord, TransferRecord

DATA = {"name": "cifar10", "official": True}
RECORD = RunRecord(
    method="alp",
    n=10000,
    metrics={"clean": 0.7401, "fgsm": 0.5, "pgd5": 0.4, "pgd10": 0.4, "pgd20": 1.0},
    intervals={"clean": (0.7314, 0.7486), "fgsm": (0.49, 0.51), "pgd20": (0.9996, 1.0)},
    data=DATA,
)


def printed(function, *arguments, **console):
    file = io.StringIO()
    with patch.object(tables, "Console", partial(Console, file=file, **console)):
        function(*arguments)
    return file.getvalue()


def test_accuracies_of_runs_are_percent_with_their_intervals():
    lines = printed(print_runs, [("s=0.1", RECORD, Path("/runs/a"))]).splitlines()
    assert " ".join(lines[1].split()) == "method run clean % FGSM % PGD-20 % directory"
    cells = "alp s=0.1 74.0 [73.1, 74.9] 50.0 [49.0, 51.0] 100.0 [100.0, 100.0] /runs/a"
    assert lines[3].split() == cells.split()
    assert lines[-1] == "95% intervals over 10,000 test images of CIFAR-10"


def test_what_is_missing_is_a_dash():
    record = RunRecord(method="pgd", n=4, data=DATA, metrics={"clean": 0.5})
    text = printed(print_runs, [("", record, Path("/runs/a"))])
    assert text.splitlines()[3].split() == ["pgd", "50.0", "-", "-", "/runs/a"]
    assert " run " not in text  # no label, no column for it


def test_of_pgd_the_most_steps_are_shown():
    record = RECORD.model_copy(update={"metrics": {"clean": 0.5, "pgd5": 0.4, "pgd50": 0.25}})
    lines = printed(print_runs, [("", record, Path("/runs/a"))]).splitlines()
    assert " ".join(lines[1].split()) == "method clean % FGSM % PGD-50 % directory"
    assert "25.0" in lines[3]


@pytest.mark.parametrize(("step_size", "stars"), [(0.0014, 1), (0.001499, 0), (0.0015, 0)])
def test_a_search_shorter_than_eps_is_starred(step_size, stars):
    attack = {"eps": 0.03, "step_size": step_size}
    text = printed(
        print_runs, [("", RECORD.model_copy(update={"attack": attack}), Path("/runs/a"))]
    )
    assert text.count("100.0*") == stars
    reason = "* weak search: 20 steps of 0.0014 are shorter than eps = 0.03; the accuracy may be"
    assert text.count(reason) == stars


def test_a_reduced_autoattack_says_so():
    settings = {
        "autoattack": {"iterations": 2, "queries": 5000, "attacks": list(STANDARD_ATTACKS[:3])}
    }
    masking = {"verdict": "not masked", "signs": []}
    record = evaluation("a", {"clean": 0.5, "autoattack": 0.25}, settings=settings, masking=masking)
    lines = printed(print_evaluations, [record]).splitlines()
    assert lines[3].split() == ["a", "50.0", "25.0*"]
    reason = "reduced AutoAttack: 2 of 100 iterations, without square"
    assert f"* {reason}; the accuracy may be too high" in lines
    assert f"  {reason}" in lines
    standard = {"autoattack": {"iterations": 100, "queries": 5000, "attacks": list(STANDARD)}}
    rand = {"autoattack": standard["autoattack"] | {"version": "rand", "attacks": list(RAND)}}
    for settings in (standard, rand):
        assert weakness(record.model_copy(update={"settings": settings}), "autoattack") == ""
    rand["autoattack"]["iterations"] = 2
    less = weakness(record.model_copy(update={"settings": rand}), "autoattack")
    assert less == "reduced AutoAttack: 2 of 100 iterations"


def test_unofficial_data_are_named_once():
    unofficial = RunRecord.model_validate(RECORD.model_dump() | {"data": {"name": "cifar10"}})
    rows = [("a", unofficial, Path("a")), ("b", RECORD, Path("b"))]
    text = printed(print_runs, [*rows, rows[0]])
    assert text.count("CIFAR-10 (not the official bytes)") == 1
    assert "not the official" not in printed(print_runs, [rows[1]])


@pytest.mark.parametrize("width", [20, 300])
def test_a_file_gets_the_whole_table_whatever_the_width(width):
    label, path = "model.widths=[16,16,32,64] " * 4, Path("/runs") / ("x" * 120)
    text = printed(print_runs, [(label, RECORD, path)], width=width)
    assert label.strip() in text
    assert str(path) in text
    assert len({len(line) for line in text.splitlines()[:4]}) == 1


def test_a_narrow_terminal_wraps_and_loses_nothing():
    rows = [("s=0.1", RECORD, Path("/runs") / ("x" * 60))]
    text = printed(print_runs, rows, width=60, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("x") == 60


def test_paths_are_relative_to_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert " runs/a" in printed(print_runs, [("", RECORD, tmp_path / "runs" / "a")])


def evaluation(label, metrics, **fields):
    network = {"name": "pgd", "label": label}
    common = {"kind": "whitebox", "data": DATA, "n": 100, "subset": {"seed": 3}}
    return EvaluationRecord(**common, suite="strong", network=network, metrics=metrics, **fields)


def test_networks_are_rows_and_attacks_columns():
    records = [
        evaluation("a", {"clean": 0.5, "worst": 0.25}),
        evaluation("b", {"clean": 1.0, "mine": 0.75, "worst": 0.0}),
    ]
    lines = printed(print_evaluations, records).splitlines()
    assert lines[1].split() == ["accuracy", "%", "natural", "mine", "all", "together"]
    assert [line.split() for line in lines[3:5]] == [
        ["a", "50.0", "-", "25.0"],
        ["b", "100.0", "75.0", "0.0"],
    ]
    # the interval of one half, 40.4 to 59.6
    width = "95% intervals are at most 19.2 points wide"
    assert lines[-1] == f"100 test images of CIFAR-10, subset seed 3; {width}"
    for attack, told in (
        ({"norm": "linf", "eps": 8 / 255}, "L-inf eps 8/255"),
        ({"norm": "l2", "eps": 0.5}, "L2 eps 0.5"),
    ):
        record = records[0].model_copy(update={"attack": attack})
        assert f"subset seed 3, {told}; {width}" in printed(print_evaluations, [record])


def test_many_attacks_and_sources_leave_the_numbers_whole():
    others = ("fgsm", "large_eps", "kept_images")  # of other suites
    shares = {name: 1.0 for name in ATTACK_TITLES if name not in others}
    sources = {f"transfer_label_smoothing-{k}": 0.5 for k in range(4)}
    masking = {"verdict": "not masked", "signs": []}
    records = [evaluation("pgd-1a2b3c4d", shares | sources, masking=masking)]
    look = {"width": 80, "force_terminal": True, "color_system": None}
    text = printed(print_evaluations, records, **look)
    assert text.count("100.0") == len(shares)
    assert text.count("50.0 by label_smoothing-") == len(sources)


def test_a_verdict_comes_with_the_signs_that_fired_and_what_else_was_noticed():
    sign = {"name": "steps", "fired": True, "explanation": "accuracy fell"}
    signs = [sign, {"name": "gradient", "fired": False, "explanation": "sound"}]
    loss = {"count": 3, "explanation": "PGD on the margin broke 3"}
    masking = {"verdict": "masked", "signs": signs, "loss": loss}
    autoattack = {"flags": ["the model's output is random"]}
    record = evaluation("a", {"clean": 0.5}, masking=masking, autoattack=autoattack)
    text = printed(print_evaluations, [record])
    for line in (
        "a: verdict: masked, 1 of 2 signs that could be decided",
        "  steps: accuracy fell",
        "  PGD on the margin broke 3",
        "  AutoAttack warns: the model's output is random",
    ):
        assert line in text.splitlines()
    assert "sound" not in text


def test_matrix_marks_what_is_no_black_box():
    networks = [{"name": "pgd", "label": label} for label in ("a", "b")]
    record = TransferRecord(
        kind="blackbox",
        sources=networks[:1],
        targets=networks,
        accuracy=[[0.25], [0.5]],
        intervals=[[(0.2, 0.3)], [(0.4, 0.6)]],
        same_network=[[True], [False]],
        data=DATA,
        n=100,
        subset={"seed": 0},
    )
    lines = printed(print_matrix, record).splitlines()
    assert [line.split() for line in lines[3:5]] == [["a", "25.0*"], ["b", "50.0"]]
    assert "a white-box number" in lines[-2]
