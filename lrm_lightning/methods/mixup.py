"""Mixup as a defence."""

from typing import Any

from torch import nn

from lrm_lightning.methods.regular import Regular


class Mixup(Regular):
    """Clean training on convex combinations of two images and of their labels.

    Args:
        network: The classifier.
        mixing: Kept as a knob so that a sweep can switch it off.
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, section 4; Zhang et al. 2018, arXiv:1710.09412.
    """

    def __init__(self, network: nn.Module, *, mixing: str = "mixup", **shared: Any) -> None:  # noqa: ANN401
        super().__init__(network, mixing=mixing, **shared)
