"""Whole multiruns of real processes."""

import re
import sys

import pytest

pytestmark = pytest.mark.slow

LEFT_BY_OTHERS = dict.fromkeys(
    [
        *("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"),
        *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"),
        *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "LRM_RUN_DIR"),
    ],
    "7",
)
KEPT = {"APL_X": "1", "SLURM_JOB_ID": "9"}
TO_HYDRA = (
    "hydra.launcher.module=app"  # real Hydra jobs, where it matters that they read our command line
)


def test_jobs_run_side_by_side_each_in_a_world_of_its_own(app):
    output = app.run(
        "name=a,b",
        "behaviour=meet",  # each ends only when the other has started
        "trainer.devices=2",
        "hydra.launcher.cores=8",
        environment=LEFT_BY_OTHERS | KEPT,
    )
    for number, name in enumerate("ab"):
        seen = app.seen(name)
        environment = seen["environment"]
        assert not set(LEFT_BY_OTHERS) & set(environment)
        assert environment.items() >= KEPT.items()
        assert environment["OMP_NUM_THREADS"] == "2"  # 8 cores, 2 jobs of 2 processes
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert seen["session"] == seen["pids"][0]
        assert seen["folder"] == str(app.folder)
        assert seen["number"] == number
    assert (app.folder / "runs" / "multirun.yaml").exists()
    assert "job 1 (name=b): started on 4 CPU cores" in output
    assert "job 1 (name=b): done after " in output
    row = r"b +name=b +87.5 \[82.0, 91.0\] +50.0 \[43.0, 57.0\] +25.0 \[19.0, 31.0\] +runs/b"
    assert re.search(row, output)
    assert output.count("CIFAR-10 (not the official bytes)") == 1


def test_a_failed_job_stops_no_other_and_the_exit_code_tells(app):
    jobs = ("behaviour=fail,crash,silent,ok", "hydra.sweep.subdir=${behaviour}")
    output = app.run(*jobs, code=1)
    assert app.record("ok")["score"] == 0.25
    assert (
        "job 0 failed: exit code 1 (behaviour=fail)\n"
        "    error: a has no data; run make data\n"
        "    log: runs/fail/job.log\n"
    ) in output
    assert "    KeyError: 'nothing here'\n    log: runs/crash/job.log" in output
    assert "job 2 failed: ended without a record.json" in output
    assert "4 jobs: 1 done, 3 failed" in output
    log = app.file("fail", "job.log").read_text()
    assert f"{sys.executable} -m quick_job" in log.splitlines()[0]
    assert "some words before" in log


def test_a_failure_leaves_later_batches_of_the_sweeper_alone(app):
    batches = ("hydra.sweeper.max_batch_size=1", "hydra.sweep.subdir=${behaviour}")
    output = app.run("behaviour=fail,ok", *batches, code=1)
    assert app.calls("fail", "ok") == [1, 1]
    assert app.seen("ok")["number"] == 1
    assert "2 jobs: 1 done, 1 failed" in output


def test_a_second_call_runs_only_what_is_missing(app):
    app.run("name=a,b")
    app.file("b", "record.json").write_text('{"score": 0.')  # cut off: not a finished run
    output = app.run("name=a,b,c")
    assert app.calls("a", "b", "c") == [1, 2, 1]
    assert "3 jobs: 2 done, 1 done earlier" in output
    assert len(re.findall(r" runs/[abc]\s", output)) == 3
    assert app.file("b", "job.log").read_text().count("-m quick_job") == 2
    app.run("name=a", "+data.root=elsewhere")  # it may have other data now
    assert app.calls("a") == [2]


def test_a_rerun_that_fails_is_not_taken_for_the_earlier_run(app):
    app.run("name=a")
    output = app.run("name=a", "rerun=true", "behaviour=fail", code=1)
    assert "1 job: 1 failed" in output
    assert "87.5" not in output


def test_a_bad_config_anywhere_means_that_nothing_starts(app):
    where = "hydra.sweep.subdir=${name}-${behaviour}"
    output = app.run("name=a,b", "behaviour=ok,forbidden", where, code=1)
    assert output.splitlines() == [
        "error: job 1 (name=a behaviour=forbidden): behaviour=forbidden is not allowed",
        "error: job 3 (name=b behaviour=forbidden): behaviour=forbidden is not allowed",
    ]
    assert not list(app.folder.glob("runs/*/"))


