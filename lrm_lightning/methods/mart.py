"""MART: misclassified images count more."""

from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_number
from lrm_lightning.losses import kl_divergence
from lrm_lightning.methods.pgd import PGDTraining, Terms


class MART(PGDTraining):
    r"""PGD training with a margin, and a divergence that counts where the clean image is doubtful.

    .. math:: -\log p'_y - \log(1 - \max_{k \ne y} p'_k) + \lambda\, KL(p \Vert p') (1 - p_y)

    The three terms are logged as ``adversarial``, ``margin`` and ``pairing``. The attack is PGD's.
    Of soft targets the most probable class is :math:`y` in the margin, and :math:`p_y` is the mean
    of :math:`p` by their weights. The authors' code adds 1e-4 to the margin's :math:`1 - p'_k`;
    here its logarithm is exact.

    Robust accuracy under few steps of PGD is known to flatter MART: compare it by AutoAttack.

    Args:
        network: The classifier.
        pairing_weight: The paper's :math:`\lambda`, at least 0.
        **shared: Arguments of :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    References:
        Wang et al., ICLR 2020, "Improving adversarial robustness requires revisiting misclassified
        examples", Eq. 11, and their code, YisenWang/MART.
    """

    def __init__(self, network: nn.Module, *, pairing_weight: float = 5.0, **shared: Any) -> None:
        super().__init__(network, **shared)
        check_number("pairing_weight", pairing_weight, low=0)
        self.pairing_weight = pairing_weight

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        label = targets.argmax(dim=1, keepdim=True)
        wrong = logits_adv.scatter(1, label, -torch.inf).argmax(dim=1, keepdim=True)
        others = logits_adv.scatter(1, wrong, -torch.inf)  # all classes but the best wrong one
        margin = (logits_adv.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()
        doubt = 1 - (targets * logits.softmax(dim=1)).sum(dim=1)
        paired = (kl_divergence(logits, logits_adv) * doubt).mean()
        return {"margin": (1 - self.alpha) * margin, "pairing": self.pairing_weight * paired}
