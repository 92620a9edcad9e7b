"""What every method can have: adversarial weight perturbation, Gaussian noise on the images."""

import copy

import pytest
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.methods import PGDTraining, Regular
from lrm_lightning.methods.trades import TRADES

ATTACK = PGDAttack(eps=0.05, step_size=0.02, steps=2)


@pytest.fixture
def normed(bn_network):
    """Batch norm, and dropout that drops nothing."""
    bn_network[2].p = 0.0
    return bn_network


def _loss(terms):
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("method", [PGDTraining, TRADES])
def test_awp_is_the_loss_at_weights_that_one_step_on_a_copy_gives(
    method, make, normed, batch, train_on
):
    gamma = 0.01
    terms, gradients = train_on(make(method, normed, attack=ATTACK, awp=gamma), batch)

    # the authors' way: a step of SGD on a proxy, its length made that of the layer
    plain = make(method, normed, attack=ATTACK)
    proxy = copy.deepcopy(plain)
    (-_loss(proxy.loss_terms(batch))).backward()
    torch.optim.SGD(proxy.parameters(), lr=0.3).step()
    moved = copy.deepcopy(plain)
    x_adv = plain.attack_batch(batch, batch.targets)
    with torch.no_grad():
        for each, stepped in zip(
            moved.network.parameters(), proxy.network.parameters(), strict=True
        ):
            if each.ndim > 1:
                change = stepped - each
                each += gamma * each.norm() * change / change.norm()
    moved.attack_batch = lambda *_: x_adv  # the images are attacked at the network's own weights
    expected, wanted = train_on(moved, batch)
    assert _loss(expected) > _loss(plain.loss_terms(batch)) + 1e-3
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-7, atol=1e-10)


def test_awp_leaves_weights_alone_and_batch_norm_records_once(make, normed, batch, train_on):
    defense = make(PGDTraining, normed, attack=ATTACK, awp=0.05)
    before = copy.deepcopy(defense.network.state_dict())
    train_on(defense, batch)
    for name, each in defense.network.named_parameters():
        assert torch.equal(each, before[name]), name
    norm = defense.network[1]
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, before["1.running_mean"])


def test_awp_moves_each_kernel_by_its_share_and_nothing_else(make, normed, batch):
    defense = make(PGDTraining, normed, attack=ATTACK, awp=0.02)
    x = batch.x

    def terms(state):
        logits = torch.func.functional_call(defense.network, dict(state), (x,))
        return {"adversarial": torch.nn.functional.cross_entropy(logits, batch.y)}

    moved = defense.perturbed_kernels(terms)
    assert set(moved) == {"0.weight", "5.weight"}
    for name, kernel in moved.items():
        own = defense.network.get_parameter(name)
        assert (kernel - own).norm().item() == pytest.approx(0.02 * own.norm().item(), rel=1e-9)
    assert terms(moved)["adversarial"] > terms({})["adversarial"]


def test_awp_of_a_loss_without_gradient_moves_nothing(make, normed, batch):
    defense = make(PGDTraining, normed, attack=ATTACK, awp=0.02)
    network = defense.network
    moved = defense.perturbed_kernels(lambda state: {"flat": 0 * network[0].weight.sum()})
    assert all(torch.equal(kernel, network.get_parameter(name)) for name, kernel in moved.items())


def test_awp_of_0_is_none(make, normed, batch, train_on):
    with_none = train_on(make(PGDTraining, normed, attack=ATTACK, awp=0.0), batch)
    plain = train_on(make(PGDTraining, normed, attack=ATTACK), batch)
    nearly = train_on(make(PGDTraining, normed, attack=ATTACK, awp=1e-9), batch)
    for name, gradient in plain[1].items():
        assert torch.equal(with_none[1][name], gradient)
        torch.testing.assert_close(nearly[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_input_noise_is_gaussian_clipped_and_of_the_rows(make, network, batch):
    big = batch._replace(
        x=torch.full((400, 3, 8, 8), 0.5), draws=batch.draws._replace(size=400, end_row=400)
    )
    defense = make(Regular, network, input_noise=0.1)
    noisy = defense.noisy(big).x
    assert (noisy - 0.5).mean().abs() < 2e-3
    assert (noisy - 0.5).std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(big.x, torch.full_like(big.x, 0.5))
    part = big._replace(x=big.x[100:130], draws=big.draws._replace(first_row=100, end_row=130))
    assert torch.equal(defense.noisy(part).x, noisy[100:130])
    other = big._replace(draws=big.draws._replace(step=9))
    assert not torch.equal(defense.noisy(other).x, noisy)
    wide = make(Regular, network, input_noise=2.0).noisy(big).x
    assert (wide.min(), wide.max()) == (0, 1)
    assert make(Regular, network).noisy(big) is big


def test_noisy_images_are_trained_on_and_attacked(make, network, batch, monkeypatch):
    defense = make(PGDTraining, network, attack=ATTACK, input_noise=0.2)
    monkeypatch.setattr(defense, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(defense, "log_dict", lambda *args, **kwargs: None)
    loss = defense.training_step(batch, 0)
    plain = make(PGDTraining, network, attack=ATTACK)
    assert loss == _loss(plain.loss_terms(defense.noisy(batch)))
    assert loss != _loss(plain.loss_terms(batch))
