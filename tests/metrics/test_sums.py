import math

import numpy as np
import pytest

from softargmax.metrics._sums import Sum


def law_sums_keep_what_rounding_drops(add_up) -> None:
    """100,000 tenths, and a large number that swallows small ones: as exact as one rounding."""
    tenths = [0.1] * 100_000
    swallowed = [1e16] + [1.0] * 1000
    for terms in (tenths, swallowed, swallowed[::-1]):
        assert add_up(terms) == pytest.approx(math.fsum(terms), rel=4e-16, abs=0)


def compensated(terms: list[float]) -> float:
    total = Sum.of(np.zeros(1))
    for term in terms:
        total = total + Sum.of(np.array([term]))
    return float(total.value[0])


def test_sums_keep_what_rounding_drops():
    law_sums_keep_what_rounding_drops(compensated)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_law_of_sums_rejects_plain_accumulation(dtype):
    def plain(terms: list[float]) -> float:
        total = dtype(0)
        for term in terms:
            total += dtype(term)
        return float(total)

    with pytest.raises(AssertionError):
        law_sums_keep_what_rounding_drops(plain)


def test_an_infinite_sum_stays_infinite_instead_of_nan():
    huge = Sum.of(np.array([1e308]))
    with np.errstate(over="ignore"):
        assert (huge + huge + huge).value[0] == math.inf


def test_sums_are_read_only():
    total = Sum.of(np.ones(2)) + Sum.of(np.ones(2))
    with pytest.raises(ValueError, match="read-only"):
        total.high[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        total.value[0] = 5
