"""A defence whose extra is switched off is the defence that it extends: loss and gradients."""

import pytest
import torch

from lrm_lightning.attacks import PGDAttack, fgsm
from lrm_lightning.methods import (
    AdversarialLogitPairing,
    CleanLogitPairing,
    LogitRegularization,
    PGDTraining,
    Regular,
)

ATTACK = PGDAttack(eps=0.05, step_size=0.02, steps=3)
LRM_OFF = {
    "smoothing": 0.0,
    "squeeze_weight": 0.0,
    "mixing": "none",
    "pairing_to_adversarial_ratio": 0.0,
}


def _total(terms):
    return torch.stack(list(terms.values())).sum()


def _assert_same(one, other, *, rtol=0.0, atol=0.0):
    torch.testing.assert_close(_total(one[0]), _total(other[0]), rtol=rtol, atol=atol)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("shared", [{}, {"squeeze_weight": 0.1}, {"smoothing": 0.2}])
@pytest.mark.parametrize(
    ("extended", "off", "base"),
    [
        (AdversarialLogitPairing, {"pairing_weight": 0.0}, PGDTraining),
        (LogitRegularization, LRM_OFF, PGDTraining),
        (CleanLogitPairing, {"pairing_weight": 0.0}, Regular),
    ],
    ids=["alp", "lrm", "clp"],
)
def test_switched_off_is_the_base(
    extended, off, base, shared, make, bn_network, mixed_batch, train_on
):
    results = []
    for defense, settings in ((extended, off | shared), (base, shared)):
        torch.manual_seed(0)  # dropout
        results.append(train_on(make(defense, bn_network, attack=ATTACK, **settings), mixed_batch))
    _assert_same(*results)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize(
    ("extended", "off"),
    [(AdversarialLogitPairing, {"pairing_weight": 0.0}), (LogitRegularization, LRM_OFF)],
    ids=["alp", "lrm"],
)
def test_switched_off_is_the_base_with_clean_loss_too(
    extended, off, alpha, make, network, batch, train_on
):
    one = make(extended, network, attack=ATTACK, alpha=alpha, **off)
    other = make(PGDTraining, network, attack=ATTACK, alpha=alpha)
    _assert_same(train_on(one, batch), train_on(other, batch))


@pytest.mark.parametrize(
    ("extended", "on"),
    [
        (AdversarialLogitPairing, {"pairing_weight": 0.1}),
        (LogitRegularization, LRM_OFF | {"pairing_to_adversarial_ratio": 0.1}),
        (LogitRegularization, LRM_OFF | {"smoothing": 0.1}),
        (LogitRegularization, LRM_OFF | {"squeeze_weight": 0.1}),
    ],
)
def test_switched_on_is_not_the_base(extended, on, make, network, batch, train_on):
    terms, gradients = train_on(make(extended, network, attack=ATTACK, **on), batch)
    base_terms, base_gradients = train_on(make(PGDTraining, network, attack=ATTACK), batch)
    assert abs(_total(terms) - _total(base_terms)) > 1e-6
    assert (gradients["0.weight"] - base_gradients["0.weight"]).abs().max() > 1e-6


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_one_step_of_pgd_is_fgsm_training(alpha, make, network, batch, train_on, assert_trains):
    eps, smoothing = 0.05, 0.2
    one_step = PGDAttack(eps=eps, step_size=eps, steps=1, random_start=False)
    defense = make(PGDTraining, network, attack=one_step, alpha=alpha, smoothing=smoothing)

    targets = batch.targets * (1 - smoothing) + (1 - batch.targets) * smoothing / 3
    x = batch.x.clone().requires_grad_()
    loss = -(targets * network(x).log_softmax(1)).sum(1).mean()
    x_adv = (batch.x + eps * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1)
    assert torch.equal(x_adv, fgsm(network, batch.x, targets, eps=eps))
    expected = {"adversarial": -(targets * network(x_adv).log_softmax(1)).sum(1).mean()}
    if alpha:
        expected["clean"] = -(targets * network(batch.x).log_softmax(1)).sum(1).mean()
        assert expected["adversarial"] > expected["clean"]
        expected = {name: 0.5 * term for name, term in expected.items()}
    assert_trains(train_on(defense, batch), expected, network)


def test_alpha_one_is_regular_training(make, network, batch, train_on):
    pgd = make(PGDTraining, network, attack=ATTACK, alpha=1.0)
    regular = make(Regular, network)
    _assert_same(train_on(pgd, batch), train_on(regular, batch), rtol=1e-12, atol=1e-14)
