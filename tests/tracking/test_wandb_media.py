"""What W&B alone is given, taken from the callback that attacks."""

import itertools

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import Regular
from lrm_lightning.tracking import wandb_media
from lrm_lightning.tracking.wandb_media import WandbMedia
from lrm_lightning.training.robust_accuracy import RobustAccuracy

ATTACK = PGDAttack(eps=0.05, step_size=0.02)


class Sink:
    """Keeps what it is given."""

    def __init__(self):
        self.media, self.examples = [], []

    def log_media(self, metrics, step):
        self.media.append((step, dict(metrics)))

    def keep_examples(self, arrays, step):
        self.examples.append((step, dict(arrays)))


@pytest.fixture
def run(network, digits, make_trainer):
    """Function: fit and test; the sink, the attacker and the logged metrics."""

    def make(**settings):
        attacker = RobustAccuracy(
            ATTACK, steps=[1], n_images=20, test_steps=[1, 3], test_n_images=20, every_n_epochs=2
        )
        sink = Sink()
        trainer = make_trainer(
            attacker, WandbMedia(sink, attacker), limit_test_batches=2, **settings
        )
        defense = Regular(network)
        trainer.fit(defense, datamodule=digits)
        fitted = dict(trainer.callback_metrics)
        trainer.test(defense, datamodule=digits, verbose=False)
        return sink, attacker, fitted

    return make


def test_an_epoch_each_with_all_logits_where_it_was_attacked(run):
    sink, _, fitted = run(max_epochs=2, limit_train_batches=3, num_sanity_val_steps=1)
    (first_step, first), (second_step, second) = sink.media
    assert (first_step, first["epoch"]) == (2, 0)  # steps count from 0, as Lightning's do
    assert (second_step, second["epoch"]) == (5, 1)
    assert not [key for key in first if "logits" in key]  # not attacked
    for kind in ("clean", "adv"):
        histogram = second[f"val/logits/{kind}/histogram"]
        counts, edges = np.array(histogram["counts"]), np.array(histogram["edges"])
        assert counts.sum() == 20 * 10
        assert len(edges) == len(counts) + 1
        # the bins hold the distribution whose variance was logged
        middle = (edges[1:] + edges[:-1]) / 2
        variance = np.average((middle - np.average(middle, weights=counts)) ** 2, weights=counts)
        wanted = float(fitted[f"val/logits/{kind}/variance"])
        assert variance == pytest.approx(wanted, rel=0.05)


def test_speed_is_that_of_training(run, monkeypatch):
    ticks = itertools.count()  # a second between two looks at the clock
    monkeypatch.setattr(wandb_media.time, "monotonic", lambda: float(next(ticks)))
    sink, *_ = run(max_epochs=2, limit_train_batches=3, num_sanity_val_steps=0)
    assert [metrics["train/images_per_s"] for _, metrics in sink.media] == [64.0, 64.0]


def test_examples_are_the_strongest_attack_on_the_first_images(run, network):
    sink, attacker, _ = run(max_epochs=1, num_sanity_val_steps=0)
    ((step, found),) = sink.examples
    assert step == 1
    assert list(found["index"]) == list(range(8))
    moved = np.abs(found["x_adv"] - found["x"])
    assert 0 < moved.max() <= ATTACK.eps + 1e-6
    for images, kind, name in (("x", "clean", "clean"), ("x_adv", "adv", "pgd3")):
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(found[images]))
        probability, chosen = logits.softmax(1).max(1)
        assert list(found[f"{kind}_class"]) == chosen.tolist()
        np.testing.assert_allclose(found[f"{kind}_probability"], probability, rtol=1e-4)
        assert list(found[f"{kind}_class"] == found["y"]) == list(attacker.correct[name][:8])
