"""PGD, FGSM, and the settings of an attack."""

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrm_lightning.attacks import PGDAttack, fgsm, pgd
from lrm_lightning.losses import OBJECTIVES

BUDGETS = {
    "linf": {"norm": "linf", "eps": 0.06, "step_size": 0.02},
    "l2": {"norm": "l2", "eps": 0.6, "step_size": 0.2},
}
each_norm = pytest.mark.parametrize("norm", BUDGETS)
each_loss = pytest.mark.parametrize("loss", OBJECTIVES)
# DLR needs three classes, and has no target.
UNRESTRICTED = ("cross_entropy", "margin")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def length(delta, norm):
    return delta.flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)


class Linear(nn.Module):
    """Logits (0, w.x): the margin of label 0 is linear in x, so the best attack is known."""

    def __init__(self, weight, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.scale = scale

    def forward(self, x):
        score = self.scale * (x * self.weight).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_defaults_are_the_papers_training_attack():
    attack = PGDAttack()
    assert (attack.norm, attack.eps, attack.step_size, attack.steps) == ("linf", 0.03, 0.0078, 10)
    assert attack.random_start
    assert attack.loss == "cross_entropy"


def test_settings_survive_pickle_deepcopy_json_and_hydra():
    attack = PGDAttack(norm="l2", eps=1, step_size=0.25, steps=7, restarts=2, keep="best")
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert copy.deepcopy(attack) == attack
    plain = json.loads(json.dumps(attack.as_dict()))
    assert instantiate({"_target_": "lrm_lightning.attacks.PGDAttack", **plain}) == attack
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.eps = 0.1


def test_engine_is_no_part_of_what_an_attack_finds():
    assert PGDAttack(engine="fast").as_dict() == PGDAttack(engine="reference").as_dict()


@settings(max_examples=150)
@given(
    ball=st.sampled_from([("linf", 1e-4), ("linf", 0.03), ("linf", 1.0), ("l2", 0.5), ("l2", 30)]),
    step=st.sampled_from([0.01, 0.3, 1.0, 100.0]),
    steps=st.integers(1, 4),
    pixels=st.sampled_from(["uniform", "corners", "black", "white"]),
    scale=st.sampled_from([0.0, 1.0, 1e-25, 1e6]),
    loss=st.sampled_from(UNRESTRICTED),
    keep=st.sampled_from(["final", "best"]),
    random_start=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_never_leaves_the_ball_nor_the_pixels(
    ball, step, steps, pixels, scale, loss, keep, random_start, seed
):
    norm, eps = ball
    rng = generator(seed)
    x = torch.rand(3, 3, 4, 4, generator=rng)
    x = {"uniform": x, "corners": x.round(), "black": x * 0, "white": x * 0 + 1}[pixels]
    x_adv = pgd(
        Linear(torch.randn(3, 4, 4, generator=rng), scale),
        x,
        torch.zeros(3, dtype=torch.long),
        norm=norm,
        eps=eps,
        step_size=step * eps,
        steps=steps,
        loss=loss,
        keep=keep,
        random_start=random_start,
        generator=rng,
    )
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert x_adv.isfinite().all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (length(x_adv - x, norm) <= eps + 1e-6).all()
    if scale == 0 and not random_start:
        assert torch.equal(x_adv, x)


@each_norm
@pytest.mark.parametrize("loss", UNRESTRICTED)
@pytest.mark.parametrize(("random_start", "steps"), [(False, 4), (True, 60)])
def test_reaches_the_optimum_of_a_linear_model(norm, loss, random_start, steps):
    weight = torch.randn(3, 4, 4, generator=generator())
    x = 0.3 + 0.4 * torch.rand(5, 3, 4, 4, generator=generator(1))
    y = torch.zeros(5, dtype=torch.long)
    attack = PGDAttack(
        norm=norm, eps=0.1, step_size=0.1 / 3, steps=steps, loss=loss, random_start=random_start
    )
    best = weight.sign() if norm == "linf" else weight / weight.norm()
    x_adv = attack(Linear(weight), x, y, generator=generator(2))
    torch.testing.assert_close(x_adv, x + 0.1 * best, atol=1e-5, rtol=0)


def test_linf_optimum_of_a_linear_model_at_the_edge_of_the_pixels():
    weight = torch.randn(3, 4, 4, generator=generator())
    x = torch.rand(5, 3, 4, 4, generator=generator(1))
    y = torch.zeros(5, dtype=torch.long)
    x_adv = pgd(Linear(weight), x, y, eps=0.3, step_size=0.1, steps=8, generator=generator(2))
    torch.testing.assert_close(x_adv, (x + 0.3 * weight.sign()).clamp(0, 1))


def test_fgsm_by_hand(network, batch):
    x, y = batch
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(network(leaf), y).backward()
    expected = (x + 0.03 * leaf.grad.sign()).clamp(0, 1)
    assert torch.equal(fgsm(network, x, y, eps=0.03), expected)


@each_norm
@each_loss
def test_attack_fools_a_network(network, batch, norm, loss):
    x, y = batch
    x_adv = pgd(network, x, y, **BUDGETS[norm], loss=loss, generator=generator())
    assert (network(x).argmax(dim=1) == y).float().mean() > 0.9
    assert (network(x_adv).argmax(dim=1) == y).float().mean() < 0.3


@each_norm
@pytest.mark.parametrize("loss", UNRESTRICTED)
def test_attack_reaches_its_target(network, batch, norm, loss):
    x, y = batch
    attack = PGDAttack(**BUDGETS[norm], loss=loss)
    target = (y + 1) % 4
    aimed = dataclasses.replace(attack, eps=4 * attack.eps, steps=20, targeted=True)
    x_adv = aimed(network, x, target, generator=generator())
    assert (network(x).argmax(dim=1) == target).float().mean() < 0.1
    assert (network(x_adv).argmax(dim=1) == target).float().mean() > 0.95


@each_norm
def test_batch_mates_do_not_matter(network, batch, norm):
    x, y = batch
    start = (x + 0.02 * torch.randn(x.shape, generator=generator())).clamp(0, 1)
    together = pgd(network, x, y, **BUDGETS[norm], steps=5, start=start)
    for i in range(6):
        row = slice(i, i + 1)
        alone = pgd(network, x[row], y[row], **BUDGETS[norm], steps=5, start=start[row])
        # sign() turns a rounding difference at a zero gradient into a whole step: allow few pixels.
        different = (alone - together[row]).abs() > 1e-4
        assert different.float().mean() < 0.02


def test_batch_norm_in_train_mode_uses_the_batch(network, batch):
    x, y = batch
    attack = {"eps": 0.05, "step_size": 0.02, "steps": 3, "random_start": False}
    evaluated = pgd(network, x, y, **attack, bn_mode="eval")
    trained = pgd(network, x, y, **attack, bn_mode="train")
    assert not torch.equal(evaluated, trained)


@each_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_best_is_the_worst_of_all_iterates(network, batch, norm, targeted):
    x, y = batch
    # Steps so long that the attack overshoots and its last iterate is not always its best.
    attack = {**BUDGETS[norm], "step_size": 1.5, "targeted": targeted, "start": x}
    found = pgd(network, x, y, **attack, steps=6, keep="best")
    start = attack.pop("start")
    path = PGDAttack(**attack).trajectory(network, x, y, range(7), start=start)
    logits = torch.stack([iterate.logits for iterate in path.iterates.values()])
    losses = torch.stack([OBJECTIVES["cross_entropy"](row, y) for row in logits])
    gains = -losses if targeted else losses
    fooled = (logits.argmax(dim=2) == y) == targeted
    # Of the iterates that fool (or, where none does, of all) the one with the highest gain.
    candidates = gains.masked_fill(~fooled & fooled.any(dim=0), -torch.inf)
    chosen = candidates.argmax(dim=0)
    images = torch.stack([iterate.x_adv for iterate in path.iterates.values()])
    assert torch.equal(found, images[chosen, torch.arange(len(x))])
    assert len(chosen.unique()) > 1


@pytest.mark.parametrize("targeted", [False, True])
def test_being_fooled_beats_a_higher_loss(targeted):
    # Label 0. Cross-entropy 0.74 but misclassified; 1.09 and right; 0.95 and misclassified.
    table = [[0.0, 0.1, -10.0], [0.01, 0.0, 0.0], [0.0, 0.46, -10.0]]
    if targeted:
        # Target 0: reached with 0.98; missed, though with 0.74; reached with 0.31.
        table = [[0.2, 0.0, 0.0], [0.0, 0.1, -10.0], [1.0, 0.0, -10.0]]

    class Scripted(nn.Module):
        passes = 0

        def forward(self, x):
            change = (x - x.detach()).flatten(1).sum(dim=1, keepdim=True)
            self.passes += 1
            return torch.tensor([table[self.passes - 1]]) + change * torch.tensor([1.0, -1.0, 0.0])

    x = torch.full((1, 3, 2, 2), 0.5)
    y = torch.tensor([0])
    attack = {"eps": 0.1, "step_size": 0.01, "random_start": False, "targeted": targeted}
    assert torch.equal(pgd(Scripted(), x, y, **attack, steps=1, keep="best"), x)
    toward = 0.02 if targeted else -0.02
    best = pgd(Scripted(), x, y, **attack, steps=2, keep="best")
    torch.testing.assert_close(best, x + toward)


@each_norm
def test_restarts_keep_the_worst_of_separate_searches(network, batch, norm):
    x, y = batch
    attack = {**BUDGETS[norm], "eps": BUDGETS[norm]["eps"] / 2, "steps": 2}
    rng = generator()
    single = torch.stack([pgd(network, x, y, **attack, generator=rng) for _ in range(4)])
    several = pgd(network, x, y, **attack, restarts=4, generator=generator())
    logits = network(single.flatten(0, 1)).view(4, len(x), -1)
    losses = torch.stack([OBJECTIVES["cross_entropy"](row, y) for row in logits])
    wrong = logits.argmax(dim=2) != y
    chosen = losses.masked_fill(~wrong & wrong.any(dim=0), -torch.inf).argmax(dim=0)
    torch.testing.assert_close(several, single[chosen, torch.arange(len(x))])
    assert len(chosen.unique()) > 1
    assert torch.equal(network(several).argmax(dim=1) != y, wrong.any(dim=0))


def test_start_is_put_back_into_the_ball_and_replaces_the_random_start(network, batch):
    x, y = batch
    attack = {**BUDGETS["linf"], "steps": 3}
    far = (x + torch.randn(x.shape, generator=generator())).clamp(-1, 2)
    near = torch.clamp(far, x - 0.06, x + 0.06).clamp(0, 1)
    rng = generator()
    before = rng.get_state()
    from_far = pgd(network, x, y, **attack, start=far, generator=rng)
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(from_far, pgd(network, x, y, **attack, start=near))


@each_norm
def test_noise_is_what_the_attack_draws_itself(network, batch, norm):
    x, y = batch
    budget = {**BUDGETS[norm], "eps": BUDGETS[norm]["eps"] / 2}
    attack = PGDAttack(**budget, steps=2, restarts=3)
    noise = attack.draw_noise(x.shape, generator=generator())
    assert noise.shape == (3, *x.shape)
    expected = attack(network, x, y, generator=generator())
    assert torch.equal(attack(network, x, y, start=x + noise), expected)
    # fewer starts than searches: the others' are drawn
    rest = generator()
    first = x + attack.threat.draw(x.shape, generator=rest)
    assert torch.equal(attack(network, x, y, start=first, generator=rest), expected)


def test_random_numbers_come_from_the_generator_or_from_torchs_own(network, batch):
    before = torch.get_rng_state()
    attack = PGDAttack(**BUDGETS["l2"], steps=2, restarts=2)
    attack(network.train(), *batch, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(attack(network, *batch))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    rng = generator()
    before = rng.get_state()
    assert PGDAttack(random_start=False).draw_noise((2, 3, 4, 4), generator=rng) is None
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(
    ("extra", "forwards"),
    [({}, 5), ({"keep": "best"}, 6), ({"restarts": 3}, 18), ({"restarts": 3, "keep": "best"}, 18)],
)
def test_no_pass_is_wasted(network, batch, counting, extra, forwards):
    counted = counting(network)
    pgd(counted, *batch, **BUDGETS["linf"], steps=5, **extra)
    assert counted.forwards == forwards


@each_norm
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_works_in_inference_mode(network, batch, norm, labels):
    x, y = batch
    y = torch.eye(4)[y] if labels == "soft" else y
    attack = {**BUDGETS[norm], "steps": 3, "keep": "best"}
    expected = pgd(network, x, y, **attack, generator=generator())
    with torch.inference_mode():
        for made in (torch.clone, torch.Tensor.detach, lambda tensor: tensor[:]):
            x_adv = pgd(network, made(x), made(y), **attack, generator=generator())
            assert torch.equal(x_adv, expected)
        assert not x_adv.is_inference()
        assert torch.is_inference_mode_enabled()


@each_norm
@pytest.mark.parametrize("random_start", [False, True])
def test_memory_format_is_kept_and_does_not_change_the_start(network, batch, norm, random_start):
    x, y = batch
    attack = {**BUDGETS[norm], "steps": 1, "random_start": random_start}
    channels_last = x.contiguous(memory_format=torch.channels_last)
    x_adv = pgd(network, channels_last, y, **attack, generator=generator())
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    expected = pgd(network, x, y, **attack, generator=generator())
    assert expected.is_contiguous()
    assert ((x_adv - expected).abs() > 1e-4).float().mean() < 0.01


def test_inputs_are_left_as_they_are(network, batch):
    x, y = batch
    before = x.clone()
    x.requires_grad_()
    with torch.no_grad():  # an attack needs gradients all the same
        x_adv = pgd(network, x, y, **BUDGETS["linf"], steps=3)
        assert not torch.is_grad_enabled()
    assert torch.equal(x, before)
    assert x.grad is None
    assert not x_adv.requires_grad
    assert not torch.equal(x_adv, before)


def test_double_precision_stays_double(network, batch):
    x, y = batch
    x_adv = pgd(network.double(), x.double(), y, **BUDGETS["l2"], steps=3, generator=generator())
    assert x_adv.dtype == torch.float64
    assert (length(x_adv - x.double(), "l2") <= 0.6 + 1e-12).all()


def test_attack_leaves_autocast_as_it_is(network, batch):
    x, y = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attack = PGDAttack(**BUDGETS["linf"])
        path = attack.trajectory(network, x, y, [3], generator=generator())
        assert torch.equal(path.logits, network(x).float())
    assert not torch.equal(path.logits, network(x))
    assert path.iterates[3].x_adv.dtype == path.logits.dtype == torch.float32
    assert (length(path.iterates[3].x_adv - x, "linf") <= 0.06 + 1e-6).all()


def test_confident_network_stops_cross_entropy_but_not_margin():
    weight = torch.randn(3, 4, 4, generator=generator())
    x = torch.rand(4, 3, 4, 4, generator=generator(1))
    y = (Linear(weight)(x).argmax(dim=1)).detach()
    confident = Linear(weight, scale=1e4)
    attack = {"eps": 0.05, "step_size": 0.05, "steps": 1, "random_start": False}
    assert torch.equal(pgd(confident, x, y, **attack), x)
    towards = weight.sign() * (1 - 2 * y.view(-1, 1, 1, 1))
    expected = (x + 0.05 * towards).clamp(0, 1)
    torch.testing.assert_close(pgd(confident, x, y, **attack, loss="margin"), expected)
