"""Whether two contestants did the same work: a ratio of times means nothing otherwise."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

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


def check_runs(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> None:
    """Raise if trained runs, given by their records in the same order, are not the same runs.

    With as many threads they end exactly alike. With another number sums are rounded otherwise,
    training amplifies that, and a single short run may end anywhere. Then what has to agree is each
    accuracy's mean over the runs, but for the error of two samples of n = runs x images.
    """
    sizes = [[_size(record) for record in records] for records in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise DifferentWorkError("the runs differ in configuration, data or size")
    if len({record["hardware"]["threads"] for record in (*ours, *theirs)}) == 1:
        if [each["metrics"] for each in ours] != [each["metrics"] for each in theirs]:
            raise DifferentWorkError("runs with equal threads end differently")
        return
    images = sum(record["n"] for record in ours)
    for name in ours[0]["metrics"]:
        own, other = (mean(each["metrics"][name] for each in all_) for all_ in (ours, theirs))
        pooled = (own + other) / 2
        if abs(own - other) > DEVIATIONS * math.sqrt(2 * pooled * (1 - pooled) / images):
            raise DifferentWorkError(
                f"mean {name} accuracy {100 * own:.1f}% instead of {100 * other:.1f}%, "
                f"over {images} images"
            )


def _size(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was to do, and how much of it it did; not where its files lie."""
    config = {name: value for name, value in record["config"].items() if name != "runs_dir"}
    done = {name: record[name] for name in ("global_step", "epochs", "n", "split")}
    return {"config": config, "data": record["data"]["fingerprint"], **done}
