"""A trajectory is many attacks in one; a search that stops early is a part of one."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack, fgsm, pgd
from lrm_lightning.attacks.pgd import NEVER
from lrm_lightning.attacks.wrappers import StraightThrough

BUDGETS = {
    "linf": {"norm": "linf", "eps": 0.06, "step_size": 0.01},
    "l2": {"norm": "l2", "eps": 0.6, "step_size": 0.1},
}
LINF = PGDAttack(**BUDGETS["linf"])
each_norm = pytest.mark.parametrize("norm", BUDGETS)


def generator():
    return torch.Generator().manual_seed(0)


@each_norm
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_iterates_are_those_of_separate_runs(network, batch, norm, random_start, bn_mode):
    common = {**BUDGETS[norm], "random_start": random_start, "bn_mode": bn_mode}
    path = PGDAttack(**common).trajectory(network, *batch, [5, 10, 20], generator=generator())
    assert list(path.iterates) == [5, 10, 20]
    for steps, iterate in path.iterates.items():
        alone = pgd(network, *batch, **common, steps=steps, generator=generator())
        assert torch.equal(iterate.x_adv, alone)


@each_norm
def test_logits_belong_to_the_images(network, batch, norm):
    x, y = batch
    path = PGDAttack(**BUDGETS[norm]).trajectory(network, x, y, [0, 3])
    with torch.no_grad():
        torch.testing.assert_close(path.logits, network(x))
        for iterate in (path.fgsm, *path.iterates.values()):
            torch.testing.assert_close(iterate.logits, network(iterate.x_adv))
    assert not path.logits.requires_grad
    assert not path.iterates[3].logits.requires_grad


@each_norm
@pytest.mark.parametrize(("loss", "targeted"), [("cross_entropy", False), ("margin", True)])
def test_fgsm_is_that_of_its_own_function(network, batch, norm, loss, targeted):
    common = {"norm": norm, "eps": BUDGETS[norm]["eps"], "loss": loss, "targeted": targeted}
    path = PGDAttack(**common, step_size=0.01).trajectory(network, *batch, [1])
    assert torch.equal(path.fgsm.x_adv, fgsm(network, *batch, **common))


def test_iterate_0_is_the_start(network, batch):
    x, y = batch
    clean = replace(LINF, random_start=False).trajectory(network, x, y, [0])
    assert torch.equal(clean.iterates[0].x_adv, x)
    assert torch.equal(clean.iterates[0].logits, clean.logits)
    start = (x + 0.03).clamp(0, 1)
    given = LINF.trajectory(network, x, y, [0], start=start)
    assert torch.equal(given.iterates[0].x_adv, start)
    drawn = LINF.trajectory(network, x, y, [0]).iterates[0].x_adv
    assert 0 < (drawn - x).abs().max() <= 0.06 + 1e-6


@pytest.mark.parametrize(
    ("steps", "random_start", "forwards"),
    [([5, 10], True, 13), ([5, 10], False, 12), ([0], False, 2), ([0], True, 3), ([], True, 2)],
)
def test_no_pass_is_wasted(network, batch, counting, steps, random_start, forwards):
    counted = counting(network)
    path = replace(LINF, random_start=random_start).trajectory(counted, *batch, steps)
    assert counted.forwards == forwards
    assert list(path.iterates) == steps


def test_memory_does_not_grow_with_the_steps(network, batch):
    class Watching(nn.Module):
        """Counts at every pass how many images of earlier passes are still held."""

        def __init__(self):
            super().__init__()
            self.network = network
            self.seen = []
            self.alive = []

        def forward(self, x_adv):
            self.alive.append(sum(reference() is not None for reference in self.seen))
            self.seen.append(weakref.ref(x_adv))
            return self.network(x_adv)

    watching = Watching()
    gc.disable()  # What is freed must be freed at once, not at the next collection.
    try:
        LINF.trajectory(watching, *batch, range(13), keep_images=False)
    finally:
        gc.enable()
    assert len(watching.alive) == 15
    assert max(watching.alive) <= 3


def test_works_in_inference_mode_and_without_keeping_images(network, batch):
    attack = PGDAttack(**BUDGETS["l2"])
    expected = attack.trajectory(network, *batch, [2], generator=generator())
    with torch.inference_mode():
        x, y = (tensor.clone() for tensor in batch)
        path = attack.trajectory(network, x, y, [2], generator=generator(), keep_images=False)
    assert path.fgsm.x_adv is None
    assert path.iterates[2].x_adv is None
    assert torch.equal(path.fgsm.logits, expected.fgsm.logits)
    assert torch.equal(path.iterates[2].logits, expected.iterates[2].logits)


def test_logits_on_the_way_lie_in_one_piece(network, batch):
    """Else each holds the memory around it that activations have freed, and it grows with steps."""
    path = LINF.trajectory(network, *batch, [1, 2, 3])
    found = [path.fgsm, *path.iterates.values()]
    assert len({each.logits.untyped_storage().data_ptr() for each in found}) == 1
    assert path.logits.untyped_storage().data_ptr() != found[0].logits.untyped_storage().data_ptr()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_steps_to_break_are_those_of_the_trajectory(network, batch, loss, targeted):
    x, y = batch
    attack = replace(LINF, step_size=0.002, steps=45, loss=loss, targeted=targeted)
    start = x + attack.threat.draw(x.shape, generator=generator())
    target = (y + 1) % 4 if targeted else None
    needed = attack.steps_to_break(network, x, y, start=start, target=target)
    path = attack.trajectory(network, x, y if target is None else target, range(46), start=start)
    wrong = torch.stack([each.logits.argmax(1) != y for each in path.iterates.values()])
    expected = torch.where(wrong.any(dim=0), wrong.int().argmax(dim=0), NEVER)
    # Broken images leave after 20 steps, and with fewer images sums are rounded anew.
    assert (needed == expected).float().mean() > 0.95
    assert len(needed.unique()) > 5
    assert (needed == NEVER).any()


def test_search_ends_with_the_last_image_that_is_broken(network, batch, counting):
    x, y = batch
    counted = counting(network)
    needed = PGDAttack(eps=0.5, step_size=0.03, steps=200).steps_to_break(counted, x, y, start=x)
    assert 2 < needed.max() < 20
    assert counted.forwards == needed.max() + 1


class Waves(nn.Module):
    """Logits whose sums are of one image's pixels alone, whatever the batch: bit for bit."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 192, generator=generator()))
        self.images = 0

    def forward(self, x):
        self.images += len(x)
        waves = torch.sin(20 * x.flatten(1))
        logits = torch.stack([(each * waves).sum(dim=1) for each in self.weights], dim=1)
        return logits + torch.tensor([100.0, 0, 0, 0])


