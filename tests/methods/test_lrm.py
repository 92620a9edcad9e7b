"""Eq. 10 and the ratio of section 4.1."""

import numpy as np
import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import LogitRegularization

ATTACK = PGDAttack(eps=0.1, step_size=0.05, steps=3)


def _softmax(logits):
    return torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)


def _cross_entropy(logits, logits_adv):
    return -(_softmax(logits) * torch.log(_softmax(logits_adv))).sum(1).mean()


def _jensen_shannon(logits, logits_adv):
    p, q = _softmax(logits), _softmax(logits_adv)
    m = (p + q) / 2
    return ((p * torch.log(p / m)).sum(1) + (q * torch.log(q / m)).sum(1)).mean() / 2


def _cosine(logits, logits_adv):
    lengths = (logits**2).sum(1).sqrt() * (logits_adv**2).sum(1).sqrt()
    return (1 - (logits * logits_adv).sum(1) / lengths).mean()


KINDS = {
    "cross_entropy": _cross_entropy,
    "jensen_shannon": _jensen_shannon,
    "cosine": _cosine,
}


@pytest.mark.parametrize(("ratio", "detach_clean"), [(0.125, False), (0.125, True), (8.0, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_equation_10(
    kind, ratio, detach_clean, make, network, mixed_batch, train_on, assert_trains
):
    defense = make(
        LogitRegularization,
        network,
        attack=ATTACK,
        pairing_kind=kind,
        pairing_to_adversarial_ratio=ratio,
        detach_clean=detach_clean,
        smoothing=0.2,
        squeeze_weight=0.03,
    )
    targets = mixed_batch.targets * (1 - 0.2 - 0.2 / 3) + 0.2 / 3
    x_adv = defense.attack_batch(mixed_batch, targets)
    logits, logits_adv = network(mixed_batch.x), network(x_adv)
    adversarial = -(targets * logits_adv.log_softmax(1)).sum(1).mean()
    paired = KINDS[kind](logits.detach() if detach_clean else logits, logits_adv)
    norms = (logits**2).sum(1).mean() + (logits_adv**2).sum(1).mean()
    weight = ratio * adversarial.item() / paired.item()  # a number: nothing flows through it
    expected = {
        "adversarial": adversarial,
        "squeezing": 0.03 * norms,
        "pairing": weight * paired,
    }
    found = train_on(defense, mixed_batch)
    assert_trains(found, expected, network)
    assert found[0]["pairing"].item() == pytest.approx(ratio * adversarial.item(), rel=1e-10)


def test_ratio_is_to_the_whole_adversarial_loss_whatever_alpha(make, network, batch, train_on):
    settings = {"attack": ATTACK, "pairing_to_adversarial_ratio": 0.5}
    terms, _ = train_on(make(LogitRegularization, network, alpha=0.75, **settings), batch)
    np.testing.assert_allclose(terms["pairing"], 0.5 * terms["adversarial"] / 0.25, rtol=1e-10)


@pytest.mark.parametrize("ratio", [1, 8.0])
def test_what_diverges_is_refused_with_a_reason(network, ratio):
    with pytest.raises(ValueError, match=f"ratio={ratio} must be below 1, or detach_clean=true"):
        LogitRegularization(network, pairing_to_adversarial_ratio=ratio)
    LogitRegularization(network, pairing_to_adversarial_ratio=ratio, detach_clean=True)
    LogitRegularization(network, pairing_to_adversarial_ratio=0.99)


def test_defaults_are_section_5_2(network):
    defense = LogitRegularization(network)
    assert defense.smoothing == 0.1
    assert defense.mixing == "vh_mixup"
    assert defense.squeeze_weight == 1e-3
    assert defense.ratio == 0.125
    assert defense.alpha == 0
    assert defense.pairing_kind == "cross_entropy"
    assert not defense.detach_clean
