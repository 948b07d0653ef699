"""A row's result is the same bits whatever the other rows are, wherever it lies and however many threads compute."""

import ml_dtypes
import numpy as np
import pytest

import softargmax as sa
from softargmax.kernels import threads

OPS = {
    "softmax": lambda z, y, a: sa.softmax(z, axis=a),
    "softmax at T": lambda z, y, a: sa.softmax(z, axis=a, temperature=1.7),
    "log_softmax": lambda z, y, a: sa.log_softmax(z, axis=a),
    "logsumexp": lambda z, y, a: sa.logsumexp(z, axis=a, keepdims=True),
    "entropy": lambda z, y, a: np.expand_dims(sa.entropy(z, axis=a), a),
    "log_prob": lambda z, y, a: np.expand_dims(sa.log_prob(z, y, axis=a), a),
    "losses": lambda z, y, a: np.expand_dims(sa.cross_entropy(z, y, axis=a, reduction="none"), a),
    "gradients": lambda z, y, a: sa.cross_entropy_and_grad(z, y, axis=a, reduction="none")[1],
}
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def draws(shape, dtype):
    rng = np.random.default_rng(0)
    z = (rng.standard_normal(shape) * 4).astype(dtype)
    z.reshape(-1)[::97] = -np.inf
    z.reshape(-1)[5::1013] = np.nan
    return z


def labels(shape, axis, k):
    return np.random.default_rng(1).integers(0, k, shape[:axis] + shape[axis + 1 :])


def same(one, other):
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [3, 10, 24, 25, 100, 1500])
@pytest.mark.parametrize("op", OPS)
def test_batch_size_row_position_and_alignment(op, k, dtype):
    z = draws((133, k), dtype)
    y = labels(z.shape, 1, k)
    whole = OPS[op](z, y, -1)
    for start, stop in [(0, 1), (5, 6), (132, 133), (1, 66), (64, 133), (3, 20)]:
        same(OPS[op](z[start:stop], y[start:stop], -1), whole[start:stop])
        for shift in (1, 2, 3, 7):  # other alignments
            memory = np.zeros((stop - start) * k + 8, dtype)
            moved = memory[shift : shift + (stop - start) * k].reshape(stop - start, k)
            moved[...] = z[start:stop]
            same(OPS[op](moved, y[start:stop], -1), whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "inner"), [(4, 3), (21, 50), (21, 130), (700, 9), (40, 1100)])
@pytest.mark.parametrize("op", OPS)
def test_the_same_along_a_middle_axis(op, k, inner, dtype):
    z = draws((5, k, inner), dtype)
    y = labels(z.shape, 1, k)
    whole = OPS[op](z, y, 1)
    for index in (slice(0, 1), slice(2, 5)):
        same(OPS[op](np.ascontiguousarray(z[index]), y[index], 1), whole[index])
        same(OPS[op](z[index], y[index], -2), whole[index])


@pytest.mark.parametrize(
    ("shape", "axis"), [((150_000, 10), 1), ((12_000, 100), 1), ((40, 40_000), 1), ((9, 30, 5000), 1)]
)
@pytest.mark.parametrize("op", OPS)
def test_threads(op, shape, axis, monkeypatch):
    z = draws(shape, np.float32)
    y = labels(shape, axis, shape[axis])
    results = []
    for n in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "n_threads", lambda n=n: n)
        results.append(OPS[op](z, y, axis))
    for other in results[1:]:
        same(results[0], other)
