"""Whether two attacks did the same work: a ratio of times means nothing otherwise."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from torch import Tensor

# An attack may round differently.
TOLERANCE = 1e-5
# Standard deviations: two dozen comparisons a run shall refuse hardly anyone by chance.
DEVIATIONS = 3.5
# Of what an attack raises the loss by. Random starts move this by a percent or two.
GAIN = 0.1


class DifferentWorkError(Exception):
    """The contestant did something else."""


def check_ball(x_adv: Tensor, x: Tensor, eps: float) -> None:
    """Raise if images leave the L-inf ball around ``x`` or ``[0, 1]``, or are not moved at all."""
    distance = float((x_adv - x).abs().max())
    low, high = (float(each) for each in x_adv.aminmax())
    if not distance <= eps + TOLERANCE:
        raise DifferentWorkError(f"images are {distance:.4f} from the clean ones, not {eps}")
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise DifferentWorkError(f"pixels from {low:g} to {high:g} are not in [0, 1]")
    if distance < eps / 2:
        raise DifferentWorkError(f"images are only {distance:.4f} from the clean ones, not {eps}")


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
        correct: Which images are still classified correctly, bool ``(n,)``.
        reference: The same for the attack that is compared with.
    """
    more, fewer = int((correct & ~reference).sum()), int((reference & ~correct).sum())
    if abs(more - fewer) > DEVIATIONS * math.sqrt(more + fewer):
        accuracies = [f"{100 * float(each.float().mean()):.1f}%" for each in (correct, reference)]
        raise DifferentWorkError(f"accuracy {accuracies[0]} instead of {accuracies[1]}")


def check_runs(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> None:
    """Raise if trained runs, given by their records in the same order, are not the same runs.

    With as many threads they end exactly alike. With another number sums are rounded otherwise,
    training amplifies that, and a single short run may end anywhere. Then what has to agree is each
    accuracy's mean over the runs, but for the error of two samples of n = runs x images.
    """
    sizes = [[_size(record) for record in records] for records in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise DifferentWorkError(f"the runs differ in configuration or size: {_differing(*sizes)}")
    threads = {record["hardware"]["threads"] for record in (*ours, *theirs)}
    outcomes = [
        [(each["metrics"], each["val_metrics"]) for each in all_] for all_ in (ours, theirs)
    ]
    if len(threads) == 1:
        if outcomes[0] != outcomes[1]:
            raise DifferentWorkError(f"runs with equal threads differ: {_differing(*outcomes)}")
        return
    images = sum(record["n"] for record in ours)
    for name in ours[0]["metrics"]:
        own, other = (mean(each["metrics"][name] for each in all_) for all_ in (ours, theirs))
        pooled = (own + other) / 2
        error = math.sqrt(2 * pooled * (1 - pooled) / images)
        if abs(own - other) > DEVIATIONS * error:
            raise DifferentWorkError(
                f"mean {name} accuracy {100 * own:.1f}% instead of {100 * other:.1f}%, "
                f"over {images} images"
            )


def _size(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was to do, and how much of it it did; not where its files lie."""
    config = {name: value for name, value in record["config"].items() if name != "runs_dir"}
    done = {name: record[name] for name in ("global_step", "epochs", "n", "split")}
    return {"config": config, "data": record["data"]["fingerprint"], **done}


def _differing(ours: Sequence[object], theirs: Sequence[object]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} runs, not {len(theirs)}"
    pairs = zip(ours, theirs, strict=True)
    return next(f"{own}, not {other}" for own, other in pairs if own != other)
