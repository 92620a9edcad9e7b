"""Methods that the field compares against their authors' formulas, written down once more."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from lrm_lightning.attacks import PGDAttack, pgd
from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.n_fgsm import NFGSM
from lrm_lightning.data import DigitsDataModule
from lrm_lightning.methods import PGDTraining, Regular
from lrm_lightning.methods.gat import GuidedTraining
from lrm_lightning.methods.ikl import ImprovedKL
from lrm_lightning.methods.mart import MART
from lrm_lightning.methods.nuat import NuclearNormTraining
from lrm_lightning.methods.schedules import one_cycle
from lrm_lightning.methods.score import SCORE
from lrm_lightning.methods.trades import TRADES

EPS, STEP, STEPS = 0.05, 0.02, 3
ATTACK = PGDAttack(eps=EPS, step_size=STEP, steps=STEPS)


def _ascended(raised, x, start, *, step=STEP, steps=STEPS):
    """Projected ascent on the sum of ``raised(x_adv)``."""
    x_adv = start.clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        gradient = torch.autograd.grad(raised(x_adv), x_adv)[0]
        moved = x_adv.detach() + step * gradient.sign()
        x_adv = moved.clamp(x - EPS, x + EPS).clamp(0, 1)
    return x_adv


def _normal(batch):
    noise = torch.randn((1, *batch.x.shape), generator=batch.draws.generator("attack"))
    return noise[0]


def _kl(network, x, x_adv):
    p, q = network(x).softmax(1), network(x_adv).softmax(1)
    return (p * (torch.log(p) - torch.log(q))).sum(1)


def _attacked_by_kl(network, batch):
    """TRADES' attack, which raises KL itself."""
    start = batch.x + 0.001 * _normal(batch)
    return _ascended(lambda x_adv: _kl(network, batch.x, x_adv).sum(), batch.x, start)


@pytest.mark.parametrize("defense", [TRADES, ImprovedKL])
def test_attack_raises_kl(defense, make, network, batch):
    x_adv = make(defense, network, attack=ATTACK).attack_batch(batch, batch.targets)
    torch.testing.assert_close(x_adv, _attacked_by_kl(network, batch), rtol=0, atol=1e-12)
    assert _kl(network, batch.x, x_adv).min() > 0


def test_trades(make, network, mixed_batch, train_on, assert_trains):
    defense = make(TRADES, network, attack=ATTACK)
    x_adv = _attacked_by_kl(network, mixed_batch)
    clean = -(mixed_batch.targets * network(mixed_batch.x).log_softmax(1)).sum(1).mean()
    expected = {"clean": clean, "pairing": 6 * _kl(network, mixed_batch.x, x_adv).mean()}
    assert_trains(train_on(defense, mixed_batch), expected, network)


def test_mart(make, network, batch, train_on, assert_trains):
    defense = make(MART, network, attack=ATTACK)
    x_adv = defense.attack_batch(batch, batch.targets)
    assert torch.equal(
        x_adv, make(PGDTraining, network, attack=ATTACK).attack_batch(batch, batch.targets)
    )
    p, q = network(batch.x).softmax(1), network(x_adv).softmax(1)
    rows = torch.arange(len(batch.y))
    wrong = torch.where(F.one_hot(batch.y, 4).bool(), 0, q).max(1).values
    doubtful = _kl(network, batch.x, x_adv) * (1 - p[rows, batch.y])
    expected = {
        "adversarial": -torch.log(q[rows, batch.y]).mean(),
        "margin": -torch.log(1 - wrong).mean(),
        "pairing": 5 * doubtful.mean(),
    }
    assert_trains(train_on(defense, batch), expected, network)


def test_margin_of_mart_is_finite_however_certain_the_network_is(make, network):
    logits = torch.tensor([[0.0, 900.0, 0.0, 0.0]], requires_grad=True)
    terms = make(MART, network).pairing_terms(logits.detach(), logits, torch.eye(4)[:1])
    assert terms["margin"].item() == pytest.approx(900 - np.log(3), rel=1e-6)
    (gradient,) = torch.autograd.grad(terms["margin"], logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 3.0, -1.0, -1.0]]) / 3)


