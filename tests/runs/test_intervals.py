"""Wilson intervals and accuracies."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrm_lightning.runs.intervals import paired_difference, wilson_interval
from lrm_lightning.runs.records import accuracies


def test_golden_value():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("total", [1, 37, 500, 10_000])
def test_ends_are_exact(total):
    low, high = wilson_interval(0, total)
    assert low == 0 < high < 1
    assert wilson_interval(total, total) == pytest.approx((1 - high, 1))
    assert wilson_interval(total, total)[1] == 1


counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=50)
@given(counts)
def test_solves_its_equation_holds_the_rate_and_mirrors(pair):
    correct, total = pair
    low, high = wilson_interval(correct, total)
    rate = correct / total
    assert 0 <= low <= rate <= high <= 1
    # An end lies z of its own standard errors from the rate, whatever the rate.
    z = NormalDist().inv_cdf(0.975)
    for end in {low, high} - {0, 1}:
        assert abs(rate - end) == pytest.approx(z * (end * (1 - end) / total) ** 0.5, rel=1e-6)
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@settings(max_examples=50)
@given(counts)
def test_narrows_with_more_images(pair):
    correct, total = pair
    few, many = wilson_interval(correct, total), wilson_interval(4 * correct, 4 * total)
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 10), (11, 10)])
def test_rejects(correct, total):
    with pytest.raises(ValueError, match=r"must (not )?be"):
        wilson_interval(correct, total)


def test_images_on_which_two_networks_agree_leave_a_difference_open():
    for n in (1, 20, 400):
        same = np.arange(n) % 3 == 0
        # Half an image more for each of the two that could differ: a variance of 1 / (n + 2)^2.
        assert paired_difference(same, same) == (0.0, pytest.approx(1.96 / (n + 2)))


def test_the_paired_interval_holds_the_difference_in_19_of_20_samples():
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        both, ours, theirs = (rng.random(60) < rate for rate in (0.5, 0.1, 0.04))
        difference, half = paired_difference(both | ours, both | theirs)
        held += abs(difference - 0.5 * (0.04 - 0.1)) <= half
    assert 0.94 <= held / 2000 <= 0.98


def test_accuracies_of_verdicts():
    verdicts = {name: np.arange(40) < right for name, right in (("clean", 31), ("fgsm", 0))}
    found = accuracies(verdicts)
    assert found["n"] == 40
    assert found["metrics"] == {"clean": 31 / 40, "fgsm": 0.0}
    assert found["intervals"] == {
        "clean": list(wilson_interval(31, 40)),
        "fgsm": list(wilson_interval(0, 40)),
    }
    json.dumps(found, allow_nan=False)  # plain numbers, no NumPy types


def test_every_attack_must_have_scored_the_same_images():
    with pytest.raises(ValueError, match="values to unpack"):
        accuracies({"clean": np.ones(3, bool), "fgsm": np.ones(4, bool)})
