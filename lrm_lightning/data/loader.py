"""Batches of a split that lies on the device: shared out to ranks, resumable anywhere."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lrm_lightning.data.augment import crop, draw_crop, draw_flip, flip
from lrm_lightning.data.batch import Batch, Draws, ImageSplit
from lrm_lightning.data.mixing import draw_mixup, draw_vh_mixup, mixup, vh_mixup
from lrm_lightning.data.randomness import generator
from lrm_lightning.errors import UserError


class BatchLoader(ABC):
    """One rank's share of a split's batches, which a subclass bounds and makes.

    Lightning takes any sized iterable; the ``state_dict`` pair makes it resume inside an epoch.
    The split lies on the device that batches are wanted on, ``batch_size`` counts the images of a
    global batch, and ``seed`` is that of every draw.
    """

    def __init__(
        self,
        split: ImageSplit,
        *,
        num_classes: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split = split
        self._num_classes = num_classes
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._bounds = self._bound(len(split.labels), batch_size)
        self._epoch = 0
        self._handed_out = (0, 0)
        self._resume: tuple[int, int] | None = None

    @abstractmethod
    def _bound(self, total: int, batch_size: int) -> list[tuple[int, int]]:
        """First and one-past-last position of every global batch of ``total`` images."""

    @abstractmethod
    def _batch(self, draws: Draws) -> Batch:
        """Our rows of one global batch."""

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[Batch]:
        """Our rows of every global batch of the epoch, or of what is left of it after a resume."""
        # Lightning makes an iterator before it sets the epoch: nothing may happen until next()
        epoch = self._epoch
        resume, self._resume = self._resume, None
        first = resume[1] if resume is not None and resume[0] == epoch else 0
        for step in range(first, len(self)):
            batch = self._batch(self._draws(epoch, step))
            self._handed_out = (epoch, step + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch of the last batch handed out, and how many of that epoch's batches were."""
        epoch, position = self._handed_out
        return {"epoch": epoch, "position": position, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration where ``state`` was taken, if it is of the same epoch."""
        if state["batches"] != len(self):
            raise UserError(
                f"the checkpoint was made with {state['batches']} batches an epoch, but there are "
                f"{len(self)} now: resume with the same data, data.batch_size and data.val_size"
            )
        self._resume = self._handed_out = (state["epoch"], state["position"])

    def _draws(self, epoch: int, step: int) -> Draws:
        """Which rows of the global batch are ours: as even shares as can be, none empty."""
        begin, end = self._bounds[step]
        size = end - begin
        start, stop = (size * rank // self._world_size for rank in (self._rank, self._rank + 1))
        return Draws(self._seed, epoch, step, size, start, stop)

    def _targets(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self._num_classes).float()


class EvalLoader(BatchLoader):
    """Every image exactly once over all ranks, in order, as it is; nothing is padded or dropped.

    The last global batch may be smaller, or larger by less than ``world_size``, so that every rank
    has at least one image of every batch. Draws, such as an attack's start, are those of epoch 0
    whenever the split is gone through, so that epochs can be compared.
    """

    def _bound(self, total: int, batch_size: int) -> list[tuple[int, int]]:
        if min(total, batch_size) < self._world_size:
            raise UserError(
                f"{total} images in batches of {batch_size} cannot be shared out to "
                f"{self._world_size} processes: use fewer devices, or a larger data.eval_batch_size"
            )
        begins = list(range(0, total, batch_size))
        if total - begins[-1] < self._world_size:
            begins.pop()
        return list(zip(begins, [*begins[1:], total], strict=True))

    def _batch(self, draws: Draws) -> Batch:
        begin = self._bounds[draws.step][0]
        start, stop = begin + draws.first_row, begin + draws.end_row
        y = self.split.labels[start:stop]
        return Batch(
            x=laid_out(self.split.images[start:stop].float() / 255),
            targets=self._targets(y),
            y=y,
            index=torch.arange(start, stop, device=y.device),
            draws=draws,
        )


class Augmentation(NamedTuple):
    """What is done to training images: settings of the DataModule and of the defence."""

    crop_padding: int = 0
    flip: bool = False
    mixing: str = "none"
    mixing_alpha: float = 1.0


class TrainLoader(BatchLoader):
    """Shuffled, augmented and mixed batches; a last partial global batch is dropped.

    All that is random is drawn for the global batch and named by seed, epoch and step, so the
    ranks' batches put together are exactly what one process would see. Arguments are those of
    :class:`BatchLoader`, the augmentation, and whether every epoch is a repetition of the first.
    """

    def __init__(
        self,
        split: ImageSplit,
        *,
        augmentation: Augmentation,
        same_epoch: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(split, **shared)
        self._augmentation = augmentation
        self._same_epoch = same_epoch
        self._order = (-1, split.labels.new_empty(0))

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself: Lightning calls ``loader.sampler.set_epoch`` before every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = 0 if self._same_epoch else epoch

    def _bound(self, total: int, batch_size: int) -> list[tuple[int, int]]:
        if batch_size % self._world_size:
            raise UserError(
                f"data.batch_size={batch_size} is the global batch, so it must be a multiple of "
                f"the {self._world_size} processes that share it"
            )
        if batch_size > total:
            raise UserError(
                f"data.batch_size={batch_size} exceeds the {total} training images, and a partial "
                "batch is dropped: make it smaller"
            )
        begins = range(0, total - batch_size + 1, batch_size)
        return [(begin, begin + batch_size) for begin in begins]

    def _epoch_order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the split, made on the CPU: the same on any device."""
        if self._order[0] != epoch:
            source = generator(self._seed, "order", epoch)
            order = torch.randperm(len(self.split.labels), generator=source)
            self._order = (epoch, _sent(order, self.split.labels.device))
        return self._order[1]

    def _batch(self, draws: Draws) -> Batch:
        begin, end = self._bounds[draws.step]
        index = self._epoch_order(draws.epoch)[begin:end]
        rows = torch.arange(draws.first_row, draws.end_row)
        if self._augmentation.mixing == "none":
            x, y = self._augmented(draws, index, rows)
            targets = self._targets(y)
        else:
            # a partner is any row of the global batch, augmented just as that row is
            partners = draws.rows(torch.randperm(draws.size, generator=draws.generator("partner")))
            both, labels = self._augmented(draws, index, torch.cat([rows, partners]))
            (x1, x2), (y, _) = both.chunk(2), labels.chunk(2)
            x, targets = self._mixed(draws, x1, x2, *self._targets(labels).chunk(2))
        return Batch(x=laid_out(x), targets=targets, y=y, index=draws.rows(index), draws=draws)

    def _augmented(self, draws: Draws, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented pixels in [0, 1] and labels of some rows of the global batch, in any order."""
        device = index.device
        chosen = index[_sent(rows, device)]
        images = self.split.images[chosen]
        if padding := self._augmentation.crop_padding:
            corners = draw_crop(draws.size, padding=padding, generator=draws.generator("crop"))
            top, left = (_sent(corner[rows], device) for corner in corners)
            images = crop(images, top, left, padding=padding)
        if self._augmentation.flip:
            flags = draw_flip(draws.size, generator=draws.generator("flip"))
            images = flip(images, _sent(flags[rows], device))
        return images.float() / 255, self.split.labels[chosen]

    def _mixed(
        self, draws: Draws, x1: Tensor, x2: Tensor, targets1: Tensor, targets2: Tensor
    ) -> tuple[Tensor, Tensor]:
        source, alpha = draws.generator("mixing"), self._augmentation.mixing_alpha
        if self._augmentation.mixing == "mixup":
            weight = draws.rows(draw_mixup(draws.size, alpha=alpha, generator=source))
            return mixup(x1, targets1, x2, targets2, weight=_sent(weight, x1.device))
        height, width = x1.shape[-2:]
        shares = draw_vh_mixup(draws.size, height=height, width=width, generator=source)
        rows, cols, weight = (_sent(draws.rows(each), x1.device) for each in shares)
        return vh_mixup(x1, targets1, x2, targets2, rows=rows, cols=cols, weight=weight)


def laid_out(x: Tensor) -> Tensor:
    """The images in channels-last memory format, in which convolutions are faster everywhere."""
    return x.contiguous(memory_format=torch.channels_last)


def _sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Move what was drawn on the CPU to the device; the copy to a GPU is asynchronous."""
    if device.type in ("cpu", "mps"):  # Apple's processor and GPU share their memory
        return drawn.to(device)
    return drawn.pin_memory().to(device, non_blocking=True)
