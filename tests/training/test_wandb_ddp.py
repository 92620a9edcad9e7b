"""Two processes are one W&B run, offline, and jobs side by side are kept apart."""

import runpy
from pathlib import Path

import pytest

LOGGERS = Path(__file__).parents[1] / "tracking"
read = runpy.run_path(str(LOGGERS / "wandb_file.py"))["read"]
RUN = ("logger=wandb", "logger.wandb.mode=offline", "trainer.log_every_n_steps=1")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture
def train(python, small, tmp_path):
    """Trains on two processes, with W&B's files inside the folder and nowhere else."""
    pytest.importorskip("wandb")
    environment = {f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "CACHE")}
    own = [each for each in small if each not in ("trainer=cpu", "logger=csv")]

    def run(*last):
        arguments = ("-m", "lrm_lightning.train", *own, *RUN, *TWO, *last)
        return python(*arguments, folder=tmp_path, HOME=str(tmp_path / "home"), **environment)

    return run


def offline_run(run):
    """What the only W&B run in a run directory holds."""
    (folder,) = (each for each in run.path.glob("wandb/*run-*") if not each.is_symlink())
    (file,) = folder.glob("*.wandb")
    return read(file)


def assert_complete(run, found):
    """Every number of the metrics' file, once, at its step; the media; a good end."""
    arrived, media = [], []
    for row in found.history:
        if "train/images_per_s" in row or "test/examples" in row:
            media.append(row)
            continue
        step = row["trainer/global_step"]
        numbers = {k: v for k, v in row.items() if k[0] != "_" and k != "trainer/global_step"}
        arrived += [(step, key, value) for key, value in numbers.items() if key != "epoch"]
    logged = [
        (int(row["step"]), key, float(value))
        for row in run.metrics
        for key, value in row.items()
        if key not in ("step", "epoch") and value
    ]
    assert sorted(arrived) == sorted(logged)
    *epochs, last = media
    assert [row["epoch"] for row in epochs] == [0, 1]
    for row in epochs:  # 20 images, shared out to the processes, of ten logits
        assert sum(row["val/logits/clean/histogram"]["values"]) == 20 * 10
    assert len(last["test/examples"]["captions"]) == 8
    assert found.run.display_name == run.path.name
    assert found.exit_code == 0


def test_two_processes_are_one_run(command, train, finished, tmp_path):
    command.run("method=pgd", *RUN, "runs_dir=runs/one", HOME=str(tmp_path / "home"))
    output = train("method=pgd", "runs_dir=runs/two")
    assert output.count("W&B: offline") == 1
    one, two = (finished("pgd", f"runs/{each}") for each in ("one", "two"))
    assert two.record["hardware"]["devices"] == 2
    single, found = offline_run(one), offline_run(two)
    assert_complete(two, found)
    assert [row.keys() for row in found.history] == [row.keys() for row in single.history]
    assert found.summary.keys() == single.summary.keys()
    assert found.config.keys() == single.config.keys()
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


def test_jobs_of_two_processes_side_by_side(train, finished, tmp_path):
    train("method=pgd,lrm", "sweep=both", "hydra.launcher.jobs=2", "-m")
    runs = {name: finished(name) for name in ("pgd", "lrm")}
    found = {name: offline_run(run) for name, run in runs.items()}
    for name, run in runs.items():
        assert run.record["hardware"]["devices"] == 2
        assert_complete(run, found[name])
        assert found[name].config["method"]["name"] == name
        assert (found[name].run.run_group, found[name].run.job_type) == ("both", name)
    assert found["pgd"].run.run_id != found["lrm"].run.run_id
    assert len(list(tmp_path.rglob("*.wandb"))) == 2
