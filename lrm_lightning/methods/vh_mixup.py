"""VH-mixup as a defence."""

from typing import Any

from torch import nn

from lrm_lightning.methods.regular import Regular


class VHMixup(Regular):
    """Clean training on images mixed vertically and horizontally, then with each other.

    Args:
        network: The classifier.
        mixing: Kept as a knob so that a sweep can switch it off.
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, section 4; Summers & Dinneen 2019, arXiv:1805.11272.
    """

    def __init__(self, network: nn.Module, *, mixing: str = "vh_mixup", **shared: Any) -> None:  # noqa: ANN401
        super().__init__(network, mixing=mixing, **shared)
