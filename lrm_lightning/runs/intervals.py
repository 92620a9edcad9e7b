"""Confidence interval of an accuracy."""

import math
from statistics import NormalDist

from lrm_lightning.checks import check_integer


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's score interval of a proportion; sound at 0% and 100%, where robust accuracies live.

    .. math::
        \frac{\hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4n^2}}}
        {1 + \frac{z^2}{n}}

    It speaks of the images' sampling alone, not of the spread between training runs.

    Args:
        correct: Successes, in ``[0, total]``.
        total: Trials ``n``, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    check_integer("total", total, low=1)
    check_integer("correct", correct, low=0)
    if correct > total:
        raise ValueError(f"correct={correct} must be at most total={total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must be a number > 0 and < 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = correct / total
    centre = rate + z * z / (2 * total)
    half = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # The ends are exact at no and at all successes; the formula reaches them within rounding only.
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == total else (centre + half) / scale
    return low, high
