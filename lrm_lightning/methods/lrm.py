"""The paper's combination of logit regularization methods (LRM, Eq. 10 and section 5.2)."""

from typing import Any

from torch import Tensor, nn

from lrm_lightning.checks import check_choice, check_flag, check_number
from lrm_lightning.losses import (
    PAIRING_KINDS,
    distribution_pairing,
    ratio_weight,
    soft_cross_entropy,
)
from lrm_lightning.methods.pgd import PGDTraining, Terms


class LogitRegularization(PGDTraining):
    r"""PGD training with smoothing, VH-mixup, squeezing and pairing of distributions.

    ALP's distance does two things: it matches clean to adversarial predictions and shrinks logits.
    Eq. 10 has a term for each:

    .. math:: \alpha J(x) + (1 - \alpha) J(g(x)) + w\, h(f(x), f(g(x)))
        + \beta \left( \lVert f(x) \rVert_2^2 + \lVert f(g(x)) \rVert_2^2 \right)

    where h compares the two softmaxes and w is set anew at every step so that the pairing term is a
    fixed multiple of the adversarial loss (section 4.1), without a gradient through w.

    With ``smoothing=0 squeeze_weight=0 mixing=none pairing_to_adversarial_ratio=0`` it is
    :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    Args:
        network: The classifier.
        pairing_to_adversarial_ratio: Pairing term over adversarial loss, at least 0. Section 5.2
            doesn't say which is divided by which, so its 0.125 may mean 0.125 or 8; section 4.1
            supports 0.125.
        pairing_kind: h: ``"cross_entropy"``, ``"jensen_shannon"`` or ``"cosine"``.
        detach_clean: Whether h takes the clean logits as constants, so that it moves the attacked
            ones alone. With cross-entropy a ratio of 1 or more needs it: otherwise the network
            lowers h by becoming more confident, w grows as h shrinks, and the loss diverges.
        smoothing: s in [0, 1 - 1/C].
        squeeze_weight: The paper's :math:`\beta`.
        mixing: How images are mixed.
        **shared: Arguments of :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    References:
        Summers & Dinneen, Eq. 10, sections 4.1 and 5.2, Table 1, row "LRM".
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        pairing_to_adversarial_ratio: float = 0.125,
        pairing_kind: str = "cross_entropy",
        detach_clean: bool = False,
        smoothing: float = 0.1,
        squeeze_weight: float = 1e-3,
        mixing: str = "vh_mixup",
        **shared: Any,
    ) -> None:
        super().__init__(
            network, smoothing=smoothing, squeeze_weight=squeeze_weight, mixing=mixing, **shared
        )
        check_number("pairing_to_adversarial_ratio", pairing_to_adversarial_ratio, low=0)
        check_choice("pairing_kind", pairing_kind, PAIRING_KINDS)
        check_flag("detach_clean", detach_clean)
        if pairing_kind == "cross_entropy" and pairing_to_adversarial_ratio >= 1 > detach_clean:
            raise ValueError(
                f"pairing_to_adversarial_ratio={pairing_to_adversarial_ratio} must be below 1, or"
                " detach_clean=true: with a gradient through both logits the network lowers the"
                " pairing by becoming more confident, its weight grows, and training ends in NaN"
            )
        self.ratio = pairing_to_adversarial_ratio
        self.pairing_kind = pairing_kind
        self.detach_clean = detach_clean

    @property
    def pairs_logits(self) -> bool:
        return self.ratio > 0

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        clean = logits.detach() if self.detach_clean else logits
        paired = distribution_pairing(clean, logits_adv, kind=self.pairing_kind)
        # Averaged over processes first, so that the ratio is that of the global batch.
        adversarial = soft_cross_entropy(logits_adv, targets)
        loss, pairing = self.mean_over_ranks(adversarial, paired)
        return {"pairing": ratio_weight(loss, pairing, self.ratio) * paired}
