"""What `equal to the definition` means: kind, dtype and shape; NaN, infinities and zeros in their places; the rest."""

import numpy as np

from tests.cases.libraries import EPS, TINY, computed, rounded, spacing


def agrees(library, actual, wanted, dtype, budget=64.0):
    """`actual` is an array of the library, of `dtype`, that says what the float64 `wanted` says.

    Within one rounding to `dtype` and `budget` times the eps of the arithmetic, relative.
    """
    assert isinstance(actual, library.array_type), type(actual)
    assert library.dtype(actual) == dtype
    close(library.numpy(actual), wanted, dtype, budget)


def close(values, wanted, dtype, budget=64.0):
    wanted = np.asarray(wanted, np.float64)
    assert values.shape == wanted.shape
    in_dtype = rounded(wanted, dtype)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(in_dtype))
    for exact in (np.inf, -np.inf):
        np.testing.assert_array_equal(values == exact, in_dtype == exact)
    assert np.all(values[wanted == 0] == 0), values[wanted == 0]
    fine = np.isfinite(in_dtype)
    rounding = spacing(wanted, dtype) if dtype in ("float16", "bfloat16") else 0.0
    arithmetic = computed(dtype)
    with np.errstate(invalid="ignore"):
        # what lies below the normal range may be flushed to 0
        allowed = rounding + budget * EPS[arithmetic] * np.abs(wanted) + TINY[arithmetic]
        wrong = fine & ~(np.abs(values - wanted) <= allowed)
    if wrong.any():
        where = np.argwhere(wrong)[:5].tolist()
        raise AssertionError(f"at {where}: {values[wrong][:5]} instead of {wanted[wrong][:5]}, within {budget} eps")
