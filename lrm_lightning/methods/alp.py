"""Adversarial logit pairing (ALP, Eq. 2)."""

from typing import Any

from torch import Tensor, nn

from lrm_lightning.checks import check_choice, check_number
from lrm_lightning.losses import PAIRING_DISTANCES, logit_pairing
from lrm_lightning.methods.pgd import PGDTraining, Terms


class AdversarialLogitPairing(PGDTraining):
    r"""PGD training that also pulls an image's clean and adversarial logits together.

    .. math:: \alpha J(x) + (1 - \alpha) J(g(x)) + \lambda L(f(x), f(g(x)))
        + \beta \left( \lVert f(x) \rVert_2^2 + \lVert f(g(x)) \rVert_2^2 \right)

    With ``pairing_weight=0`` it is :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    Args:
        network: The classifier.
        pairing_weight: The paper's :math:`\lambda`, at least 0. The paper names no value. Public
            code (Google's ALP, Mosbach et al.) weights the distance's mean over images and classes
            by 0.5; the distance here is the sum over classes, so that of ten classes it is 0.05.
        pairing_distance: ``"l2"`` (squared), ``"l1"`` or ``"huber"`` (Eq. 9).
        **shared: Arguments of :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    References:
        Summers & Dinneen, Eq. 2 and 9; Kannan et al. 2018, arXiv:1803.06373, with their code in
        tensorflow/models, adversarial_logit_pairing; Mosbach et al. 2018, arXiv:1810.12042.
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

    @property
    def pairs_logits(self) -> bool:
        return self.pairing_weight > 0

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        paired = logit_pairing(logits, logits_adv, distance=self.pairing_distance)
        return {"pairing": self.pairing_weight * paired}
