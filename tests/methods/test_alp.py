"""Eq. 2 with the distances of Eq. 9."""

import pytest
import torch
from torch.nn import functional as F

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import AdversarialLogitPairing

ATTACK = PGDAttack(eps=0.3, step_size=0.15, steps=3)
DISTANCES = {
    "l2": torch.square,
    "l1": torch.abs,
    "huber": lambda d: torch.where(d.abs() <= 1, d**2 / 2, d.abs() - 0.5),
}


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("distance", DISTANCES)
def test_equation_2(distance, alpha, make, network, batch, train_on, assert_trains):
    with torch.no_grad():
        network[-1].weight *= 4  # logits apart by more than 1, where Huber's loss is linear
    settings = {"attack": ATTACK, "alpha": alpha, "pairing_weight": 0.7}
    defense = make(AdversarialLogitPairing, network, pairing_distance=distance, **settings)
    x_adv = defense.attack_batch(batch, batch.targets)
    logits, logits_adv = network(batch.x), network(x_adv)
    difference = logits - logits_adv
    assert difference.abs().min() < 1 < difference.abs().max()
    expected = {"adversarial": (1 - alpha) * F.cross_entropy(logits_adv, batch.y)}
    if alpha:
        expected["clean"] = alpha * F.cross_entropy(logits, batch.y)
    expected["pairing"] = 0.7 * DISTANCES[distance](difference).sum(dim=1).mean()
    assert_trains(train_on(defense, batch), expected, network)


def test_default_weight_is_half_of_the_mean_over_ten_classes(network):
    logits, logits_adv = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0))
    terms = AdversarialLogitPairing(network).pairing_terms(logits, logits_adv, logits.softmax(1))
    torch.testing.assert_close(terms["pairing"], 0.5 * F.mse_loss(logits, logits_adv))
