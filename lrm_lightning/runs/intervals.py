"""Accuracies and their confidence intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np


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


def accuracies(correct: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``n``, ``metrics`` and ``intervals`` (95%) of a record, by attack, each in [0, 1].

    ``correct`` are an attack's verdicts, bool ``(n,)``: which images are classified correctly.
    """
    (n,) = {len(each) for each in correct.values()}
    counts = {name: int(each.sum()) for name, each in correct.items()}
    intervals = {name: list(wilson_interval(count, n)) for name, count in counts.items()}
    metrics = {name: count / n for name, count in counts.items()}
    return {"n": n, "metrics": metrics, "intervals": intervals}
