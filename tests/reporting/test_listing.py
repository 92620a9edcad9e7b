"""python -m lrm_lightning.runs: what it lists, chooses, compares, deletes and says to type."""

import fcntl
import json
import shlex
import shutil

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrm_lightning.errors import UserError
from lrm_lightning.reporting import listing
from lrm_lightning.runs.__main__ import runs
from lrm_lightning.runs.directory import RunDir, is_training


def _unfinished(records, name="lrm", *, epochs=30, seed=0):
    """A run directory as a kill in its third epoch leaves it."""
    config = {
        "method": {"name": name},
        "data": {"name": "digits"},
        "trainer": {"max_epochs": epochs},
        "checkpoint": {"select": "last"},
        "seed": seed,
    }
    folder = records.folder / "digits" / f"{name}-{epochs:08d}"
    RunDir(folder, config).write_config(config, {})
    rows = "step,epoch,val/acc/pgd5,val/acc/pgd10,train/loss\n9,1,0.9,0.5,\n14,2,,,2.0\n"
    records.write_text(folder / "metrics.csv", rows)
    return folder


@pytest.fixture
def say(records, capsys, monkeypatch):
    """``say("clean", "yes=true")``: what the command prints, in the folder above the runs."""
    monkeypatch.chdir(records.folder.parent)

    def run(*words):
        runs(words)
        return capsys.readouterr().out

    return run


def _rows(text):
    """The table's rows by their last cell, the directory."""
    cells = [line.split() for line in text.splitlines() if "runs/" in line]
    return {row[-1]: row for row in cells}


def test_each_run_has_a_row_that_says_how_far_it_is_and_what_tells_it_apart(records, say):
    one, two = (records.run("alp", epochs=e, pairing_weight=w) for e, w in ((7, 0.5), (7, 0.1)))
    stopped = _unfinished(records)
    rows = _rows(say())
    assert len(rows) == 3
    for run, weight in ((one, "0.5"), (two, "0.1")):
        wanted = ["alp", f"pairing_weight={weight}", "cifar10", "0", "finished", "7/7", "-"]
        assert rows[str(run.relative_to(records.folder.parent))][:-1] == [*wanted, "70.0", "40.0"]
    wanted = ["lrm", "digits", "0", "stopped", "2/30", "50.0", "-", "-"]
    assert rows[str(stopped.relative_to(records.folder.parent))][:-1] == wanted


@pytest.mark.parametrize(
    ("status", "shown"), [('{"epochs": 3}', "3/30"), ("{}", "2/30"), ("[]", "2/30"), ("{", "2/30")]
)
def test_epochs_are_those_that_are_finished_even_if_a_kill_cut_the_metrics(
    status, shown, records, say
):
    records.write_text(_unfinished(records) / "status.json", status)
    (row,) = _rows(say()).values()
    assert row[4] == shown


def test_a_run_is_told_apart_by_what_most_others_have_otherwise(records, say):
    here = records.folder.parent
    usual = [records.run("pgd", seed=seed, epochs=4) for seed in range(3)]
    other = records.run("pgd", epochs=2, alpha=0.5)
    rows = _rows(say())
    assert all(rows[str(run.relative_to(here))][1] == "cifar10" for run in usual)
    assert rows[str(other.relative_to(here))][1:3] == ["alpha=0.5,", "trainer.max_epochs=2"]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["method=alp"], 2),
        (["method=alp,pgd", "seed=0"], 2),
        (["state=stopped"], 1),
        (["trainer.max_epochs=7"], 3),
        (["model.widths=[16,16,32,64]"], 3),
        (["runs_dir=runs/c*"], 3),
    ],
)
def test_settings_choose(words, count, records, say):
    for method, seed in (("alp", 0), ("alp", 1), ("pgd", 0)):
        records.run(method, seed=seed, epochs=7)
    _unfinished(records)
    assert len(_rows(say(*words))) == count


