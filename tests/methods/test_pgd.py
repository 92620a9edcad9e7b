"""Eq. 1, its attack, and what the attack must leave alone."""

import copy

import pytest
import torch

from lrm_lightning.attacks import Attack, PGDAttack
from lrm_lightning.methods import AdversarialLogitPairing, LogitRegularization, PGDTraining

EPS, STEP, STEPS = 0.05, 0.02, 3
ATTACK = PGDAttack(eps=EPS, step_size=STEP, steps=STEPS)


def _cross_entropy(logits, targets):
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def _attacked(network, batch, targets):
    """PGD written down once more, from the start that the draws of the batch name."""
    generator = batch.draws.generator("attack")
    noise = torch.rand(batch.x.shape, generator=generator) * 2 * EPS - EPS
    x_adv = (batch.x + noise).clamp(batch.x - EPS, batch.x + EPS).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        gradient = torch.autograd.grad(_cross_entropy(network(x_adv), targets), x_adv)[0]
        moved = x_adv.detach() + STEP * gradient.sign()
        x_adv = moved.clamp(batch.x - EPS, batch.x + EPS).clamp(0, 1)
    return x_adv.detach()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("squeeze_weight", [0.0, 0.02])
def test_equation_1(alpha, squeeze_weight, make, network, mixed_batch, train_on, assert_trains):
    settings = {"alpha": alpha, "squeeze_weight": squeeze_weight, "smoothing": 0.1}
    defense = make(PGDTraining, network, attack=ATTACK, **settings)
    targets = mixed_batch.targets * (1 - 0.1 - 0.1 / 3) + 0.1 / 3
    x_adv = _attacked(network, mixed_batch, targets)
    assert (x_adv - mixed_batch.x).abs().max() > 0.04
    logits, logits_adv = network(mixed_batch.x), network(x_adv)
    expected = {"adversarial": (1 - alpha) * _cross_entropy(logits_adv, targets)}
    if alpha == 1:
        expected = {}
    if alpha:
        expected["clean"] = alpha * _cross_entropy(logits, targets)
    if squeeze_weight:
        norms = (logits**2).sum(1).mean() + (logits_adv**2).sum(1).mean()
        expected["squeezing"] = squeeze_weight * norms
    assert_trains(train_on(defense, mixed_batch), expected, network)


class Mine(PGDTraining):
    """A defence of somebody's own, which overrides :meth:`pairing_terms` and nothing else."""

    def pairing_terms(self, logits, logits_adv, targets):
        apart = (logits - logits_adv).abs().sum(1).mean()
        return {"mine": 0.5 * _cross_entropy(logits_adv, targets) * apart}


def test_pairing_term_of_a_subclass_is_in_the_loss_and_the_gradient(
    make, network, batch, train_on, assert_trains
):
    logits, logits_adv = network(batch.x), network(_attacked(network, batch, batch.targets))
    adversarial = _cross_entropy(logits_adv, batch.targets)
    paired = 0.5 * adversarial * (logits - logits_adv).abs().sum(1).mean()
    assert paired > 0.01
    found = train_on(make(Mine, network, attack=ATTACK), batch)
    assert_trains(found, {"adversarial": adversarial, "mine": paired}, network)


SEVERAL = PGDAttack(eps=EPS, step_size=STEP, steps=STEPS, restarts=3)


