"""The DataModule that every data set shares: splits, loaders, provenance."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lrm_lightning.checks import check_flag, check_integer
from lrm_lightning.data.batch import Batch, ImageSplit, hold_out
from lrm_lightning.data.loader import Augmentation, BatchLoader, EvalLoader, TrainLoader
from lrm_lightning.data.randomness import generator
from lrm_lightning.errors import UserError
from lrm_lightning.runs.records import CLASS_NAMES


class ImageDataModule(LightningDataModule, ABC):
    """Small images held whole on the training device; to be subclassed, one data set a file.

    A data set is one class and one file in ``conf/data``. The class sets ``name``, ``num_classes``,
    ``class_names`` and, where it isn't 3, ``in_channels``, and implements :meth:`load`, which is
    all it needs::

        class Shapes(ImageDataModule):
            name, num_classes, class_names = "shapes", 2, ("circle", "square")

            def load(self):
                return ImageSplit(images, labels), ImageSplit(test_images, test_labels)

    The file names the class as ``_target_``, repeats ``name``, and gives the settings below and
    those of a constructor of its own. Files that have to be fetched are fetched in :meth:`fetch`.
    Whatever device and process the attached trainer has, the loaders serve; without a trainer that
    is one process on the CPU.

    Args:
        val_size: Images held out of the training set for validation; 0 trains on all of them.
        crop_padding: Zero border in pixels that random crops are cut from; 0 crops nothing.
        flip: Whether half of the training images are mirrored left to right.
        batch_size: Training images in a global batch, over all processes.
        eval_batch_size: Validation and test images in a global batch.
        seed: Seed of order, augmentation, mixing, and of the draws that batches name.
        split_seed: Seed of the choice of validation images.

    Raises:
        ValueError: If a setting is out of range.
    """

    name: str = ""
    num_classes: int = 10
    in_channels: int = 3  # of an image
    class_names: tuple[str, ...] = ()  # in the order of the labels
    official: bool = True  # whether the bytes are those that everyone else has under this name
    note: str = ""  # what a reader of a result must know about the data

    def __init__(
        self,
        *,
        val_size: int = 5000,
        crop_padding: int = 4,
        flip: bool = True,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_integer("val_size", val_size, low=0)
        check_integer("crop_padding", crop_padding, low=0)
        check_flag("flip", flip)
        check_integer("batch_size", batch_size, low=1)
        check_integer("eval_batch_size", eval_batch_size, low=1)
        check_integer("seed", seed, low=0)
        check_integer("split_seed", split_seed, low=0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.augmentation = Augmentation(crop_padding, flip)  # a defence sets the mixing
        self.seed = seed
        self.split_seed = split_seed
        self.fingerprint = ""  # SHA-256 in hex over images and labels of training and test set
        self._splits: dict[str, ImageSplit] = {}

    def fetch(self) -> None:
        """Put onto this machine what :meth:`load` reads, unless it is there.

        Every process of a run calls it, several at once perhaps.
        """

    @abstractmethod
    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read training and test set into memory, on the CPU; a damaged file is a UserError."""

    def prepare_data(self) -> None:
        """Fetch the data; once they are in memory, nothing depends on files any more."""
        if not self._splits:
            self.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the data and hold out the validation set, once, whatever the ``stage``."""
        if self._splits:
            return
        self.prepare_data()
        train, test = self.load()
        for split in (train, test):
            self._check(split)
        total = len(train.labels)
        if self.val_size >= total:
            left = f"leaves nothing of the {total} images that {self.name} has to train on"
            raise UserError(f"data.val_size={self.val_size} {left}; make it smaller")
        self.fingerprint = _fingerprint(train, test)
        source = generator(self.split_seed, "split")
        kept, held_out = hold_out(train.labels, self.val_size, generator=source)
        self._splits = {
            "train": ImageSplit(train.images[kept], train.labels[kept]),
            "val": ImageSplit(train.images[held_out], train.labels[held_out]),
            "test": test,
        }

    def _check(self, split: ImageSplit) -> None:
        """Raise a UserError unless the images and labels are what the networks are built for."""
        (images, labels), kind = split, type(self).__name__
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise UserError(
                f"{kind}.load() gave images of {images.dtype} and labels of {labels.dtype}; they"
                " must be torch.uint8, pixels from 0 to 255, and torch.int64"
            )
        if not len(labels) or labels.shape != images.shape[:1]:
            raise UserError(
                f"{kind}.load() gave images of shape {tuple(images.shape)} and labels of shape"
                f" {tuple(labels.shape)}; there must be at least one image, and a label for each"
            )
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UserError(
                f"{kind} has images of shape {tuple(images.shape)}, not (N, channels, H, W) with"
                f" in_channels={self.in_channels}; set in_channels in the class"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"{kind} has labels from {low} to {high}, but num_classes={self.num_classes}; set"
                " num_classes in the class"
            )

    def provenance(self) -> dict[str, Any]:
        """Which data this is, in plain values: what a run's record carries."""
        return {
            "name": self.name,
            "official": self.official,
            "fingerprint": self.fingerprint,
            "note": self.note,
            **({} if self.name in CLASS_NAMES else {"class_names": list(self.class_names)}),
            **{f"n_{name}": len(split.labels) for name, split in self._splits.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the data."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with a training on other data than these, which have been read."""
        if state_dict["fingerprint"] not in ("", self.fingerprint):
            raise UserError(
                f"these are not the {self.name} data that the run was trained on (SHA-256"
                f" {self.fingerprint[:8]}, not {state_dict['fingerprint'][:8]}): give it those,"
                " another hydra.run.dir=..., or rerun=true to train it again on these"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch; the last partial one is dropped."""
        return len(self._splits["train"].labels) // self.batch_size

    def train_dataloader(self) -> BatchLoader:
        settings = {"batch_size": self.batch_size, "augmentation": self.augmentation}
        # Overfitting takes the first batches of an epoch, which have to be the same ones.
        same_epoch = bool(getattr(self.trainer, "overfit_batches", 0))
        return self._loader(TrainLoader, "train", same_epoch=same_epoch, **settings)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """The validation split in a fixed random order; an empty list if none is held out."""
        if not self.val_size:
            return []
        return self._loader(EvalLoader, "val", batch_size=self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """The test split in the data set's order."""
        return self._loader(EvalLoader, "test", batch_size=self.eval_batch_size)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """The batch unchanged: it was made on the device."""
        return batch

    def _loader(self, loader: type[BatchLoader], split: str, **settings: Any) -> BatchLoader:
        trainer = self.trainer
        return loader(
            self._on_device(split),
            num_classes=self.num_classes,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            **settings,
        )

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
