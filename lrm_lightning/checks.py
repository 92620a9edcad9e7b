"""Argument checks shared by every public constructor and function: one readable line a mistake."""

import math
from collections.abc import Collection
from contextlib import suppress
from numbers import Integral, Real


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    why: str = "",
) -> None:
    """Raise :class:`ValueError` unless ``value`` is a finite number within these bounds.

    Args:
        name: How the user knows the value, e.g. ``"smoothing"``.
        value: What was given.
        low: Inclusive lower bound.
        high: Inclusive upper bound.
        above: Exclusive lower bound.
        below: Exclusive upper bound.
        why: Where the bound comes from, shown in brackets.
    """
    limits = ((">", above), (">=", low), ("<=", high), ("<", below))
    bounds = [f"{sign} {bound:g}" for sign, bound in limits if bound is not None]
    wanted = "a number " + " and ".join(bounds) if bounds else "a finite number"
    wanted += f" ({why})" if why else ""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number beyond the largest float
            number = float(value)
    ok = (
        math.isfinite(number)
        and (low is None or number >= low)
        and (high is None or number <= high)
        and (above is None or number > above)
        and (below is None or number < below)
    )
    if not ok:
        raise ValueError(f"{name}={value!r} must be {wanted}")


def check_integer(name: str, value: object, *, low: int, high: float = math.inf) -> None:
    """Raise :class:`ValueError` unless ``value`` is a whole number from ``low`` to ``high``."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else math.nan
    if not low <= number <= high:
        wanted = f">= {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r} must be a whole number {wanted}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise :class:`ValueError` unless ``value`` is one of ``choices``."""
    if value not in list(choices):  # a dict would have to hash it first
        raise ValueError(f"{name}={value!r} is unknown; choose one of: {', '.join(choices)}")


def check_flag(name: str, value: object) -> None:
    """Raise :class:`ValueError` unless ``value`` is a bool; ``"no"`` typed by a user is a text."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false")


def crosses(steps: float, step_size: float, eps: float) -> bool:
    """Whether steps in one direction lead from the ball's centre to its border, but for 0.1%."""
    return steps * step_size >= 0.999 * eps