@pytest.mark.parametrize(
    "attack", [ATTACK, SEVERAL, PGDAttack(eps=0.5, step_size=0.2, steps=3, norm="l2")]
)
def test_ranks_attack_their_rows_as_one_process_does(attack, make, network, batch):
    defense = make(PGDTraining, network, attack=attack)
    whole = defense.attack_batch(batch, batch.targets)
    parts = []
    for start, stop in ((0, 2), (2, 6)):
        rows = batch._replace(
            x=batch.x[start:stop],
            draws=batch.draws._replace(first_row=start, end_row=stop),
        )
        parts.append(defense.attack_batch(rows, batch.targets[start:stop]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    # not by luck: with another rank's rows of the noise the images would differ
    other = batch._replace(x=batch.x[:2], draws=batch.draws._replace(first_row=2, end_row=4))
    assert (defense.attack_batch(other, batch.targets[:2]) - whole[:2]).abs().max() > 1e-3


def test_noise_is_named_by_seed_epoch_and_step(make, network, batch):
    defense = make(PGDTraining, network, attack=ATTACK)

    def attacked(**changed):
        return defense.attack_batch(
            batch._replace(draws=batch.draws._replace(**changed)), batch.targets
        )

    first = attacked()
    torch.rand(3)  # somebody else draws in between
    assert torch.equal(attacked(), first)
    for changed in ({"seed": 4}, {"epoch": 2}, {"step": 3}):
        assert not torch.equal(attacked(**changed), first), changed


def test_attack_leaves_the_global_random_state_alone(make, network, batch):
    before = torch.get_rng_state()
    make(PGDTraining, network, attack=ATTACK).attack_batch(batch, batch.targets)
    assert torch.equal(torch.get_rng_state(), before)


def test_any_attack_will_do(make, network, batch):
    class Corner(Attack):
        """Moves every pixel up, from the clean images."""

        def __call__(self, model, x, y, *, start=None, generator=None):
            assert start is None
            return (x + self.eps).clamp(0, 1)

    defense = make(PGDTraining, network, attack=Corner(eps=0.2))
    x_adv = defense.attack_batch(batch, batch.targets)
    assert torch.equal(x_adv, (batch.x + 0.2).clamp(0, 1))


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_only_the_training_forward_reaches_batch_norm(bn_mode, make, bn_network, batch):
    attack = PGDAttack(eps=EPS, step_size=STEP, steps=STEPS, bn_mode=bn_mode)
    defense = make(PGDTraining, bn_network, attack=attack)
    seen = []
    hook = defense.network[1].register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training and module.track_running_stats, inputs))
    )
    torch.manual_seed(0)
    defense.loss_terms(batch)
    hook.remove()
    recorded = [inputs[0] for records, inputs in seen if records]
    assert len(seen) == STEPS + 1
    assert len(recorded) == 1
    assert recorded[0] is seen[-1][1][0]

    norm, before = defense.network[1], bn_network[1]
    values = recorded[0].detach().transpose(0, 1).reshape(4, -1)
    mean = 0.9 * before.running_mean + 0.1 * values.mean(1)
    var = 0.9 * before.running_var + 0.1 * values.var(1, correction=1)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("defense", "settings", "images"),
    [
        (PGDTraining, {}, 6),  # no term needs the clean images
        (PGDTraining, {"squeeze_weight": 0.1}, 12),
        (PGDTraining, {"alpha": 0.5}, 12),
        (AdversarialLogitPairing, {}, 12),
        (LogitRegularization, {}, 12),
    ],
)
def test_clean_and_attacked_images_share_one_forward(
    defense, settings, images, make, bn_network, batch
):
    made = make(defense, bn_network, attack=ATTACK, **settings)
    sizes = []
    made.network.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(output)) if module.training else None
    )
    made.loss_terms(batch)
    assert sizes == [images]


def test_attack_leaves_modes_and_gradients_alone(make, bn_network, batch):
    defense = make(PGDTraining, bn_network, attack=ATTACK)
    defense.network[1].eval()  # frozen batch norm, everything else trains
    defense.network[0].bias.requires_grad_(False)
    modes = {name: module.training for name, module in defense.named_modules()}
    state = copy.deepcopy(defense.state_dict())
    defense.attack_batch(batch, batch.targets)
    assert {name: module.training for name, module in defense.named_modules()} == modes
    assert [p.requires_grad for p in defense.parameters()] == [True, False, *[True] * 4]
    assert all(p.grad is None for p in defense.parameters())
    for name, value in defense.state_dict().items():
        assert torch.equal(value, state[name]), name
