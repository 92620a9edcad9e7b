"""What logit regularisation does to the logits: their size, and how much of a pairing is squeezing.

Functions answer for one batch, and raise ``ValueError`` if shapes are not as they say. The two
metrics add up over batches and processes, in float64, and answer exactly for the whole evaluation;
before their first update they answer NaN.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from lrm_lightning.losses import check_logits, check_same_shape


def pairing_assumption(logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
    r"""Share of (image, class) pairs in which the attack moved the logit the way it wants to.

    The analysis of Eq. 4-5 assumes :math:`l_y > \tilde l_y` for the label and
    :math:`l_c < \tilde l_c` for every other class; only then does pairing pull clean logits down
    on the label and up elsewhere.

    Args:
        logits: Clean logits ``l``, shape ``(B, C)``.
        logits_adv: Logits of the attacked images, shape ``(B, C)``.
        y: Labels, shape ``(B,)``.

    Returns:
        Scalar in [0, 1]: the mean over ``B * C`` pairs. Equal logits don't meet the assumption.
    """
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    if y.shape != logits.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; it must be ({len(logits)},)")
    is_label = y.unsqueeze(1) == torch.arange(logits.shape[1], device=y.device)
    met = torch.where(is_label, logits > logits_adv, logits < logits_adv)
    return met.double().mean()


def pairing_gradient(logits: Tensor, logits_adv: Tensor) -> Tensor:
    r"""Gradient of each image's own pairing loss with respect to its clean logits (Eq. 4-5).

    .. math:: \frac{\partial}{\partial l} \lVert l - \tilde l \rVert_2^2 = 2 (l - \tilde l)

    All shapes are ``(B, C)``. The gradient with respect to the attacked logits is the negative.
    Divide by ``B`` for that of the batch's mean.
    """
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    return 2 * (logits - logits_adv)


def pairing_scale_gradient(logits: Tensor, logits_adv: Tensor, scale: float = 1.0) -> Tensor:
    r"""Gradient of the pairing loss with respect to a scale that all logits share (Eq. 6-7).

    .. math:: \frac{\partial}{\partial \gamma} \lVert \gamma l - \gamma \tilde l \rVert_2^2
        = 2 \gamma \lVert l - \tilde l \rVert_2^2 \ge 0

    It is never negative for a positive scale: whatever else it does, pairing shrinks the logits.

    Args:
        logits: Clean logits ``l``, shape ``(B, C)``.
        logits_adv: Logits of the attacked images, shape ``(B, C)``.
        scale: The shared scale gamma at which the gradient is taken.

    Returns:
        Scalar: mean over ``B``.
    """
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    return 2 * scale * (logits - logits_adv).square().sum(dim=1).mean()


class LogitStatistics(Metric):
    """Size of all logits seen, over all batches and processes; the variance is that of section 3.

    It answers with scalars: ``variance``, biased, of all logits together, not a mean of the
    batches' variances; ``range``, largest minus smallest logit of an image, mean over the images;
    ``norm``, L2 norm of an image's logits, mean over the images.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of logits, images, logits' values and squares, images' ranges and norms.
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add a batch of logits, shape ``(B, C)``."""
        check_logits("logits", logits)
        logits = logits.detach().double()
        ranges = logits.amax(dim=1) - logits.amin(dim=1)
        norms = torch.linalg.vector_norm(logits, dim=1)
        ones = torch.ones_like(logits), torch.ones_like(norms)
        each = (*ones, logits, logits.square(), ranges, norms)
        self.sums += torch.stack([values.sum() for values in each])

    def compute(self) -> dict[str, Tensor]:
        """``variance``, ``range`` and ``norm``."""
        count, images, total, total_square, total_range, total_norm = self.sums
        variance = (total_square / count - (total / count).square()).clamp(min=0)
        return {"variance": variance, "range": total_range / images, "norm": total_norm / images}


class PairingDiagnostics(Metric):
    """:func:`pairing_assumption` and :func:`pairing_scale_gradient` of all pairs seen."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of assumptions, scale gradients and images.
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> None:
        """Add a batch of clean and attacked logits ``(B, C)`` with their labels ``(B,)``."""
        logits, logits_adv = logits.detach().double(), logits_adv.detach().double()
        # All images have as many classes, so means over images add up weighted by their number.
        assumption = pairing_assumption(logits, logits_adv, y)
        scale_gradient = pairing_scale_gradient(logits, logits_adv)
        means = torch.stack([assumption, scale_gradient, torch.ones_like(assumption)])
        self.sums += means * len(logits)

    def compute(self) -> dict[str, Tensor]:
        """Scalars ``assumption`` and ``scale_gradient``, means over all images."""
        assumption, scale_gradient, images = self.sums
        return {"assumption": assumption / images, "scale_gradient": scale_gradient / images}
