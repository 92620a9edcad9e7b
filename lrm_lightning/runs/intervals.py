"""Confidence intervals of accuracies."""

import functools

import numpy as np


@functools.cache  # as binomtest searches for a p-value, too, and curves repeat their points
def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion; sound at 0% and 100%, where robust accuracies live.

    It speaks of the sampling of ``total`` images (at least 1) alone, not of the spread between
    training runs.

    Returns:
        Lower and upper end, fractions in [0, 1]; exactly 0 if none is ``correct``, 1 if all are.

    References:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    from scipy.stats import binomtest  # its import takes a second

    low, high = binomtest(int(correct), int(total)).proportion_ci(method="wilson")
    return float(low), float(high)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """How much more accurate ``theirs`` is than ``ours`` on the same images, with its interval.

    It is narrower than the two accuracies' own intervals: images that both networks find hard, or
    easy, say nothing of the difference.

    Args:
        ours: Verdicts of one network, bool ``(n,)``: True if classified correctly.
        theirs: The other's of the same images, in the same order.

    Returns:
        The difference in [-1, 1] and half its 95% interval, by the normal approximation; 1 for a
        single image, which has no spread.

    References:
        Agresti 2013, "Categorical Data Analysis", section 11.1 (dependent proportions).
    """
    difference = theirs.astype(float) - ours
    n = len(difference)
    half = 1.96 * float(difference.std(ddof=1)) / n**0.5 if n > 1 else 1.0
    return float(difference.mean()), half
