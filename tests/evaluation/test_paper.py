"""The paper's suite: one trajectory, and what is read off it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import fgsm
from lrm_lightning.evaluation.paper import PaperSuite, logit_distributions

SUITE = PaperSuite(steps=20, table=(5, 10, 20), logits_at=20, bins=10)


@pytest.fixture(scope="module")
def bench(make_bench):
    return make_bench(batch_size=32)


@pytest.fixture(scope="module")
def outcome(bench, networks):
    return SUITE.run(networks["pgd"], bench)


def predictions(bench, network, attack):
    """Predictions on the images that ``attack(x, y, start)`` makes, in the suite's batches."""
    found = []
    for begin in range(0, 80, 32):
        places = np.arange(begin, min(begin + 32, 80))
        x, y = bench.images.rows(places)
        with torch.no_grad():
            x_adv = attack(x, y, bench.starts(bench.threat, places, "paper"))
            found.append(network(x_adv).argmax(dim=1))
    return torch.cat(found)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_accuracy_equals_a_separate_run_with_the_same_start(bench, robust, outcome, steps):
    attack = replace(bench.threat, steps=steps)
    found = predictions(bench, robust, lambda x, y, start: attack(robust, x, y, start=start))
    expected = (found == bench.images.y).numpy()
    assert (outcome.correct[f"pgd{steps}"] == expected).all()
    assert outcome.details["curve"]["accuracy"][steps] == expected.mean()


def test_clean_and_fgsm_equal_separate_runs(bench, robust, outcome):
    eps = bench.threat.eps
    clean = predictions(bench, robust, lambda x, y, start: x)
    attacked = predictions(bench, robust, lambda x, y, start: fgsm(robust, x, y, eps=eps))
    assert (outcome.correct["clean"] == (clean == bench.images.y).numpy()).all()
    assert (outcome.correct["fgsm"] == (attacked == bench.images.y).numpy()).all()


def test_gallery_holds_the_attacked_images(bench, robust, outcome):
    arrays = outcome.arrays
    x, y = bench.images.rows(bench.images.shown)
    assert arrays["gallery_x"].dtype == np.uint8
    assert np.abs(arrays["gallery_x"] / 255 - x.numpy()).max() <= 0.5 / 255 + 1e-6
    delta = np.abs(arrays["gallery_x_adv"] - x.numpy())
    assert 0 < delta.max() <= bench.threat.eps + 1e-6
    with torch.no_grad():
        clean, adversarial = (
            robust(each).argmax(dim=1).tolist()
            for each in (x, torch.from_numpy(arrays["gallery_x_adv"]))
        )
    assert arrays["gallery_clean"].tolist() == clean
    assert arrays["gallery_adversarial"].tolist() == adversarial
    assert arrays["gallery_y"].tolist() == y.tolist()
    assert arrays["gallery_index"].tolist() == bench.images.index[:8].tolist()


def test_logits_of_all_images_share_their_bins():
    generator = np.random.default_rng(0)
    clean = generator.normal(size=(30, 10)).astype(np.float32)
    adversarial = (3 * generator.normal(size=(30, 10))).astype(np.float32)
    found = logit_distributions({"clean": clean, "adversarial": adversarial}, bins=12)
    assert found["clean"]["edges"] == found["adversarial"]["edges"]
    edges = np.array(found["clean"]["edges"])
    assert edges[0] == pytest.approx(adversarial.min())
    assert edges[-1] == pytest.approx(adversarial.max())
    assert np.diff(edges) == pytest.approx(np.full(12, edges[1] - edges[0]))
    for kind, values in (("clean", clean), ("adversarial", adversarial)):
        counts = np.array(found[kind]["counts"])
        assert counts.sum() == 300
        below = [(values.astype(float) < edge).sum() for edge in edges[1:-1]]
        assert counts.cumsum()[:-1].tolist() == below
        assert found[kind]["variance"] == pytest.approx(values.var(), rel=1e-5)
        assert found[kind]["norm"] == pytest.approx(np.linalg.norm(values, axis=1).mean(), rel=1e-5)


def test_constant_logits_have_a_histogram():
    same = {"clean": np.ones((5, 4), np.float32), "adversarial": np.ones((5, 4), np.float32)}
    found = logit_distributions(same, bins=4)
    assert np.diff(found["clean"]["edges"]).min() > 0
    assert sum(found["clean"]["counts"]) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 must be"),
        ({"steps": 10}, "logits_at=20 must be at most steps=10"),
        ({"table": [5, 300]}, "table=300 must be at most steps=200"),
        ({"table": 5}, "must be a list"),
        ({"bins": 1}, "bins=1 must be"),
    ],
)
def test_wrong_setting(change, message):
    with pytest.raises(ValueError, match=message):
        PaperSuite(**change)
