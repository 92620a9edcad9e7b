"""Whether two contestants did the same work: a ratio of times means nothing otherwise."""

import math

import torch
from torch import Tensor

TOLERANCE = 1e-5  # an attack may round differently
# Standard deviations: two dozen comparisons a run shall refuse hardly anyone by chance.
DEVIATIONS = 3.5
# Share of what an attack raises the loss by. Random starts move this by a percent or two.
GAIN = 0.1


class DifferentWorkError(Exception):
    """A contestant did something else."""


def check_ball(x_adv: Tensor, x: Tensor, eps: float) -> None:
    """Raise if images leave the L-inf ball around ``x`` or [0, 1], or are hardly moved."""
    distance = float((x_adv - x).abs().max())
    low, high = (float(each) for each in x_adv.aminmax())
    if not eps / 2 <= distance <= eps + TOLERANCE:
        raise DifferentWorkError(f"images are {distance:.4f} from the clean ones, not {eps}")
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise DifferentWorkError(f"pixels from {low:g} to {high:g} are not in [0, 1]")


def check_gain(loss: Tensor, reference: Tensor, clean: Tensor) -> None:
    """Raise if an attack raises the loss by more or less than another, which accuracy hides.

    Args:
        loss: Cross-entropy of the attacked images, shape ``(n,)``.
        reference: The same for the attack that is compared with.
        clean: The same for the clean images.
    """
    gain, expected = (float((each - clean).mean()) for each in (loss, reference))
    if not abs(gain - expected) <= GAIN * expected:
        raise DifferentWorkError(f"the loss rises by {gain:.3f} instead of {expected:.3f}")


def check_verdicts(correct: Tensor, reference: Tensor) -> None:
    """Raise if accuracies differ by more than random starts explain.

    Both attacked the same images, so only those count on which they disagree: with equal attacks,
    each of these is as likely to go one way as the other (McNemar's test).

    Args:
        correct: Which images are still classified correctly, bool ``(n,)`` or ``(attacks, n)``.
        reference: The same for the attack that is compared with.
    """
    for ours, theirs in zip(torch.atleast_2d(correct), torch.atleast_2d(reference), strict=True):
        more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        if abs(more - fewer) > DEVIATIONS * math.sqrt(more + fewer):
            percent = [f"{100 * float(each.float().mean()):.1f}%" for each in (ours, theirs)]
            raise DifferentWorkError(f"accuracy {percent[0]} instead of {percent[1]}")
