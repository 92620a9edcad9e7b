"""The run directory: fresh, half done, finished, or somebody else's."""

import errno
import io
import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.runs.directory import LOCK, RunDir, finished_run, forget_refused
from lrm_lightning.runs.files import file_sha256, write_arrays
from lrm_lightning.runs.identity import hashed
from lrm_lightning.runs.records import RunRecord, write_record

IDENTITY = {"seed": 0, "method": {"name": "alp", "alpha": 0.0}, "optimizer": {"milestones": [1, 2]}}
NETWORK = {"_target_": "lrm_lightning.models.ResNet", "depth": 1}
FINISHED = RunRecord(method="alp", data={"name": "digits"}, n=4, metrics={"clean": 0.5}, score=0.25)
CONFIG = {"seed": 0, "runs_dir": "runs", "checkpoint": {"select": "last"}}


def _tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_fresh(tmp_path):
    run = RunDir(tmp_path / "a" / "b", IDENTITY)
    assert _tree(tmp_path / "a" / "b") == ["checkpoints"]
    assert finished_run(tmp_path) is None
    assert run.resumable() == []


def test_config_is_kept_and_recognised(tmp_path):
    RunDir(tmp_path, IDENTITY).write_config(CONFIG, NETWORK)
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept.pop("run_id") == hashed(IDENTITY)[:8]
    assert len(kept.pop("sha256")) == 64
    assert kept == {"network": NETWORK, "identity": IDENTITY, "config": CONFIG}
    RunDir(tmp_path, {key: IDENTITY[key] for key in reversed(IDENTITY)})


@pytest.mark.parametrize(
    ("other", "keys"),
    [
        (IDENTITY | {"seed": 1}, "seed"),
        (IDENTITY | {"method": {"name": "alp", "alpha": 0.5}}, "method.alpha"),
        (IDENTITY | {"method": {"name": "pgd"}}, "method.alpha, method.name"),
        (IDENTITY | {"extra": 1}, "extra"),
        ({"seed": 0}, "method.alpha, method.name, optimizer.milestones"),
        (IDENTITY | {"optimizer": {"milestones": [1, 3]}}, "optimizer.milestones"),
    ],
)
def test_another_configuration_is_refused(other, keys, tmp_path):
    RunDir(tmp_path, IDENTITY).write_config(CONFIG, NETWORK)
    with pytest.raises(UserError) as error:
        RunDir(tmp_path, other)
    assert str(error.value) == (
        f"run directory {tmp_path} holds a run of another configuration"
        f" (differs in {keys}); choose another with hydra.run.dir=..."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run_id": "00000000"}, "is of the run alp 00000000, while the directory is of alp "),
        ({"method": "pgd"}, "is of the run pgd "),
    ],
)
def test_a_record_of_another_run_is_refused(fields, message, tmp_path):
    run = RunDir(tmp_path, IDENTITY)
    run.write_config(CONFIG | {"method": {"name": "alp"}}, NETWORK)
    own = FINISHED.model_copy(update={"run_id": run.run_id})
    write_record(tmp_path / "record.json", own)
    assert finished_run(tmp_path) == own
    write_record(tmp_path / "record.json", own.model_copy(update=fields))
    with pytest.raises(UserError, match=message):
        finished_run(tmp_path)


def test_verdicts_that_are_not_the_records_are_refused(tmp_path):
    """Of a record that holds their hash, and of an older one that only holds the accuracies."""
    correct = {"clean": np.array([True, False, True, False])}
    write_arrays(tmp_path / "correct.npz", correct)
    files = {"correct.npz": file_sha256(tmp_path / "correct.npz")}
    records = FINISHED, FINISHED.model_copy(update={"files": files})
    for changed, lines in (
        (correct, ("", "")),
        ({"clean": ~correct["clean"]}, ("", "has changed since")),
        ({"clean": correct["clean"] | True}, ("are not those of the record", "has changed since")),
        ({"clean": correct["clean"][:2]}, ("are not those of the record", "has changed since")),
    ):
        write_arrays(tmp_path / "correct.npz", changed)
        for record, line in zip(records, lines, strict=True):
            write_record(tmp_path / "record.json", record)
            if line:
                with pytest.raises(UserError, match=line):
                    finished_run(tmp_path)
            else:
                assert finished_run(tmp_path) == record


CODE = b"identity: !!python/object/apply:os.mkdir ['made']\n"


