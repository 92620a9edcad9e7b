"""Random crop and horizontal flip of a whole batch at once, on whatever device it lies.

Drawing and applying are apart: what was drawn for a global batch can be applied to any of its rows.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def draw_crop(size: int, *, padding: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Top and left corner of a crop for each image: two ``(size,)`` int64 in 0..2 padding."""
    corners = torch.randint(2 * padding + 1, (2, size), generator=generator)
    return corners[0], corners[1]


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: int) -> Tensor:
    """Pad images ``(N, C, H, W)`` with zeros on every side, and cut their size out again.

    ``top`` and ``left`` are the first row and column of each crop in the padded image, ``(N,)``.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 2p+1, 2p+1, H, W)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def draw_flip(size: int, *, generator: torch.Generator) -> Tensor:
    """Whether to flip each of ``size`` images: a fair coin each, shape ``(size,)``, bool."""
    return torch.rand(size, generator=generator) < 0.5


def flip(images: Tensor, flags: Tensor) -> Tensor:
    """Mirror the images ``(N, C, H, W)`` left to right where ``flags`` ``(N,)`` is true."""
    return torch.where(flags[:, None, None, None], images.flip(-1), images)
