"""CIFAR-10: reused from disk or downloaded, read only if its files are what they claim to be."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lrm_lightning.checks import check_flag
from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.official import (
    OWN,
    OfficialDataModule,
    afresh,
    read,
    read_pickle,
    split_of_planes,
)
from lrm_lightning.errors import UserError
from lrm_lightning.runs.records import CLASS_NAMES

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
RECORDS = 10_000  # images in each file
PIXELS = 3 * 32 * 32  # bytes of an image

BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
# The files of each layout, training first, and their official MD5s. The page of CIFAR-10 gives the
# archives' alone: those of the pickles are torchvision's; those of the binary files are what two
# unrelated loaders, in C++ and in Go, agree on.
FILES = {
    BINARY: {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    PICKLED: {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
}


class CIFAR10DataModule(OfficialDataModule):
    """60,000 natural 32x32 RGB images of 10 classes: 50,000 to train and validate, 10,000 to test.

    Args:
        root: Folder of ``cifar-10-batches-bin/`` or ``cifar-10-batches-py/``, now or later; the
            former is read if both are there.
        require_official: Refuse files whose MD5 is not the official one. Otherwise such files
            are used, and ``official`` and ``note`` say so. Pickles are never exempt.
        download: Whether the official archive may be downloaded if neither folder is there.
        **shared: Arguments of :class:`~lrm_lightning.data.datamodule.ImageDataModule`.

    References:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    name, title = "cifar10", "CIFAR-10"
    num_classes = 10
    class_names = CLASS_NAMES["cifar10"]
    downloads: ClassVar = {URL: "c32a1d4ab5d03f1284b67883e8d87530"}
    megabytes = 350
    unpacked = (BINARY, tuple(FILES[BINARY]))
    folders = tuple(FILES)

    def __init__(
        self,
        root: str | Path = "data",
        *,
        require_official: bool = True,
        download: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(root, download=download, **shared)
        check_flag("require_official", require_official)
        self.require_official = require_official

    def is_there(self) -> bool:
        return self._layout() is not None

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read and check the six files."""
        layout = self._layout()
        assert layout is not None
        parts = [
            self._records(self.root / layout / name, md5)
            if layout == BINARY
            else read_pickle(
                self.root / layout / name, md5, b"labels", f"bring the data as {BINARY}/"
            )
            for name, md5 in FILES[layout].items()
        ]
        images, labels = (torch.cat(each) for each in zip(*parts[:-1], strict=True))
        return ImageSplit(images, labels), parts[-1]

    def _layout(self) -> str | None:
        return next((folder for folder in FILES if os.path.isdir(self.root / folder)), None)

    def _records(self, path: Path, md5: str) -> ImageSplit:
        """A binary file's images and labels: records of one label byte and 3,072 pixel bytes."""
        mend = afresh(path.parent)
        raw, found = read(path, mend)
        expected = RECORDS * (1 + PIXELS)
        if len(raw) != expected:
            wrong = "truncated" if len(raw) < expected else "too long"
            sizes = f"{len(raw)} bytes where {expected} are expected"
            raise UserError(f"{path} is {wrong}: {sizes}; {mend}, or {OWN}")
        records = np.frombuffer(raw, dtype=np.uint8).reshape(RECORDS, 1 + PIXELS)
        if records[:, 0].max() > 9:
            first = int(np.argmax(records[:, 0] > 9))
            label = f"record {first} has label {records[first, 0]} where 0 to 9 are possible"
            raise UserError(f"{path} is damaged: {label}; {mend}, or {OWN}")
        if found != md5:
            if self.require_official:
                raise UserError(
                    f"{path} does not have its official MD5: set data.require_official=false to use"
                    f" it anyway, marked as not official, or {mend}"
                )
            self.official, self.note = False, "not the official bytes"
        return split_of_planes(records[:, 1:], records[:, 0])
