"""Records: what is written is read back, what is wrong is one line, older ones still load."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrm_lightning.errors import UserError
from lrm_lightning.runs.records import (
    EvaluationRecord,
    RunRecord,
    TransferRecord,
    printable,
    read_record,
    write_record,
)

RESULTS = Path(__file__).parents[2] / "results"
RUN = {"schema": 1, "method": "pgd", "data": {"name": "digits"}, "n": 4, "metrics": {"clean": 0.5}}
MODEL = {"name": "pgd"}


def _kind(path):
    if path.name == "record.json":
        return RunRecord
    return TransferRecord if path.name.startswith("transfer") else EvaluationRecord


def _changed(content, key, value):
    changed = json.loads(json.dumps(content))
    *parents, last = key.split(".")
    part = changed
    for name in parents:
        part = part.setdefault(name, {})
    part[last] = value
    return changed


@pytest.mark.parametrize(
    "path",
    [
        each
        for each in sorted(RESULTS.rglob("*.json"))
        if "benchmarks" not in each.parts and each.name != "model.json"
    ],
    ids=lambda path: "-".join(path.parts[-3:]),
)
def test_every_record_of_results_is_read_and_written_as_it_is(path, tmp_path):
    record = read_record(path, _kind(path))
    write_record(tmp_path / "again.json", record)
    before, after = (json.loads(each.read_text()) for each in (path, tmp_path / "again.json"))
    assert len(after.pop("sha256")) == 64
    before.pop("sha256", None)
    before.pop("gallery", None)  # of version 0.1: the images are in the file beside it
    if isinstance(record, RunRecord) and "scheduler" not in before["config"]:  # of version 0.1
        assert after["config"].pop("scheduler")["name"] == "one_cycle"
        for content in (before, after):
            content["config"].pop("optimizer")
            content["config"].pop("engine", None)
    assert after == before


def test_a_configuration_of_today_stays_as_it_is(tmp_path):
    config = {"optimizer": {"lr": 0.1}, "scheduler": {"name": "cosine"}, "engine": "kept"}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RUN | {"config": config}))
    assert read_record(path, RunRecord).config == config


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("metrics.clean", 1.7, "metrics.clean"),
        ("metrics.clean", float("nan"), "metrics.clean"),
        ("metrics.clean", True, "metrics.clean"),
        ("metrics.clean", "0.5", "metrics.clean"),
        ("metrics", [], "metrics"),
        ("intervals.clean", [0.9, 0.1], "intervals.clean"),
        ("intervals.clean", [0.1], "intervals.clean"),
        ("n", -1, "n"),
        ("n", 1.5, "n"),
        ("score", "high", "score"),
        ("data", "digits", "data"),
        ("data.official", "yes", "data.official"),
        ("method", " ", "method"),
        ("wall_s", -3.0, "wall_s"),
        ("schema", 2, "schema"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, key, value, named):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(_changed(RUN, key, value)))
    with pytest.raises(UserError, match=rf"record\.json is no RunRecord.*\({named}") as caught:
        read_record(path, RunRecord)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("missing", ["method", "data", "n", "metrics"])
def test_a_missing_field_is_named(tmp_path, missing):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({key: each for key, each in RUN.items() if key != missing}))
    with pytest.raises(UserError, match=missing):
        read_record(path, RunRecord)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a":' * 100_000, "\x00", "null"])
def test_what_is_no_record_is_one_line(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_record(path, RunRecord)
    assert len(str(caught.value).splitlines()) == 1


def test_no_file_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "record.json", RunRecord)


@pytest.mark.parametrize("name", ["accuracy", "intervals", "same_network"])
def test_matrices_of_another_shape_are_refused(tmp_path, name):
    entry = {"accuracy": 0.5, "intervals": [0.4, 0.6], "same_network": False}
    content = {"schema": 1, "kind": "blackbox", "data": {"name": "digits"}, "n": 4}
    content |= {"sources": [MODEL, MODEL], "targets": [MODEL]}
    content |= {key: [[each, each]] for key, each in entry.items()}
    path = tmp_path / "transfer.json"
    path.write_text(json.dumps(content))
    assert read_record(path, TransferRecord).accuracy == [[0.5, 0.5]]
    path.write_text(json.dumps(content | {name: [[entry[name]]]}))
    with pytest.raises(UserError, match=name):
        read_record(path, TransferRecord)


def test_curves_and_histograms_must_fit(tmp_path):
    content = {"schema": 1, "kind": "whitebox", "suite": "paper", "model": MODEL}
    content |= {"data": {"name": "digits"}, "n": 4, "metrics": {"clean": 0.5}}
    path = tmp_path / "paper.json"
    for wrong in (
        {"curve": {"steps": [0, 1], "accuracy": [0.5]}},
        {"curve": {"steps": [], "accuracy": []}},
        {"logits": {"clean": {"variance": 1.0, "edges": [0.0, 1.0], "counts": [1, 2]}}},
        {"logits": {"clean": {"variance": 1.0, "edges": [1.0, 0.0], "counts": [1]}}},
        {"logits": {"clean": {"variance": 1.0, "edges": [0.0, 1.0], "counts": [0]}}},
    ):
        path.write_text(json.dumps(content | wrong))
        with pytest.raises(UserError):
            read_record(path, EvaluationRecord)


@given(st.text())
def test_printable_is_one_line_that_can_be_shown(text):
    shown = printable(text)
    assert len(shown) <= 400
    assert all(letter.isprintable() for letter in shown)
    assert printable(shown) == shown
