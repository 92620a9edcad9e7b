import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrm_lightning.runs.intervals import wilson_interval


def test_golden_value():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(
    ("correct", "total"), [(0, 1), (1, 1), (0, 500), (500, 500), (7, 10), (4510, 10_000)]
)
def test_against_scipy(correct, total, confidence):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)


counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=50, deadline=None)
@given(counts, st.floats(0.01, 0.999))
def test_holds_the_rate_and_mirrors(pair, confidence):
    correct, total = pair
    low, high = wilson_interval(correct, total, confidence)
    assert 0 <= low <= correct / total <= high <= 1
    mirrored = wilson_interval(total - correct, total, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts)
def test_narrows_with_more_images_and_widens_with_confidence(pair):
    correct, total = pair

    def width(*arguments):
        low, high = wilson_interval(*arguments)
        return high - low

    assert width(4 * correct, 4 * total) < width(correct, total)
    assert width(correct, total, 0.9) < width(correct, total, 0.99)


def test_ends_are_exact():
    assert wilson_interval(0, 37)[0] == 0
    assert wilson_interval(37, 37)[1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "total=0"),
        ((-1, 10), "correct=-1"),
        ((11, 10), "correct=11"),
        ((0.5, 10), "correct=0.5"),
        ((5, 10, 0.0), "confidence=0"),
        ((5, 10, 1.0), "confidence=1"),
        ((5, 10, float("nan")), "confidence=nan"),
    ],
)
def test_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)
