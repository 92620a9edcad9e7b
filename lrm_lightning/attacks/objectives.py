"""Losses that an attack raises, ``(B,)``: one value an image, whatever the others of the batch.

``logits`` are ``(B, C)``; ``y`` are labels ``(B,)`` in ``[0, C)`` or distributions ``(B, C)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PairedLoss:
    """A loss that may compare an attacked image with the clean one.

    ``function`` takes the logits of the clean images, without a graph, those of the attacked ones,
    ``(B, C)`` both, and ``y``; it returns ``(B,)``. Records call the loss by its ``name``.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __str__(self) -> str:
        return self.name


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy of each image: :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c`.

    References:
        Madry et al. 2018, arXiv:1706.06083, section 2.1: the loss of the inner maximisation.
    """
    target = y if y.ndim == 1 else y.to(logits.dtype)
    return nn.functional.cross_entropy(logits, target, reduction="none")


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


OBJECTIVES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
