"""Data sets, the DataModule they share, augmentation and mixing."""

from lrm_lightning.data.arrays import ArraysDataModule
from lrm_lightning.data.batch import Batch, ImageSplit
from lrm_lightning.data.cifar10 import CIFAR10DataModule
from lrm_lightning.data.cifar100 import CIFAR100DataModule
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.data.digits import DigitsDataModule
from lrm_lightning.data.svhn import SVHNDataModule

__all__ = [
    "ArraysDataModule",
    "Batch",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageSplit",
    "SVHNDataModule",
]
