"""SCORE: squared errors of predictions, of which a part is allowed."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.checks import check_number
from lrm_lightning.data import Batch
from lrm_lightning.methods.pgd import Terms
from lrm_lightning.methods.trades import TRADES


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Each image's :math:`\lVert p - t \rVert_2^2` of predictions and targets, ``(B,)``."""
    return (logits.softmax(dim=1) - targets).square().sum(dim=1)


class SCORE(TRADES):
    r"""TRADES with squared errors in place of cross-entropy and KL, of which a part is allowed.

    .. math:: \max\left(\lVert p - t \rVert_2^2 + \beta \lVert p - p' \rVert_2^2 - b,\ 0\right),
        \qquad b = c^2 + \frac{c^2}{C - 1}

    for each image, with its targets :math:`t`. The attack raises :math:`\lVert p - p' \rVert_2^2`
    in :math:`x'`, where :math:`p` is constant, from where TRADES' begins. The bound :math:`b` is
    the squared error of a prediction that gives the right class :math:`1 - c` and the others equal
    shares: an image whose error is lower is not trained on.

    Args:
        network: The classifier.
        pairing_weight: The authors' :math:`\beta`, at least 0.
        clip: c in [0, 1]; 0 trains on every image.
        alpha: Weight of the clean images' squared error; the attacked images' has 1 - alpha.
        **shared: Arguments of :class:`~lrm_lightning.methods.trades.TRADES`.

    Raises:
        ValueError: If ``attack`` is none of PGD, whose loss can be chosen.

    References:
        Pang et al. 2022, arXiv:2202.10103, section 5.2, and their code without generated images,
        P2333/SCORE, whose learning rate is half that of their TRADES.
    """

    def __init__(self, network: nn.Module, *, clip: float = 0.3, **shared: Any) -> None:
        super().__init__(network, **shared)
        check_number("clip", clip, low=0, high=1)
        if not isinstance(self.attack, PGDAttack):
            other = f"which {self.attack.name} can't: take PGD, such as attack=linf"
            raise ValueError(f"SCORE raises a loss of its own, {other}")
        self.clip = clip

    @property
    def pairs_logits(self) -> bool:
        return True  # the bound is of the sum, so clean images are always needed

    def attack_batch(self, batch: Batch, targets: Tensor) -> Tensor:
        attack = replace(self.attack, loss=squared_error)
        predictions = self.clean_logits(batch.x).softmax(dim=1)
        return attack(self.network, batch.x, predictions, start=self.start(batch))

    def terms(self, outputs: Tensor, targets: Tensor) -> Terms:
        logits, logits_adv = outputs.split(len(targets))
        error = self.pairing_weight * squared_error(logits_adv, logits.softmax(dim=1))
        error = error + self.alpha * squared_error(logits, targets)
        error = error + (1 - self.alpha) * squared_error(logits_adv, targets)
        bound = self.clip**2 * self.num_classes / (self.num_classes - 1)
        terms = {"squared_error": (error - bound).relu().mean()}
        return terms | self.squeezing_terms(logits, logits_adv)
