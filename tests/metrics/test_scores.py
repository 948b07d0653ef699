import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn

from softargmax.metrics.scores import accuracy, balanced_accuracy, brier, confusion_matrix, nll, top_k_accuracy

ALL = (accuracy, balanced_accuracy, brier, nll, lambda *a, **k: top_k_accuracy(*a, k=2, **k))


def some_rows(seed, n=500, n_classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) * 2
    logits[np.arange(n), labels] += 1
    return labels, logits, rng.exponential(size=n)


# ---- peers


@pytest.mark.parametrize("n_classes", [2, 4, 11])
@pytest.mark.parametrize("weighted", [False, True])
def test_they_equal_scikit_learn(n_classes, weighted):
    labels, logits, weights = some_rows(n_classes, n_classes=n_classes)
    weights = weights if weighted else None
    probs, predicted, every = softmax(logits, axis=1), logits.argmax(axis=1), np.arange(n_classes)
    peer = {"sample_weight": weights}
    for rows in ({"logits": logits}, {"probs": probs}):
        rows |= {"weights": weights}
        expected = sklearn.accuracy_score(labels, predicted, **peer)
        assert accuracy(labels, **rows) == pytest.approx(expected, abs=1e-12)
        expected = sklearn.balanced_accuracy_score(labels, predicted, **peer)
        assert balanced_accuracy(labels, **rows) == pytest.approx(expected, abs=1e-12)
        assert nll(labels, **rows) == pytest.approx(sklearn.log_loss(labels, probs, labels=every, **peer), abs=1e-12)
        expected = sklearn.brier_score_loss(labels, probs, labels=every, scale_by_half=False, **peer)
        assert brier(labels, **rows) == pytest.approx(expected, abs=1e-12)
        table = sklearn.confusion_matrix(labels, predicted, labels=every, **peer)
        assert confusion_matrix(labels, **rows) == pytest.approx(table, abs=1e-11)
        assert confusion_matrix(labels, **rows).dtype == (np.float64 if weighted else np.int64)
        for k in range(1, n_classes) if n_classes > 2 else ():
            expected = sklearn.top_k_accuracy_score(labels, probs, k=k, labels=every, **peer)
            assert top_k_accuracy(labels, k=k, **rows) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_the_k_largest_are_those_of_a_stable_sort(seed, k):
    rng = np.random.default_rng(seed)
    logits, labels = rng.integers(-2, 3, size=(12, 5)).astype(np.float16), rng.integers(0, 5, 12)
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    assert top_k_accuracy(labels, logits=logits, k=k) == pytest.approx((largest == labels[:, None]).any(axis=1).mean())
    if k == 1:
        assert top_k_accuracy(labels, logits=logits, k=1) == accuracy(labels, logits=logits)


def test_constant_scores_gain_nothing_from_ties():
    labels = np.arange(10)
    assert top_k_accuracy(labels, logits=np.zeros((10, 10)), k=3) == 0.3  # counting those above alone would give 1.0
    assert accuracy(labels, logits=np.zeros((10, 10))) == 0.1


@pytest.mark.parametrize("k", [0, -1, 2.0, "2", None])
def test_k_is_a_whole_number_from_one(k):
    with pytest.raises(ValueError, match="integer of at least 1; got"):
        top_k_accuracy([0], logits=[[1.0, 3.0]], k=k)


def test_as_many_as_there_are_classes_always_hold_the_label():
    labels, logits, _ = some_rows(0)
    assert top_k_accuracy(labels, logits=logits, k=4) == top_k_accuracy(labels, logits=logits, k=np.int64(9)) == 1.0


# ---- definitions at the edges


def test_nothing_is_clipped():
    assert nll([0, 1], probs=[[0.5, 0.5], [1.0, 0.0]]) == math.inf
    assert nll([1], logits=[[800.0, 0.0]]) == 800.0
    assert nll([0], logits=[[40.0, 0.0]]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert nll([1], probs=[[1 - 1e-300, 1e-300]]) == pytest.approx(300 * math.log(10))


def test_brier_is_the_sum_over_classes():
    assert brier([1], probs=[[1.0, 0.0]]) == 2
    assert brier([0, 2], probs=[[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]) == (0.25 + 2 * 0.0625) / 2
    assert brier([1], logits=[[1e308, -1e308]]) == 2


def test_balanced_accuracy_leaves_out_classes_without_rows():
    labels, logits = [0, 0, 0, 2], [[3.0, 0, 0], [3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]
    assert balanced_accuracy(labels, logits=logits) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(labels, logits=logits, weights=[1, 1, 1, 0]) == pytest.approx(2 / 3)
    assert confusion_matrix(labels, logits=logits).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_no_rows_have_no_number():
    for score in ALL:
        assert math.isnan(score(np.zeros(0, int), logits=np.zeros((0, 3))))
        assert math.isnan(score([-1], logits=[[1.0, 2.0]], ignore_index=-1))
    assert confusion_matrix(np.zeros(0, int), probs=np.zeros((0, 3))).tolist() == [[0] * 3] * 3


# ---- rows


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any))
def test_a_weight_is_so_many_rows_and_0_is_none(seed, weights):
    labels, logits, _ = some_rows(seed, 6)
    repeated = {"logits": np.repeat(logits, weights, axis=0)}
    wild = np.where(np.array(weights)[:, None] > 0, logits, np.nan)
    for score in (*ALL, confusion_matrix):
        expected = score(np.repeat(labels, weights), **repeated)
        assert score(labels, logits=wild, weights=weights) == pytest.approx(expected, abs=1e-12)
    assert (
        nll(labels, logits=logits, weights=weights) != pytest.approx(nll(labels, logits=logits))
        or len(set(weights)) == 1
    )


def test_every_layout_and_many_rows_give_the_same():
    labels, logits, weights = some_rows(1, 10_000)
    labels[:100] = -100
    image, folded = logits.reshape(50, 20, 10, 4).transpose(0, 3, 1, 2), (50, 20, 10)
    for score in (*ALL, confusion_matrix):
        expected = score(labels[100:], logits=logits[100:], weights=weights[100:])
        rest = {"weights": weights.reshape(folded), "axis": 1, "ignore_index": -100}
        assert score(labels.reshape(folded), logits=image, **rest) == pytest.approx(expected, rel=1e-12)


def test_one_column_is_the_score_of_class_1():
    labels, z = np.array([0, 1, 1, 0]), np.array([-1.0, 2.0, -0.5, 0.0])
    assert accuracy(labels, logits=z[:, None]) == 0.75
    assert confusion_matrix(labels, logits=z[:, None]).tolist() == [[2, 0], [1, 1]]
    expected = -log_softmax(np.stack([np.zeros(4), z], axis=1), axis=1)[np.arange(4), labels].mean()
    assert nll(labels, logits=z[:, None]) == pytest.approx(expected)
    assert brier([1], probs=[[0.75]]) == 0.125


@pytest.mark.parametrize("score", [*ALL, confusion_matrix])
def test_bad_rows_are_named(score):
    with pytest.raises(TypeError, match="exactly one of logits= and probs="):
        score([0])
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        score([0, 1], logits=[[1.0, 2.0], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="these look like logits"):
        score([0, 1], probs=[[0.5, 0.5], [3.0, -1.0]])
