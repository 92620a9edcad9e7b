"""The DataModule that every source shares: splits, loaders, provenance."""

import hashlib
from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningDataModule

from lrm_lightning.checks import check_choice, check_flag, check_integer, check_number
from lrm_lightning.data.batch import Batch, ImageSplit
from lrm_lightning.data.loader import BatchLoader, EvalLoader
from lrm_lightning.data.mixing import MIXINGS
from lrm_lightning.data.randomness import generator
from lrm_lightning.data.split import hold_out
from lrm_lightning.data.train_loader import Augmentation, TrainLoader
from lrm_lightning.errors import UserError


class CommonSettings(TypedDict, total=False):
    """Settings whose defaults do not depend on the source; see :class:`ImageDataModule`."""

    batch_size: int
    eval_batch_size: int
    mixing: str
    mixing_alpha: float
    seed: int
    split_seed: int


class ImageDataModule(LightningDataModule):
    """Small images held whole on the training device.

    A source sets the class attributes and implements :meth:`load`. Whatever device and process the
    attached trainer has, the loaders serve; without a trainer it is one process on the CPU.

    Args:
        val_size: Images held out of the training set for validation; 0 trains on all of them.
        crop_padding: Zero border in pixels that random crops are cut from; 0 crops nothing.
        flip: Whether half of the training images are mirrored left to right.
        batch_size: Training images in a global batch, over all processes.
        eval_batch_size: Validation and test images in a global batch.
        mixing: ``"none"``, ``"mixup"`` or ``"vh_mixup"``.
        mixing_alpha: Parameter of mixup's Beta(alpha, alpha), > 0.
        seed: Seed of order, augmentation, mixing, and of the draws that batches name.
        split_seed: Seed of the choice of validation images.

    Raises:
        ValueError: If a setting is out of range.

    Attributes:
        name: Name of the source.
        num_classes: Number of classes.
        class_names: Their names, in the order of the labels.
        official: Whether the bytes are those that everyone else has under this name.
        note: What a reader of a result must know about the data, or nothing.
        fingerprint: SHA-256 in hex over images and labels of the training and the test set.
    """

    name: str = ""
    num_classes: int = 10
    class_names: tuple[str, ...] = ()
    official: bool = True
    note: str = ""

    def __init__(
        self,
        *,
        val_size: int,
        crop_padding: int,
        flip: bool,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        mixing: str = "none",
        mixing_alpha: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_integer("val_size", val_size, low=0)
        check_integer("crop_padding", crop_padding, low=0)
        check_flag("flip", flip)
        check_integer("batch_size", batch_size, low=1)
        check_integer("eval_batch_size", eval_batch_size, low=1)
        check_choice("mixing", mixing, MIXINGS)
        check_number("mixing_alpha", mixing_alpha, above=0)
        check_integer("seed", seed, low=0)
        check_integer("split_seed", split_seed, low=0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.augmentation = Augmentation(crop_padding, flip, mixing, mixing_alpha)
        self.seed = seed
        self.split_seed = split_seed
        self.fingerprint = ""
        self._splits: dict[str, ImageSplit] = {}

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read the training set and the test set into memory, on the CPU.

        Raises:
            UserError: If the source's files are missing, damaged or not what they should be.
        """
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the data and hold out the validation set, once, whatever the ``stage``.

        Raises:
            UserError: If the data cannot be read, or ``val_size`` leaves nothing to train on.
        """
        if self._splits:
            return
        train, test = self.load()
        total = len(train.labels)
        if self.val_size >= total:
            raise UserError(
                f"data.val_size={self.val_size} leaves nothing of the {total} images that "
                f"{self.name} has to train on"
            )
        self.fingerprint = _fingerprint(train, test)
        kept, held_out = hold_out(
            train.labels, self.val_size, generator=generator(self.split_seed, "split")
        )
        self._splits = {
            "train": ImageSplit(train.images[kept], train.labels[kept]),
            "val": ImageSplit(train.images[held_out], train.labels[held_out]),
            "test": test,
        }

    def provenance(self) -> dict[str, Any]:
        """Which data this is, in plain values: what a run's record carries."""
        return {
            "name": self.name,
            "official": self.official,
            "fingerprint": self.fingerprint,
            "note": self.note,
            **{f"n_{name}": len(split.labels) for name, split in self._splits.items()},
        }

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch; the last partial one is dropped."""
        return len(self._splits["train"].labels) // self.batch_size

    def train_dataloader(self) -> BatchLoader:
        """Shuffled, augmented batches of the training split."""
        return TrainLoader(
            self._on_device("train"),
            num_classes=self.num_classes,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed,
            **self._share(),
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """The validation split in a fixed random order; an empty list if none is held out."""
        return self._eval_loader("val") if self.val_size else []

    def test_dataloader(self) -> BatchLoader:
        """The test split in the source's order."""
        return self._eval_loader("test")

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """The batch unchanged: it was made on the device."""
        return batch

    def _eval_loader(self, name: str) -> EvalLoader:
        return EvalLoader(
            self._on_device(name),
            num_classes=self.num_classes,
            batch_size=self.eval_batch_size,
            seed=self.seed,
            **self._share(),
        )

    def _share(self) -> dict[str, int]:
        trainer = self.trainer
        if trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": trainer.global_rank, "world_size": trainer.world_size}

    def _on_device(self, name: str) -> ImageSplit:
        """A split on the trainer's device, moved there once."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        split = ImageSplit(*(tensor.to(device) for tensor in self._splits[name]))
        self._splits[name] = split
        return split


def _fingerprint(*splits: ImageSplit) -> str:
    digest = hashlib.sha256()
    for tensor in (tensor for split in splits for tensor in split):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
