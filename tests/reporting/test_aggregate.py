"""Which runs are one configuration, what to call the others, and which measurement counts."""

import json
import math

import pytest

from lrm_lightning.reporting.aggregate import aggregate, load, rows_of_paper
from lrm_lightning.reporting.paper import THREAT_MODEL
from lrm_lightning.reporting.settings import departures, shown, summary, telling, unlike

OTHER_ATTACK = {"norm": "linf", "eps": 0.03, "step_size": 0.015, "steps": 3}


def test_seeds_of_one_configuration_are_one_group(records, read):
    for seed, clean in ((2, 0.72), (0, 0.70), (1, 0.74)):
        records.run("alp", seed=seed, metrics=(clean, 0.5, 0.5, 0.5, 0.5))
    (group,) = read().tests
    assert group.seeds == [0, 1, 2]
    assert group.mean("clean") == pytest.approx(0.72)
    # Written out: the deviation of a sample of three.
    assert group.spread("clean") == pytest.approx(math.sqrt((0.02**2 + 0.02**2) / 2))
    assert group.title == "ALP"


@pytest.mark.parametrize("fields", [{}, {"intervals": {}}])
def test_a_single_seed_has_its_interval_written_or_not_and_no_deviation(records, read, fields):
    path = records.run("alp", n=100, metrics=(0.5, 0.5, 0.5, 0.5, 0.5)) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    (group,) = read().tests
    assert group.spread("clean") is None
    assert group.interval("clean") == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_other_configurations_are_named_by_what_differs(records, read):
    records.run("label_smoothing", smoothing=0.25)
    records.run("label_smoothing", smoothing=0.5)
    records.run("pgd")
    titles = [group.title for group in read().tests]
    assert titles == ["Label smoothing (smoothing=0.25)", "Label smoothing (smoothing=0.5)", "PGD"]


def test_a_record_of_before_a_knob_is_one_with_the_knob_off(records, read):
    records.run("pgd")
    records.run("pgd", seed=1, awp=0.0, input_noise=0.0)
    records.run("pgd", seed=2, awp=0.005)
    titles = [group.title for group in read().tests]
    assert titles == ["PGD (awp=0)", "PGD (awp=0.005)"]


def test_what_others_differ_in_is_not_in_a_name(records, read):
    for change in ({"smoothing": 0.5}, {"alpha": 0.5}, {"squeeze_weight": 0.1}, {"epochs": 3}):
        records.run("pgd", **change)
    titles = {group.title.removeprefix("PGD ") for group in read().tests}
    changes = "smoothing=0.5", "alpha=0.5", "squeeze_weight=0.1", "trainer.max_epochs=3"
    assert titles == {f"({change})" for change in changes}


def test_many_differences_are_told_beside_the_name(records, read):
    records.run("pgd")
    other = records.run("pgd", epochs=3, smoothing=0.1, squeeze_weight=0.2)
    by_row = {group.row is None: group for group in read().tests}
    run_id = json.loads((other / "record.json").read_text())["run_id"]
    assert by_row[True].title == f"PGD (run {run_id})"
    assert by_row[True].differs == "smoothing=0.1, squeeze_weight=0.2, trainer.max_epochs=3"


EMA = {"callbacks.ema._target_": "x.EMA", "callbacks.ema.decay": 0.995}
STOPPING = {"callbacks.stop._target_": "x.Stop", "callbacks.stop.mode": "max"}


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}, {}, EMA], ["", "", "callbacks.ema"]),
        ([EMA, EMA, {}], ["", "", "callbacks.ema=null"]),
        (  # what all others have otherwise comes first, and short before long
            [{"extend": "a"}, EMA | STOPPING | {"extend": "a"}, {}, {}, {}],
            ["extend=a", "callbacks.ema, callbacks.stop, extend=a", *[""] * 3],
        ),
        (
            [EMA, EMA | {"callbacks.ema.decay": 0.9}, {}],
            ["callbacks.ema.decay=0.995", "callbacks.ema.decay=0.9", "callbacks.ema=null"],
        ),
        (  # what most runs have is said of none
            [{"method.alpha": alpha, "trainer.max_epochs": e} for alpha, e in
             [(0.0, 2), (0.0, 3), (0.0, 4), (0.0, 4), (0.5, 2)]],
            [*(f"trainer.max_epochs={e}" for e in (2, 3, 4, 4)), "alpha=0.5, trainer.max_epochs=2"],
        ),
        ([{"extend": None}, {"extend": "a"}], ["", "extend=a"]),
    ],
)  # fmt: skip
def test_what_is_rare_and_short_is_told_first_and_what_is_usual_not_at_all(runs, labels):
    assert [summary(each) for each in telling(runs)] == labels


def test_what_does_not_change_the_result_does_not_divide(records, read):
    path = records.run("pgd", seed=1) / "record.json"
    content = json.loads(path.read_text())
    content["config"] |= {"runs_dir": "elsewhere", "logger": {"wandb": True}}
    content["config"]["data"]["root"] = "/data"
    content["config"]["trainer"] |= {"devices": 4, "sync_batchnorm": True}
    path.write_text(json.dumps(content))
    records.run("pgd", seed=0)
    (group,) = read().tests
    assert group.seeds == [0, 1]


