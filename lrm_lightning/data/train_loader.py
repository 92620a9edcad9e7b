"""Shuffled, augmented and mixed batches to train on."""

from typing import NamedTuple

import torch
from torch import Tensor

from lrm_lightning.data.augment import crop, draw_crop, draw_flip, flip
from lrm_lightning.data.batch import Batch, ImageSplit
from lrm_lightning.data.loader import BatchLoader, laid_out
from lrm_lightning.data.mixing import draw_mixup, draw_vh_mixup, mixup, vh_mixup
from lrm_lightning.data.randomness import Draws, generator
from lrm_lightning.errors import UserError


class Augmentation(NamedTuple):
    """What is done to training images.

    Attributes:
        crop_padding: Zero border in pixels that random crops are cut from; 0 crops nothing.
        flip: Whether half of the images are mirrored left to right.
        mixing: How each image is mixed with a partner of the global batch: see :data:`MIXINGS`.
        mixing_alpha: Parameter of mixup's Beta(alpha, alpha).
    """

    crop_padding: int = 0
    flip: bool = False
    mixing: str = "none"
    mixing_alpha: float = 1.0


class TrainLoader(BatchLoader):
    """Shuffled, augmented batches; a last partial global batch is dropped.

    All that is random is drawn for the global batch and named by seed, epoch and step, so the
    ranks' batches put together are exactly what one process would see.

    Args:
        split: Images and labels, on the device that batches are wanted on.
        num_classes: Columns of ``Batch.targets``.
        batch_size: Images in a global batch, a multiple of ``world_size``.
        augmentation: What is done to the images; nothing by default.
        seed: Seed of every draw.
        rank: Which share is ours, from 0.
        world_size: Number of shares.

    Raises:
        UserError: If ``batch_size`` exceeds the split or is no multiple of ``world_size``.
    """

    def __init__(
        self,
        split: ImageSplit,
        *,
        num_classes: int,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        total = len(split.labels)
        if batch_size % world_size:
            raise UserError(
                f"data.batch_size={batch_size} is the global batch, so it must be a multiple of "
                f"the {world_size} processes that share it"
            )
        if batch_size > total:
            raise UserError(
                f"data.batch_size={batch_size} exceeds the {total} training images, and a partial "
                "batch is dropped: make it smaller"
            )
        bounds = [
            (begin, begin + batch_size) for begin in range(0, total - batch_size + 1, batch_size)
        ]
        super().__init__(
            split, bounds, num_classes=num_classes, seed=seed, rank=rank, world_size=world_size
        )
        self._augmentation = augmentation or Augmentation()
        self._order = (-1, split.labels.new_empty(0))

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself: Lightning calls ``loader.sampler.set_epoch`` before every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = epoch

    def _epoch_order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the split; drawn on the CPU, so the same on any device."""
        if self._order[0] != epoch:
            order = torch.randperm(
                len(self.split.labels), generator=generator(self._seed, "order", epoch)
            )
            self._order = (epoch, order.to(self.split.labels.device))
        return self._order[1]

    def _batch(self, epoch: int, step: int) -> Batch:
        draws = self._draws(epoch, step)
        begin, end = self._bounds[step]
        index = self._epoch_order(epoch)[begin:end]
        rows = torch.arange(draws.start, draws.stop)
        mixing = self._augmentation.mixing
        if mixing == "none":
            x, y = self._view(draws, index, rows)
            targets = self._targets(y)
        else:
            # a partner is any row of the global batch, augmented just as that row is
            partners = draws.rows(torch.randperm(draws.size, generator=draws.generator("partner")))
            both, labels = self._view(draws, index, torch.cat([rows, partners]))
            (x1, x2), (y, _) = both.chunk(2), labels.chunk(2)
            targets1, targets2 = self._targets(labels).chunk(2)
            x, targets = self._mix(draws, x1, targets1, x2, targets2)
        return Batch(x=laid_out(x), targets=targets, y=y, index=draws.rows(index), draws=draws)

    def _view(self, draws: Draws, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented pixels in [0, 1] and labels of some rows of the global batch, in any order."""
        device = index.device
        chosen = index[rows.to(device)]
        images = self.split.images[chosen]
        if padding := self._augmentation.crop_padding:
            corners = draw_crop(draws.size, padding=padding, generator=draws.generator("crop"))
            top, left = (corner[rows].to(device) for corner in corners)
            images = crop(images, top, left, padding=padding)
        if self._augmentation.flip:
            flags = draw_flip(draws.size, generator=draws.generator("flip"))
            images = flip(images, flags[rows].to(device))
        return images.float() / 255, self.split.labels[chosen]

    def _mix(
        self, draws: Draws, x1: Tensor, targets1: Tensor, x2: Tensor, targets2: Tensor
    ) -> tuple[Tensor, Tensor]:
        drawing = draws.generator("mixing")
        if self._augmentation.mixing == "mixup":
            weight = draw_mixup(
                draws.size, alpha=self._augmentation.mixing_alpha, generator=drawing
            )
            return mixup(x1, targets1, x2, targets2, weight=draws.rows(weight).to(x1.device))
        height, width = x1.shape[-2:]
        drawn = draw_vh_mixup(draws.size, height=height, width=width, generator=drawing)
        rows, cols, weight = (draws.rows(values).to(x1.device) for values in drawn)
        return vh_mixup(x1, targets1, x2, targets2, rows=rows, cols=cols, weight=weight)
