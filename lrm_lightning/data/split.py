"""Holding a fair part of a labelled set out."""

import torch
from torch import Tensor
from torch.nn import functional as F


def hold_out(labels: Tensor, size: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose ``size`` positions at random, every class in its proportion.

    Args:
        labels: Classes, shape ``(N,)``, int64.
        size: How many positions to hold out, 0 to ``N``.
        generator: CPU generator.

    Returns:
        Positions kept, ``(N - size,)``, ascending; positions held out, ``(size,)``, in random
        order, so that the first of them are a fair sample too. Each class has its share to within
        one.
    """
    total = len(labels)
    order = torch.randperm(total, generator=generator)
    shuffled = labels[order]
    counts = torch.bincount(labels)
    quota = counts * size // total
    remainder = counts * size % total
    quota[remainder.argsort(descending=True, stable=True)[: size - int(quota.sum())]] += 1
    seen_of_class = F.one_hot(shuffled).cumsum(0).gather(1, shuffled[:, None])[:, 0]
    held_out = seen_of_class <= quota[shuffled]
    return order[~held_out].sort().values, order[held_out]