def test_two_are_compared(records, say):
    one, two = (records.run("alp", alpha=a, seed=s) for a, s in ((0.0, 0), (0.5, 3)))
    records.strong(two, verdict="not masked")
    lines = {tuple(line.split()) for line in say("diff", str(one), str(two)).splitlines()}
    assert {("method.alpha", "0", "0.5"), ("seed", "0", "3")} <= lines
    assert ("test", "clean", "%", "70.0", "[69.1,", "70.9]", "70.0", "[69.1,", "70.9]") in lines
    (strong,) = [line for line in lines if line[:3] == ("strong", "worst", "%")]
    assert strong[3] == "-"
    assert not any(line and line[0].startswith("trainer") for line in lines)


def test_folders_with_an_equals_sign_are_compared(records, say):
    one, two = (records.run("alp", seed=seed) for seed in (0, 3))
    moved = [path.rename(path.with_name(f"seed={k}")) for k, path in enumerate((one, two))]
    assert "seed" in say("diff", *map(str, moved))


def test_somebodys_record_is_listed_as_far_as_it_goes(records, say):
    path = records.run("alp") / "record.json"
    record = json.loads(path.read_text())
    records.write(path, record | {"config": {"method": "alp", "seed": 3}})
    assert "alp-" in say("seed=3")


def test_a_difference_on_the_same_images_has_its_own_interval(records, say):
    seen = {
        "pgd": ([1, 1, 0, 0], [0, 1, 2, 3]),
        "alp": ([1, 0, 0, 0], [0, 1, 2, 3]),
        "lrm": ([1, 0, 0, 0], [0, 1, 2, 4]),
    }
    runs = {}
    for method, (correct, index) in seen.items():
        share = sum(correct) / 4
        runs[method] = str(records.run(method, n=4, metrics=(share,) * 5))
        arrays = {"clean": np.array(correct, bool), "index": np.array(index)}
        np.savez(records.folder / runs[method] / "correct.npz", **arrays)
    (line,) = [
        each for each in say("diff", runs["pgd"], runs["alp"]).splitlines() if "clean" in each
    ]
    # Of half an image and one and a half, of six: 1.96 (2 - 1 / 6)^0.5 / 6 = 0.442.
    assert line.split()[-3:] == ["-25.0", "±", "44.2"]
    assert "paired" not in say("diff", runs["pgd"], runs["lrm"])  # of other images


