"""Guided adversarial training (GAT): one attack step, guided by how far predictions move."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.checks import check_number
from lrm_lightning.data import Batch
from lrm_lightning.losses import cross_entropy
from lrm_lightning.methods.pgd import PGDTraining, Terms


class GuidedTraining(PGDTraining):
    r"""Single-step training whose attack raises the term that the loss lowers.

    .. math:: J(x) + \lambda \lVert p - p' \rVert_2^2

    The attack takes the threat model of ``attack`` and nothing else of it: from a corner of half
    the ball, every pixel moved by plus or minus eps / 2 at random, it makes one step of length eps
    and goes back into the ball. In every second batch of an epoch it raises
    :math:`J(x') + \lambda \lVert p - p' \rVert_2^2`, in the others :math:`J(x')` alone. In L2 the
    start lies eps / 2 away in a random direction; the papers have L-inf only.

    With ``pairing_weight=0`` the loss is that of clean training.

    Args:
        network: The classifier.
        pairing_weight: :math:`\lambda`, at least 0. In the last 14 of 100 epochs the authors take 4
            times that, and so does this.
        alpha: Weight of the clean images' loss; the attacked images' loss has 1 - alpha.
        **shared: Arguments of :class:`~lrm_lightning.methods.pgd.PGDTraining`.

    References:
        Sriramanan et al. 2020, arXiv:2011.14969, section 5, and their code for CIFAR-10,
        val-iisc/GAMA-GAT.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        pairing_weight: float = 10.0,
        alpha: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(network, alpha=alpha, **shared)
        check_number("pairing_weight", pairing_weight, low=0)
        self.pairing_weight = pairing_weight
        self.attack = PGDAttack(
            norm=self.attack.norm,
            eps=self.attack.eps,
            step_size=self.attack.eps,
            steps=1,
            random_start=False,  # draw_noise says where it begins
            bn_mode=getattr(self.attack, "bn_mode", "eval"),
            engine=getattr(self.attack, "engine", "auto"),
        )

    @property
    def weight(self) -> float:
        """The weight of the term in this epoch."""
        return self.pairing_weight * (4 if self.epoch > 0.85 * self.epochs else 1)

    def distance(self, logits: Tensor, logits_adv: Tensor) -> Tensor:
        """How far the attack has moved the predictions: the mean over images, a scalar."""
        moved = logits.softmax(dim=1) - logits_adv.softmax(dim=1)
        return moved.square().sum(dim=1).mean()

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        corner = torch.randn((1, *shape), generator=generator, device=generator.device)
        threat = self.attack.threat
        return threat.eps / 2 * threat.steepest(corner[0])[None]

    def attack_batch(self, batch: Batch, targets: Tensor) -> Tensor:
        clean, weight = self.clean_logits(batch.x), self.weight * (batch.draws.step % 2)

        def raised(logits: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(logits, y) + weight * self.distance(clean, logits)

        attack = replace(self.attack, loss=raised)
        return attack(self.network, batch.x, targets, start=self.start(batch))

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        return {"pairing": self.weight * self.distance(logits, logits_adv)}
