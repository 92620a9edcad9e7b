"""One readable line a mistake."""

import math
from fractions import Fraction

import numpy as np
import pytest

from lrm_lightning.checks import check_choice, check_flag, check_integer, check_number


@pytest.mark.parametrize(
    ("bounds", "good", "bad"),
    [
        ({}, [-1e300, 0, Fraction(1, 3), np.float32(2)], []),
        ({"low": 0}, [0, 1e-300, 5], [-1e-300, -1]),
        ({"high": 1}, [1, -7], [1.0000001]),
        ({"above": 0}, [1e-300, 5], [0, -0.0, -1]),
        ({"below": 1}, [0.9999999, -7], [1, 2]),
        ({"low": 0, "high": 0.9}, [0, 0.9], [-0.1, 0.91]),
        ({"above": 0, "below": 1}, [0.5], [0, 1]),
    ],
)
def test_number(bounds, good, bad):
    for value in good:
        check_number("x", value, **bounds)
    for value in [*bad, math.nan, math.inf, -math.inf, "1", None, True, [1], 1j, 10**400]:
        with pytest.raises(ValueError, match=r"^x="):
            check_number("x", value, **bounds)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "x='a' must be a finite number"),
        ({"low": 0}, "x='a' must be a number >= 0"),
        ({"above": 0, "high": 1}, "x='a' must be a number > 0 and <= 1"),
        (
            {"low": 0, "high": 0.9, "why": "1 - 1/C"},
            "x='a' must be a number >= 0 and <= 0.9 (1 - 1/C)",
        ),
    ],
)
def test_number_says_what_it_must_be(bounds, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        check_number("x", "a", **bounds)
    assert str(error.value) == message


def test_integer():
    for value in (3, 4, np.int64(3), 10**400):
        check_integer("x", value, low=3)
    for value in (2, 3.0, "3", None, True, math.nan, [3]):
        with pytest.raises(ValueError, match=r"^x=.* must be a whole number >= 3$"):
            check_integer("x", value, low=3)


def test_choice():
    check_choice("x", "a", ("a", "b"))
    check_choice("x", "a", {"a": 1, "b": 2})
    for choices in (("a", "b"), {"a": 1, "b": 2}):
        for value in ("c", "", None, 1, ["a"], {"a": 1}):
            with pytest.raises(ValueError, match=r"^x=.* is unknown; choose one of: a, b$"):
                check_choice("x", value, choices)


def test_flag():
    check_flag("x", True)
    check_flag("x", False)
    for value in ("no", "false", 0, 1, None, []):
        with pytest.raises(ValueError, match=r"^x=.* must be true or false$"):
            check_flag("x", value)