@pytest.mark.parametrize(
    "content", [b"", b"a: [", b"{}", b"\xff\xfe\x00", b"- 1", b"identity", CODE]
)
def test_damaged_config(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        RunDir(tmp_path, IDENTITY)
    assert str(error.value).startswith(f"{tmp_path / 'config.yaml'} is damaged (")
    assert f"; delete {tmp_path}" in str(error.value)
    assert not (tmp_path / "made").exists()  # nothing in the file is executed


def test_damaged_record(tmp_path):
    (tmp_path / "record.json").write_text("{half")
    with pytest.raises(
        UserError, match=rf"{tmp_path}/record\.json .*damaged: delete .* and run it again"
    ):
        finished_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("config.yaml", False),
        ("metrics.csv", True),
        ("train.log", True),
        ("status.json", True),
        ("checkpoints/last.ckpt", True),
        ("notes.txt", True),
    ],
)
def test_of_a_refused_run_nothing_that_tells_of_a_training_is_removed(tmp_path, name, stays):
    folder = tmp_path / "run"
    RunDir(folder, IDENTITY)
    for empty in ("train.log", "metrics.csv"):
        (folder / empty).touch()
    (folder / name).write_text("1")
    forget_refused(folder)
    assert folder.exists() == stays


def test_a_run_that_another_process_trains_is_not_removed(tmp_path):
    folder = tmp_path / "run"
    run_dir = RunDir(folder, IDENTITY)
    with run_dir.locked():
        forget_refused(folder)
        assert folder.exists()
    forget_refused(folder)
    assert not folder.exists()


def test_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another with runs_dir="):
        RunDir(tmp_path / "run", IDENTITY)


def test_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # root may write everywhere: be nobody meanwhile
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            RunDir(tmp_path / "run", IDENTITY)
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_resumable_gives_the_newest_first(tmp_path):
    run = RunDir(tmp_path, IDENTITY)
    names = ("last.ckpt", "interrupted.ckpt", "previous.ckpt", "best.ckpt")
    for order in (names, names[::-1]):
        for second, name in enumerate(order):
            (run.checkpoints / name).write_bytes(b"")
            os.utime(run.checkpoints / name, ns=(second, 1000 + second))
        wanted = [name for name in order[::-1] if name != "best.ckpt"]
        assert [path.name for path in run.resumable()] == wanted


def test_clear_forgets_the_run_and_nothing_else(tmp_path):
    run = RunDir(tmp_path, IDENTITY)
    run.write_config(CONFIG, NETWORK)
    write_record(tmp_path / "record.json", FINISHED)
    (run.checkpoints / "last.ckpt").write_bytes(b"")
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    for name in ("metrics.csv", "status.json", "correct.npz", "notes.txt"):
        (tmp_path / name).write_text("")
    run.clear()
    assert _tree(tmp_path) == ["checkpoints", "config.yaml", "notes.txt"]
    assert finished_run(tmp_path) is None
    run.clear()  # nothing left to forget


def test_what_a_link_leads_to_is_not_cleared(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    run = RunDir(tmp_path / "run", IDENTITY)
    write_record(run.path / "record.json", FINISHED)
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"checkpoints is a symbolic link.*remove the link"):
        run.clear()
    assert (elsewhere / "mine").exists()
    assert finished_run(run.path) == FINISHED


def test_record_goes_first_so_that_half_a_clearing_is_not_a_finished_run(tmp_path, monkeypatch):
    run = RunDir(tmp_path, IDENTITY)
    write_record(tmp_path / "record.json", FINISHED)
    assert finished_run(tmp_path) == FINISHED

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("lrm_lightning.runs.directory.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.clear()
    assert finished_run(tmp_path) is None


HOLD = """
import sys
from pathlib import Path
from lrm_lightning.runs.directory import RunDir
with RunDir(Path(sys.argv[1]), {}).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout.readline() == b"locked\n"
        with pytest.raises(UserError) as error, RunDir(tmp_path, {}).locked():
            pass
        assert str(error.value) == (
            f"process {first.pid} on {platform.node()} is training in {tmp_path};"
            " wait until it ends, or end it"
        )
    finally:
        first.kill()
        first.communicate()
    half = tmp_path / "checkpoints" / "last.ckpt.7.partial"
    half.write_bytes(b"PK")
    with RunDir(tmp_path, {}).locked():  # what a killed process has left is no obstacle
        assert not half.exists()
        assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {platform.node()}"
    with RunDir(tmp_path, {}).locked():
        pass


def test_a_job_of_a_sweep_waits_for_the_one_at_work(tmp_path, monkeypatch):
    order = []
    stdout = io.StringIO()  # capfd loses what is written while it is read
    monkeypatch.setattr(sys, "stdout", stdout)

    def second():
        with RunDir(tmp_path, {}).locked(wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with RunDir(tmp_path, {}).locked():
        thread.start()
        while not stdout.getvalue().endswith("\n"):
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    said = stdout.getvalue()
    assert said.startswith(f"process {os.getpid()} on ")
    assert said.endswith("; waiting until it ends\n")


def test_nobody_is_refused_where_there_are_no_locks(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("lrm_lightning.runs.directory.fcntl.flock", flock)
    with RunDir(tmp_path, {}).locked(), RunDir(tmp_path, {}).locked():
        pass
