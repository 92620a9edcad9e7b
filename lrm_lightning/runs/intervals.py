"""Accuracies and their confidence intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrm_lightning.checks import check_integer


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; sound at 0% and 100%, where robust accuracies live.

    It speaks of the sampling of ``total`` images (at least 1) alone, not of the spread between
    training runs.

    Returns:
        Lower and upper end, fractions in [0, 1]; exactly 0 if none is ``correct``, 1 if all are.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    from scipy.stats import binomtest  # its import takes a second

    check_integer("total", total, low=1)
    check_integer("correct", correct, low=0)
    if correct > total:
        raise ValueError(f"correct={correct} must be at most total={total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must be a number > 0 and < 1")
    low, high = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
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
