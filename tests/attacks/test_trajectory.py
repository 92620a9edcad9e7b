import gc
import weakref

import pytest
import torch
from torch import nn

from lrm_lightning.attacks import fgsm, pgd, trajectory

BUDGETS = {
    "linf": {"norm": "linf", "eps": 0.06, "step_size": 0.01},
    "l2": {"norm": "l2", "eps": 0.6, "step_size": 0.1},
}
each_norm = pytest.mark.parametrize("norm", BUDGETS)


def generator():
    return torch.Generator().manual_seed(0)


class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        return self.network(x)


@each_norm
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_iterates_are_those_of_separate_runs(network, batch, norm, random_start, bn_mode):
    common = {**BUDGETS[norm], "random_start": random_start, "bn_mode": bn_mode}
    path = trajectory(network, *batch, **common, steps=[5, 10, 20], generator=generator())
    assert list(path.iterates) == [5, 10, 20]
    for steps, iterate in path.iterates.items():
        alone = pgd(network, *batch, **common, steps=steps, generator=generator())
        assert torch.equal(iterate.x_adv, alone)


@each_norm
def test_iterates_of_a_longer_run_are_those_of_a_shorter(network, batch, norm):
    runs = [
        trajectory(network, *batch, **BUDGETS[norm], steps=steps, generator=generator())
        for steps in ([5, 10, 20], [10, 5])
    ]
    for steps in (5, 10):
        assert torch.equal(runs[0].iterates[steps].x_adv, runs[1].iterates[steps].x_adv)
        assert torch.equal(runs[0].iterates[steps].logits, runs[1].iterates[steps].logits)


@each_norm
def test_logits_belong_to_the_images(network, batch, norm):
    x, y = batch
    path = trajectory(network, x, y, **BUDGETS[norm], steps=[0, 3])
    with torch.no_grad():
        torch.testing.assert_close(path.logits, network(x))
        for iterate in (path.fgsm, *path.iterates.values()):
            torch.testing.assert_close(iterate.logits, network(iterate.x_adv))
    assert not path.logits.requires_grad
    assert not path.iterates[3].logits.requires_grad


@each_norm
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_that_of_its_own_function(network, batch, norm, loss, targeted):
    common = {"norm": norm, "eps": BUDGETS[norm]["eps"], "loss": loss, "targeted": targeted}
    path = trajectory(network, *batch, **common, step_size=0.01, steps=[1])
    assert torch.equal(path.fgsm.x_adv, fgsm(network, *batch, **common))


def test_iterate_0_is_the_start(network, batch):
    x, y = batch
    common = {**BUDGETS["linf"], "steps": [0]}
    clean = trajectory(network, x, y, **common, random_start=False)
    assert torch.equal(clean.iterates[0].x_adv, x)
    assert torch.equal(clean.iterates[0].logits, clean.logits)
    start = (x + 0.03).clamp(0, 1)
    given = trajectory(network, x, y, **common, start=start)
    assert torch.equal(given.iterates[0].x_adv, start)
    drawn = trajectory(network, x, y, **common).iterates[0].x_adv
    assert 0 < (drawn - x).abs().max() <= 0.06 + 1e-6


@pytest.mark.parametrize(
    ("steps", "random_start", "forwards"),
    [([5, 10], True, 13), ([5, 10], False, 12), ([0], False, 2), ([0], True, 3), ([], True, 2)],
)
def test_no_pass_is_wasted(network, batch, steps, random_start, forwards):
    counting = Counting(network)
    path = trajectory(counting, *batch, **BUDGETS["linf"], steps=steps, random_start=random_start)
    assert counting.forwards == forwards
    assert list(path.iterates) == steps


def test_images_are_dropped_on_request(network, batch):
    common = {**BUDGETS["linf"], "steps": [1, 2], "random_start": False}
    kept = trajectory(network, *batch, **common)
    dropped = trajectory(network, *batch, **common, keep_images=False)
    assert dropped.fgsm.x_adv is None
    assert all(iterate.x_adv is None for iterate in dropped.iterates.values())
    assert torch.equal(dropped.fgsm.logits, kept.fgsm.logits)
    assert torch.equal(dropped.iterates[2].logits, kept.iterates[2].logits)


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
        trajectory(watching, *batch, **BUDGETS["linf"], steps=range(13), keep_images=False)
    finally:
        gc.enable()
    assert len(watching.alive) == 15
    assert max(watching.alive) <= 3


def test_works_in_inference_mode(network, batch):
    expected = trajectory(network, *batch, **BUDGETS["l2"], steps=[2], generator=generator())
    with torch.inference_mode():
        x, y = (tensor.clone() for tensor in batch)
        path = trajectory(network, x, y, **BUDGETS["l2"], steps=[2], generator=generator())
    assert torch.equal(path.iterates[2].logits, expected.iterates[2].logits)


def test_logits_on_the_way_lie_in_one_piece(network, batch):
    """Else each holds the memory around it that activations have freed, and it grows with steps."""
    x, y = batch
    path = trajectory(network, x, y, eps=0.1, step_size=0.05, steps=[1, 2, 3])
    found = [path.fgsm, *path.iterates.values()]
    assert len({each.logits.untyped_storage().data_ptr() for each in found}) == 1
    assert path.logits.untyped_storage().data_ptr() != found[0].logits.untyped_storage().data_ptr()
