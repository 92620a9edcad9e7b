"""Which runs are one configuration, what to call the others, and which measurement counts."""

import json
import math

import pytest

from lrm_lightning.reporting.discovery import find_records
from lrm_lightning.reporting.measurements import (
    best_measured,
    data_sets,
    evaluated,
    own_tests,
    white_box,
)
from lrm_lightning.reporting.settings import (
    attack_departures,
    departures,
    paper_method,
    training_settings,
)

OTHER_ATTACK = {"norm": "linf", "eps": 0.03, "step_size": 0.015, "steps": 3}


@pytest.fixture
def read(records):
    def read():
        everything = find_records([str(records.folder)])
        assert everything.skipped == []
        return everything, data_sets(everything)[0]

    return read


def test_seeds_of_one_configuration_are_one_group(records, read):
    for seed, clean in ((2, 0.72), (0, 0.70), (1, 0.74)):
        records.run("alp", seed=seed, metrics=(clean, 0.5, 0.5, 0.5, 0.5))
    (group,) = own_tests(*read())
    assert group.seeds == (0, 1, 2)
    assert group.mean("clean") == pytest.approx(0.72)
    # Written out: the deviation of a sample of three.
    assert group.spread("clean") == pytest.approx(math.sqrt((0.02**2 + 0.02**2) / 2))
    assert group.title == "ALP"


def test_a_single_seed_has_an_interval_and_no_deviation(records, read):
    records.run("alp", n=100, metrics=(0.5, 0.5, 0.5, 0.5, 0.5))
    (group,) = own_tests(*read())
    assert group.spread("clean") is None
    assert group.first.interval("clean") == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_a_missing_interval_is_computed(records, read):
    path = records.run("alp", n=100, metrics=(0.5, 0.5, 0.5, 0.5, 0.5)) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intervals": {}}))
    (group,) = own_tests(*read())
    assert group.first.interval("clean") == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_other_configurations_are_named_by_what_differs(records, read):
    records.run("label_smoothing", smoothing=0.25)
    records.run("label_smoothing", smoothing=0.5)
    records.run("pgd")
    titles = [group.title for group in own_tests(*read())]
    assert titles == ["Label smoothing (smoothing=0.25)", "Label smoothing (smoothing=0.5)", "PGD"]


def test_many_differences_are_told_beside_the_name(records, read):
    records.run("pgd")
    other = records.run("pgd", epochs=3, smoothing=0.1, squeeze_weight=0.2)
    by_row = {group.row is None: group for group in own_tests(*read())}
    run_id = json.loads((other / "record.json").read_text())["run_id"]
    assert by_row[True].title == f"PGD (run {run_id})"
    assert by_row[True].differs == "smoothing=0.1, squeeze_weight=0.2, trainer.max_epochs=3"


def test_what_does_not_change_the_result_does_not_divide(records, read):
    path = records.run("pgd", seed=1) / "record.json"
    content = json.loads(path.read_text())
    content["config"] |= {"runs_dir": "elsewhere", "logger": {"wandb": True}}
    content["config"]["data"]["root"] = "/data"
    content["config"]["trainer"]["devices"] = 4
    path.write_text(json.dumps(content))
    records.run("pgd", seed=0)
    (group,) = own_tests(*read())
    assert group.seeds == (0, 1)


def test_interpolations_in_a_foreign_configuration_are_text(records, read, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    records.run("pgd", smoothing="${oc.env:SECRET}")
    records.run("pgd")
    assert "PGD (smoothing=${oc.env:SECRET})" in [group.title for group in own_tests(*read())]


def test_the_papers_attack_comes_before_more_images(records, read):
    path = records.run("pgd", n=10000, attack=OTHER_ATTACK)
    records.paper(path, n=500)
    (group,) = white_box(*read())
    assert group.first.origin.n == 500
    assert attack_departures(group.first.origin.attack) == []


def test_with_the_same_attack_more_images_count(records, read):
    records.paper(records.run("pgd", n=10000), n=500)
    (group,) = white_box(*read())
    assert group.first.origin.n == 10000


def test_seeds_measured_otherwise_are_not_averaged_in(records, read):
    records.paper(records.run("pgd", seed=0, attack=OTHER_ATTACK))
    records.run("pgd", seed=1, attack=OTHER_ATTACK)
    groups = white_box(*read())
    assert {group.seeds for group in groups} == {(0,), (1,)}
    assert [group.seeds for group in best_measured(groups)] == [(0,)]


def test_a_run_and_its_export_are_one_network(records, read):
    path = records.run("pgd")
    records.paper(path)
    copy = records.folder / "exported"
    content = json.loads((path / "evaluations" / "paper.json").read_text())
    records.write(copy / "evaluations" / "paper.json", content)
    everything, data = read()
    assert len(everything.evaluations) == 2
    (group,) = evaluated(everything, data, "paper")
    assert len(group.entries) == 1


def test_a_network_from_elsewhere_goes_by_its_own_name(records, read):
    path = records.run("pgd")
    model = {"name": "alp", "label": "theirs"}
    data = json.loads((path / "record.json").read_text())["data"]
    records.evaluation(records.folder / "theirs", "paper", {"clean": 0.5}, model=model, data=data)
    groups = white_box(*read())
    assert [(group.title, group.row is None) for group in groups] == [
        ("PGD", False),
        ("theirs", True),
    ]


@pytest.mark.parametrize(
    ("method", "knobs", "is_papers"),
    [
        ("pgd", {}, True),
        ("pgd", {"alpha": 0.5}, False),
        ("pgd", {"squeeze_weight": 0.01}, False),
        ("regular", {"smoothing": 0.1}, False),
        ("label_smoothing", {}, True),
        ("label_smoothing", {"smoothing": 0.5}, False),
        ("lrm", {}, True),
        ("lrm", {"mixing": "none"}, False),
        ("alp", {"pairing_weight": 1.0}, True),
        ("mixup", {}, False),
    ],
)
def test_which_run_is_a_row_of_the_paper(records, read, method, knobs, is_papers):
    records.run(method, **knobs)
    everything, _ = read()
    (run,) = everything.runs
    assert (paper_method(run.method, training_settings(run.config)) is not None) == is_papers


def test_departures_from_the_recipe_are_named(records, read):
    records.run("pgd", epochs=7, attack=OTHER_ATTACK)
    (run,) = read()[0].runs
    assert departures("pgd", training_settings(run.config)) == [
        "attack step size 0.015 (paper 0.0078)",
        "attack steps 3 (paper 10)",
        "7 epochs (paper 101)",
    ]
    # Trained on clean images: there is no training attack to differ.
    assert departures("regular", training_settings(run.config)) == ["7 epochs (paper 200)"]


def test_the_papers_data_come_first_and_stay_apart(records):
    for seed, data in enumerate((records.digits, records.jpeg, records.official)):
        records.run("pgd", seed=seed, data=data)
    found = data_sets(find_records([str(records.folder)]))
    assert [data.title for data in found] == [
        "CIFAR-10",
        "CIFAR-10 (not the official bytes)",
        "Digits",
    ]
