"""Batches of a split that lies on the device: shared out to ranks, resumable anywhere."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lrm_lightning.data.batch import Batch, ImageSplit
from lrm_lightning.data.randomness import Draws
from lrm_lightning.errors import UserError


class BatchLoader:
    """One rank's share of a split's batches, which a subclass plans and makes.

    Lightning takes any sized iterable; the ``state_dict`` pair makes it resume inside an epoch.

    Args:
        split: Images and labels, on the device that batches are wanted on.
        bounds: First and one-past-last position of every global batch.
        num_classes: Columns of ``Batch.targets``.
        seed: Seed of every draw.
        rank: Which share is ours, from 0.
        world_size: Number of shares.
    """

    def __init__(
        self,
        split: ImageSplit,
        bounds: list[tuple[int, int]],
        *,
        num_classes: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.split = split
        self._bounds = bounds
        self._num_classes = num_classes
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._handed_out = (0, 0)
        self._resume: tuple[int, int] | None = None

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
            batch = self._batch(epoch, step)
            self._handed_out = (epoch, step + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch of the last batch handed out, and how many of that epoch's batches were."""
        epoch, position = self._handed_out
        return {"epoch": epoch, "position": position, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration where ``state`` was taken, if it is of the same epoch.

        Raises:
            UserError: If the state belongs to epochs of another length.
        """
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

    def _batch(self, epoch: int, step: int) -> Batch:
        raise NotImplementedError

    def _targets(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self._num_classes).float()


class EvalLoader(BatchLoader):
    """Every image exactly once over all ranks, in order, as it is; nothing is padded or dropped.

    Args:
        split: Images and labels, on the device that batches are wanted on.
        num_classes: Columns of ``Batch.targets``.
        batch_size: Images in a global batch; the last may be smaller, or larger by less than
            ``world_size``, so that every rank has at least one image of every batch.
        seed: Seed of the draws made for a batch, such as an attack's start. They are those of epoch
            0 whenever the split is gone through, so that epochs can be compared.
        rank: Which share is ours, from 0.
        world_size: Number of shares.

    Raises:
        UserError: If there are fewer images, or fewer in a batch, than ranks.
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
        total = len(split.labels)
        if min(total, batch_size) < world_size:
            raise UserError(
                f"{total} images in batches of {batch_size} cannot be shared out to {world_size} "
                "processes: use fewer devices, or a larger data.eval_batch_size"
            )
        begins = list(range(0, total, batch_size))
        if total - begins[-1] < world_size:
            begins.pop()
        bounds = list(zip(begins, [*begins[1:], total], strict=True))
        super().__init__(
            split, bounds, num_classes=num_classes, seed=seed, rank=rank, world_size=world_size
        )

    def _batch(self, epoch: int, step: int) -> Batch:
        draws = self._draws(epoch, step)
        begin = self._bounds[step][0]
        start, stop = begin + draws.start, begin + draws.stop
        y = self.split.labels[start:stop]
        return Batch(
            x=laid_out(self.split.images[start:stop].float() / 255),
            targets=self._targets(y),
            y=y,
            index=torch.arange(start, stop, device=y.device),
            draws=draws,
        )


def laid_out(x: Tensor) -> Tensor:
    """The images in channels-last memory format, in which convolutions are faster everywhere."""
    return x.contiguous(memory_format=torch.channels_last)
