"""SVHN, cropped digits: the MATLAB files of its authors."""

import io
import os
from typing import Any, ClassVar

import numpy as np
import torch

from lrm_lightning.data.batch import ImageSplit
from lrm_lightning.data.official import OWN, OfficialDataModule, afresh, read
from lrm_lightning.errors import UserError
from lrm_lightning.runs.records import CLASS_NAMES

URL = "http://ufldl.stanford.edu/housenumbers"
# The page of SVHN gives no hashes; these are torchvision's.
FILES = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


class SVHNDataModule(OfficialDataModule):
    """House numbers, 32x32 RGB: 73,257 digits to train and validate, 26,032 to test.

    The third set of the authors, "extra", is not used. Files that are not the official ones are
    refused. Arguments are those of :class:`~lrm_lightning.data.official.OfficialDataModule`, with
    ``root`` the folder of both files; by default digits are not mirrored, which would make other
    characters of them.

    References:
        Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning".
    """

    name, title = "svhn", "SVHN"
    num_classes = 10
    class_names = CLASS_NAMES["svhn"]
    downloads: ClassVar = {f"{URL}/{name}": md5 for name, md5 in FILES.items()}
    megabytes = 250

    def __init__(self, *args: Any, flip: bool = False, **shared: Any) -> None:
        super().__init__(*args, flip=flip, **shared)

    def is_there(self) -> bool:
        return all(os.path.exists(self.root / name) for name in FILES)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read and check both files."""
        from scipy.io import loadmat  # slow to import, and only this source needs it

        splits = []
        for name, md5 in FILES.items():
            path = self.root / name
            raw, found = read(path, afresh(path))
            if found != md5:
                wrong = f"{path} has MD5 {found}, not the official {md5}"
                raise UserError(f"{wrong}: {afresh(path)}, or {OWN}")
            content = loadmat(io.BytesIO(raw), variable_names=("X", "y"))
            # pixels are (row, column, channel, image), and the digit 0 has label 10
            images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
            labels = content["y"].reshape(-1).astype(np.int64) % 10
            splits.append(ImageSplit(torch.from_numpy(images), torch.from_numpy(labels)))
        train, test = splits
        return train, test