def test_interpolations_in_a_foreign_configuration_are_text(records, read, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    records.run("pgd", smoothing="${oc.env:SECRET}")
    records.run("pgd")
    assert "PGD (smoothing=${oc.env:SECRET})" in [group.title for group in read().tests]


@pytest.mark.parametrize(("step_size", "n"), [(0.015, 500), (0.0078, 10000)])
def test_the_papers_attack_counts_most_and_then_more_images(records, read, step_size, n):
    attack = records.attack | {"step_size": step_size}
    records.paper(records.run("pgd", n=10000, attack=attack), n=500)
    (group,) = read().white_box
    assert group.record.n == n
    assert unlike(group.record.attack, THREAT_MODEL) == []


def test_seeds_measured_otherwise_are_not_averaged_in(records, read):
    records.paper(records.run("pgd", seed=0, attack=OTHER_ATTACK))
    records.run("pgd", seed=1, attack=OTHER_ATTACK)
    groups = read().white_box
    assert sorted(group.seeds for group in groups) == [[0], [1]]
    assert [group.seeds for group in rows_of_paper(groups)] == [[0]]


def test_a_run_and_its_export_are_one_network(records, read):
    path = records.run("pgd")
    records.paper(path)
    copy = records.folder / "exported"
    content = json.loads((path / "evaluations" / "paper.json").read_text())
    records.write(copy / "evaluations" / "paper.json", content)
    results = read()
    assert len(results.records.evaluations) == 2
    (group,) = results.paper
    assert len(group.origins) == 1


def test_a_network_from_elsewhere_goes_by_its_own_name(records, read):
    path = records.run("pgd")
    model = {"name": "alp", "label": "theirs"}
    data = json.loads((path / "record.json").read_text())["data"]
    records.evaluation(records.folder / "theirs", "paper", {"clean": 0.5}, model=model, data=data)
    groups = read().white_box
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
        ("lrm", {"pairing_to_adversarial_ratio": 0.0}, False),
        ("lrm", {"pairing_kind": "cosine"}, False),
        ("alp", {"pairing_weight": 1.0}, True),
        ("alp", {"pairing_distance": "l1"}, False),
        ("mixup", {}, False),
    ],
)
def test_which_run_is_a_row_of_the_paper(records, read, method, knobs, is_papers):
    records.run(method, **knobs)
    (group,) = read().tests
    assert (group.row is not None) == is_papers


def test_a_number_is_the_same_however_it_was_typed(records, read):
    for seed, weight in enumerate((0, 0.0)):
        records.run("pgd", seed=seed, squeeze_weight=weight)
    (group,) = read().tests
    assert group.seeds == [0, 1]


def test_departures_from_the_recipe_are_named(records, read):
    records.run("pgd", epochs=7, attack=OTHER_ATTACK)
    (group,) = read().tests
    assert departures("pgd", group.settings) == [
        "attack step size 0.015 (paper 0.0078)",
        "attack steps 3 (paper 10)",
        "7 epochs (paper 101)",
    ]
    # Trained on clean images: there is no training attack to differ.
    assert departures("regular", group.settings) == ["7 epochs (paper 200)"]
    assert departures("pgd", {"data.val_size": 5000}) == ["5000 training images held out (paper 0)"]
    assert departures("pgd", {"init_from": "runs/x", "trainer.precision": "bf16-mixed"}) == [
        "init from runs/x",
        "precision bf16-mixed (paper 32-true)",
    ]
    others = {"optimizer._target_": "torch.optim.AdamW", "callbacks.stop._target_": "my.Stop"}
    assert departures("pgd", others) == ["optimizer AdamW (paper SGD)", "callback stop"]
    knobs = {"method.awp": 0.005, "method.input_noise": 0.5, "callbacks.ema.decay": 0.995}
    assert departures("pgd", knobs) == [
        "awp 0.005 (paper 0)",
        "input noise 0.5 (paper 0)",
        "average of the weights, decay 0.995",
    ]


def test_the_papers_data_come_first_and_stay_apart(records):
    for seed, data in enumerate((records.digits, records.jpeg, records.official)):
        records.run("pgd", seed=seed, data=data)
    found = aggregate(load([str(records.folder)]))
    assert [results.data.title for results in found] == [
        "CIFAR-10",
        "CIFAR-10 (not the official bytes)",
        "Digits",
    ]


def test_another_split_for_validation_is_the_same_data(records, read):
    records.run("pgd", data=records.jpeg)
    records.run("alp", data=records.jpeg | {"n_train": 50000, "n_val": 0})
    assert len(read().tests) == 2


def test_a_record_of_version_0_1_is_told_in_todays_words(records, read):
    path = records.run("pgd") / "record.json"
    content = json.loads(path.read_text())
    optimizer = {"lr": 0.1, "schedule": "one_cycle", "warmup_epochs": 1, "milestones": [1, 2]}
    del content["config"]["scheduler"]
    content["config"]["optimizer"] = {"_target_": "lrm_lightning.methods.SGDRecipe", **optimizer}
    path.write_text(json.dumps(content))
    (group,) = read().tests
    assert departures("pgd", group.settings) == [
        "schedule one_cycle (paper step_drops)",
        "warmup epochs 1 (paper 5)",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0001, "0.0001"),
        (True, "true"),
        (None, "null"),
        ([1, [0.5]], "[1,[0.5]]"),
        ("a\nb", "a b"),
    ],
)
def test_a_setting_is_shown_as_one_would_type_it(value, text):
    assert shown(value) == text


def test_a_whole_number_beyond_the_largest_float_is_shown():
    assert shown(10**400).startswith("1000")


def test_a_strangers_configuration_is_no_reason_to_stop(records, read):
    path = records.run("pgd") / "record.json"
    content = json.loads(path.read_text())
    content["config"] = {"trainer": [1], "callbacks": "x", "data": None, "method": {"a": [{}]}}
    path.write_text(json.dumps(content))
    (group,) = read().tests
    assert group.row is None
