"""The images that an evaluation attacks, and where attacks on them begin."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.checks import check_integer
from lrm_lightning.data import ImageSplit
from lrm_lightning.data.randomness import generator


class Images(NamedTuple):
    """Images of a split, in its order.

    Attributes:
        x: Pixels in [0, 1], shape ``(n, 3, H, W)``, float32.
        y: Labels, shape ``(n,)``, int64.
        index: Their positions in the split, shape ``(n,)``, int64, rising.
        shown: Places in this subset of the first images that were drawn, at most eight: the same
            images for every model and, but for a smaller subset, every ``n_images``.
    """

    x: Tensor
    y: Tensor
    index: np.ndarray
    shown: np.ndarray

    def rows(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels at ``places`` of this subset."""
        chosen = torch.from_numpy(places).to(self.x.device)
        return self.x[chosen], self.y[chosen]


def pick(
    split: ImageSplit, *, n_images: int | None, seed: int, device: torch.device | str = "cpu"
) -> Images:
    """A random subset of a split that ``seed`` fixes; a smaller one is a part of a larger one.

    Args:
        split: Where from.
        n_images: At most how many; ``None`` is all.
        seed: Which.
        device: Where the images shall be.

    Raises:
        ValueError: If ``n_images`` or ``seed`` is out of range.
    """
    check_integer("seed", seed, low=0)
    total = len(split.labels)
    if n_images is not None:
        check_integer("n_images", n_images, low=1)
    drawn = torch.randperm(total, generator=generator(seed, "subset"))[:n_images]
    index = drawn.sort().values
    return Images(
        x=split.images[index].to(device).float().div(255),
        y=split.labels[index].to(device),
        index=index.numpy(),
        shown=np.searchsorted(index.numpy(), drawn[:8].numpy()),
    )


def starts(attack: PGDAttack, images: Images, places: np.ndarray, *key: int | str) -> Tensor:
    """Where ``attack`` begins on the images at ``places``: each image plus its own noise.

    An image's noise depends on ``key`` and on its position in the split alone: not on the batch
    that it is in, nor on the images that an earlier attack has broken.

    Returns:
        Shape ``(len(places), 3, H, W)``; may lie outside [0, 1], which the attack mends.
    """
    x, _ = images.rows(places)
    if not attack.random_start:
        return x
    noise = [
        attack.threat.draw((1, *x.shape[1:]), generator=generator(*key, int(position)))
        for position in images.index[places]
    ]
    return x + torch.cat(noise).to(x.device)
