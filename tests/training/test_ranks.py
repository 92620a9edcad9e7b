"""Two processes compute what one with the whole batch does, where terms need all of it."""

import torch
from torch import nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.data import Batch
from lrm_lightning.data.batch import Draws
from lrm_lightning.methods.ikl import ImprovedKL


def _gradients(first, end):
    """Of rows ``first`` to ``end`` of one batch, with weight perturbation; and the class sums."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 4)
    ).double()
    attack = PGDAttack(eps=0.05, step_size=0.02, steps=2)
    defense = ImprovedKL(network, num_classes=4, attack=attack, awp=0.05).double()
    x, y = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    targets, rows = torch.eye(4, dtype=torch.float64)[y], slice(first, end)
    draws = Draws(seed=3, epoch=1, step=2, size=6, first_row=first, end_row=end)
    batch = Batch(x[rows], targets[rows], y[rows], torch.arange(6)[rows], draws)
    torch.stack(list(defense.loss_terms(batch).values())).sum().backward()
    defense.on_after_backward()
    found = {name: each.grad for name, each in network.named_parameters()}
    return found, defense.class_sums


def _on_rank(rank, folder):
    found, sums = _gradients(3 * rank, 3 * rank + 3)
    for each in found.values():  # as DistributedDataParallel does
        torch.distributed.all_reduce(each)
        each /= 2
    torch.save((found, sums), folder / f"{rank}.pt")


def test_weight_perturbation_and_class_means_are_those_of_the_global_batch(two_ranks):
    folder = two_ranks(_on_rank)
    expected, sums = _gradients(0, 6)
    for rank in (0, 1):
        found, sums_of_rank = torch.load(folder / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(2 * sums_of_rank, sums, rtol=1e-9, atol=1e-12)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10)
