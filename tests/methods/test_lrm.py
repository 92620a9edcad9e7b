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


@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize("ratio", [0.125, 8.0])
@pytest.mark.parametrize("kind", KINDS)
def test_equation_10(kind, ratio, detach_clean, make, network, mixed_batch, train_on, gradients_of):
    defense = make(
        LogitRegularization,
        network,
        attack=ATTACK,
        pairing_kind=kind,
        detach_clean=detach_clean,
        pairing_to_adversarial_ratio=ratio,
        smoothing=0.2,
        squeeze_weight=0.03,
    )
    terms, gradients = train_on(defense, mixed_batch)

    targets = mixed_batch.targets * (1 - 0.2 - 0.2 / 3) + 0.2 / 3
    x_adv = defense.attack_batch(mixed_batch, targets)
    logits, logits_adv = network(mixed_batch.x), network(x_adv)
    adversarial = -(targets * logits_adv.log_softmax(1)).sum(1).mean()
    paired = KINDS[kind](logits.detach() if detach_clean else logits, logits_adv)
    norms = (logits**2).sum(1).mean() + (logits_adv**2).sum(1).mean()
    weight = ratio * adversarial.item() / paired.item()  # a number: nothing flows through it
    loss = adversarial + weight * paired + 0.03 * norms

    assert list(terms) == ["adversarial", "squeezing", "pairing"]
    assert terms["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-10)
    assert terms["squeezing"].item() == pytest.approx(0.03 * norms.item(), rel=1e-10)
    assert terms["pairing"].item() == pytest.approx(ratio * terms["adversarial"].item(), rel=1e-10)
    for name, gradient in gradients_of(loss, network).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-8, atol=1e-11)
    # had the weight a gradient, the term's would be that of ratio * adversarial
    through = gradients_of(adversarial * (1 + ratio) + 0.03 * norms, network)
    assert any((gradients[name] - through[name]).abs().max() > 1e-3 for name in gradients)


def test_ratio_is_to_the_whole_adversarial_loss_whatever_alpha(make, network, batch, train_on):
    settings = {"attack": ATTACK, "pairing_to_adversarial_ratio": 0.5}
    terms, _ = train_on(make(LogitRegularization, network, alpha=0.75, **settings), batch)
    np.testing.assert_allclose(terms["pairing"], 0.5 * terms["adversarial"] / 0.25, rtol=1e-10)


def test_defaults_are_section_5_2(network):
    defense = LogitRegularization(network)
    assert defense.smoothing == 0.1
    assert defense.mixing == "vh_mixup"
    assert defense.squeeze_weight == 1e-3
    assert defense.ratio == 0.125
    assert defense.alpha == 0
    assert defense.pairing_kind == "cross_entropy"
    assert not defense.detach_clean


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"pairing_to_adversarial_ratio": -0.1},
            "pairing_to_adversarial_ratio=-0.1 must be a number >= 0",
        ),
        (
            {"pairing_kind": "kl"},
            "pairing_kind='kl' is unknown; choose one of: cross_entropy, jensen_shannon, cosine",
        ),
        ({"detach_clean": 1}, "detach_clean=1 must be true or false"),
    ],
)
def test_settings_out_of_range(setting, message, make, network):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        make(LogitRegularization, network, **setting)
    assert str(error.value) == message