def test_a_bad_setting_is_one_line(app):
    output = app.run("hydra.launcher.jobs=0", code=1)
    assert output == "error: hydra.launcher.jobs=0 must be a whole number >= 1\n"
    assert not (app.folder / "runs").exists()


def test_gpus_are_shared_out(app, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = ("trainer.accelerator=gpu", "hydra.launcher.gpus=[3,5]")
    app.run("name=a,b", "behaviour=meet", *gpus)
    seen = [app.seen(name)["environment"]["CUDA_VISIBLE_DEVICES"] for name in "ab"]
    assert sorted(seen) == ["3", "5"]
    assert "++trainer.accelerator=gpu" in app.seen("a")["arguments"]


def test_the_same_run_twice_runs_once(app):
    output = app.run("name=a,a")
    assert app.calls("a") == [1]
    assert "2 jobs: 1 done, 1 the same as another" in output
    output = app.run("behaviour=ok,silent", "name=b", code=1)
    assert "job 1 (behaviour=silent name=b): differs from job 0 but would share" in output
    assert app.calls("b") == [0]


def test_a_sweep_file_that_extends_the_base_config(app):
    (app.folder / "sweeps").mkdir()
    (app.folder / "sweeps" / "two.yaml").write_text(
        "defaults: [config, _self_]\n"
        "behaviour: silent\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {name: 'a,b'}}}\n"
    )
    files = ("--config-dir", "sweeps", "--config-name", "two")
    output = app.run(*files, TO_HYDRA, multirun=False, code=1)
    assert app.calls("a", "b") == [1, 1]
    assert "job 1 failed: ended without a record.json" in output  # the file's own setting arrived


def test_hydra_settings_of_the_command_line_reach_the_jobs(app):
    own = (
        "+hydra.job.env_set.MINE=${hydra.job.num}",
        "hydra.sweep.subdir=${name}-${hydra.job.num}",
    )
    app.run("name=a,b", "hydra.job.chdir=true", "hydra.sweep.dir=runs/here", *own, TO_HYDRA)
    for number, name in enumerate("ab"):
        seen = app.seen(f"here/{name}-{number}")
        assert seen["folder"] == str(app.folder / "runs" / "here" / f"{name}-{number}")
        assert seen["number"] == number
        assert seen["environment"]["MINE"] == str(number)
        assert not [item for item in seen["arguments"] if "launcher" in item or "sweep" in item]


def test_a_config_directory_given_by_path(app):
    (app.folder / "conf").rename(app.folder / "other")
    app.run("--config-path", "other", "name=b", TO_HYDRA)
    assert app.calls("b") == [1]


def test_rows_on_a_terminal(app):
    message = "epoch 1/1 of a"
    text = app.run_on_terminal("name=a,b", "behaviour=wait", "hydra.launcher.jobs=1", until=message)
    assert re.search(r"0 +name=a +\d+:\d\d:\d\d +epoch 1/1 of a", text)
    assert "2 jobs: 1 waiting, 1 running" in text
    assert "job 0 (name=a): done after " in text
    assert "2 jobs: 2 done" in text
    assert "2 jobs composed" in text


def test_jobs_of_one_device_are_forked_from_one_process(app):
    app.run("name=a,b,c", "hydra.sweeper.max_batch_size=2")
    (server,) = set(app.servers(*"abc"))
    assert server is not None
    assert app.seen("a")["environment"]["SET_BY_WARM"] == "yes"
    app.assert_gone([server])


@pytest.mark.parametrize(
    "setting", ["trainer.devices=2", *(f"hydra.launcher.preload={x}" for x in ("null", "broken"))]
)
def test_jobs_that_import_for_themselves(app, setting):
    (app.folder / "broken.py").write_text("1 / 0")
    output = app.run("name=a,b", setting)
    assert app.servers("a", "b") == [None, None]
    assert "2 jobs: 2 done" in output


def test_a_finished_sweep_needs_no_imports(app):
    app.run("name=a,b")
    (app.folder / "rules.py").unlink()
    assert "2 jobs: 2 done earlier" in app.run("name=a,b")


def test_forks_of_torch_have_the_threads_of_their_share(app):
    settings = ("hydra.launcher.preload=torch", "hydra.launcher.cores=2")
    app.run("name=a,b", "behaviour=threads", *settings, environment={"OMP_NUM_THREADS": "2"})
    assert [app.seen(name)["threads"] for name in "ab"] == [1, 1]