def test_ikl(make, network, mixed_batch, train_on, assert_trains):
    defense = make(ImprovedKL, network, attack=ATTACK).double()
    source = torch.Generator().manual_seed(0)
    means = torch.rand(4, 4, generator=source, dtype=torch.float64).softmax(1)
    defense.class_means.copy_(means)
    x, x_adv = mixed_batch.x, _attacked_by_kl(network, mixed_batch)
    z, z_adv = network(x), network(x_adv)
    s = mixed_batch.targets @ means
    apart = (z[:, :, None] - z[:, None, :]) - (z_adv[:, :, None] - z_adv[:, None, :])
    mse = 0.25 * (s[:, :, None] * s[:, None, :] * apart**2).sum((1, 2)).mean()
    crossed = -(z.detach().softmax(1) * z_adv.log_softmax(1)).sum(1).mean()
    clean = -(mixed_batch.targets * z.log_softmax(1)).sum(1).mean()
    expected = {"clean": clean, "mse": 20 * mse, "pairing": 4 * crossed}
    assert_trains(train_on(defense, mixed_batch), expected, network)


def test_halves_of_ikl_have_the_gradient_of_kl(make, network):
    # Theorem 1 of the paper, with weights of the image itself. That the MSE moves the attacked
    # logits too adds to their gradient what it takes from the clean ones'.
    generator = torch.Generator().manual_seed(0)
    z, z_adv = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    defense = make(ImprovedKL, network, mse_weight=1.0, pairing_weight=1.0).double()
    defense.class_means.copy_(z.detach().softmax(1))
    terms = defense.pairing_terms(z, z_adv, torch.eye(4, dtype=torch.float64))
    found = torch.autograd.grad(torch.stack(list(terms.values())).sum(), [z, z_adv])
    p, q = z.softmax(1), z_adv.softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    of_clean, of_adv = torch.autograd.grad(kl, [z, z_adv])
    torch.testing.assert_close(found[0], of_clean, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found[1], of_adv - of_clean, rtol=1e-10, atol=1e-14)


def test_class_means_of_ikl_are_of_the_epoch_before(make, network):
    defense = make(ImprovedKL, network)
    assert torch.equal(defense.class_means, torch.full((4, 4), 0.25))
    generator = torch.Generator().manual_seed(0)
    y = [torch.tensor([0, 1, 0]), torch.tensor([1, 1, 2])]  # none of class 3
    logits = torch.randn(2, 3, 4, generator=generator)
    for each, labels in zip(logits, y, strict=True):
        for _ in range(2):  # adversarial weight perturbation asks for the terms twice
            defense.pairing_terms(each, each, torch.eye(4)[labels])
        defense.on_after_backward()
    assert torch.equal(defense.class_means, torch.full((4, 4), 0.25))
    defense.on_train_epoch_end()
    p = np.exp(logits.numpy().reshape(6, 4) / 4)
    p /= p.sum(1, keepdims=True)
    labels = torch.cat(y).numpy()
    expected = [p[labels == c].mean(0) if c < 3 else np.full(4, 0.25) for c in range(4)]
    np.testing.assert_allclose(defense.class_means, expected, rtol=1e-6)
    assert not defense.class_sums.any()
    assert {"class_means", "class_sums"} <= defense.state_dict().keys()


def _squared(z, z_adv):
    return ((z.softmax(1) - z_adv.softmax(1)) ** 2).sum(1).mean()


