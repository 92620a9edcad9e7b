"""What the data layer hands out: a split of images, and one batch of it."""

from typing import NamedTuple

from torch import Tensor

from lrm_lightning.data.randomness import Draws


class ImageSplit(NamedTuple):
    """Images and labels, all in memory on one device.

    Attributes:
        images: Pixels 0 to 255, shape ``(N, 3, H, W)``, uint8.
        labels: Classes, shape ``(N,)``, int64.
    """

    images: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """One rank's rows of a global batch.

    Attributes:
        x: Pixels in [0, 1], shape ``(b, 3, H, W)``, float32.
        targets: Class weights, shape ``(b, C)``, float32. Rows sum to 1; one-hot unless mixed.
        y: Label of the first image of the mix, shape ``(b,)``, int64.
        index: Position of that image in its split, shape ``(b,)``, int64.
        draws: Names the random draws that belong to this batch, and our rows of them.
    """

    x: Tensor
    targets: Tensor
    y: Tensor
    index: Tensor
    draws: Draws
