"""Training on clean images: regular, and with the knobs that every defence has."""

from torch import Tensor

from lrm_lightning.data import Batch
from lrm_lightning.losses import soft_cross_entropy
from lrm_lightning.methods.base import Defense


class Regular(Defense):
    r"""Cross-entropy on clean images.

    .. math:: J(x) + \beta \lVert f(x) \rVert_2^2

    With every knob at its default only :math:`J` is left, the undefended baseline. Four defences of
    the paper are this class with one knob turned, each a file in ``conf/method``:
    ``label_smoothing`` (``smoothing``, Eq. 8), ``logit_squeezing`` (``squeeze_weight``, on the
    *squared* norm summed over classes; Mosbach et al. 2018, arXiv:1810.12042, weight the norm
    itself), ``mixup`` and ``vh_mixup`` (``mixing``, section 4).

    Arguments are those of :class:`~lrm_lightning.methods.base.Defense`.

    References:
        Summers & Dinneen, Table 1, rows "Regular" and "Label smoothing", and section 4.
    """

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        logits = self(batch.x)
        targets = self.training_targets(batch)
        self.keep_accuracy("clean", logits, targets)
        return self.terms(logits, targets)

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        *_, logits = outputs.split(len(targets))
        classification = soft_cross_entropy(logits, targets)
        return {"clean": classification, **self.squeezing_terms(logits)}
