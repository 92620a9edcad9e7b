"""However a sweep or a job is ended, no process of it is left."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow

PATIENCE = 200.0
NAMED = "hydra.sweep.subdir=${behaviour}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_no_orphan(app, number):
    behaviours = ("hang", "stubborn", "family", "polite")  # one on each of the four cores
    sweep = app.start(f"behaviour={','.join(behaviours)},ok", NAMED)
    pids = app.wait_for(*behaviours)
    assert len(pids) == 5
    os.kill(sweep.pid, number)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 128 + number, output
    app.assert_gone(pids)
    assert "Traceback" not in output
    assert "5 jobs: 5 interrupted" in output
    assert app.calls("ok") == [0]
    assert app.file("polite", "saved").read_text() == "checkpoint"


def test_a_second_interrupt_does_not_wait(app):
    sweep = app.start("behaviour=stubborn", NAMED, "hydra.launcher.grace=1000")
    pids = app.wait_for("stubborn")
    os.kill(sweep.pid, signal.SIGTERM)
    os.kill(sweep.pid, signal.SIGINT)
    sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode in (130, 143)
    app.assert_gone(pids)


def test_a_signal_ignored_by_the_shell_stays_ignored(app):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}  # as nohup does
    sweep = app.start("behaviour=polite", NAMED, **ignore)
    pids = app.wait_for("polite")
    os.kill(sweep.pid, signal.SIGHUP)
    os.kill(sweep.pid, signal.SIGTERM)
    sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 143
    app.assert_gone(pids)


def test_the_same_command_continues_an_interrupted_sweep(app):
    command = ("behaviour=ok,hang_once", NAMED)
    sweep = app.start(*command)
    app.wait_for("ok", "hang_once")
    os.kill(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert "The same command continues where it stopped." in output
    threads = app.seen("hang_once")["environment"]["OMP_NUM_THREADS"]
    app.run(*command)
    assert app.calls("ok", "hang_once") == [1, 2]
    # on as many threads as before, which decide the rounding, though the other job is done
    assert app.seen("hang_once")["environment"]["OMP_NUM_THREADS"] == threads == "2"


def test_a_job_over_its_time_is_stopped_and_fails(app):
    output = app.run("behaviour=stubborn,hang", NAMED, "hydra.launcher.timeout=2", code=1)
    assert "job 0 failed: stopped after 2 s (hydra.launcher.timeout)" in output
    assert "2 jobs: 2 failed" in output


def test_what_a_job_leaves_running_ends_with_it(app):
    app.run("behaviour=straggler", NAMED)
    app.assert_gone(app.seen("straggler")["pids"])


def test_a_killed_sweep_leaves_no_job_and_no_fork_server(app):
    sweep = app.start("behaviour=polite,hang", NAMED)
    pids = app.wait_for("polite", "hang")
    (server,) = set(app.servers("polite", "hang"))
    sweep.kill()
    app.assert_gone([*pids, server])
    assert app.file("polite", "saved").read_text() == "checkpoint"


# Those that import for themselves, and those of several devices.
@pytest.mark.parametrize("setting", ["hydra.launcher.preload=null", "trainer.devices=2"])
def test_a_killed_sweep_leaves_no_job_that_is_no_fork_and_goes_on(app, setting):
    command = ("behaviour=polite,hang_once", NAMED, "hydra.launcher.jobs=2", setting)
    sweep = app.start(*command)
    pids = app.wait_for("polite", "hang_once")
    assert app.servers("polite", "hang_once") == [None, None]
    sweep.kill()
    app.assert_gone(pids)
    assert app.file("polite", "saved").read_text() == "checkpoint"
    app.file("hang_once", "seen.json").unlink()
    app.run("behaviour=hang_once", *command[1:])
    assert app.calls("hang_once") == [2]


def test_an_interruption_does_not_take_the_fork_server_away_from_its_jobs(app):
    """A terminal sends its signals to the whole process group, in which the fork server began."""
    sweep = app.start("behaviour=polite,hang", NAMED)
    pids = app.wait_for("polite", "hang")
    (server,) = set(app.servers("polite", "hang"))
    os.killpg(sweep.pid, signal.SIGHUP)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 128 + signal.SIGHUP, output
    app.assert_gone([*pids, server])
    assert app.file("polite", "saved").read_text() == "checkpoint"


def test_jobs_of_a_fork_server_that_dies(app):
    sweep = app.start("behaviour=hang,ok", NAMED, "hydra.launcher.jobs=1")
    pids = app.wait_for("hang")
    (server,) = app.servers("hang")
    os.kill(server, signal.SIGKILL)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "job 0 failed: exit code 255 (behaviour=hang)" in output
    assert "2 jobs: 1 done, 1 failed" in output
    app.assert_gone(pids)
