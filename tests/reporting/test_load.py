"""Finding and reading records, the damaged and foreign among them, and training curves."""

import hashlib
import json
import shutil

import pytest

from lrm_lightning.errors import UserError
from lrm_lightning.reporting.aggregate import load
from lrm_lightning.reporting.run_dir import command_line, training_curves
from lrm_lightning.runs.records import RunRecord


def found(records):
    return load([str(records.folder)])


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_all_kinds_are_found_wherever_they_lie(records):
    one = records.run("pgd")
    two = records.run("alp")
    records.paper(one)
    records.strong(one)
    records.transfer([one], [two], [[0.5]], folder="deep/inside")
    # A checkpoint folder may be large and holds no record; a name alone makes none either.
    records.write_text(one / "checkpoints" / "record.json", "{")
    records.write_text(one / "evaluations" / "notes.txt", "{")
    (two / "evaluations").mkdir()
    (two / "evaluations" / "gone.json").symlink_to("nowhere")
    everything = found(records)
    assert {run.record.method for run in everything.runs} == {"pgd", "alp"}
    assert {each.record.suite for each in everything.evaluations} == {"paper", "strong"}
    assert everything.transfers[0].record.accuracy == [[0.5]]
    assert everything.skipped == []
    for origin in everything.evaluations:
        assert everything.run_of(origin).path == one / "record.json"
    assert command_line(one) == ["method=pgd", "seed=0"]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", "[" * 100_000, '{"schema": 1}'])
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


def test_a_wrong_field_is_named_and_the_file_left_out(records):
    good, bad = records.run("pgd"), records.run("alp")
    changed(bad / "record.json", metrics={"clean": 74.0})
    changed(records.paper(good), model={"label": "nameless"})
    changed(records.transfer([good], [good], [[0.5]]), accuracy=[[0.5, 0.5]])
    everything = found(records)
    assert [run.path.parent for run in everything.runs] == [good]
    assert everything.evaluations == everything.transfers == []
    reasons = ("metrics.clean", "model.name", "accuracy")
    for line, reason in zip(everything.skipped, reasons, strict=True):
        assert reason in line


def test_control_and_direction_characters_do_not_survive(records):
    path = records.run("a\x1b[31m\u202eb\nc")
    assert found(records).runs[0].record.method == "a [31m b c"
    assert command_line(path) == []  # this YAML is none


def test_bytes_that_nobody_vouches_for_are_not_official(records):
    path = records.run("pgd")
    changed(path / "record.json", data={"name": "cifar10"})
    assert found(records).runs[0].record.data.title == "CIFAR-10 (not the official bytes)"


@pytest.mark.parametrize("times", [{}, {"written": "2026-01-02T09:09:09+00:00", "wall_s": 70.0}])
def test_a_run_that_was_copied_or_trained_again_elsewhere_counts_once(times, records):
    path = records.run("pgd")
    shutil.copytree(path, records.folder / "copy")
    changed(path / "record.json", **times)
    assert len(found(records).runs) == 1


def test_an_evaluation_from_before_the_run_was_trained_again_is_left_out(records):
    path = records.run("pgd")
    records.paper(path)
    changed(path / "record.json", written="2027-01-01T00:00:00+00:00")
    everything = found(records)
    assert everything.evaluations == []
    assert "evaluate it again" in everything.skipped[0]


def test_weights_tell_which_evaluations_are_of_a_run_that_was_trained_again(records):
    path = records.run("pgd")
    evaluation = records.paper(path)
    again, ours = "2027-01-01T00:00:00+00:00", records.model(path)["weights_sha256"]
    changed(path / "record.json", written=again, weights={"best": "0" * 64, "last": ours})
    assert len(found(records).evaluations) == 1
    other = records.model(path) | {"weights_sha256": "1" * 64}
    changed(evaluation, model=other, written=again.replace("1", "2"))
    everything = found(records)
    assert everything.evaluations == []
    assert "of weights that are no longer there; evaluate it again" in everything.skipped[0]


def test_an_evaluation_of_what_an_export_held_before_is_left_out(records):
    path = records.run("pgd")
    data = json.loads((path / "record.json").read_text())["data"]
    exported, model = records.folder / "exported", records.model(path)
    records.evaluation(exported, "paper", {"clean": 0.5}, model=model, data=data)
    for sha256, count in ((model["weights_sha256"], 1), ("0" * 64, 0)):
        config = {"checkpoint": {"select": "last"}}
        described = {"network": {}, "config": config, "weights_sha256": sha256}
        records.write(exported / "model.json", described)
        assert len(found(records).evaluations) == count


def test_an_export_finds_the_run_it_came_from(records):
    path = records.run("pgd")
    data = json.loads((path / "record.json").read_text())["data"]
    exported = records.folder / "exported"
    records.evaluation(exported, "paper", {"clean": 0.5}, model=records.model(path), data=data)
    everything = found(records)
    assert everything.run_of(everything.evaluations[0]).path.parent == path


def test_folders_may_be_patterns_and_overlap_and_must_be_there(records, tmp_path):
    records.run("pgd")
    pattern = str(records.folder.parent / "ru*")
    assert len(load([pattern, str(records.folder)]).runs) == 1
    brackets = records.folder.rename(records.folder.with_name("[runs]"))
    assert len(load([str(brackets)]).runs) == 1
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load([str(tmp_path / "nowhere")])


def curves(folder, content, **record):
    (folder / "metrics.csv").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    content = {"method": "pgd", "data": {"name": "digits"}, "n": 4, "metrics": {}}
    return training_curves(folder, RunRecord(**content, **record))


def test_rows_of_one_epoch_come_together_counted_from_one(tmp_path):
    found = curves(
        tmp_path,
        "step,epoch,train/loss,val/acc/clean\n"
        "9,0.0,2.5,\n18,0.0,2.0,\n18,0.0,,0.3\n36,1.0,,0.4\n27,1.0,1.5,\n",
    )
    assert found == {
        "train/loss": [(1.0, 2.25), (2.0, 1.5)],
        "val/acc/clean": [(1.0, 0.3), (2.0, 0.4)],
    }


@pytest.mark.parametrize("text", ["", "step\n", "a,b\n1,2\n", "step,epoch,x\n1,0,nan\n"])
def test_what_is_no_finite_number_is_left_out(tmp_path, text):
    assert curves(tmp_path, text) == {}


@pytest.mark.parametrize("content", [b"\xff\xfe\0\1", b"step,epoch,x\n1,one,2\n"])
def test_damaged_curves_are_one_line(tmp_path, content):
    with pytest.raises(UserError, match=r"metrics\.csv is damaged: ") as error:
        curves(tmp_path, content)
    assert "\n" not in str(error.value)


def test_curves_that_the_run_did_not_leave_are_refused(tmp_path):
    files = {"metrics.csv": hashlib.sha256(b"step,epoch,x\n1,0,2\n").hexdigest()}
    assert curves(tmp_path, "step,epoch,x\n1,0,2\n", files=files) == {"x": [(1.0, 2.0)]}
    with pytest.raises(UserError, match="changed since"):
        curves(tmp_path, "step,epoch,x\n1,0,3\n", files=files)
    (tmp_path / "metrics.csv").unlink()
    assert training_curves(tmp_path) == {}
