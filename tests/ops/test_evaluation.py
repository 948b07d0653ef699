import mpmath
import numpy as np
import pytest

from softargmax.ops.evaluation import EvaluationTally, RowFacts


def row_evaluation(x, y):
    found = RowFacts.empty(len(x))
    assert EvaluationTally(x.shape[1], 15).add(x, y, np.ones(len(x)), 1.0, found) == -1
    return found


def by_mpmath(row, label):
    with mpmath.workdps(400):  # 1 - p may be 1e-260
        z = [mpmath.mpf(float(v)) for v in row]
        top = max(z)
        e = [mpmath.exp(v - top) for v in z]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        brier = mpmath.fsum((v - (k == label)) ** 2 for k, v in enumerate(p))
        nll = -mpmath.log(p[label]) if p[label] else mpmath.inf
        return z.index(top), float(max(p)), float(nll), float(brier)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 10, 24, 25, 60, 1100])
def test_against_mpmath(k, dtype, engine):
    rng = np.random.default_rng(k)
    x = (rng.standard_normal((14, k)) * 5).astype(dtype)
    x[0] = 1  # all equal: the first is predicted
    x[1, :] = -np.inf
    x[1, k // 2] = 0
    x[2] = np.round(x[2])
    x[3, 0] = 40  # sure: 1 - p has only its own digits
    x[4, k - 1] = 600
    x[5, :: max(k // 3, 2)] = -np.inf
    x[5, k - 1] = 0
    y = rng.integers(0, k, 14)
    y[3], y[4] = 0, k - 1
    y[6:10] = x[6:10].argmax(axis=-1)
    found = row_evaluation(x, y)
    for r in range(14):
        predicted, confidence, nll, brier = by_mpmath(x[r], y[r])
        assert found.predicted[r] == predicted
        np.testing.assert_allclose(found.confidence[r], confidence, rtol=1e-14)
        np.testing.assert_allclose(found.nll[r], nll, rtol=1e-12)
        np.testing.assert_allclose(found.brier[r], brier, rtol=1e-12, atol=1e-300)


def test_many_rows(engine):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 30))
    y = rng.integers(0, 30, 3000)
    found = row_evaluation(x, y)
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    np.testing.assert_array_equal(found.predicted, x.argmax(axis=-1))
    np.testing.assert_allclose(found.brier, ((p - np.eye(30)[y]) ** 2).sum(axis=-1), rtol=1e-12)


def test_no_rows(engine):
    assert [len(each) for each in row_evaluation(np.empty((0, 3)), np.empty(0, np.int64))] == [0] * 7
