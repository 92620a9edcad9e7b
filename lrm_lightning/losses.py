"""Losses of "Logit Regularization Methods for Adversarial Robustness", one function an equation.

Logits have shape ``(B, C)``: ``B >= 1`` images, ``C`` classes. A loss is a scalar, the mean over
``B``, unless it says otherwise. Shapes that differ from this, and values out of the ranges given
here, raise ``ValueError``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lrm_lightning.checks import check_choice, check_integer, check_number

Objective = Callable[[Tensor, Tensor], Tensor]
PAIRING_DISTANCES = ("l2", "l1", "huber")
PAIRING_KINDS = ("cross_entropy", "jensen_shannon", "cosine")


def smooth_targets(y: Tensor, num_classes: int, smoothing: float) -> Tensor:
    r"""Smoothed targets: probability taken from the label and spread over the other classes.

    .. math:: t_c = (1 - s) \, [c = y] + \frac{s}{C - 1} \, [c \neq y]

    Soft labels, of mixed images, are smoothed by the same map, which is linear in them.

    Args:
        y: One-hot or soft labels, whose rows sum to one, shape ``(B, C)``.
        num_classes: Number of classes ``C``, at least 2.
        smoothing: Probability ``s`` taken from the label, in ``[0, 1 - 1/C]``. The upper end
            gives the uniform distribution. Torch's ``label_smoothing`` e puts ``e / C`` on every
            class, the label included: ``e = s C / (C - 1)`` gives the same targets.

    Returns:
        Targets whose rows sum to one, shape ``(B, C)``, of the labels' dtype.

    References:
        Summers & Dinneen, Eq. 8; Szegedy et al. 2016, arXiv:1512.00567.
    """
    check_integer("num_classes", num_classes, low=2)
    check_number("smoothing", smoothing, low=0, high=1 - 1 / num_classes, why="1 - 1/C")
    if y.ndim != 2 or y.shape[1] != num_classes:
        raise ValueError(f"labels y have shape {tuple(y.shape)}, not (B, {num_classes})")
    elsewhere = smoothing / (num_classes - 1)
    return y * (1 - smoothing - elsewhere) + elsewhere


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Cross-entropy with target distributions, ``J`` of Eq. 1.

    .. math:: J = -\frac{1}{B} \sum_i \sum_c t_c^{(i)} \log \mathrm{softmax}_c(f(x^{(i)}))

    Args:
        logits: Shape ``(B, C)``.
        targets: Distributions whose rows sum to one, shape ``(B, C)``.
    """
    check_same_shape("logits", logits, "targets", targets)
    return F.cross_entropy(logits, targets)


def logit_squeezing(logits: Tensor) -> Tensor:
    r"""Squared L2 norm of the logits ``(B, C)``: the sum over ``C``, the mean over ``B``.

    .. math:: \frac{1}{B} \sum_i \lVert f(x^{(i)}) \rVert_2^2

    References:
        Summers & Dinneen, the beta term of Eq. 10; Kannan et al. 2018, arXiv:1803.06373. The norm
        in the code of Mosbach et al. 2018, arXiv:1810.12042, is not squared; its weight is 0.5.
    """
    check_logits("logits", logits)
    return logits.square().sum(dim=1).mean()


def logit_pairing(logits: Tensor, logits_adv: Tensor, distance: str = "l2") -> Tensor:
    r"""Distance between the logits of clean and attacked images (ALP, Eq. 3).

    .. math:: \frac{1}{B} \sum_i \lVert f(x^{(i)}) - f(g(x^{(i)})) \rVert_2^2

    Args:
        logits: Clean logits, shape ``(B, C)``.
        logits_adv: Logits of the attacked images, shape ``(B, C)``.
        distance: ``"l2"`` (squared), ``"l1"``, or ``"huber"``: with ``d`` the difference in one
            logit, ``d**2 / 2`` up to ``|d| = 1`` and ``|d| - 1/2`` beyond; summed over classes.

    References:
        Summers & Dinneen, Eq. 9; Kannan et al. 2018, arXiv:1803.06373.
    """
    check_choice("distance", distance, PAIRING_DISTANCES)
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    if distance == "l2":
        return logit_squeezing(logits - logits_adv)
    if distance == "l1":
        return (logits - logits_adv).abs().sum(dim=1).mean()
    return F.huber_loss(logits, logits_adv, reduction="none", delta=1.0).sum(dim=1).mean()


