"""Sweeps that are submitted, with commands that stand in for SLURM's."""

import os
import runpy
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FakeSlurm = runpy.run_path(str(Path(__file__).parents[1] / "cluster/fake_slurm.py"))["FakeSlurm"]
CONFIG = """
defaults: [_self_, {override hydra/launcher: slurm}]
name: a
behaviour: ok
rerun: false
trainer: {accelerator: cpu, devices: 1, num_nodes: 1}
hydra:
  run: {dir: '${hydra.sweep.dir}/${hydra.sweep.subdir}'}
  sweep: {dir: runs, subdir: '${name}'}
  launcher: {module: quick_job, validator: rules.validate, cpus_per_task: 1}
"""


@pytest.fixture
def slurm(app, tmp_path_factory):
    """The commands; the application submits with them."""
    (app.folder / "conf/slurm.yaml").write_text(CONFIG)
    fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    yield fake
    fake.clean_up()


@pytest.fixture
def submit(app, slurm):
    """Function: what the sweep with these overrides prints."""

    def run(*overrides, code=0, **environment):
        given = {"environment": slurm.environment | environment}
        return app.run("--config-name=slurm", *overrides, code=code, **given)

    return run


@pytest.fixture
def run_task(app, slurm):
    """Function: run a task of an array to its end, with the modules of the application."""

    def run(task, number=1, **settings):
        slurm.run(task, number, folder=app.folder, PYTHONPATH=str(app.folder), **settings)

    return run


def test_a_sweep_is_submitted_and_the_same_command_shows_its_results(app, slurm, submit, run_task):
    output = submit("name=a,b,c")
    assert "submitted 3 jobs as array 1: squeue --job 1, scancel 1\n" in output
    assert "\n3 jobs: 3 submitted\nprogress: python -m lrm_lightning.runs runs_dir=runs; " in output
    assert app.calls("a", "b", "c") == [0, 0, 0]
    for task in (2, 0, 1):
        run_task(task)
    assert app.calls("a", "b", "c") == [1, 1, 1]
    assert app.seen("c")["folder"] == str(app.folder)
    assert app.seen("c")["number"] == 2
    assert app.seen("c")["environment"]["OMP_NUM_THREADS"] == "1"
    output = submit("name=a,b,c")
    assert "3 jobs: 3 done earlier" in output
    assert "87.5 [82.0, 91.0]" in output
    assert len(slurm.submitted) == 1


def test_only_what_is_neither_finished_nor_queued_is_submitted(app, slurm, submit, run_task):
    submit("name=a,b", "behaviour=fail,ok", "hydra.sweep.subdir=${name}-${behaviour}")
    run_task(1)
    run_task(2, code=1)
    assert "error: b has no data" in (app.folder / "runs/b-fail/job.log").read_text()
    output = submit("name=a,b,c", "behaviour=fail,ok", "hydra.sweep.subdir=${name}-${behaviour}")
    assert "submitted 3 jobs as array 2" in output  # b-fail, c-fail and c-ok
    assert "6 jobs: 1 done earlier, 2 in the queue, 3 submitted" in output
    run_task(2, number=2)
    assert app.calls("c-ok") == [1]
    assert slurm.requeued == []


def test_overrides_arrive_as_they_were_given(app, slurm, submit, run_task):
    names = [
        "it's",
        '"$HOME" `date` $(date)',
        "two  spaces; rm -r *",
        "\\",
        "a\\tb",
        "${trainer.devices}",
    ]
    given = [name if name[0] == "$" else _quoted(name) for name in names]
    sweep = ("name=" + ",".join(given), "hydra.sweep.subdir=${hydra:job.num}")
    app.run(*sweep)
    expected = [app.seen(str(number))["arguments"] for number in range(len(names))]
    for number in range(len(names)):
        app.file(str(number), "record.json").unlink()
    submit(*sweep)
    for number in range(len(names)):
        run_task(number)
        arguments = app.seen(str(number))["arguments"]
        assert [each for each in arguments if each != "slurm"] == [
            each for each in expected[number] if each != "config"
        ]


def _quoted(text):
    """The text between Hydra's quotes."""
    end = len(text) - len(text.rstrip("\\"))
    return "'" + text.replace("'", "\\'") + "\\" * end + "'"


