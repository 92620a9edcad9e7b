"""Label smoothing (Eq. 8)."""

from typing import Any

from torch import nn

from lrm_lightning.methods.regular import Regular


class LabelSmoothing(Regular):
    """Clean training on smoothed labels: 1 - s on the label, s / (C - 1) on every other class.

    Args:
        network: The classifier.
        smoothing: s in [0, 1 - 1/C].
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, Eq. 8 and Table 1; Szegedy et al. 2016, arXiv:1512.00567.
    """

    def __init__(self, network: nn.Module, *, smoothing: float = 0.75, **shared: Any) -> None:  # noqa: ANN401
        super().__init__(network, smoothing=smoothing, **shared)
