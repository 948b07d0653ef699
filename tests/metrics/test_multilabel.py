import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, precision_recall_fscore_support

from softargmax.metrics import evaluate
from softargmax.metrics.multilabel import evaluate_multilabel


def model(n=500, n_labels=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_labels)) * 2 - 0.5
    return (rng.random((n, n_labels)) < expit(0.7 * logits)).astype(int), logits


@pytest.mark.parametrize("weighted", [False, True])
def test_each_label_equals_scikit_learn(weighted):
    labels, logits = model()
    probs = expit(logits)
    weights = np.random.default_rng(1).exponential(size=500) if weighted else None
    for found in (
        evaluate_multilabel(labels, logits=logits, weights=weights),
        evaluate_multilabel(labels, probs=probs, weights=weights),
    ):
        table = found.per_label
        for k in range(4):
            y, p = labels[:, k], probs[:, k]
            w = {"sample_weight": weights}
            assert table.nll[k] == pytest.approx(log_loss(y, p, **w), rel=1e-12)
            assert table.brier[k] == pytest.approx(brier_score_loss(y, p, **w), rel=1e-12)
            called = precision_recall_fscore_support(y, p > 0.5, average="binary", **w)[:3]
            assert [table.precision[k], table.recall[k], table.f1[k]] == pytest.approx(called, rel=1e-12)
            assert table.accuracy[k] == pytest.approx(accuracy_score(y, p > 0.5, **w), rel=1e-12)
            assert table.frequency[k] == pytest.approx(np.average(y, weights=weights), rel=1e-12)
        assert found.subset_accuracy == pytest.approx(accuracy_score(labels, probs > 0.5, **w), rel=1e-12)
        assert found.macro_nll == pytest.approx(table.nll.mean())


def test_one_label_is_the_second_class_of_two():
    labels, logits = model(n_labels=1)
    found = evaluate_multilabel(labels, logits=logits)
    of_class = evaluate(labels[:, 0], logits=logits)
    assert found.per_label.ece[0] == pytest.approx(of_class.per_class.ece[1], rel=1e-12)
    assert found.per_label.nll[0] == pytest.approx(of_class.nll, rel=1e-12)
    assert 2 * found.per_label.brier[0] == pytest.approx(of_class.brier, rel=1e-12)
    np.testing.assert_array_equal(found.reliability(0).count, of_class.class_reliability(1).count)
    low, high = found.interval(0)
    assert 0 <= low <= high <= 1
    assert (found.per_label.ece_lower[0], found.per_label.ece_upper[0]) == (low, high)


def test_labels_that_are_not_known_are_as_absent():
    labels, logits = model(n=60)
    unknown = labels.copy()
    unknown[40:, 1] = -1
    logits[40:, 1] = np.nan
    found = evaluate_multilabel(unknown, logits=logits, ignore_index=-1)
    alone = evaluate_multilabel(labels[:40, 1:2], logits=logits[:40, 1:2])
    assert found.per_label.n.tolist() == [60, 40, 60, 60]
    assert found.per_label.ece[1] == pytest.approx(alone.per_label.ece[0], rel=1e-12)
    assert found.per_label.nll[1] == pytest.approx(alone.per_label.nll[0], rel=1e-12)
    assert found.subset_sums.value[0] == 40


@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 40), max_size=4), weighted=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_split_merges_to_the_whole(seed, cuts, weighted):
    labels, logits = model(n=40, seed=seed)
    weights = np.random.default_rng(seed).exponential(size=40) if weighted else np.ones(40)
    whole = evaluate_multilabel(labels, logits=logits, weights=weights)
    merged = evaluate_multilabel(labels[:0], logits=logits[:0], weights=weights[:0])
    for a, b in itertools.pairwise([0, *sorted(cuts), 40]):
        merged = merged.merge(evaluate_multilabel(labels[a:b], logits=logits[a:b], weights=weights[a:b]))
    assert merged.n == whole.n
    np.testing.assert_array_equal(merged.bin_sums.value[:2], whole.bin_sums.value[:2])
    np.testing.assert_allclose(merged.bin_sums.value, whole.bin_sums.value, rtol=1e-12)
    np.testing.assert_allclose(merged.label_sums.value, whole.label_sums.value, rtol=1e-12)
    assert not weighted or not np.array_equal(merged.bin_sums.value[2], merged.bin_sums.value[0])


def test_certainties_and_extremes():
    found = evaluate_multilabel([[1, 0], [1, 1]], logits=[[np.inf, -np.inf], [-np.inf, 800.0]])
    assert found.n_infinite_nll.tolist() == [1, 0]
    assert found.per_label.nll.tolist() == [math.inf, 0.0]
    assert found.per_label.brier.tolist() == [0.5, 0.0]
    assert json.loads(found.to_json(), parse_constant=pytest.fail)["per_label"]["nll"] == [None, 0.0]
    small = evaluate_multilabel([[1]], logits=[[40.0]])
    assert small.per_label.nll[0] == pytest.approx(math.exp(-40), rel=1e-12)


def test_no_rows_and_a_label_without_rows_are_nan():
    empty = evaluate_multilabel(np.empty((0, 3), int), probs=np.empty((0, 3)))
    assert np.isnan(empty.per_label.ece).all()
    assert math.isnan(empty.macro_ece)
    assert math.isnan(empty.subset_accuracy)
    found = evaluate_multilabel([[1, -1]], probs=[[0.5, 0.5]], ignore_index=-1)
    assert np.isnan(found.per_label.ece[1])
    assert found.macro_ece == found.per_label.ece[0]


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({}, TypeError, "wants exactly one of logits= and probs=; got neither"),
        ({"probs": [0.5]}, ValueError, r"probs must have shape \(n, L\)"),
        ({"probs": [[0.5, 0.5]]}, ValueError, r"labels must have the shape of probs, \(1, 2\); got \(1, 1\)"),
        (
            {"probs": [[1.5]]},
            ValueError,
            r"probs must lie in \[0, 1\]; got 1.5 at row 0, column 0; these look like log",
        ),
        ({"logits": [[np.nan]]}, ValueError, "logits must not be NaN; got nan at row 0, column 0"),
        ({"probs": [[0.5]], "labels": [[2]]}, ValueError, "labels must be 0 or 1; got 2 at row 0, column 0"),
        ({"probs": [[0.5]], "weights": [-1.0]}, ValueError, "weights must be finite and not negative"),
    ],
)
def test_errors_say_what_came_and_what_to_do(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        evaluate_multilabel(**({"labels": [[1]]} | arguments))


def test_merge_and_reliability_name_what_differs():
    one, two = (evaluate_multilabel([[1] * k], probs=[[0.5] * k]) for k in (1, 2))
    with pytest.raises(ValueError, match="same n_labels; got 1 and 2"):
        one.merge(two)
    with pytest.raises(ValueError, match="label must lie in 0 to 0; got 1"):
        one.reliability(1)
