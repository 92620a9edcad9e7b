"""What W&B alone is given, taken from the callback that attacks."""

import itertools

import lightning as L
import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.methods import Regular
from lrm_lightning.models import ResNet
from lrm_lightning.tracking import wandb as module
from lrm_lightning.tracking.wandb import RunLogger, WandbMedia
from lrm_lightning.training.robust_accuracy import RobustAccuracy

ATTACK = PGDAttack(eps=0.05, step_size=0.02)


class Kept(RunLogger):
    """Keeps what it is given."""

    def __init__(self, folder):
        super().__init__(str(folder), mode="disabled")
        self.media, self.pictures = [], None

    def log_metrics(self, metrics, step=None):
        if any("histogram" in key or "images_per_s" in key for key in metrics):
            self.media.append((step, dict(metrics)))

    def log_image(self, key, images, step=None, **settings):
        assert self.pictures is None
        self.pictures = key, images, step, settings["caption"]


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet(depth=1, widths=(4, 4, 8, 8))


@pytest.fixture
def run(network, tmp_path, alone):
    """Function: fit and test; the logger, the attacker and the logged metrics."""

    def make(logger=None, **settings):
        attacker = RobustAccuracy(
            ATTACK, steps=[1], n_images=20, test_steps=[1, 3], test_n_images=20, every_n_epochs=2
        )
        logger = Kept(tmp_path) if logger is None else logger
        trainer = L.Trainer(
            accelerator="cpu",
            logger=logger,
            callbacks=[attacker, WandbMedia(attacker)],
            limit_test_batches=2,
            inference_mode=False,
            log_every_n_steps=1,
            default_root_dir=str(tmp_path),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **({"limit_train_batches": 1} | settings),
        )
        digits = DigitsDataModule(val_size=40, batch_size=64, eval_batch_size=16)
        defense = Regular(network)
        trainer.fit(defense, datamodule=digits)
        fitted = dict(trainer.callback_metrics)
        trainer.test(defense, datamodule=digits, verbose=False)
        if logger:
            logger.close()
        return logger, attacker, fitted

    return make


def test_an_epoch_each_with_all_logits_where_it_was_attacked(run):
    logger, _, fitted = run(max_epochs=2, limit_train_batches=3, num_sanity_val_steps=1)
    (first_step, first), (second_step, second) = logger.media
    assert (first_step, first["epoch"]) == (2, 0)  # steps count from 0, as Lightning's do
    assert (second_step, second["epoch"]) == (5, 1)
    assert not [key for key in first if "logits" in key]  # not attacked
    for kind in ("clean", "adv"):
        histogram = second[f"val/logits/{kind}/histogram"]
        counts, edges = np.array(histogram.histogram), np.array(histogram.bins)
        assert counts.sum() == 20 * 10
        # the bins hold the distribution whose variance was logged
        middle = (edges[1:] + edges[:-1]) / 2
        variance = np.average((middle - np.average(middle, weights=counts)) ** 2, weights=counts)
        wanted = float(fitted[f"val/logits/{kind}/variance"])
        assert variance == pytest.approx(wanted, rel=0.05)


def test_speed_is_that_of_training(run, monkeypatch):
    ticks = itertools.count()  # a second between two looks at the clock
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    logger, *_ = run(max_epochs=2, limit_train_batches=3, num_sanity_val_steps=0)
    assert [metrics["train/images_per_s"] for _, metrics in logger.media] == [64.0, 64.0]


def test_pictures_show_the_strongest_attack_on_the_first_images(run, network):
    logger, attacker, _ = run(max_epochs=1, num_sanity_val_steps=0)
    key, pictures, step, captions = logger.pictures
    assert (key, step, len(pictures), len(captions)) == ("test/examples", 1, 8, 8)
    found = attacker.examples
    with torch.no_grad():
        clean, adv = (network.eval()(each).softmax(1).max(1) for each in (found.x, found.x_adv))
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, x_adv, difference = np.split(picture.astype(float) / 255, 3, axis=1)
        np.testing.assert_allclose(x, found.x[place].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)
        assert 0 < np.abs(x_adv - x).max() <= ATTACK.eps + 1 / 255
        assert max(difference.max() - 0.5, 0.5 - difference.min()) == pytest.approx(0.5, abs=0.01)
        assert np.corrcoef((x_adv - x).ravel(), difference.ravel())[0, 1] > 0.9
        classes = f"clean {clean.indices[place]} ({clean.values[place]:.0%}), "
        classes += f"attacked {adv.indices[place]} ({adv.values[place]:.0%})"
        assert caption == f"image {place}, class {found.y[place]}: {classes}"
        assert (adv.indices[place] == found.y[place]) == attacker.correct["pgd3"][place]


def test_without_wandb_nothing_is_made(run, monkeypatch):
    monkeypatch.setattr(module.np, "histogram", lambda *_, **__: pytest.fail("made a histogram"))
    monkeypatch.setattr(module.np, "concatenate", lambda *_, **__: pytest.fail("made a picture"))
    run(logger=False, max_epochs=2)
