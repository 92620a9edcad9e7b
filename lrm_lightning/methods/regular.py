"""Ordinary training: no defence at all."""

from torch import Tensor

from lrm_lightning.data import Batch
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods.base import Defense


class Regular(Defense):
    r"""Cross-entropy on clean images, the undefended baseline.

    .. math:: J(x) + \beta \lVert f(x) \rVert_2^2

    With every knob at its default only :math:`J` is left. Arguments are those of
    :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, Table 1, row "Regular".
    """

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Classification and, if asked for, squeezing."""
        logits = self(batch.x)
        classification = soft_cross_entropy(logits, self.training_targets(batch))
        return {"clean": classification, **self.squeezing_terms(logits)}
