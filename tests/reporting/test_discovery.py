"""Finding and reading records, the damaged and foreign among them."""

import json
import shutil

import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.reporting.discovery import find_records


def found(records):
    return find_records([str(records.folder)])


def changed(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


def test_all_kinds_are_found_wherever_they_lie(records):
    one = records.run("pgd")
    two = records.run("alp")
    records.paper(one)
    records.strong(one)
    records.transfer([one], [two], [[0.5]], folder="deep/inside")
    # A checkpoint folder may be large and holds no record; a name alone makes none either.
    records.write_text(one / "checkpoints" / "record.json", "{")
    records.write_text(one / "evaluations" / "notes.txt", "{")
    everything = found(records)
    assert {run.method for run in everything.runs} == {"pgd", "alp"}
    assert {each.suite for each in everything.evaluations} == {"paper", "strong"}
    assert everything.transfers[0].accuracy == ((0.5,),)
    assert everything.skipped == []
    assert {everything.run_of(each).method for each in everything.evaluations} == {"pgd"}
    assert everything.runs[0].overrides == (f"method={everything.runs[0].method}", "seed=0")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"schema": None}, "schema is None"),
        ({"method": None}, "method must be a text"),
        ({"n": 0}, "n must be a whole number >= 1"),
        ({"n": True}, "n must be a whole number >= 1"),
        ({"seed": "0"}, "seed must be a whole number >= 0"),
        ({"metrics": {"clean": 74.0}}, "metrics must be accuracies in [0, 1]"),
        ({"metrics": {"clean": "much"}}, "metrics must be accuracies in [0, 1]"),
        ({"metrics": {"clean": float("nan")}}, "metrics must be accuracies in [0, 1]"),
        ({"intervals": {"clean": [0.9, 0.1]}}, "intervals must be pairs"),
        ({"data": []}, "data must be an object"),
        ({"data": {"official": True}}, "data.name is missing"),
        ({"config": 3}, "config must be an object"),
    ],
)
def test_a_wrong_field_is_named_and_the_file_left_out(records, fields, reason):
    good, bad = records.run("pgd"), records.run("alp")
    changed(bad / "record.json", **fields)
    everything = found(records)
    assert [run.folder for run in everything.runs] == [good]
    (line,) = everything.skipped
    assert line.startswith(str(bad / "record.json"))
    assert reason in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"a": ', "\x00\xff", "[" * 100_000, '{"schema": 1}']
)
def test_whatever_is_no_record_is_one_line(records, text):
    records.run("pgd")
    path = records.write_text(records.folder / "x" / "record.json", text)
    records.write_text(records.folder / "x" / "evaluations" / "y.json", text)
    records.write_text(records.folder / "x" / "transfer.json", text)
    everything = found(records)
    assert len(everything.runs) == 1
    assert len(everything.skipped) == 3
    assert all(line.startswith(str(path.parent)) for line in everything.skipped)
    assert all("\n" not in line for line in everything.skipped)


@pytest.mark.parametrize(
    "fields",
    [
        {"curve": {"steps": [0, 1], "accuracy": [0.5]}},
        {"curve": {"steps": [0], "accuracy": [1.5]}},
        {"logits": {"clean": {"variance": 1.0, "edges": [0, 1, 1], "counts": [1, 1]}}},
        {"logits": {"clean": {"variance": 1.0, "edges": [0], "counts": []}}},
        {"logits": {"clean": {"variance": 1.0, "edges": [0, 1], "counts": [0]}}},
        {"logits": {"clean": {"variance": "big", "edges": [0, 1], "counts": [1]}}},
        {"masking": {"verdict": "masked", "signs": [3]}},
        {"masking": {"signs": []}},
        {"kind": "blackbox"},
        {"model": {"label": "nameless"}},
    ],
)
def test_a_wrong_evaluation_is_left_out(records, fields):
    changed(records.paper(records.run("pgd")), **fields)
    everything = found(records)
    assert everything.evaluations == []
    assert len(everything.skipped) == 1


@pytest.mark.parametrize(
    "fields",
    [{"accuracy": [[0.5, 0.5]]}, {"accuracy": [0.5]}, {"intervals": [[[0.5]]]}, {"sources": {}}],
)
def test_a_matrix_of_another_shape_is_left_out(records, fields):
    path = records.run("pgd")
    changed(records.transfer([path], [path], [[0.5]]), **fields)
    everything = found(records)
    assert everything.transfers == []
    assert len(everything.skipped) == 1


def test_control_and_direction_characters_do_not_survive(records):
    records.run("a\x1b[31m\u202eb\nc")
    assert found(records).runs[0].method == "a [31m b c"


def test_bytes_that_nobody_vouches_for_are_not_official(records):
    path = records.run("pgd")
    changed(path / "record.json", data={"name": "cifar10"})
    assert found(records).runs[0].data.title == "CIFAR-10 (not the official bytes)"


def test_a_copied_run_counts_once(records):
    path = records.run("pgd")
    shutil.copytree(path, records.folder / "copy")
    assert len(found(records).runs) == 1


def test_an_evaluation_from_before_the_run_was_trained_again_is_left_out(records):
    path = records.run("pgd")
    records.paper(path)
    changed(path / "record.json", written="2027-01-01T00:00:00+00:00")
    everything = found(records)
    assert everything.evaluations == []
    assert "evaluate it again" in everything.skipped[0]


def test_an_export_finds_the_run_it_came_from(records):
    path = records.run("pgd")
    data = json.loads((path / "record.json").read_text())["data"]
    exported = records.folder / "exported"
    records.evaluation(exported, "paper", {"clean": 0.5}, model=records.model(path), data=data)
    everything = found(records)
    assert everything.run_of(everything.evaluations[0]).folder == path


def test_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        find_records([str(tmp_path / "nowhere")])


def test_folders_may_be_patterns_and_overlap(records):
    records.run("pgd")
    pattern = str(records.folder.parent / "ru*")
    assert len(find_records([pattern, str(records.folder)]).runs) == 1
