"""Nuclear norm adversarial training (NuAT): the batch's logits may move in few directions only."""

from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.methods.gat import GuidedTraining


class NuclearNormTraining(GuidedTraining):
    r"""Guided training by the nuclear norm of how the logits of a batch move.

    .. math:: J(x) + \frac{\lambda}{B} \lVert Z - Z' \rVert_*

    with the logits of the :math:`B` images as rows of :math:`Z`, and of the attacked ones as rows
    of :math:`Z'`. The norm is the sum of the singular values. Several processes each take it of
    their own images. The attack is that of :class:`~lrm_lightning.methods.gat.GuidedTraining` with
    this term.

    Args:
        network: The classifier.
        pairing_weight: :math:`\lambda` at the end, at least 0. It rises linearly from 0 in the
            first epoch until 90% of the epochs are over, as the authors' does.
        **shared: Other arguments of :class:`~lrm_lightning.methods.gat.GuidedTraining`.

    References:
        Sriramanan et al., NeurIPS 2021, "Towards efficient and effective adversarial training",
        section 4, and their code for CIFAR-10, val-iisc/NuAT.
    """

    def __init__(self, network: nn.Module, *, pairing_weight: float = 4.5, **shared: Any) -> None:
        super().__init__(network, pairing_weight=pairing_weight, **shared)

    @property
    def weight(self) -> float:
        return self.pairing_weight * min(1.0, self.epoch / (0.9 * self.epochs))

    def distance(self, logits: Tensor, logits_adv: Tensor) -> Tensor:
        moved = logits - logits_adv
        # Singular values are not to be had in half precision.
        precise = moved.to(torch.promote_types(moved.dtype, torch.float32))
        return torch.linalg.matrix_norm(precise, ord="nuc") / len(moved)
