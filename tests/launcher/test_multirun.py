"""Whole multiruns of real processes."""

import fcntl
import re
import sys

LEFT_BY_OTHERS = dict.fromkeys(
    [
        *("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"),
        *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"),
        *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "LRM_RUN_DIR"),
    ],
    "7",
)
TO_HYDRA = (
    "hydra.launcher.module=app"  # real Hydra jobs, where it matters that they read our command line
)


def test_jobs_run_side_by_side_each_in_a_world_of_its_own(app):
    output = app.run(
        "name=a,b",
        "behaviour=meet",  # each ends only when the other has started
        "trainer.devices=2",
        "hydra.launcher.cores=8",
        environment=LEFT_BY_OTHERS | {"KEPT": "yes"},
    )
    ports = set()
    for number, name in enumerate("ab"):
        seen = app.seen(name)
        environment = seen["environment"]
        ports.add(environment.pop("MASTER_PORT", "none"))
        assert not set(LEFT_BY_OTHERS) & set(environment)
        assert environment["KEPT"] == "yes"
        assert environment["OMP_NUM_THREADS"] == "2"  # 8 cores, 2 jobs of 2 processes
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert seen["session"] == seen["pids"][0]
        assert seen["folder"] == str(app.folder)
        assert seen["number"] == number
    assert len(ports) == 2
    assert not ports & {"7", "none"}
    assert (app.folder / "sweep" / "multirun.yaml").exists()
    assert "job 1 (name=b): started on 2 processes, 2 threads each" in output
    assert "job 1 (name=b): done after " in output
    row = r"b +name=b +87.5 \[82.0, 91.0\] +50.0 \[43.0, 57.0\] +25.0 \[19.0, 31.0\] +runs/b"
    assert re.search(row, output)
    assert output.count("CIFAR-10: not the official bytes") == 1


def test_only_as_many_jobs_at_once_as_asked(app):
    app.run("name=a,b", "hydra.launcher.jobs=1", "hydra.launcher.cores=8")
    assert app.record("a")["end"] <= app.seen("b")["begin"]
    assert app.seen("a")["environment"]["OMP_NUM_THREADS"] == "8"
    assert "MASTER_PORT" not in app.seen("a")["environment"]


def test_a_failed_job_stops_no_other_and_the_exit_code_tells(app):
    jobs = ("behaviour=fail,crash,silent,ok", "hydra.run.dir=runs/${behaviour}")
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
    batches = ("hydra.sweeper.max_batch_size=1", "hydra.run.dir=runs/${behaviour}")
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
    app.run("name=a", "rerun=true")
    assert app.calls("a", "b", "c") == [2, 2, 1]


def test_a_rerun_that_fails_is_not_taken_for_the_earlier_run(app):
    app.run("name=a")
    app.run("name=a", "rerun=true", "behaviour=silent", code=1)
    assert not app.file("a", "record.json").exists()
    assert app.file("a", "record.previous.json").exists()


def test_a_bad_config_anywhere_means_that_nothing_starts(app):
    where = "hydra.run.dir=runs/${name}-${behaviour}"
    output = app.run("name=a,b", "behaviour=ok,forbidden", where, code=1)
    assert output.splitlines() == [
        "error: job 1 (name=a behaviour=forbidden): behaviour=forbidden is not allowed",
        "error: job 3 (name=b behaviour=forbidden): behaviour=forbidden is not allowed",
    ]
    assert not (app.folder / "runs").exists()


def test_a_bad_setting_is_one_line(app):
    output = app.run("hydra.launcher.jobs=0", code=1)
    assert output == "error: hydra.launcher.jobs=0 must be a whole number >= 1\n"
    assert not (app.folder / "sweep").exists()


def test_gpus_are_shared_out(app):
    gpus = ("trainer.accelerator=gpu", "hydra.launcher.gpus=[3,5]")
    app.run("name=a,b", "behaviour=meet", *gpus)
    seen = [app.seen(name)["environment"]["CUDA_VISIBLE_DEVICES"] for name in "ab"]
    assert sorted(seen) == ["3", "5"]
    output = app.run("name=c", "trainer.devices=3", *gpus, code=1)
    assert "trainer.devices=3: only 2 GPUs are there to share out" in output
    app.run("name=c", "trainer.devices=2", *gpus)
    assert app.seen("c")["environment"]["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "MASTER_PORT" in app.seen("c")["environment"]


def test_the_same_run_twice_runs_once(app):
    output = app.run("name=a,a")
    assert app.calls("a") == [1]
    assert "job 1: the same run as job 0, runs once" in output
    assert "2 jobs: 1 done, 1 the same as another" in output
    output = app.run("behaviour=ok,silent", "name=b", code=1)
    assert "job 1 (behaviour=silent name=b): differs from job 0 but would share" in output
    assert app.calls("b") == [0]


def test_a_directory_at_work_elsewhere_is_left_alone(app):
    log = app.file("a", "job.log")
    log.parent.mkdir(parents=True)
    with log.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        output = app.run("name=a,b", code=1)
    assert app.calls("a", "b") == [0, 1]
    assert f"job 0 failed: another process is still at work in {log.parent}" in output


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
    app.run(*files, "behaviour=ok", TO_HYDRA, multirun=False)
    assert app.calls("a", "b") == [2, 2]


def test_hydra_settings_of_the_command_line_reach_the_jobs(app):
    app.run("name=b", "hydra.job.chdir=true", "hydra.sweep.dir=elsewhere", TO_HYDRA)
    seen = app.seen("b")
    assert seen["folder"] == str(app.folder / "runs" / "b")
    assert seen["number"] == 0
    assert not [item for item in seen["arguments"] if "launcher" in item or "sweep" in item]


def test_a_config_directory_given_by_path(app):
    (app.folder / "conf").rename(app.folder / "other")
    app.run("--config-path", "other", "name=b", TO_HYDRA)
    assert app.calls("b") == [1]


def test_a_directory_with_awkward_characters(app):
    folder = "runs/it's a=1, b [c]"
    app.run("name=a", f'hydra.run.dir="{folder}"', TO_HYDRA)
    assert (app.folder / folder / "record.json").exists()


def test_rows_on_a_terminal(app):
    message = "epoch 1/1 of a"
    text = app.run_on_terminal("name=a,b", "behaviour=wait", "hydra.launcher.jobs=1", until=message)
    assert re.search(r"0 +name=a +running +\d+:\d\d +epoch 1/1 of a", text)
    assert re.search(r"1 +name=b +waiting", text)
    assert "2 jobs: 1 waiting, 1 running" in text
    assert "2 jobs: 2 done" in text
