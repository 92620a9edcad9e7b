"""CIFAR-10: reused from disk or downloaded, and never passed off as official when it is not."""

from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from lrm_lightning.checks import check_flag
from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.cifar10_files import Records, fetch, find_layout, read_folder
from lrm_lightning.data.datamodule import CommonSettings, ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.runs.records import CLASS_NAMES


class CIFAR10DataModule(ImageDataModule):
    """60,000 natural 32x32 RGB images of 10 classes: 50,000 to train and validate, 10,000 to test.

    The settings not listed here are those of
    :class:`~lrm_lightning.data.datamodule.ImageDataModule`.

    Args:
        root: Folder of ``cifar-10-batches-bin/`` or ``cifar-10-batches-py/``, now or later.
        require_official: Refuse files whose MD5 is not the official one. Otherwise such files
            are used, and ``official`` and ``note`` say so. Pickles are never exempt.
        download: Whether the official archive may be downloaded if neither folder is there.

    References:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    name = "cifar10"
    num_classes = 10
    class_names = CLASS_NAMES["cifar10"]

    def __init__(
        self,
        root: str | Path = "data",
        *,
        require_official: bool = True,
        download: bool = True,
        val_size: int = 5000,
        crop_padding: int = 4,
        flip: bool = True,
        **common: Unpack[CommonSettings],
    ) -> None:
        super().__init__(val_size=val_size, crop_padding=crop_padding, flip=flip, **common)
        self.root = Path(root).expanduser()
        check_flag("require_official", require_official)
        check_flag("download", download)
        self.require_official = require_official
        self.download = download

    def prepare_data(self) -> None:
        """Fetch the files if they are not there.

        Raises:
            UserError: If they can be neither found nor fetched.
        """
        if find_layout(self.root) is None:
            fetch(self.root, download=self.download)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read and check the six files, which are fetched first if nothing has done so.

        Raises:
            UserError: If a file is missing, damaged, or not official though it is required to be.
        """
        self.prepare_data()
        files = read_folder(self.root)
        if strange := [file.path for file in files if not file.official]:
            if self.require_official:
                raise UserError(
                    f"{strange[0]} does not have its official MD5: set data.require_official=false "
                    "to use it anyway, marked as not official, or delete "
                    f"{strange[0].parent} to have the official files downloaded afresh"
                )
            self.official = False
            self.note = "not the official bytes"
        *train, test = files
        return _join(train), _join([test])


def _join(files: list[Records]) -> ImageSplit:
    images = np.concatenate([file.images for file in files])
    labels = np.concatenate([file.labels for file in files])
    return ImageSplit(torch.from_numpy(images), torch.from_numpy(labels).long())