@pytest.mark.parametrize("clip", [0.0, 0.55])
def test_score(clip, make, network, mixed_batch, train_on, assert_trains):
    attack = replace(ATTACK, restarts=2)
    defense = make(SCORE, network, attack=attack, clip=clip, alpha=0.75)
    noise = torch.randn((2, *mixed_batch.x.shape), generator=mixed_batch.draws.generator("attack"))
    p = network(mixed_batch.x).softmax(1)

    def moved(x_adv):
        return ((network(x_adv).softmax(1) - p.detach()) ** 2).sum(1)

    found = [
        _ascended(lambda x: moved(x).sum(), mixed_batch.x, mixed_batch.x + 0.001 * each)
        for each in noise
    ]
    first_is_better = moved(found[0]) >= moved(found[1])
    x_adv = torch.where(first_is_better[:, None, None, None], *found)
    torch.testing.assert_close(
        defense.attack_batch(mixed_batch, mixed_batch.targets), x_adv, rtol=0, atol=1e-12
    )
    q = network(x_adv).softmax(1)
    clean, adversarial = (((each - mixed_batch.targets) ** 2).sum(1) for each in (p, q))
    allowed = (1 - (1 - clip)) ** 2 + 3 * (clip / 3) ** 2
    errors = 0.75 * clean + 0.25 * adversarial + 6 * ((p - q) ** 2).sum(1) - allowed
    assert (errors > 0).any()
    assert (errors > 0).all() == (clip == 0)
    expected = {"squared_error": torch.where(errors > 0, errors, 0).mean()}
    assert_trains(train_on(defense, mixed_batch), expected, network)


def test_score_needs_an_attack_whose_loss_can_be_chosen(make, network):
    with pytest.raises(ValueError, match=r"^SCORE raises .* which nfgsm can't: take PGD"):
        make(SCORE, network, attack=NFGSM())


def _nuclear(z, z_adv):
    return torch.linalg.svdvals(z - z_adv).sum() / len(z)


SINGLE_STEP = {
    "gat": (GuidedTraining, _squared, 10.0),
    "nuat": (NuclearNormTraining, _nuclear, 4.5),
}


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("method", SINGLE_STEP)
def test_single_step_methods(method, step, make, network, batch, train_on, assert_trains):
    cls, distance, weight = SINGLE_STEP[method]
    batch = batch._replace(draws=batch.draws._replace(step=step))
    defense = make(cls, network, attack=ATTACK, epochs=50)
    defense.trainer = SimpleNamespace(current_epoch=9)
    weight *= 1 if method == "gat" else 9 / 45

    def raised(x_adv):
        z = network(x_adv)
        guided = weight * distance(network(batch.x).detach(), z) if step % 2 else 0
        return F.cross_entropy(z, batch.y) + guided

    start = batch.x + EPS / 2 * _normal(batch).sign()
    x_adv = _ascended(raised, batch.x, start, step=EPS, steps=1)
    found = defense.attack_batch(batch, batch.targets)
    torch.testing.assert_close(found, x_adv, rtol=0, atol=1e-12)
    z, z_adv = network(batch.x), network(x_adv)
    expected = {"clean": F.cross_entropy(z, batch.y), "pairing": weight * distance(z, z_adv)}
    assert expected["pairing"] > 1e-3
    assert_trains(train_on(defense, batch), expected, network)


def test_the_term_changes_the_single_step(make, network, batch):
    batch = batch._replace(draws=batch.draws._replace(step=1))
    with_term, without = (
        make(GuidedTraining, network, attack=ATTACK, pairing_weight=weight) for weight in (1e3, 0.0)
    )
    moved = with_term.attack_batch(batch, batch.targets)
    assert not torch.equal(moved, without.attack_batch(batch, batch.targets))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("gat", {0: 10, 85: 10, 86: 40, 99: 40}),
        ("nuat", {0: 0, 45: 2.25, 90: 4.5, 99: 4.5}),
    ],
)
def test_weights_over_the_authors_100_epochs(method, weights, make, network):
    defense = make(SINGLE_STEP[method][0], network, epochs=100)
    for epoch, weight in weights.items():
        defense.trainer = SimpleNamespace(current_epoch=epoch)
        assert defense.weight == pytest.approx(weight)


