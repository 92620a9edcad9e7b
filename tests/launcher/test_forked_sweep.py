"""Sweeps whose jobs are forks of one process, and what becomes of that process."""

import os
import signal
import time

import pytest

PATIENCE = 200.0
NAMED = "hydra.run.dir=runs/${behaviour}"
# Never ends its import, but says that it is at it.
SLOW = """
import os, time
open("new", "w").write(str(os.getpid()))
os.rename("new", "importing")
time.sleep(300)
"""
REFUSES = """
import os, time
def validate(_):
    while not os.path.exists("importing"):
        time.sleep(0.01)
    raise ValueError("refused")
"""


def test_all_batches_share_one_template(app):
    app.run("name=a,b,c,d", "hydra.sweeper.max_batch_size=2")
    (template,) = set(app.templates(*"abcd"))
    assert template is not None
    app.assert_gone([template])


def test_a_template_is_there_from_the_second_job_on(app):
    app.run("name=a,b,c", "hydra.sweeper.max_batch_size=1")
    first, second, third = app.templates(*"abc")
    assert first is None
    assert second == third is not None


@pytest.mark.parametrize(
    "alone",
    [
        ("name=a",),
        ("name=a", "hydra.launcher.preload=null"),
        ("name=a,b", "trainer.devices=2"),
        ("name=a,a",),
    ],
)
def test_jobs_that_import_for_themselves(app, alone):
    app.run(*alone)
    assert app.templates("a") == [None]


def test_what_ran_earlier_does_not_count(app):
    app.run("name=b,c")
    app.run("name=a,b,c")
    assert app.templates("a") == [None]


@pytest.mark.parametrize("preload", ["nowhere.to.be.found", "broken"])
def test_a_preload_that_fails_changes_nothing(app, preload):
    (app.folder / "broken.py").write_text("1 / 0")
    output = app.run("name=a,b", f"hydra.launcher.preload={preload}")
    assert app.templates("a", "b") == [None, None]
    assert "2 jobs: 2 done" in output


def test_jobs_of_a_template_that_dies(app):
    sweep = app.start("behaviour=hang,ok", NAMED, "hydra.launcher.jobs=1")
    pids = app.wait_for("hang")
    (template,) = app.templates("hang")
    os.kill(template, signal.SIGKILL)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert (
        "job 0 failed: killed by SIGKILL (behaviour=hang)\n"
        "    error: the process that this job was forked from died; run it again\n"
    ) in output
    assert "2 jobs: 1 done, 1 failed" in output
    assert app.templates("ok") == [None]
    app.assert_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_launcher_that_is_ended_leaves_no_template(app, number):
    sweep = app.start("behaviour=stubborn,hang", NAMED, "hydra.launcher.grace=1000")
    pids = app.wait_for("stubborn", "hang")
    (template,) = set(app.templates("stubborn", "hang"))
    os.kill(sweep.pid, number)
    if number != signal.SIGKILL:
        os.kill(sweep.pid, signal.SIGHUP)
    sweep.communicate(timeout=PATIENCE)
    app.assert_gone([template])
    if number == signal.SIGKILL:  # as ever
        assert all(app.alive(pid) for pid in pids)
    else:
        app.assert_gone(pids)


def test_an_interruption_does_not_wait_for_an_import(app):
    (app.folder / "slow.py").write_text(SLOW)
    sweep = app.start("name=a,b", "hydra.launcher.preload=slow")
    while not (app.folder / "importing").exists():
        time.sleep(0.01)
    assert sweep.stdout.readline() == "2 jobs: 2 waiting\n"
    os.kill(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130
    assert "2 jobs: 2 interrupted" in output
    app.assert_gone([int((app.folder / "importing").read_text())])
    assert app.calls("a", "b") == [0, 0]


def test_a_bad_config_ends_the_import(app):
    (app.folder / "slow.py").write_text(SLOW)
    (app.folder / "rules.py").write_text(REFUSES)
    output = app.run("name=a,b", "hydra.launcher.preload=slow", code=1)
    assert output.startswith("error: job 0 (name=a): refused\n")
    app.assert_gone([int((app.folder / "importing").read_text())])
