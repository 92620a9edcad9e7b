"""Data sets, the DataModule they share, augmentation and mixing."""

from lrm_lightning.data.batch import Batch, ImageSplit
from lrm_lightning.data.cifar10 import CIFAR10DataModule
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.data.digits import DigitsDataModule

__all__ = ["Batch", "CIFAR10DataModule", "DigitsDataModule", "ImageDataModule", "ImageSplit"]
