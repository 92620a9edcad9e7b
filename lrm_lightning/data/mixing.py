"""Paired-example augmentation: mixup and VH-mixup.

Each is a pure function of two batches and of the numbers drawn for each pair; the function beside
it draws them. Images are ``(N, C, H, W)``, targets are class weights ``(N, classes)`` and what is
drawn is ``(N,)``.
"""

import numpy as np
import torch
from torch import Tensor

MIXINGS = ("none", "mixup", "vh_mixup")


def draw_mixup(size: int, *, alpha: float, generator: torch.Generator) -> Tensor:
    """Weight in [0, 1] of the first image of each of ``size`` pairs, float32.

    It is from Beta(alpha, alpha), ``alpha`` > 0: 1 is uniform, near 0 hardly mixes.
    """
    # torch samples a Beta only from its global generator
    seed = torch.randint(2**63 - 1, (), generator=generator).item()
    weights = np.random.default_rng(int(seed)).beta(alpha, alpha, size)
    return torch.from_numpy(weights.astype(np.float32))


def mixup(
    x1: Tensor, targets1: Tensor, x2: Tensor, targets2: Tensor, *, weight: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Convex combination of two images and of their targets.

    .. math:: x = m x_1 + (1 - m) x_2, \quad y = m y_1 + (1 - m) y_2

    ``weight`` is :math:`m`, the first image's share, in [0, 1].

    References:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412, Eq. 1.
    """
    targets = torch.lerp(targets2, targets1, weight[:, None])
    return torch.lerp(x2, x1, weight[:, None, None, None]), targets


def draw_vh_mixup(
    size: int, *, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and weight for each of ``size`` pairs of a VH-mixup.

    They are from U{0..height-1} and U{0..width-1}, both int64, and from U(0, 1), float32.
    """
    rows = torch.randint(height, (size,), generator=generator)
    cols = torch.randint(width, (size,), generator=generator)
    return rows, cols, torch.rand(size, generator=generator)


def vh_mixup(
    x1: Tensor,
    targets1: Tensor,
    x2: Tensor,
    targets2: Tensor,
    *,
    rows: Tensor,
    cols: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Mix two images put together vertically with the same two put together horizontally.

    :math:`V` is the top :math:`h` rows of :math:`x_1` over the remaining rows of :math:`x_2`;
    :math:`H_c` the left :math:`w` columns of :math:`x_1` beside the remaining ones of :math:`x_2`.

    .. math::
        x = m V + (1 - m) H_c, \quad y = c y_1 + (1 - c) y_2, \quad
        c = m \frac{h}{H} + (1 - m) \frac{w}{W}

    ``rows`` are :math:`h`, whole numbers in 0..H-1; ``cols`` are :math:`w`, in 0..W-1; ``weight``
    is :math:`m`, in [0, 1].

    References:
        Summers & Dinneen, section 4, "Paired-Example Data Augmentation"; Summers & Dinneen 2019,
        "Improved Mixed-Example Data Augmentation", arXiv:1805.11272.
    """
    height, width = x1.shape[-2:]
    above = torch.arange(height, device=x1.device)[None, :] < rows[:, None]
    beside = torch.arange(width, device=x1.device)[None, :] < cols[:, None]
    m = weight[:, None, None, None]
    # the first image's share of every pixel: V and H_c weigh the same two images
    share = m * above[:, None, :, None] + (1 - m) * beside[:, None, None, :]
    c = weight * rows / height + (1 - weight) * cols / width
    targets = torch.lerp(targets2, targets1, c[:, None].to(targets1.dtype))
    return torch.lerp(x2, x1, share.to(x1.dtype)), targets
