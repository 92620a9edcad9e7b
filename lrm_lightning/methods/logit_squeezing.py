"""Logit squeezing on clean images."""

from typing import Any

from torch import nn

from lrm_lightning.methods.regular import Regular


class LogitSqueezing(Regular):
    r"""Clean training with a penalty on the squared norm of the logits.

    .. math:: J(x) + \beta \lVert f(x) \rVert_2^2

    Args:
        network: The classifier.
        squeeze_weight: The paper's :math:`\beta`, on the *squared* norm summed over classes.
            (Mosbach et al. 2018, arXiv:1810.12042, weight the norm itself; that is another scale.)
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, section 3; Kannan et al. 2018, arXiv:1803.06373.
    """

    def __init__(self, network: nn.Module, *, squeeze_weight: float = 0.05, **shared: Any) -> None:  # noqa: ANN401
        super().__init__(network, squeeze_weight=squeeze_weight, **shared)
