"""Adversarial training with projected gradient descent (Eq. 1)."""

from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_number
from lrm_lightning.data import Batch
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods.base import Defense


class PGDTraining(Defense):
    r"""Training on the worst case that the attack :math:`g` finds.

    .. math:: \alpha J(x) + (1 - \alpha) J(g(x))
        + \beta \left( \lVert f(x) \rVert_2^2 + \lVert f(g(x)) \rVert_2^2 \right)

    The attack maximises the cross-entropy with the targets of the loss, smoothed and mixed. Clean
    and attacked images go through the network in one batch, so batch norm sees the mixture that its
    running statistics describe; clean images are left out where no term needs them.

    Args:
        network: The classifier.
        alpha: Weight of the clean loss in [0, 1]: 0.5 in the paper's section 3, 0 in section 5.2.
        epochs: The paper's 101 for training on adversarial examples.
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, Eq. 1; Madry et al. 2018, arXiv:1706.06083.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        alpha: float = 0.0,
        epochs: int = 101,
        **shared: Any,
    ) -> None:
        super().__init__(network, epochs=epochs, **shared)
        check_number("alpha", alpha, low=0, high=1)
        self.alpha = alpha

    def pairing_terms(
        self, logits: Tensor, logits_adv: Tensor, adversarial_loss: Tensor
    ) -> dict[str, Tensor]:
        """The weighted loss terms that compare clean with attacked logits, ``(B, C)`` each.

        There are none here; a subclass overrides it. ``adversarial_loss`` is the cross-entropy of
        the attacked images, a scalar.
        """
        return {}

    @property
    def pairs_logits(self) -> bool:
        """Whether the loss has :meth:`pairing_terms`; by default if a subclass overrides them."""
        return type(self).pairing_terms is not PGDTraining.pairing_terms

    def attack_batch(self, batch: Batch, targets: Tensor) -> Tensor:
        """Attacked images, shape ``(B, 3, H, W)``.

        The noise is drawn for the global batch, of which this process takes its rows.
        """
        noise = self.attack.draw_noise(
            (batch.draws.size, *batch.x.shape[1:]),
            generator=batch.draws.generator("attack", batch.x.device),
            device=batch.x.device,
        )
        if noise is None:
            return self.attack(self.network, batch.x, targets)
        start = batch.x + batch.draws.rows(noise, dim=1)
        return self.attack(self.network, batch.x, targets, start=start)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        targets = self.training_targets(batch)
        x_adv = self.attack_batch(batch, targets)
        if not (self.alpha or self.squeeze_weight or self.pairs_logits):
            # No term needs the clean images: one forward pass less.
            return {"adversarial": soft_cross_entropy(self(x_adv), targets)}
        logits, logits_adv = self(torch.cat([batch.x, x_adv])).chunk(2)
        adversarial = soft_cross_entropy(logits_adv, targets)
        terms = {"adversarial": (1 - self.alpha) * adversarial}
        if self.alpha:
            terms["clean"] = self.alpha * soft_cross_entropy(logits, targets)
        terms |= self.squeezing_terms(logits, logits_adv)
        if self.pairs_logits:
            terms |= self.pairing_terms(logits, logits_adv, adversarial)
        return terms
