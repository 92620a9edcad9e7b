"""Improved Kullback-Leibler training (IKL): TRADES with KL split into two weighted terms."""

from typing import Any

import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_number
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods.pgd import Terms
from lrm_lightning.methods.trades import TRADES


class ImprovedKL(TRADES):
    r"""TRADES with KL decoupled into a weighted MSE of logits and a cross-entropy.

    The gradient of :math:`KL(p \Vert p')` is that of two terms, of which one moves the clean logits
    :math:`z` alone and the other the attacked ones :math:`z'`. IKL lets the first move both, and
    weights it by the mean prediction of the image's class, :math:`s`, instead of its own:

    .. math:: J(x) + \frac{a}{4} \sum_{i,j} s_i s_j
        \left( (z_i - z_j) - (z'_i - z'_j) \right)^2 - b \sum_i p_i \log p'_i

    with :math:`p` constant in the last term. As :math:`s` sums to 1, the middle term is
    :math:`\frac{a}{2}` times the variance of :math:`z - z'` under :math:`s`. That of a class is the
    mean of :math:`\mathrm{softmax}(z / T)` over the clean images of the class in the epoch before;
    in the first epoch it is uniform. It is kept in checkpoints. The attack is TRADES'.

    Args:
        network: The classifier.
        mse_weight: :math:`a`, at least 0.
        pairing_weight: :math:`b`, at least 0.
        temperature: :math:`T`, above 0.
        **shared: Arguments of :class:`~lrm_lightning.methods.trades.TRADES`.

    References:
        Cui et al. 2023, arXiv:2305.13948, section 3, and their code for CIFAR, jiequancui/DKL
        (DKLv1/Adv-training-dkl), whose weights are the defaults.
    """

    class_means: Tensor  # s of each class, shape (C, C)
    class_sums: Tensor  # what this epoch has added up so far, shape (C, C)

    def __init__(
        self,
        network: nn.Module,
        *,
        mse_weight: float = 20.0,
        pairing_weight: float = 4.0,
        temperature: float = 4.0,
        **shared: Any,
    ) -> None:
        super().__init__(network, pairing_weight=pairing_weight, **shared)
        check_number("mse_weight", mse_weight, low=0)
        check_number("temperature", temperature, above=0)
        self.mse_weight = mse_weight
        self.temperature = temperature
        shape = (self.num_classes, self.num_classes)
        self.register_buffer("class_means", torch.full(shape, 1 / self.num_classes))
        self.register_buffer("class_sums", torch.zeros(shape))

    @property
    def pairs_logits(self) -> bool:
        return True  # they count the class means too

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        predicted = (logits.detach() / self.temperature).softmax(dim=1)
        self._seen = (targets[:, :, None] * predicted[:, None, :]).sum(dim=0)
        s = (targets[:, :, None] * self.class_means).sum(dim=1)
        apart = logits - logits_adv
        centred = apart - (s * apart).sum(dim=1, keepdim=True)
        variance = (s * centred.square()).sum(dim=1).mean()
        crossed = soft_cross_entropy(logits_adv, logits.detach().softmax(dim=1))
        return {"mse": self.mse_weight / 2 * variance, "pairing": self.pairing_weight * crossed}

    def on_after_backward(self) -> None:
        # Not in pairing_terms, which adversarial weight perturbation calls twice a batch.
        self.class_sums += self.mean_over_ranks(self._seen)[0]

    def on_train_epoch_end(self) -> None:
        totals = self.class_sums.sum(dim=1, keepdim=True)
        seen = totals > 0
        means = self.class_sums / torch.where(seen, totals, 1)
        self.class_means.copy_(torch.where(seen, means, self.class_means))
        self.class_sums.zero_()
