"""CIFAR-100, as torchvision leaves it on the disk."""

import os
from typing import ClassVar

from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.official import OWN, OfficialDataModule, read_pickle
from lrm_lightning.runs.records import CLASS_NAMES

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
FOLDER = "cifar-100-python"
# The page of CIFAR-100 gives the archive's MD5 alone; these are torchvision's.
FILES = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


class CIFAR100DataModule(OfficialDataModule):
    """60,000 natural 32x32 RGB images of 100 classes: 50,000 to train and validate, 10,000 to test.

    The classes are the 100 fine ones. Files that are not the official ones are refused, as they are
    pickles. Arguments are those of :class:`~lrm_lightning.data.official.OfficialDataModule`;
    ``root`` is the folder of ``cifar-100-python/``.

    References:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    name, title = "cifar100", "CIFAR-100"
    num_classes = 100
    class_names = CLASS_NAMES["cifar100"]
    downloads: ClassVar = {URL: "eb9058c3a382ffc7106e4002c42a8d85"}
    megabytes = 350
    unpacked = (FOLDER, tuple(FILES))
    folders = (FOLDER,)

    def is_there(self) -> bool:
        return os.path.isdir(self.root / FOLDER)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read and check both files."""
        folder = self.root / FOLDER
        train, test = (
            read_pickle(folder / name, md5, b"fine_labels", OWN) for name, md5 in FILES.items()
        )
        return train, test
