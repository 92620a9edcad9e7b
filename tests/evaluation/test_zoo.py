"""The verdict on networks whose answer is known; `-rP` prints what each attack left of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.attacks.wrappers import FiniteDifferences
from lrm_lightning.evaluation.bench import Images
from lrm_lightning.evaluation.randomised import RAND, RandomNetwork
from lrm_lightning.evaluation.searches import has_gradient
from lrm_lightning.evaluation.strong import StrongSuite
from lrm_lightning.runs.records import accuracies

N, ENOUGH = 120, 400  # images that show that a network is masked, or that it is not
SUITE = StrongSuite(
    pgd_steps=15,  # of a quarter of eps each: from any place in the ball to any other, and on
    pgd_restarts=2,
    targets=1,
    targeted_steps=10,
    eot=4,
    autoattack_iterations=5,
    square_queries=100,
)


class Before(nn.Module):
    """A network behind a function of the pixels."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.network(self.function(x))


class After(Before):
    """A function of a network's logits."""

    def forward(self, x):
        return self.function(self.network(x))


def rounded(x):
    return x.mul(16).round() / 16


def thermometer(x):
    """Eight thresholds a pixel, put together again: a code without a gradient."""
    levels = torch.arange(1, 9) / 9
    return (x[..., None] > levels).float().mean(dim=-1)


def straight_through_thermometer(x):
    return x + (thermometer(x) - x).detach()


def shattered(x):
    return x + 0.01 * torch.sin(400 * x)


def shattered_at_random(x):
    return x + 0.01 * torch.sin(400 * x + 2 * torch.pi * torch.rand_like(x))


def misleading(x, given):
    """The pixels, whose gradient is that of ``given``, which may be anything of their shape."""
    return x.detach() + given - given.detach()


def rotated(x):
    """Each pixel gets the gradient of another one."""
    return misleading(x, x.flip(-1, -2))


def noise(sigma):
    return lambda x: x + sigma * torch.randn_like(x)


def resized(x):
    """A random size for the batch, then the old one."""
    size = int(torch.randint(6, 12, ()))
    return F.interpolate(F.interpolate(x, size=size, mode="bilinear"), size=8, mode="bilinear")


def k_winners(x):
    """A quarter of the largest activations, as Xiao et al. 2020 (arXiv:1905.10510)."""
    flat = x.flatten(1)
    least = flat.topk(flat.shape[1] // 4, dim=1).values[:, -1:]
    return (flat * (flat >= least)).view_as(x)


class Wins(nn.Module):
    def forward(self, x):
        return k_winners(x)


def with_winners(network):
    layers = [Wins() if isinstance(layer, nn.ReLU) else layer for layer in network]
    return nn.Sequential(*layers)


def with_dropout(network):
    return nn.Sequential(*list(network)[:5], Drop(), network[5])


class Drop(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.2, training=True)


# How each is made from the undefended or, where the name says so, the robust network; its verdict.
HONEST, MASKED = "not masked", "masked"
ZOO = {
    "plain": (lambda net: net, HONEST),
    "robust": (lambda net: net, HONEST),
    "squeezed logits": (lambda net: After(net, lambda z: z / 1000), HONEST),
    "ReLU6": (
        lambda net: nn.Sequential(*[nn.ReLU6() if isinstance(m, nn.ReLU) else m for m in net]),
        HONEST,
    ),
    "k-winners": (with_winners, HONEST),
    "noise": (lambda net: Before(net, noise(0.05)), HONEST),
    "much noise": (lambda net: Before(net, noise(0.4)), HONEST),
    "random resizing": (lambda net: Before(net, resized), HONEST),
    "dropout": (with_dropout, HONEST),
    # Its code hides the gradient, its own backward pass gives it back.
    "straight-through thermometer": (lambda net: Before(net, straight_through_thermometer), HONEST),
    "logits x 10000": (lambda net: After(net, lambda z: 1e4 * z), MASKED),
    "saturated logits": (lambda net: After(net, lambda z: torch.tanh(10 * z)), MASKED),
    "quantised input": (lambda net: Before(net, rounded), MASKED),
    "thermometer": (lambda net: Before(net, thermometer), MASKED),
    "noise, thermometer": (lambda net: Before(net, lambda x: thermometer(noise(0.1)(x))), MASKED),
    "reversed gradient": (lambda net: Before(net, lambda x: misleading(x, -x)), MASKED),
    "gradient of another pixel": (lambda net: Before(net, rotated), MASKED),
    "labels alone": (lambda net: After(net, lambda z: F.one_hot(z.argmax(1), 4).float()), MASKED),
    "rounded logits": (lambda net: After(net, lambda z: z.round()), MASKED),
    "shattered": (lambda net: Before(net, shattered), MASKED),
    "shattered at random": (lambda net: Before(net, shattered_at_random), MASKED),
}  # fmt: skip


@pytest.fixture(scope="session")
def enough(draw_images):
    x, y = draw_images(ENOUGH, torch.Generator().manual_seed(4))
    return Images(x, y, np.arange(ENOUGH), np.arange(8))


@pytest.fixture(scope="session")
def many(enough):
    return Images(enough.x[:N], enough.y[:N], np.arange(N), np.arange(8))


# Each of their gradients is the mean of several passes.
RANDOM = {"noise", "much noise", "random resizing", "dropout", "shattered at random"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in RANDOM)) for each in ZOO],
)
def test_the_verdict_is_right(name, networks, make_bench, many, enough):
    make, expected = ZOO[name]
    network = make(networks["pgd" if name == "robust" else "undefended"])
    threat = PGDAttack(eps=0.12, step_size=0.03) if name != "robust" else make_bench().threat
    images = enough if expected == HONEST else many
    outcome = SUITE.run(network, make_bench(images=images, threat=threat))
    told = outcome.details["masking"]
    left = {name: f"{100 * each.mean():.0f}" for name, each in outcome.correct.items()}
    print(name, told.verdict, left, [sign.name for sign in told.signs if sign.fired])
    assert told.verdict == expected, [(sign.name, sign.explanation) for sign in told.signs]