def test_evaluations_made_alike_stand_in_one_row(records, say):
    runs, correct = [], {"one": [1, 1, 0, 0], "two": [1, 0, 0, 0]}
    for name, seen in correct.items():
        run = records.run("alp", seed=len(runs))
        runs.append(run)
        share = {"clean": sum(seen) / 4}
        for n, seed in ((4, 0), (8, 0)) if name == "one" else ((4, 0),):
            here = records.evaluation(run, "paper", share, n=n, subset={"seed": seed})
            here = here.rename(here.with_name(f"paper-{len(name) + n + len(runs):08d}.json"))
            arrays = {"clean": np.array(seen * (n // 4), bool), "index": np.arange(n)}
            np.savez(here.with_suffix(".npz"), **arrays)
    lines = [line.split() for line in say("diff", *map(str, runs)).splitlines()]
    pairs = {" ".join(line[:4]): line for line in lines if line and line[0] == "paper"}
    assert [*pairs] == ["paper (n=4) clean %", "paper (n=8) clean %"]
    four, eight = pairs.values()
    assert four[-3:] == ["-25.0", "±", "44.2"]
    assert eight[4] == "50.0"
    assert eight[-1] == "-"
    (runs[0] / "evaluations/paper-00000012.json").unlink()
    assert "paper clean %" in say("diff", *map(str, runs))


def test_an_outdated_evaluation_is_not_compared(records, say, capsys):
    one, two = (records.run("alp", seed=seed) for seed in (0, 3))
    records.evaluation(two, "strong", {"worst": 0.5}, written="2020-01-01T00:00:00+00:00")
    runs(["diff", str(one), str(two)])
    out, err = capsys.readouterr()
    assert "strong" not in out
    assert "of before the run was trained again; evaluate it again" in err


def test_the_same_configuration_is_said_to_be_one(records, say):
    run = str(records.run("alp"))
    assert "one configuration" in say("diff", run, run)


def test_commands_go_on_with_a_stopped_run_and_repeat_a_finished_one(records, say):
    finished, stopped = records.run("alp", seed=2), _unfinished(records, "pgd")
    given = ["method=pgd", "data.root=a b", "rerun=true"]
    hydra = {
        "job": {"config_name": "table1"},
        "runtime": {"config_sources": [{"provider": "command-line", "path": "/at/sweeps"}]},
        "overrides": {"hydra": ["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra.verbose=true"]},
    }
    records.write_text(stopped / ".hydra/overrides.yaml", yaml.safe_dump(given))
    records.write_text(stopped / ".hydra/hydra.yaml", yaml.safe_dump({"hydra": hydra}))
    again, on = (shlex.split(line) for line in say("commands").splitlines())
    train = ["python", "-m", "lrm_lightning.train"]
    here = f"hydra.run.dir=runs/cifar10/{finished.name}"
    assert again == [*train, "method=alp", "seed=2", here, "rerun=true"]
    sweep = ["--config-dir=/at/sweeps", "--config-name=table1"]
    here = ["hydra.mode=RUN", f"hydra.run.dir=runs/digits/{stopped.name}"]
    assert on == [*train, *sweep, "hydra.verbose=true", "method=pgd", "data.root=a b", *here]


@pytest.mark.parametrize("odd", ["runs (old)", "a=b", "run[1]", "run's", "runs,a", "x #1"])
def test_a_command_leads_into_its_directory_whatever_it_is_called(odd, records, say, monkeypatch):
    run = records.run("alp")
    (records.folder / odd).mkdir()
    shutil.move(run, records.folder / odd / "alp")
    monkeypatch.chdir(records.folder)
    line = listing.command(listing._read(records.folder / odd / "alp"))
    (word,) = [each for each in shlex.split(line) if each.startswith("hydra.run.dir=")]
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert parsed.value() == f"{odd}/alp"


def test_only_what_is_unfinished_is_deleted_and_only_when_confirmed(records, say):
    finished, stopped, running = (
        records.run("alp"),
        _unfinished(records),
        _unfinished(records, epochs=9),
    )
    with (running / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_training(running)
        assert "yes=true deletes 1 unfinished run" in say("clean")
        assert stopped.exists()
        for wrong in ("yes=1", "state=finished", "state=stopped,finished", "runs_dir="):
            with pytest.raises(
                UserError, match=r"yes must be true or|clean is for runs with state"
            ):
                say("clean", "yes=true", wrong)
        assert stopped.exists()
        assert "deleted 1 unfinished run" in say("clean", "yes=True", "state=stopped")
        assert (finished.exists(), stopped.exists(), running.exists()) == (True, False, True)
        with pytest.raises(UserError, match=r"no run with state=stopped below runs"):
            say("clean")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "nonsense: give list, diff A B, commands or clean, and key=value"),
        (["diff", "runs"], "diff runs: give list"),
        (["diff", "runs", "runs"], "no run in runs: config.yaml is missing; give a run directory"),
        (["methd=alp"], "no run has a setting methd; the nearest is method"),
        (["seed=8"], "no run with seed=8 below runs; give runs_dir=<another folder>"),
        (["runs_dir=elsewhere"], "no folder elsewhere; give runs_dir="),
        (["runs_dir=~nobody-of-that-name/runs"], "no folder ~nobody-of-that-name/runs; give runs_"),
    ],
)
def test_a_mistake_is_one_line(words, message, records, say):
    records.run("alp")
    with pytest.raises(UserError) as error:
        say(*words)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["a: [", "{}", "- 1", "config: !!python/object/apply:os.abort []"]
)
def test_a_damaged_run_is_named_and_left_alone(content, records, say, capsys):
    records.run("alp")
    path = records.write_text(records.folder / "digits/pgd-1/config.yaml", content)
    assert len(listing.find("runs", {})) == 1
    assert "skipped: runs/digits/pgd-1/config.yaml is damaged" in capsys.readouterr().err
    assert path.exists()