@pytest.mark.parametrize("norm", BUDGETS)
def test_images_that_go_in_circles_leave_and_nothing_else_changes(batch, norm):
    x, y = batch[0], torch.zeros_like(batch[1])
    network = Waves()
    attack = PGDAttack(**BUDGETS[norm], steps=200)
    start = x + attack.threat.draw(x.shape, generator=generator())
    needed = attack.steps_to_break(network, x, y, start=start)
    shown, network.images = network.images, 0
    # The same logits and gradient, but a stand-in's, so that no image leaves for a circle.
    without = attack.steps_to_break(StraightThrough(network, network), x, y, start=start)
    assert torch.equal(needed, without)
    held = int((needed == NEVER).sum())
    assert 5 < held < len(x)
    assert shown < 0.5 * network.images / 2
    path = attack.trajectory(network, x, y, range(201), start=start).iterates
    images = torch.stack([each.x_adv.flatten(1) for each in path.values()])
    circles = 0
    for own in images[:, needed == NEVER].unbind(dim=1):
        same = (own[:, None] == own[None]).all(dim=2).tril(diagonal=-1)
        if same.any():
            again = int(same.any(dim=1).nonzero()[0, 0])
            first = int(same[again].nonzero()[0, 0])
            # What is left out is known: the last iterate is one from before.
            assert torch.equal(own[200], own[first + (200 - first) % (again - first)])
            circles += 1
    assert circles > held / 2
