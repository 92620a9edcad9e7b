"""scikit-learn's handwritten digits in the shape of CIFAR-10: real data without a download."""

from typing import Any

import torch
from torch.nn import functional as F

from lrm_lightning.data.batch import ImageSplit, hold_out
from lrm_lightning.data.datamodule import ImageDataModule
from lrm_lightning.data.randomness import generator
from lrm_lightning.runs.records import CLASS_NAMES

TEST_SIZE = 360


class DigitsDataModule(ImageDataModule):
    """1,797 handwritten digits as 32x32 RGB images: 360 to test on, the rest to train and validate.

    There is no official split; this one is stratified by class and the same for every seed. The
    arguments are those of :class:`~lrm_lightning.data.datamodule.ImageDataModule`; by default
    digits are not mirrored, which would make other characters of them.

    References:
        Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI.
    """

    name = "digits"
    num_classes = 10
    class_names = CLASS_NAMES["digits"]

    def __init__(
        self,
        *,
        val_size: int = 180,
        crop_padding: int = 2,
        flip: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(val_size=val_size, crop_padding=crop_padding, flip=flip, **shared)

    def load(self) -> tuple[ImageSplit, ImageSplit]:
        """Read the digits out of scikit-learn and scale them up four times, bilinearly."""
        from sklearn.datasets import load_digits  # slow to import, and only this source needs it

        pixels, digits = load_digits(return_X_y=True)
        grey = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)
        large = F.interpolate(grey, scale_factor=4, mode="bilinear")
        # every product here is exact in float32, so the bytes are the same on any machine
        images = (large * (255 / 16)).round().to(torch.uint8).expand(-1, 3, -1, -1)
        labels = torch.from_numpy(digits).long()
        train, test = hold_out(labels, TEST_SIZE, generator=generator("digits", "test"))
        return ImageSplit(images[train], labels[train]), ImageSplit(images[test], labels[test])