def test_single_step_methods_take_the_threat_model_of_any_attack(make, network):
    attack = PGDAttack(norm="l2", eps=0.7, step_size=0.1, steps=9, restarts=4, bn_mode="train")
    found = make(GuidedTraining, network, attack=attack).attack
    assert (found.norm, found.eps, found.bn_mode) == ("l2", 0.7, "train")
    assert (found.steps, found.step_size, found.restarts) == (1, 0.7, 1)


OFF = {
    "trades": (TRADES, {"pairing_weight": 0.0}),
    "ikl": (ImprovedKL, {"pairing_weight": 0.0, "mse_weight": 0.0}),
    "gat": (GuidedTraining, {"pairing_weight": 0.0}),
    "nuat": (NuclearNormTraining, {"pairing_weight": 0.0}),
}


@pytest.mark.parametrize("method", OFF)
def test_without_its_term_a_method_is_clean_training(method, make, network, batch, train_on):
    defense, off = OFF[method]
    terms, gradients = train_on(make(defense, network, attack=ATTACK, **off), batch)
    clean, wanted = train_on(make(Regular, network), batch)
    total = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(total, clean["clean"], rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("defense", "setting", "message"),
    [
        (TRADES, {"pairing_weight": -1}, "pairing_weight=-1 must be a number >= 0"),
        (MART, {"pairing_weight": -1}, "pairing_weight=-1 must be a number >= 0"),
        (ImprovedKL, {"mse_weight": -1}, "mse_weight=-1 must be a number >= 0"),
        (ImprovedKL, {"temperature": 0}, "temperature=0 must be a number > 0"),
        (GuidedTraining, {"pairing_weight": -1}, "pairing_weight=-1 must be a number >= 0"),
        (SCORE, {"clip": 1.5}, "clip=1.5 must be a number >= 0 and <= 1"),
        (PGDTraining, {"awp": -0.1}, "awp=-0.1 must be a number >= 0"),
        (Regular, {"input_noise": -0.1}, "input_noise=-0.1 must be a number >= 0"),
    ],
)
def test_settings_out_of_range(defense, setting, message, network):
    with pytest.raises(ValueError, match=r"^\w+=") as error:
        defense(network, **setting)
    assert str(error.value) == message


# ------------------------------------------------------------------ training on the digits

RADIUS = 0.1


@pytest.fixture(scope="module")
def robust_accuracy():
    """Function: under PGD-20, of a small network that a defence has trained on the digits."""
    data = DigitsDataModule(batch_size=64, crop_padding=0, flip=False, val_size=0)
    data.setup()

    def run(defense, **settings):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10)
            )
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            max_epochs=4,
            limit_val_batches=0,
        )
        attack = PGDAttack(eps=RADIUS, step_size=RADIUS / 2, steps=3)
        optimizer = partial(SGD, lr=0.1, momentum=0.9)
        given = {"attack": attack, "optimizer": optimizer, "scheduler": one_cycle} | settings
        trainer.fit(defense(network, **given), datamodule=data)
        x, y = data._splits["test"].images[:200] / 255, data._splits["test"].labels[:200]
        source = torch.Generator().manual_seed(0)
        x_adv = pgd(network, x, y, eps=RADIUS, step_size=RADIUS / 4, steps=20, generator=source)
        return (predict(network, x_adv).argmax(1) == y).float().mean().item()

    return run


@pytest.fixture(scope="module")
def undefended(robust_accuracy):
    return robust_accuracy(Regular)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        (TRADES, {}),
        (MART, {}),
        (ImprovedKL, {}),
        (GuidedTraining, {}),
        (NuclearNormTraining, {}),
        (SCORE, {}),
        (PGDTraining, {"awp": 0.005}),
    ],
)
def test_training_beats_regular_training_under_pgd_20(
    defense, settings, robust_accuracy, undefended
):
    assert robust_accuracy(defense, **settings) > undefended + 0.1
