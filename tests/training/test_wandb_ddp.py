"""Two processes are one W&B run, offline, and jobs side by side are kept apart."""

import runpy
from pathlib import Path

import pytest

LOGGERS = Path(__file__).parents[1] / "tracking"
read = runpy.run_path(str(LOGGERS / "wandb_file.py"))["read"]
RUN = ("logger=wandb", "logger.wandb.mode=offline", "trainer.log_every_n_steps=1")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


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
    assert sorted(arrived) == sorted(run.logged)
    *epochs, last = media
    assert [row["epoch"] for row in epochs] == [0, 1]
    for row in epochs:  # 20 images, shared out to the processes, of ten logits
        assert sum(row["val/logits/clean/histogram"]["values"]) == 20 * 10
    assert len(last["test/examples"]["captions"]) == 8
    assert found.run.display_name == run.path.name
    assert found.exit_code == 0


@pytest.mark.slow
def test_jobs_of_two_processes_side_by_side(of_wandb, python, small, finished, tmp_path):
    pytest.importorskip("wandb")
    own = [each for each in small if each not in ("trainer=cpu", "logger=csv")]
    sweep = ("method=pgd,lrm", "sweep=both", "hydra.launcher.jobs=2", "-m")
    train = ("-m", "lrm_lightning.train", *own, *RUN, *TWO, *sweep)
    python(*train, folder=tmp_path, **of_wandb())
    runs = {name: finished(name) for name in ("pgd", "lrm")}
    found = {name: offline_run(run) for name, run in runs.items()}
    for name, run in runs.items():
        assert run.record["hardware"]["devices"] == 2
        assert (run.path / "job.log").read_text().count("W&B: offline") == 1
        assert_complete(run, found[name])
        assert found[name].config["method"]["name"] == name
        assert (found[name].run.run_group, found[name].run.job_type) == ("both", name)
    assert found["pgd"].run.run_id != found["lrm"].run.run_id
    assert len(list(tmp_path.rglob("*.wandb"))) == 2
