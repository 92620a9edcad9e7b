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
        The difference in [-1, 1] and half its 95% interval, that of Agresti & Min: half an image is
        added to each of the four counts, so that no difference among few images is no certainty.

    References:
        Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24.
    """
    more, fewer = int((theirs & ~ours).sum()) + 0.5, int((ours & ~theirs).sum()) + 0.5
    n = len(ours) + 2
    half = 1.96 * (more + fewer - (more - fewer) ** 2 / n) ** 0.5 / n
    return (more - fewer) / len(ours), half
