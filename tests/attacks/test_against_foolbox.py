"""FGSM and PGD against foolbox, an independent implementation, on the same network and start."""

import warnings

import pytest
import torch

from lrm_lightning.attacks import fgsm, pgd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

BUDGETS = {
    "linf": {"norm": "linf", "eps": 0.05, "step_size": 0.0125},
    "l2": {"norm": "l2", "eps": 0.5, "step_size": 0.1},
}
each_norm = pytest.mark.parametrize("norm", BUDGETS)


def foolbox_attack(network, x, y, attack, eps):
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    return attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=eps)


def assert_same(network, y, ours, theirs):
    """Same success on 99% of the images; same pixels but for rare signs of a zero gradient."""
    with torch.no_grad():
        agree = (network(ours).argmax(dim=1) != y) == (network(theirs).argmax(dim=1) != y)
    assert agree.float().mean() >= 0.99
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.01


def partial_success(network, x_adv, y):
    """Guard: a comparison where every image or none is fooled would show nothing."""
    return 0.05 < (network(x_adv).argmax(dim=1) != y).float().mean() < 0.95


@each_norm
def test_fgsm(network, batch, norm):
    x, y = batch
    eps = BUDGETS[norm]["eps"]
    attacks = {
        "linf": foolbox.attacks.LinfFastGradientAttack,
        "l2": foolbox.attacks.L2FastGradientAttack,
    }
    theirs = foolbox_attack(network, x, y, attacks[norm](), eps)
    ours = fgsm(network, x, y, eps=eps, norm=norm)
    assert partial_success(network, ours, y)
    assert_same(network, y, ours, theirs)


@each_norm
@pytest.mark.parametrize("from_start", [False, True], ids=["from x", "from a given start"])
def test_pgd(network, batch, norm, from_start):
    x, y = batch
    budget = BUDGETS[norm]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    start = (x + 0.02 * noise.clamp(-2, 2)).clamp(0, 1)
    bases = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}

    class FromStart(bases[norm]):
        def get_random_start(self, x0, epsilon):
            return self.project(type(x0)(start), x0, epsilon)

    attack = FromStart(abs_stepsize=budget["step_size"], steps=5, random_start=from_start)
    theirs = foolbox_attack(network, x, y, attack, budget["eps"])
    ours = pgd(
        network, x, y, **budget, steps=5, random_start=False, start=start if from_start else None
    )
    assert partial_success(network, ours, y)
    assert_same(network, y, ours, theirs)
