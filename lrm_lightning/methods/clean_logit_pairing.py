"""Clean logit pairing (CLP)."""

from typing import Any

from torch import Tensor, nn

from lrm_lightning.checks import check_choice, check_number
from lrm_lightning.losses import PAIRING_DISTANCES, logit_pairing, soft_cross_entropy
from lrm_lightning.methods.regular import Regular


class CleanLogitPairing(Regular):
    r"""Clean training that pulls the logits of random pairs of clean images together.

    .. math:: J(x) + \lambda L(f(x^{(i)}), f(x^{(j)}))

    The pairs are the neighbours in the batch: the batch is in random order already, and neighbours
    stay together on several devices if each has an even share. An odd image at the end has
    no partner.

    Args:
        network: The classifier.
        pairing_weight: The paper's :math:`\lambda`, at least 0.
        pairing_distance: ``"l2"`` (squared), ``"l1"`` or ``"huber"``, summed over classes (Eq. 9).
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, section 3; Kannan et al. 2018, arXiv:1803.06373.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        pairing_weight: float = 0.05,
        pairing_distance: str = "l2",
        **shared: Any,
    ) -> None:
        super().__init__(network, **shared)
        check_number("pairing_weight", pairing_weight, low=0)
        check_choice("pairing_distance", pairing_distance, PAIRING_DISTANCES)
        self.pairing_weight = pairing_weight
        self.pairing_distance = pairing_distance

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        *_, logits = outputs.split(len(targets))
        terms = {"clean": soft_cross_entropy(logits, targets)}
        pairs = len(logits) // 2
        if self.pairing_weight and pairs:
            first, second = logits[: 2 * pairs : 2], logits[1 : 2 * pairs : 2]
            paired = logit_pairing(first, second, distance=self.pairing_distance)
            terms["pairing"] = self.pairing_weight * paired
        return terms | self.squeezing_terms(logits)