def test_what_sbatch_is_asked_for(slurm, submit):
    submit(
        *("name=a,b,c,d", "trainer.devices=2", "trainer.num_nodes=3"),
        *("hydra.launcher.array_size=3", "hydra.launcher.array_parallelism=2"),
        *(
            "hydra.launcher.gpus_per_node=a100:2",
            "hydra.launcher.time=30",
            "hydra.launcher.qos=low",
        ),
        *("+hydra.launcher.sbatch.mail_type=END", "hydra.launcher.setup=[module load cuda]"),
    )
    first, second = slurm.submitted
    assert [each.pop("array") for each in (first, second)] == ["0-2%2", "0-0%2"]
    assert first["job-name"] != second["job-name"]
    wanted = {
        "nodes": "3", "ntasks-per-node": "2", "gpus-per-node": "a100:2", "cpus-per-task": "1",
        "time": "30", "signal": "B:USR1@120", "qos": "low", "mail-type": "END",
    }  # fmt: skip
    assert first.items() >= wanted.items()
    assert not {"partition", "account", "mem"} & first.keys()
    script = (slurm.folder / "2/script").read_text()
    assert "\nmodule load cuda\n" in script
    assert "++trainer.accelerator=gpu" in script


def test_jobs_of_different_sizes_are_different_arrays(slurm, submit):
    submit("name=a,b", "trainer.devices=1,2,auto", "hydra.sweep.subdir=${hydra:job.num}")
    sizes = [(each["ntasks-per-node"], each["array"]) for each in slurm.submitted]
    assert sizes == [("1", "0-3"), ("2", "0-1")]


def test_a_job_that_submits_hands_on_nothing_of_its_own(slurm, submit):
    own = {"SLURM_NTASKS": "7", "SLURM_MEM_PER_CPU": "7", "SLURM_CONF": "/etc/x"}
    (slurm.folder / "bin/sbatch").write_text('#!/bin/sh\nenv > "$FAKE_SLURM/env"; echo 5\n')
    submit("name=a,b", **own)
    seen = (slurm.folder / "env").read_text().splitlines()
    assert [line for line in seen if line.startswith("SLURM_")] == ["SLURM_CONF=/etc/x"]


@pytest.mark.parametrize(
    ("disturb", "restarts", "requeued"),
    [
        (signal.SIGUSR1, "0", ["1_1"]),  # the time is almost over
        (signal.SIGUSR1, "20", []),  # too often
        (signal.SIGTERM, "0", []),  # cancelled, or preempted, which SLURM itself queues again
    ],
)
def test_signals_reach_the_job(disturb, restarts, requeued, app, slurm, submit):
    submit("name=a,b", "behaviour=polite")
    own = {"PYTHONPATH": str(app.folder), "SLURM_RESTART_COUNT": restarts}
    process = slurm.start(1, folder=app.folder, **own)
    pids = app.wait_for("b")
    os.kill(process.pid, disturb)
    assert process.wait(60) == {signal.SIGUSR1: 128 + signal.SIGUSR1, signal.SIGTERM: 3}[disturb]
    assert app.file("b", "saved").exists() == (disturb == signal.SIGTERM)
    app.assert_gone(pids)
    assert slurm.requeued == requeued


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["hydra.launcher.array_size=0"], "hydra.launcher.array_size=0 must be"),
        (["hydra.launcher.save_s=-1"], "hydra.launcher.save_s=-1 must be"),
        (
            ["behaviour=forbidden"],
            "job 0 (name=a behaviour=forbidden): behaviour=forbidden is not allowed",
        ),
        (["rerun=true"], "rerun=true would begin again after each stop; delete the run"),
        (["trainer.devices=-1"], "trainer.devices=-1 must be auto or a whole number >= 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(overrides, words, slurm, submit):
    output = submit("name=a,b", *overrides, code=1)
    assert words in output
    assert slurm.submitted == []


def test_words_of_slurm_are_passed_on(slurm, submit):
    slurm.refuse("sbatch: error: invalid partition specified: gpu\nsbatch: error: Batch failed\n")
    output = submit("name=a,b", code=1)
    (line,) = [line for line in output.splitlines() if "error" in line]
    assert (
        line == "error: sbatch: error: invalid partition specified: gpu sbatch: error: Batch failed"
    )


def test_a_machine_without_slurm(app, slurm, tmp_path):
    settings = {"environment": {"PATH": str(tmp_path)}}
    output = app.run("--config-name=slurm", "name=a,b", code=1, **settings)
    assert output == "error: hydra/launcher=slurm: there is no squeue on this machine\n"
