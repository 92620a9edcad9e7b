"""The defences that train on clean images, as ``conf/method`` has them."""

import numpy as np
import pytest
import torch

from lrm_lightning.methods import CleanLogitPairing, Regular

CLEAN = ("regular", "label_smoothing", "logit_squeezing", "mixup", "vh_mixup")


def _logits(network, batch):
    with torch.no_grad():
        return network(batch.x).numpy()


def _log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_each_regular_method_turns_one_knob(from_conf, network):
    knobs = ("smoothing", "squeeze_weight", "mixing")
    found = {}
    for method in CLEAN:
        defense = from_conf(method, network)
        assert type(defense) is Regular
        assert defense.name == method
        found[method] = tuple(getattr(defense, knob) for knob in knobs)
    assert found == {
        "regular": (0, 0, "none"),
        "label_smoothing": (0.75, 0, "none"),
        "logit_squeezing": (0, 0.05, "none"),
        "mixup": (0, 0, "mixup"),
        "vh_mixup": (0, 0, "vh_mixup"),
    }


@pytest.mark.parametrize("method", ["regular", "mixup", "vh_mixup"])
def test_regular_is_cross_entropy_with_soft_targets(
    method, from_conf, network, mixed_batch, train_on
):
    terms, _ = train_on(from_conf(method, network), mixed_batch)
    expected = -np.mean(
        np.sum(mixed_batch.targets.numpy() * _log_softmax(_logits(network, mixed_batch)), axis=1)
    )
    assert list(terms) == ["clean"]
    assert terms["clean"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.5, 0.75])
def test_label_smoothing_is_equation_8(smoothing, from_conf, network, batch, train_on):
    defense = from_conf("label_smoothing", network, f"method.smoothing={smoothing}")
    terms, _ = train_on(defense, batch)
    targets = np.full((6, 4), smoothing / 3)
    targets[np.arange(6), batch.y.numpy()] = 1 - smoothing
    expected = -np.mean(np.sum(targets * _log_softmax(_logits(network, batch)), axis=1))
    assert list(terms) == ["clean"]
    assert terms["clean"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["logit_squeezing", "label_smoothing", "clean_logit_pairing"])
def test_squeezing_adds_the_squared_norm(method, from_conf, network, batch, train_on):
    terms, gradients = train_on(from_conf(method, network, "method.squeeze_weight=0.05"), batch)
    plain = from_conf(method, network, "method.squeeze_weight=0")
    plain_terms, plain_gradients = train_on(plain, batch)
    expected = 0.05 * np.mean(np.sum(_logits(network, batch) ** 2, axis=1))
    assert terms.keys() - plain_terms.keys() == {"squeezing"}
    assert terms["squeezing"].item() == pytest.approx(expected, rel=1e-12)
    # d/db of the mean squared norm is twice the mean logit
    extra = gradients["3.bias"] - plain_gradients["3.bias"]
    np.testing.assert_allclose(extra, 0.05 * 2 * _logits(network, batch).mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("distance", "size"),
    [
        ("l2", torch.square),
        ("l1", torch.abs),
        ("huber", lambda d: torch.where(d.abs() <= 1, d**2 / 2, d.abs() - 0.5)),
    ],
)
@pytest.mark.parametrize("images", [6, 5])
def test_clean_logit_pairing_pairs_neighbours(
    images, distance, size, make, network, batch, train_on, assert_trains
):
    batch = batch._replace(x=batch.x[:images], targets=batch.targets[:images])
    defense = make(CleanLogitPairing, network, pairing_weight=0.3, pairing_distance=distance)
    logits = network(batch.x)
    pairs = [(0, 1), (2, 3), (4, 5)][: images // 2]  # a last odd image has no partner
    paired = torch.stack([size(logits[i] - logits[j]).sum() for i, j in pairs]).mean()
    clean = -(batch.targets * logits.log_softmax(1)).sum(1).mean()
    expected = {"clean": clean, "pairing": 0.3 * paired}
    assert_trains(train_on(defense, batch), expected, network)


def test_clean_logit_pairing_of_one_image_has_no_pair(make, network, batch, train_on):
    one = batch._replace(x=batch.x[:1], targets=batch.targets[:1])
    terms, _ = train_on(make(CleanLogitPairing, network, pairing_weight=0.3), one)
    assert list(terms) == ["clean"]
