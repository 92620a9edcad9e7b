"""Signs that a search of PGD gives about itself, and the attack's unit test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.evaluation import masking
from lrm_lightning.evaluation.searches import (
    Path,
    Planted,
    follow,
    search,
    unit_test,
    zero_gradient,
)
from lrm_lightning.losses import cross_entropy

STEPS = 100
RISING = np.linspace(0, 1, STEPS + 1)
FLAT = np.minimum(10 * RISING, 1)


def path(*losses, fooled=None):
    loss = np.stack(losses)
    return Path(loss, np.zeros(loss.shape, bool) if fooled is None else fooled)


def test_a_loss_that_rises_to_the_last_step_is_unfinished():
    wave = FLAT + 0.001 * np.sin(np.arange(STEPS + 1))  # it bounces at the top
    sign = masking.unfinished(path(*[RISING] * 20, *[FLAT] * 30, *[wave] * 30))
    assert sign.fired
    assert (sign.evidence["count"], sign.evidence["of"]) == (20, 80)
    assert not masking.unfinished(path(*[FLAT] * 40, *[wave] * 40)).fired


def test_only_images_that_were_left_can_be_unfinished():
    fooled = np.zeros((40, STEPS + 1), bool)
    fooled[:, 50] = True
    sign = masking.unfinished(path(*[RISING] * 40, fooled=fooled))
    assert sign.undecided == "not tried: PGD left no image"
    assert "at most 20" in masking.unfinished(path(*[RISING[:11]] * 40)).undecided


def test_an_iterate_that_fooled_and_a_last_one_that_does_not_are_a_silent_success():
    fooled = np.zeros((80, STEPS + 1), bool)
    fooled[:30, 50:60] = True
    fooled[30:, 50:] = True
    sign = masking.silent_success(path(*[RISING] * 80, fooled=fooled))
    assert sign.fired
    assert sign.evidence["count"] == 30
    assert masking.silent_success(path(*[RISING] * 80, fooled=fooled | True)).evidence["count"] == 0


def test_the_path_is_that_of_the_first_search(make_bench, robust):
    bench, correct = make_bench(), np.arange(80) % 3 > 0
    attack = replace(bench.threat, steps=30, restarts=2)
    fooled = follow(robust, bench, attack, correct).fooled
    needed = search(robust, bench, "pgd_ce", attack, correct).needed[correct]
    first = np.where(fooled.any(axis=1), fooled.argmax(axis=1), np.iinfo(np.int16).max)
    assert (first == needed).mean() > 0.95  # batches shrink in a search, so sums are rounded anew
    assert 0 < fooled.any(axis=1).sum() < len(fooled)


def test_saturated_logits_have_no_gradient_of_dlr(make_bench, undefended):
    class Saturated(nn.Module):
        def forward(self, x):
            return torch.tanh(1e4 * undefended(x))

    correct = np.arange(80) < 50
    assert not zero_gradient(undefended, make_bench(), correct).any()
    assert zero_gradient(Saturated(), make_bench(), correct).mean() > 0.9


def test_what_is_planted_is_another_class_and_what_is_near_is_not(undefended, images):
    rng = torch.Generator().manual_seed(0)
    near = 0.02 * (torch.rand((5, *images.x.shape), generator=rng) - 0.5)
    inner, planted = (images.x + near).clamp(0, 1), images.x.add(0.05).clamp(0, 1)
    problem = Planted(undefended, inner, planted)
    kept = problem.separable
    assert kept.float().mean() > 0.9
    assert (problem(planted)[kept, 1] - 0.1).abs().max() < 1e-3
    assert all((problem(each)[kept, 1] <= -0.899).all() for each in inner)
    constant = Planted(undefended, inner, inner[0])  # one of those that it must differ from
    assert not constant.separable.any()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_finds_what_was_planted(make_bench, undefended, robust, norm, loss):
    eps = {"linf": 0.08, "l2": 0.5}[norm]
    attack = PGDAttack(norm=norm, eps=eps, step_size=0.26 * eps, steps=20, loss=loss)
    for network in (undefended, robust):
        found = unit_test(network, make_bench(), attack, np.ones(80, bool))
        assert len(found) > 25
        assert found.mean() > 0.97


class WrongProjection(PGDAttack):
    """Projects into a ball of a fiftieth of the radius."""

    def __call__(self, model, x, y, *, start=None, generator=None):
        x_adv = super().__call__(model, x, y, start=start, generator=generator)
        return x + (x_adv - x) / 50


@pytest.mark.parametrize(
    "broken",
    [
        PGDAttack(eps=0.08, step_size=0.02, steps=20, loss=lambda z, y: -cross_entropy(z, y)),
        PGDAttack(eps=0.08, step_size=0.00001, steps=20, random_start=False),
        WrongProjection(eps=0.08, step_size=0.02, steps=20),
    ],
    ids=["sign error", "too small steps", "wrong projection"],
)
def test_a_broken_attack_fails_its_unit_test(make_bench, undefended, broken):
    found = unit_test(undefended, make_bench(), broken, np.ones(80, bool))
    assert masking.unit_test(found).fired, found.mean()