def test_finite_differences_break_a_network_without_a_gradient(undefended, many):
    network = Before(undefended, thermometer).requires_grad_(False)
    x, y = many.rows(np.arange(60))
    clean = (network(x).argmax(dim=1) == y).float().mean()
    assert not has_gradient(network, x)
    attack = PGDAttack(eps=0.12, step_size=0.0312, loss="margin", random_start=False, keep="best")
    torch.manual_seed(0)
    x_adv = attack(FiniteDifferences(network, samples=32), x, y)
    assert (x_adv - x).abs().max() <= 0.12 + 1e-6
    left = (network(x_adv).argmax(dim=1) == y).float().mean()
    print(f"thermometer: {100 * left:.0f}% left by 640 passes of finite differences")
    assert left < 0.3 < 0.9 < clean


@pytest.mark.slow
def test_chance_is_not_an_attack(networks, make_bench, many):
    network = Before(networks["undefended"], noise(0.5))
    threat = PGDAttack(eps=1e-6, step_size=3e-7)
    outcome = SUITE.run(network, make_bench(images=many, threat=threat))
    assert not [sign for sign in outcome.details["masking"].signs if sign.fired]
    accuracy = {name: each.mean() for name, each in outcome.correct.items()}
    assert accuracy["clean"] < 0.9
    assert accuracy == pytest.approx(dict.fromkeys(accuracy, accuracy["clean"]), abs=0.03)


@pytest.mark.slow
def test_of_a_random_network_the_mean_and_the_spread_are_recorded(networks, make_bench, many):
    network = Before(networks["undefended"], noise(0.5))
    few = replace(SUITE, pgd_steps=2, pgd_restarts=1, passes=6)
    first, again = (few.run(network, make_bench(images=many)) for _ in range(2))
    for name, each in first.correct.items():
        assert each.shape == (N, 6)
        assert (each == again.correct[name]).all()  # every draw has a seed
    found = accuracies(first.correct)
    by_pass = first.correct["clean"].mean(axis=0)
    assert found["metrics"]["clean"] == pytest.approx(by_pass.mean())
    assert found["spread"]["clean"] == pytest.approx(by_pass.std(ddof=1))
    assert 0 < found["spread"]["clean"] < 0.1
    made = first.details["settings"]
    assert "pgd_targeted" not in made
    assert made["pgd_ce"]["keep"] == "final"
    full = replace(few, autoattack_iterations=None, square_queries=None)
    for suite, version in ((few, "reduced"), (full, "rand")):
        details = suite._details(make_bench(), {}, RAND, True, first.details["masking"])
        assert details["settings"]["autoattack"]["version"] == version


def test_of_several_attacks_the_worst_is_chosen_by_other_passes_than_those_reported(make_bench):
    scorer = RandomNetwork(nn.Identity(), make_bench(), flows=True, eot=1, passes=2)
    one = np.array([[True, False, False, False], [True, True, True, True]])
    other = np.array([[True, True, True, True], [False, False, True, False]])
    assert (scorer.worst([one, other]) == np.stack([one[0], other[1]])).all()


@pytest.mark.parametrize(
    ("right", "correct", "wrong"), [(15, 1, 0), (14, 0, 0), (6, 0, 0), (5, 0, 1)]
)
def test_an_image_is_correct_or_wrong_beyond_chance(make_bench, right, correct, wrong):
    scorer = RandomNetwork(nn.Identity(), make_bench(), flows=True, eot=1, passes=20)
    scores = np.concatenate([np.zeros(20, bool), np.arange(20) < right])[None]
    assert scorer.surely(scores, correct=True).tolist() == [correct]
    assert scorer.surely(scores, correct=False).tolist() == [wrong]
