"""Eq. 2 with the distances of Eq. 9."""

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import AdversarialLogitPairing

ATTACK = PGDAttack(eps=0.3, step_size=0.15, steps=3)


def _huber(difference):
    size = np.abs(difference)
    return np.where(size <= 1, size**2 / 2, size - 0.5)


DISTANCES = {"l2": np.square, "l1": np.abs, "huber": _huber}


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("distance", DISTANCES)
def test_equation_2(distance, alpha, make, network, batch, train_on):
    with torch.no_grad():
        network[-1].weight *= 4  # logits apart by more than 1, where Huber's loss is linear
    settings = {"attack": ATTACK, "alpha": alpha, "pairing_weight": 0.7}
    defense = make(AdversarialLogitPairing, network, pairing_distance=distance, **settings)
    terms, _ = train_on(defense, batch)

    x_adv = defense.attack_batch(batch, batch.targets)
    with torch.no_grad():
        logits, logits_adv = network(batch.x).numpy(), network(x_adv).numpy()
    difference = logits - logits_adv
    assert np.abs(difference).min() < 1 < np.abs(difference).max()

    def cross_entropy(values):
        picked = values[np.arange(6), batch.y.numpy()]
        return np.mean(np.log(np.exp(values).sum(axis=1)) - picked)

    expected = {"adversarial": (1 - alpha) * cross_entropy(logits_adv)}
    if alpha:
        expected["clean"] = alpha * cross_entropy(logits)
    expected["pairing"] = 0.7 * DISTANCES[distance](difference).sum(axis=1).mean()
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], rel=1e-10), name


def test_gradient_flows_through_clean_and_attacked_logits(
    make, network, batch, train_on, gradients_of
):
    defense = make(AdversarialLogitPairing, network, attack=ATTACK, pairing_weight=0.7)
    _, gradients = train_on(defense, batch)
    x_adv = defense.attack_batch(batch, batch.targets)
    logits, logits_adv = network(batch.x), network(x_adv)
    adversarial = torch.nn.functional.cross_entropy(logits_adv, batch.y)
    loss = adversarial + 0.7 * ((logits - logits_adv) ** 2).sum(1).mean()
    for name, gradient in gradients_of(loss, network).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pairing_weight": -1}, "pairing_weight=-1 must be a number >= 0"),
        (
            {"pairing_distance": "l3"},
            "pairing_distance='l3' is unknown; choose one of: l2, l1, huber",
        ),
    ],
)
def test_settings_out_of_range(setting, message, make, network):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        make(AdversarialLogitPairing, network, **setting)
    assert str(error.value) == message
