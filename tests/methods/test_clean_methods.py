"""The defences that train on clean images: regular, smoothing, squeezing, CLP."""

import numpy as np
import pytest
import torch

from lrm_lightning.methods import CleanLogitPairing, LabelSmoothing, LogitSqueezing, Regular


def _logits(network, batch):
    with torch.no_grad():
        return network(batch.x).numpy()


def _log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_regular_is_cross_entropy_with_soft_targets(make, network, mixed_batch, train_on):
    terms, _ = train_on(make(Regular, network), mixed_batch)
    expected = -np.mean(
        np.sum(mixed_batch.targets.numpy() * _log_softmax(_logits(network, mixed_batch)), axis=1)
    )
    assert list(terms) == ["clean"]
    assert terms["clean"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.01, 0.5, 0.75])
def test_label_smoothing_is_equation_8(smoothing, make, network, batch, train_on):
    terms, _ = train_on(make(LabelSmoothing, network, smoothing=smoothing), batch)
    targets = np.full((6, 4), smoothing / 3)
    targets[np.arange(6), batch.y.numpy()] = 1 - smoothing
    expected = -np.mean(np.sum(targets * _log_softmax(_logits(network, batch)), axis=1))
    assert list(terms) == ["clean"]
    assert terms["clean"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("defense", [LogitSqueezing, Regular, LabelSmoothing, CleanLogitPairing])
def test_squeezing_adds_the_squared_norm(defense, make, network, batch, train_on):
    terms, gradients = train_on(make(defense, network, squeeze_weight=0.05), batch)
    plain_terms, plain_gradients = train_on(make(defense, network, squeeze_weight=0.0), batch)
    expected = 0.05 * np.mean(np.sum(_logits(network, batch) ** 2, axis=1))
    assert terms.keys() - plain_terms.keys() == {"squeezing"}
    assert terms["squeezing"].item() == pytest.approx(expected, rel=1e-12)
    # d/db of the mean squared norm is twice the mean logit
    extra = gradients["3.bias"] - plain_gradients["3.bias"]
    np.testing.assert_allclose(extra, 0.05 * 2 * _logits(network, batch).mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("distance", "size"),
    [
        ("l2", np.square),
        ("l1", np.abs),
        ("huber", lambda d: np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5)),
    ],
)
@pytest.mark.parametrize("images", [6, 5])
def test_clean_logit_pairing_pairs_neighbours(
    images, distance, size, make, network, batch, train_on
):
    batch = batch._replace(x=batch.x[:images], targets=batch.targets[:images])
    defense = make(CleanLogitPairing, network, pairing_weight=0.3, pairing_distance=distance)
    terms, _ = train_on(defense, batch)
    logits = _logits(network, batch)
    pairs = [(0, 1), (2, 3), (4, 5)][: images // 2]  # a last odd image has no partner
    expected = np.mean([size(logits[i] - logits[j]).sum() for i, j in pairs])
    assert list(terms) == ["clean", "pairing"]
    assert terms["pairing"].item() == pytest.approx(0.3 * expected, rel=1e-10)
    whole = -np.mean(np.sum(batch.targets.numpy() * _log_softmax(logits), axis=1))
    assert terms["clean"].item() == pytest.approx(whole, rel=1e-12)


def test_clean_logit_pairing_of_one_image_has_no_pair(make, network, batch, train_on):
    one = batch._replace(x=batch.x[:1], targets=batch.targets[:1])
    terms, _ = train_on(make(CleanLogitPairing, network, pairing_weight=0.3), one)
    assert list(terms) == ["clean"]


def test_clean_logit_pairing_pulls_both_images(make, network, batch, train_on, gradients_of):
    defense = make(CleanLogitPairing, network, pairing_weight=0.3)
    _, gradients = train_on(defense, batch)
    logits = network(batch.x)
    paired = ((logits[0::2] - logits[1::2]) ** 2).sum(1).mean()
    loss = torch.nn.functional.cross_entropy(logits, batch.y) + 0.3 * paired
    for name, gradient in gradients_of(loss, network).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("setting", [{"pairing_weight": -1}, {"pairing_distance": "cosine"}])
def test_clean_logit_pairing_settings_out_of_range(setting, make, network):
    (name,) = setting
    with pytest.raises(ValueError, match=rf"^{name}="):
        make(CleanLogitPairing, network, **setting)
