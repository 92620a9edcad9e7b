"""Groups that look into a run: debug=..., hparams_search=optuna."""

import importlib.util
import subprocess
import time

import pytest
import torch

from lrm_lightning.methods import Regular
from lrm_lightning.training.lightning_internals import quieten


class Seen(Regular):
    """Keeps the images that it was trained on, by epoch."""

    def on_fit_start(self):
        self.seen = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch.x)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("overfit_batches", [0, 2])
def test_overfitting_repeats_the_same_batches(overfit_batches, network, digits, make_trainer):
    quieten()
    defense = Seen(network)
    limits = {"limit_train_batches": 2, "overfit_batches": overfit_batches}
    trainer = make_trainer(max_epochs=3, num_sanity_val_steps=0, **limits)
    trainer.fit(defense, datamodule=digits)
    first, *others = (torch.cat(defense.seen[epoch]) for epoch in range(3))
    assert len(first) == 2 * digits.batch_size
    assert [torch.equal(first, other) for other in others] == [bool(overfit_batches)] * 2


def test_debug_runs_lie_apart_and_the_profiler_is_heard(command, tmp_path):
    run = command.start("method=regular", "debug=profiler", "trainer.max_epochs=1")
    run.process.join(600)
    assert "FIT Profiler Report" in run.errors
    assert len(list(tmp_path.glob("debug/digits/regular-*/record.json"))) == 1
    assert not (tmp_path / "runs").exists()


OPTUNA = importlib.util.find_spec("optuna") is not None


@pytest.mark.skipif(OPTUNA, reason="the extra [optuna] is there")
def test_a_missing_extra_is_named(processes):
    line = processes.run("lrm_lightning.train", "hparams_search=optuna", code=1)
    assert line == "error: Optuna's sweeper is not installed; pip install 'lrm_lightning[optuna]'"


@pytest.mark.slow
@pytest.mark.skipif(not OPTUNA, reason="needs the extra [optuna]")
def test_a_search_that_is_killed_goes_on_with_the_trials_that_it_had(small, interpreter, tmp_path):
    words = ("method=regular", "hparams_search=optuna", "hydra.sweeper.n_trials=5", *small)
    words += ("hydra.launcher.preload=null",)  # else each search begins with seconds of imports

    def search():
        command = [interpreter, "-m", "lrm_lightning.train", *words, "hydra.launcher.cores=1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=tmp_path, **quiet)

    def trials(file="record.json"):
        found = tmp_path.glob(f"runs/digits/*/{file}")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    first = search()
    deadline = time.monotonic() + 600
    while not 2 <= len(trials()) < len(trials("status.json")):  # the next one trains
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    first.wait()
    finished = trials()
    assert 2 <= len(finished) < 5
    assert search().wait(600) == 0
    assert len(trials()) == len(trials("job.log")) == 5
    logs = {path.parent.name: path.read_text() for path in tmp_path.glob("runs/digits/*/job.log")}
    starts = {name: log.count("-m lrm_lightning.train") for name, log in logs.items()}
    assert sum(starts.values()) <= 6  # only what was under way began twice
    assert all(trials()[name] == finished[name] and starts[name] == 1 for name in finished)