def distribution_pairing(logits: Tensor, logits_adv: Tensor, kind: str = "cross_entropy") -> Tensor:
    r"""Distance between the predictions on clean and attacked images, ``h`` of Eq. 10.

    With ``p`` and ``q`` the softmax of the clean and of the attacked logits:

    - ``"cross_entropy"``: :math:`-\sum_c p_c \log q_c`, the clean prediction as the target. Its
      least value over ``q`` is the entropy of ``p``, not 0.
    - ``"jensen_shannon"``: :math:`\frac12 KL(p \Vert m) + \frac12 KL(q \Vert m)` with
      :math:`m = (p + q) / 2`; symmetric, in [0, ln 2].
    - ``"cosine"``: 1 - the cosine between the two vectors of logits (not of probabilities), in
      [0, 2]; it doesn't change when either is scaled. A zero vector counts as orthogonal to all.

    The gradient flows into both arguments; detach one to hold it fixed.

    Args:
        logits: Clean logits, shape ``(B, C)``.
        logits_adv: Logits of the attacked images, shape ``(B, C)``.
        kind: One of the above.
    """
    check_choice("kind", kind, PAIRING_KINDS)
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    if kind == "cross_entropy":
        return F.cross_entropy(logits_adv, logits.softmax(dim=1))
    if kind == "cosine":
        return 1 - F.cosine_similarity(logits, logits_adv, dim=1).mean()
    log_p, log_q = logits.log_softmax(dim=1), logits_adv.log_softmax(dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergences = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return divergences.sum(dim=1).mean() / 2


def kl_divergence(logits: Tensor, logits_adv: Tensor) -> Tensor:
    r"""How far the attacked prediction is from the clean one, one value an image, shape ``(B,)``.

    .. math:: KL(p \Vert q) = \sum_c p_c \log \frac{p_c}{q_c}

    with ``p`` and ``q`` the softmax of the clean and of the attacked logits. The gradient flows
    into both.

    References:
        Zhang et al. 2019, arXiv:1901.08573, section 5, and Wang et al., ICLR 2020, Eq. 9.
    """
    check_same_shape("logits", logits, "logits_adv", logits_adv)
    log_p, log_q = logits.log_softmax(dim=1), logits_adv.log_softmax(dim=1)
    # Not torch's kl_div, which vmap can't batch.
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def ratio_weight(loss: Tensor, pairing: Tensor, ratio: float) -> Tensor:
    r"""Weight that makes the pairing term ``ratio`` times as large as the loss, without a gradient.

    .. math:: \mathrm{ratio} \cdot \mathrm{stop\_gradient}(L / h)

    ``ratio_weight(loss, pairing, ratio) * pairing`` equals ``ratio * loss`` in value; its gradient
    is the pairing's, scaled.

    Args:
        loss: The adversarial loss ``L``, a scalar.
        pairing: The pairing loss ``h``, a scalar.
        ratio: Pairing term over loss: 0.125 makes the pairing an eighth of the loss.

    Returns:
        Scalar without gradient; 0 where the pairing is within rounding of 0, so nothing overflows.

    References:
        Summers & Dinneen, section 4.1.
    """
    loss, pairing = loss.detach(), pairing.detach()
    floor = torch.finfo(torch.float32).eps
    weight = ratio * loss / pairing.clamp(min=floor)
    return torch.where(pairing > floor, weight, torch.zeros_like(weight))


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy of each image: :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c`.

    References:
        Madry et al. 2018, arXiv:1706.06083, section 2.1: the loss of the inner maximisation.
    """
    target = y if y.ndim == 1 else y.to(logits.dtype)
    return F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""How far the best wrong class is ahead of the label: :math:`\max_{c \ne y} z_c - z_y`.

    It is positive exactly where the image is misclassified. Unlike the gradient of cross-entropy,
    its gradient does not vanish on a confident network. Of a distribution only the most probable
    class counts.

    References:
        Carlini & Wagner 2017, arXiv:1608.04644, section V-A, f_6 without the hinge.
    """
    label = hard_labels(y)[:, None]
    best_wrong = logits.scatter(1, label, -torch.inf).amax(dim=1)
    return best_wrong - logits.gather(1, label)[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio: the :func:`margin` as a share of :math:`z_{\pi_1} - z_{\pi_3}`.

    :math:`z_{\pi_k}` is the k-th largest logit. A factor or a constant that all logits share
    changes nothing, so that squeezing or blowing up logits hides nothing from it.

    Raises:
        ValueError: If there are fewer than three classes.

    References:
        Croce & Hein 2020, arXiv:2003.01690, section 5, equation 6.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}")
    largest = logits.topk(3, dim=1).values
    # The constant is the official code's.
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)


def hard_labels(y: Tensor) -> Tensor:
    """Labels ``(B,)`` as they are; of distributions ``(B, C)`` the most probable class."""
    return y if y.ndim == 1 else y.argmax(dim=1)


# What an attack may raise, by name: functions of logits and y.
OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}


def check_logits(name: str, logits: Tensor) -> None:
    """Raise :class:`ValueError` unless ``logits`` has shape ``(B, C)`` with ``B >= 1``."""
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"{name} has shape {tuple(logits.shape)}; it must be (B, C) with B >= 1")


def check_same_shape(name: str, logits: Tensor, other_name: str, other: Tensor) -> None:
    """Raise :class:`ValueError` unless both have one shape ``(B, C)`` with ``B >= 1``."""
    check_logits(name, logits)
    if logits.shape != other.shape:
        shapes = f"{name} has shape {tuple(logits.shape)} but {other_name} {tuple(other.shape)}"
        raise ValueError(f"{shapes}; they must be the same")
