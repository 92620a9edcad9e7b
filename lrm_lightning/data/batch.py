"""A split of images, a batch of it with its randomness, and how a part of a split is held out."""

from typing import NamedTuple

import torch
from torch import Tensor

from lrm_lightning.data.randomness import generator


class ImageSplit(NamedTuple):
    """Images and labels, all in memory on one device."""

    images: Tensor  # pixels 0 to 255, shape (N, channels, H, W), uint8
    labels: Tensor  # classes, shape (N,), int64


class Draws(NamedTuple):
    """The randomness of one global batch, and which of its rows are ours."""

    seed: int  # of the run
    epoch: int  # from 0
    step: int  # batch within the epoch, from 0
    size: int  # images in the global batch
    first_row: int  # of this rank
    end_row: int  # one past its last

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Generator for ``purpose``; draw for all ``size`` rows, then take :meth:`rows`."""
        return generator(self.seed, purpose, self.epoch, self.step, device=device)

    def rows(self, values: Tensor, dim: int = 0) -> Tensor:
        """This rank's rows of ``values``, whose axis ``dim`` was drawn for the global batch."""
        return values.narrow(dim, self.first_row, self.end_row - self.first_row)


class Batch(NamedTuple):
    """One rank's rows of a global batch."""

    x: Tensor  # pixels in [0, 1], shape (b, channels, H, W), float32, channels-last
    targets: Tensor  # class weights, shape (b, C), float32; rows sum to 1; one-hot unless mixed
    y: Tensor  # label of the first image of the mix, shape (b,), int64
    index: Tensor  # position of that image in its split, shape (b,), int64
    draws: Draws  # randomness of the global batch, and which rows of it are ours


def hold_out(labels: Tensor, size: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose ``size`` of the positions of ``labels`` at random, every class in its proportion.

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
    by_class = shuffled.argsort(stable=True).split(counts.tolist())
    chosen = [part[:size] for part, size in zip(by_class, quota.tolist(), strict=True)]
    held_out = torch.zeros(total, dtype=torch.bool)
    held_out[torch.cat(chosen)] = True
    return order[~held_out].sort().values, order[held_out]
