"""More than 2**31 elements: counts and offsets that a 32-bit integer does not hold, within the memory of a laptop."""

import numpy as np
import pytest

import softargmax as sa
from tests.cases import libraries

pytestmark = pytest.mark.slow

K = 1024
N = 2**31 // K + 3
PERIOD = 997  # rows repeat, out of step with every power of two


@pytest.fixture(scope="module")
def pattern():
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((PERIOD, K)) * 4).astype(np.float16)
    z[5, 3], z[6, 4], z[7] = -np.inf, np.inf, -np.inf
    return z, rng.integers(0, K, PERIOD)


def repeats(values, pattern):
    """Every row of `values` is that of the pattern, bit for bit."""
    assert len(values) == N
    bits = f"u{pattern.dtype.itemsize}"
    wanted = pattern.view(bits)
    for start in range(0, N, PERIOD):
        block = values[start : start + PERIOD].view(bits)
        assert np.array_equal(block, wanted[: len(block)]), f"rows from {start}"


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax, sa.logsumexp, sa.cross_entropy])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_more_than_two_to_the_31_elements(op, name, pattern):
    library = libraries.get(name)
    z, labels = pattern
    options = {"reduction": "none"} if op is sa.cross_entropy else {}
    arguments = (labels,) if options else ()
    wanted = np.asarray(op(library.array(z), *map(library.array, arguments), **options))
    # a row in a block of many is what it is in this one
    whole = library.array(np.resize(z, (N, K)))
    assert np.prod(whole.shape, dtype=np.int64) > 2**31
    result = op(whole, *(library.array(np.resize(a, N)) for a in arguments), **options)
    repeats(np.asarray(result), wanted)
    del result
    if op is sa.softmax:
        assert op(whole, out=whole) is whole
        repeats(np.asarray(whole), wanted)
