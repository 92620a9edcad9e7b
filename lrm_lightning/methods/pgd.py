"""Adversarial training with projected gradient descent (Eq. 1), and adversarial weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lrm_lightning.attacks import attack_mode
from lrm_lightning.checks import check_number
from lrm_lightning.data import Batch
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods.base import Defense

Terms = dict[str, Tensor]


class PGDTraining(Defense):
    r"""Training on the worst case that the attack :math:`g` finds.

    .. math:: \alpha J(x) + (1 - \alpha) J(g(x))
        + \beta \left( \lVert f(x) \rVert_2^2 + \lVert f(g(x)) \rVert_2^2 \right)

    The attack gets the targets of the loss, mixed and smoothed; PGD maximises their cross-entropy.
    Clean and attacked images pass the network in one batch, so batch norm normalises both with the
    statistics that it records; clean images are left out where no term needs them.

    Args:
        network: The classifier.
        alpha: Weight of the clean loss in [0, 1]: 0.5 in the paper's section 3, 0 in section 5.2.
        awp: Size of the adversarial weight perturbation (AWP), at least 0; 0 is none. The loss is
            that of the kernels :math:`w_l + v_l`, where :math:`v_l` raises it and has ``awp`` times
            the norm of :math:`w_l`, in every layer :math:`l`; so are the accuracies that are logged
            as it trains. The authors take 0.01 for PGD training and 0.005 for TRADES.
        epochs: The paper's 101 for training on adversarial examples.
        **shared: Arguments of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, Eq. 1; Madry et al. 2018, arXiv:1706.06083; AWP: Wu et al. 2020,
        arXiv:2004.05884, Eq. 8 to 10, with one step, and their code, csdongxian/AWP.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        alpha: float = 0.0,
        awp: float = 0.0,
        epochs: int = 101,
        **shared: Any,
    ) -> None:
        super().__init__(network, epochs=epochs, **shared)
        check_number("alpha", alpha, low=0, high=1)
        check_number("awp", awp, low=0)
        self.alpha = alpha
        self.awp = awp

    def pairing_terms(self, logits: Tensor, logits_adv: Tensor, targets: Tensor) -> Terms:
        """The weighted loss terms that compare clean with attacked logits, ``(B, C)`` each.

        There are none here; a subclass overrides it. ``targets`` are those of the loss, ``(B, C)``.
        """
        return {}

    @property
    def pairs_logits(self) -> bool:
        """Whether the loss has :meth:`pairing_terms`; by default if a subclass overrides them."""
        return type(self).pairing_terms is not PGDTraining.pairing_terms

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor | None:
        """Noise whose sum with clean images is where searches begin: the attack's own.

        Arguments and result are those of :meth:`~lrm_lightning.attacks.Attack.draw_noise`.
        """
        return self.attack.draw_noise(shape, generator=generator, device=generator.device)

    def start(self, batch: Batch) -> Tensor | None:
        """Where searches begin, shape ``(searches, *x.shape)``; ``None`` is at the clean images.

        The noise is drawn for the global batch, of which this process takes its rows.
        """
        shape = (batch.draws.size, *batch.x.shape[1:])
        noise = self.draw_noise(shape, batch.draws.generator("attack", batch.x.device))
        return None if noise is None else batch.x + batch.draws.rows(noise, dim=1)

    def attack_batch(self, batch: Batch, targets: Tensor) -> Tensor:
        """Attacked images, shape ``(B, channels, H, W)``."""
        return self.attack(self.network, batch.x, targets, start=self.start(batch))

    def clean_logits(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)`` of clean images as an attack sees the network, without a graph."""
        with attack_mode(self.network, getattr(self.attack, "bn_mode", "eval")), torch.no_grad():
            return self.network(x).to(x.dtype)

    def loss_terms(self, batch: Batch) -> Terms:
        targets = self.training_targets(batch)
        x_adv = self.attack_batch(batch, targets)
        clean = self.alpha or self.squeeze_weight or self.pairs_logits
        # Where no term needs the clean images, they don't pass the network.
        x = torch.cat([batch.x, x_adv]) if clean else x_adv
        if not self.awp:
            return self._terms(self(x), targets)

        def terms(state: Mapping[str, Tensor]) -> Terms:
            return self._terms(functional_call(self.network, dict(state), (x,)), targets)

        return terms(self.perturbed_kernels(terms))

    def perturbed_kernels(self, terms: Callable[[Mapping[str, Tensor]], Terms]) -> Terms:
        """The kernels by name, each moved by ``awp`` times its norm to where the loss is higher.

        The network itself is not touched, so that nothing has to be restored; the moved kernels
        hand their gradient on to its own. ``terms`` gives the loss's terms of a network in which
        the tensors that it is given replace parameters and buffers of the same names.
        """
        kernels = {name: each for name, each in self.network.named_parameters() if each.ndim > 1}
        # Batch norm records the statistics of the pass that trains, not of this one.
        copies = {name: each.clone() for name, each in self.network.named_buffers()}
        loss = torch.stack(list(terms(copies).values())).sum()
        found = torch.autograd.grad(loss, list(kernels.values()), materialize_grads=True)
        moved = {}
        for (name, kernel), own in zip(kernels.items(), found, strict=True):
            (gradient,) = self.mean_over_ranks(own)
            length = gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)
            moved[name] = kernel + self.awp * kernel.detach().norm() * (gradient / length)
        return moved

    def _terms(self, outputs: Tensor, targets: Tensor) -> Terms:
        *clean, logits_adv = outputs.split(len(targets))
        self.keep_accuracy("adv", logits_adv, targets)
        for logits in clean:
            self.keep_accuracy("clean", logits, targets)
        return self.terms(outputs, targets)

    def terms(self, outputs: Tensor, targets: Tensor) -> Terms:
        *clean, logits_adv = outputs.split(len(targets))
        terms: Terms = {}
        if self.alpha < 1:
            adversarial = soft_cross_entropy(logits_adv, targets)
            terms["adversarial"] = (1 - self.alpha) * adversarial
        for logits in clean:
            if self.alpha:
                terms["clean"] = self.alpha * soft_cross_entropy(logits, targets)
            terms |= self.squeezing_terms(logits, logits_adv)
            if self.pairs_logits:
                terms |= self.pairing_terms(logits, logits_adv, targets)
        return terms
