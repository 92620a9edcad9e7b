"""The strong suite: its searches, its metrics, its settings."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from lrm_lightning.attacks import Attack, PGDAttack
from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.evaluation.searches import gradient_health, likely_targets, search
from lrm_lightning.evaluation.strong import StrongSuite

SUITE = StrongSuite(
    pgd_steps=5,
    pgd_restarts=2,
    targets=2,
    targeted_steps=4,
    large_eps_steps=10,
    autoattack_iterations=3,
    square_queries=20,
)
METRICS = {
    "clean", "pgd_ce", "pgd_margin", "pgd_dlr", "pgd_best", "pgd_targeted", "apgd_ce", "apgd_t",
    "fab_t", "square", "autoattack", "worst",
}  # fmt: skip


def noisy(images, eps, seed=0):
    noise = torch.rand(images.x.shape, generator=torch.Generator().manual_seed(seed))
    return images.x + (2 * noise - 1) * eps


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_steps_to_break_are_those_of_the_trajectory(robust, images, make_bench, loss):
    attack = replace(make_bench().threat, steps=25, loss=loss)
    start = noisy(images, attack.eps)
    needed = attack.steps_to_break(robust, images.x, images.y, start=start)
    path = attack.trajectory(robust, images.x, images.y, range(26), start=start)
    wrong = torch.stack([each.logits.argmax(1) != images.y for each in path.iterates.values()])
    expected = torch.where(wrong.any(dim=0), wrong.int().argmax(dim=0), NEVER)
    # batches shrink, and with them sums are rounded anew
    assert (needed == expected).float().mean() > 0.98
    assert len(set(expected.tolist())) > 3


def test_targeted_steps_count_any_misclassification(robust, images, make_bench):
    attack = replace(make_bench().threat, steps=15, targeted=True)
    target = (images.y + 1) % 4
    needed = attack.steps_to_break(robust, images.x, images.y, start=images.x, target=target)
    path = attack.trajectory(robust, images.x, target, range(16), start=images.x)
    wrong = torch.stack([each.logits.argmax(1) != images.y for each in path.iterates.values()])
    assert ((needed < NEVER) == wrong.any(dim=0)).all()
    assert 0 < (needed < NEVER).sum() < 80


def test_restarts_only_take_away(make_bench, robust):
    bench = make_bench()
    correct = np.arange(80) % 4 > 0
    found = search(robust, bench, "pgd", replace(bench.threat, steps=5, restarts=4), correct)
    assert found.held.shape == (4, 80)
    assert not (found.held[1:] & ~found.held[:-1]).any()
    assert found.held[0].sum() > found.held[-1].sum()
    assert not found.held[0][~correct].any()
    assert (found.needed[~correct] == NEVER).all()
    assert ((found.needed == NEVER) & correct == found.held[0]).all()


@given(
    arrays(np.float32, (6, 4), elements=st.floats(-50, 50, width=32)),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.integers(1, 9),
)
def test_targets_are_the_most_likely_wrong_classes(logits, labels, count):
    targets = likely_targets(logits, np.array(labels), count)
    assert targets.shape == (6, min(count, 3))
    for row, label, found in zip(logits, labels, targets, strict=True):
        wrong = [each for each in range(4) if each != label]
        assert set(found) <= set(wrong)
        assert len(set(found)) == len(found)
        assert row[found].tolist() == sorted(row[wrong], reverse=True)[: len(found)]


def test_a_targeted_search_tries_each_target_on_what_is_left(make_bench, images, monkeypatch):
    tried = []

    def remember(self, network, x, y, *, start, target):
        tried.append(target.clone())
        return torch.where(target == 0, 3, NEVER)

    monkeypatch.setattr(PGDAttack, "steps_to_break", remember)
    bench = make_bench(batch_size=80)
    targets = np.arange(80)[:, None] % np.array([2, 3])
    attack = replace(bench.threat, targeted=True)
    held = search(nn.Identity(), bench, "aimed", attack, np.ones(80, bool), targets).held
    assert tried[0].tolist() == targets[:, 0].tolist()
    assert tried[1].tolist() == targets[targets[:, 0] != 0, 1].tolist()
    assert (held[-1] == (targets != 0).all(axis=1)).all()


def test_gradients_of_a_linear_network_do_not_turn(make_bench, images):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    bench = make_bench(images=images._replace(y=torch.zeros(80).long()))
    vanished, cosine = gradient_health(linear, bench, np.arange(80) < 30, nearness=0.01)
    assert len(vanished) == len(cosine) == 30
    assert not vanished.any()
    assert cosine == pytest.approx(np.ones(30))  # two classes: the difference of two rows, scaled


def test_denormal_gradient_has_vanished(make_bench, images):
    class Tiny(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(dim=1)
            return torch.stack([1e-39 * total, torch.zeros_like(total)], dim=1)

    bench = make_bench(images=images._replace(y=torch.zeros(80).long()))
    vanished, cosine = gradient_health(Tiny(), bench, np.ones(80, bool), nearness=0.01)
    assert vanished.all()
    assert (cosine == 0).all()


@pytest.fixture(scope="module")
def outcome(make_bench, networks):
    return SUITE.run(networks["pgd"], make_bench(batch_size=33, seed=1))


def test_metrics_and_what_they_imply(outcome):
    correct = outcome.correct
    assert set(correct) == METRICS
    assert all(each.dtype == bool and each.shape == (80,) for each in correct.values())
    for name, each in correct.items():
        assert not (each & ~correct["clean"]).any(), name
        assert not (correct["worst"] & ~each).any(), name
    losses = [correct[f"pgd_{loss}"] for loss in ("ce", "margin", "dlr")]
    assert (correct["pgd_best"] == np.logical_and.reduce(losses)).all()
    assert (correct["square"] == correct["autoattack"]).all()
    assert correct["worst"].sum() < correct["clean"].sum()


def test_only_what_every_gradient_attack_left_is_hidden(make_bench, undefended):
    """PGD of one step leaves much, which targeted PGD or APGD break: Square's share is no sign."""
    threat = PGDAttack(eps=0.08, step_size=0.001)
    suite = replace(SUITE, pgd_steps=1, pgd_restarts=1, square_queries=100)
    found = suite.run(undefended, make_bench(threat=threat))
    by_gradient = np.logical_and.reduce(
        [found.correct[name] for name in ("pgd_best", "pgd_targeted", "fab_t")]
    )
    square = found.correct["square"]
    assert (found.correct["pgd_best"] & ~square).sum() > 20
    (sign,) = [each for each in found.details["masking"].signs if each.name == "black_box"]
    assert sign.evidence["count"] == (by_gradient & ~square).sum() < 5


