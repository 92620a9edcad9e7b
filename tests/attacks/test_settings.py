import copy
import dataclasses
import json
import pickle

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lrm_lightning.attacks import PGDAttack, pgd, trajectory


def generator():
    return torch.Generator().manual_seed(0)


def test_defaults_are_the_paper_s_training_attack():
    attack = PGDAttack()
    assert (attack.norm, attack.eps, attack.step_size, attack.steps) == ("linf", 0.03, 0.0078, 10)
    assert attack.random_start
    assert attack.loss == "cross_entropy"


@pytest.mark.parametrize(
    "attack",
    [
        PGDAttack(steps=2),
        PGDAttack(norm="l2", eps=0.5, step_size=0.1, steps=3, restarts=2, keep="best"),
        PGDAttack(loss="margin", bn_mode="train", targeted=True, random_start=False, steps=2),
    ],
)
def test_call_is_the_function(network, batch, attack):
    expected = pgd(network, *batch, **dataclasses.asdict(attack), generator=generator())
    assert torch.equal(attack(network, *batch, generator=generator()), expected)


def test_trajectory_is_the_function(network, batch):
    attack = PGDAttack(norm="l2", eps=0.5, step_size=0.1, loss="margin", bn_mode="train")
    common = {"norm": "l2", "eps": 0.5, "step_size": 0.1, "loss": "margin", "bn_mode": "train"}
    ours = attack.trajectory(network, *batch, [1, 3], generator=generator())
    expected = trajectory(network, *batch, steps=[1, 3], **common, generator=generator())
    assert torch.equal(ours.iterates[3].x_adv, expected.iterates[3].x_adv)
    assert torch.equal(ours.fgsm.logits, expected.fgsm.logits)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_drawn_start_is_what_the_attack_draws(network, batch, norm):
    x, y = batch
    attack = PGDAttack(norm=norm, eps=0.1, step_size=0.05, steps=2)
    delta = attack.draw_start(x.shape, generator=generator())
    by_start = attack(network, x, y, start=x + delta)
    assert torch.equal(by_start, attack(network, x, y, generator=generator()))


def test_two_halves_of_a_drawn_start_give_the_whole_attack(network, batch):
    x, y = batch
    attack = PGDAttack(eps=0.05, step_size=0.02, steps=1)
    start = x + attack.draw_start(x.shape, generator=generator())
    whole = attack(network, x, y, start=start)
    halves = [attack(network, x[h], y[h], start=start[h]) for h in (slice(24), slice(24, 48))]
    assert ((torch.cat(halves) - whole).abs() > 1e-6).float().mean() < 0.01


def test_no_random_start_draws_zeros():
    attack = PGDAttack(random_start=False)
    rng = generator()
    before = rng.get_state()
    assert not attack.draw_start((2, 3, 4, 4), generator=rng).any()
    assert torch.equal(rng.get_state(), before)


def test_survives_pickle_deepcopy_json_and_hydra():
    attack = PGDAttack(norm="l2", eps=1, step_size=0.25, steps=7, restarts=2, keep="best")
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert copy.deepcopy(attack) == attack
    assert PGDAttack(**json.loads(json.dumps(attack.as_dict()))) == attack
    config = OmegaConf.create({"_target_": "lrm_lightning.attacks.PGDAttack", **attack.as_dict()})
    assert instantiate(config) == attack


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGDAttack().eps = 0.1
