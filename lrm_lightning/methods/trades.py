"""TRADES: the clean loss, and how far the attack can move the prediction."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_number
from lrm_lightning.data import Batch
from lrm_lightning.losses import kl_divergence
from lrm_lightning.methods.pgd import PGDTraining, Terms

# Standard deviation of the noise in which attacks begin: at the clean images KL has no gradient.
START = 0.001


class TRADES(PGDTraining):
    r"""Training whose attack raises the divergence that the loss lowers.

    .. math:: J(x) + \beta\, KL(p \Vert p'), \qquad p = \mathrm{softmax}(f(x)),
        \quad p' = \mathrm{softmax}(f(x'))

    The attack raises :math:`KL(p \Vert p')` in :math:`x'`, where :math:`p` is constant. It is given
    :math:`p` as the targets: the cross-entropy with them differs from KL by their entropy, which
    has no gradient. The authors' code lets clean and attacked images pass batch norm one after the
    other; here they are one batch, as in all methods.

    With ``pairing_weight=0`` the loss is that of clean training.

    Args:
        network: The classifier.
        pairing_weight: The authors' :math:`\beta` (the paper's :math:`1 / \lambda`), at least 0.
        alpha: Weight of the clean images' loss; the attacked images' loss has 1 - alpha.
        **shared: Arguments of :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    References:
        Zhang et al. 2019, arXiv:1901.08573, Eq. 5 and Algorithm 1, and their code,
        yaodongyu/TRADES.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        pairing_weight: float = 6.0,
        alpha: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(network, alpha=alpha, **shared)
        check_number("pairing_weight", pairing_weight, low=0)
        self.pairing_weight = pairing_weight

    @property
    def pairs_logits(self) -> bool:
        return self.pairing_weight > 0

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        searches = getattr(self.attack, "restarts", 1)
        device = generator.device
        return START * torch.randn((searches, *shape), generator=generator, device=device)

    def attack_batch(self, batch: Batch, targets: Tensor) -> Tensor:
        return super().attack_batch(batch, self.clean_logits(batch.x).softmax(dim=1))

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        return {"pairing": self.pairing_weight * kl_divergence(logits, logits_adv).mean()}