def test_an_extra_attack_counts_for_the_worst_case(make_bench, robust, outcome):
    @dataclass(frozen=True, kw_only=True)
    class Oracle(Attack):
        """Knows an adversarial image of every image that is not correct under ``best``."""

        def __call__(self, model, x, y, *, start=None, generator=None):
            assert start is None
            return 1 - x

    bench = make_bench(batch_size=33, seed=1, extra_attacks={"inverse": Oracle(eps=0.08)})
    extended = SUITE.run(robust, bench).correct
    assert set(extended) == METRICS | {"inverse"}
    assert not (extended["inverse"] & ~extended["clean"]).any()
    assert extended["inverse"].sum() < extended["clean"].sum()
    assert (extended["worst"] == (outcome.correct["worst"] & extended["inverse"])).all()


def test_every_setting_is_recorded(outcome):
    settings, masking = outcome.details["settings"], outcome.details["masking"]
    assert settings["pgd_ce"]["steps"] == 5
    assert settings["pgd_ce"]["restarts"] == 2
    assert settings["pgd_margin"]["loss"] == "margin"
    assert settings["pgd_targeted"]["targeted"]
    assert settings["large_eps"]["eps"] == 0.5
    assert settings["autoattack"]["version"] == "reduced"
    assert {sign.name for sign in masking.signs} == {
        "black_box", "transfer", "steps", "restarts", "large_eps", "gradient", "zero_gradient",
        "silent_success", "unfinished", "unit_test",
    }  # fmt: skip


def test_l2(make_bench, robust):
    threat = PGDAttack(norm="l2", eps=0.5, step_size=0.13)
    outcome = SUITE.run(robust, make_bench(threat=threat))
    assert set(outcome.correct) == METRICS
    assert outcome.details["settings"]["large_eps"]["eps"] == pytest.approx(0.5 * 192**0.5)


def test_images_out_of_range(make_bench, robust, images):
    bench = make_bench(images=images._replace(x=images.x * 255))
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\] and hold no NaN, but goes from"):
        SUITE.run(robust, bench)


@pytest.mark.parametrize("frozen", [True, False])
def test_network_without_a_gradient(make_bench, robust, frozen):
    class Integers(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = robust if frozen else [robust]  # in a list its weights stay trainable

        def forward(self, x):
            network = self.network if frozen else self.network[0]
            return network((x * 255).long().float() / 255)

    outcome = SUITE.run(Integers(), make_bench(surrogate=robust))
    assert set(outcome.correct) == {"clean", "square", "bpda", "worst"}
    assert {"pgd_ce", "pgd_margin", "pgd_dlr", "pgd_targeted", "apgd_ce", "apgd_t", "fab_t"} == set(
        outcome.details["impossible"]
    )
    told = outcome.details["masking"]
    assert told.verdict == "masked"
    fired = {sign.name for sign in told.signs if sign.fired}
    assert fired == {"black_box", "straight_through", "gradient"}
    assert outcome.correct["bpda"].sum() < outcome.correct["square"].sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pgd_steps": 0}, "pgd_steps=0 must be"),
        ({"pgd_restarts": 1.5}, "pgd_restarts=1.5 must be"),
        ({"targets": 0}, "targets=0 must be"),
        ({"large_eps": 0}, "large_eps=0 must be"),
        ({"nearness": 2}, "nearness=2 must be"),
        ({"square_queries": 0}, "square_queries=0 must be"),
    ],
)
def test_wrong_setting(change, message):
    with pytest.raises(ValueError, match=message):
        StrongSuite(**change)
