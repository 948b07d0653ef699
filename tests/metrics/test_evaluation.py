import importlib.resources
import json
import math
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from softargmax import LikelyProbabilitiesWarning
from softargmax.metrics import Evaluation, evaluate

EXACT = {"rel": 1e-12, "abs": 1e-14}


def definition(labels, log_probs, weights=None, n_bins=15) -> dict[str, float]:
    """The metrics by loops and exact sums, from log-probabilities."""
    weights = [1.0] * len(labels) if weights is None else list(weights)
    edges = np.linspace(0, 1, n_bins + 1)
    terms = {name: [] for name in ("accuracy", "nll", "brier", "mean_confidence", "top5")}
    gaps = [[] for _ in range(n_bins)]
    for label, row, weight in zip(labels, log_probs, weights, strict=True):
        probs = [math.exp(entry) for entry in row]
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        confidence = probs[order[0]]
        right = order[0] == label
        terms["accuracy"].append(weight * right)
        terms["top5"].append(weight * (label in order[:5]))
        terms["nll"].append(weight * -row[label])
        terms["brier"].append(weight * math.fsum((p - (k == label)) ** 2 for k, p in enumerate(probs)))
        terms["mean_confidence"].append(weight * confidence)
        inside = next(b for b in range(n_bins) if confidence <= edges[b + 1] or b == n_bins - 1)
        gaps[inside].append(weight * (right - confidence))
    total = math.fsum(weights)
    result = {name: math.fsum(values) / total for name, values in terms.items()}
    return result | {"ece": math.fsum(abs(math.fsum(gap)) for gap in gaps) / total}


def model(n=400, k=7, seed=0, scale=2.0):
    """Logits and labels of a classifier that is right about two times in three."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += scale
    return labels, logits


def headline(result: Evaluation) -> dict[str, float]:
    names = ("accuracy", "nll", "brier", "mean_confidence", "ece") + (("top5",) if result.n_classes > 5 else ())
    return {name: getattr(result, name) for name in names}


def assert_same(a: Evaluation, b: Evaluation, *, n_rows: int) -> None:
    """Counts bit for bit, sums to 1e-12 of the sum of their absolute terms (all terms are positive)."""
    assert (a.n, a.n_infinite_nll, a.weighted) == (b.n, b.n_infinite_nll, b.weighted)
    np.testing.assert_array_equal(a.confidences.bins.high[:2], b.confidences.bins.high[:2])
    for x, y in zip(sums(a), sums(b), strict=True):
        if a.weighted:
            np.testing.assert_allclose(x.value, y.value, rtol=1e-12, atol=1e-300)
        else:  # a sum of rows is a whole number
            np.testing.assert_allclose(x.value, y.value, rtol=1e-12, atol=1e-300)
            whole = (x.value == np.rint(x.value)) & (x.value < 2**53)
            np.testing.assert_array_equal(x.value[whole], y.value[whole])
    assert a.n == n_rows


def sums(of: Evaluation) -> list:
    return [
        *(of.confidences.bins, of.confidences.fine, of.mean_sums, of.class_sums, of.cell_sums, of.low_sums),
        *([] if of.confusion_sums is None else [of.confusion_sums]),
    ]


# ---- the numbers


@pytest.mark.parametrize("k", [2, 3, 5, 6, 30])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_equals_the_definition(k, weighted, n_bins):
    labels, logits = model(k=k, seed=k)
    logits[5, (labels[5] + 1) % k] = -np.inf
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else None
    expected = definition(labels, log_softmax(logits, axis=1), weights, n_bins)
    from_logits = evaluate(labels, logits=logits, weights=weights, n_bins=n_bins)
    from_probs = evaluate(labels, probs=softmax(logits, axis=1), weights=weights, n_bins=n_bins)
    for result in (from_logits, from_probs):
        for name, value in headline(result).items():
            assert value == pytest.approx(expected[name], **EXACT), name
    assert from_logits.top5 is None if k <= 5 else from_logits.top5 is not None


def test_equals_scikit_learn():
    labels, logits = model(n=2000, k=8)
    probs = softmax(logits, axis=1)
    predicted, classes = probs.argmax(axis=1), np.arange(8)
    result = evaluate(labels, probs=probs)
    assert result.nll == pytest.approx(log_loss(labels, probs, labels=classes), **EXACT)
    brier = brier_score_loss(labels, probs, labels=classes, scale_by_half=False)
    assert result.brier == pytest.approx(brier, **EXACT)
    assert result.top5 == pytest.approx(top_k_accuracy_score(labels, probs, k=5, labels=classes), **EXACT)
    np.testing.assert_array_equal(result.confusion, confusion_matrix(labels, predicted, labels=classes))
    share, confidence = calibration_curve(predicted == labels, probs.max(axis=1), n_bins=15)
    count = result.reliability.count
    ece = np.sum(count[count > 0] * np.abs(share - confidence)) / len(labels)
    assert result.ece == pytest.approx(ece, **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_equal_scikit_learn(weighted):
    labels, logits = model(n=300, k=6)
    labels[labels == 2] = 0
    logits[:, 4] = -9  # class 2 is never the label, class 4 never the prediction
    weights = np.random.default_rng(0).exponential(size=300) if weighted else None
    per_class = evaluate(labels, logits=logits, weights=weights).per_class
    expected = precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=np.arange(6), sample_weight=weights, zero_division=np.nan
    )
    for name, value in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(getattr(per_class, name), value, rtol=1e-12, err_msg=name)
    assert math.isnan(per_class.recall[2])
    assert math.isnan(per_class.precision[4])
    mean = np.average(softmax(logits, axis=1), axis=0, weights=weights)
    np.testing.assert_allclose(per_class.mean_probability, mean, rtol=1e-12)
    assert per_class.support.dtype == (np.float64 if weighted else np.int64)


def test_a_real_network():
    with np.load(str(importlib.resources.files("softargmax.data") / "cifar10-resnet20.npz")) as file:
        result = evaluate(file["labels"], logits=file["logits"])
    assert result.n == 10_000
    assert result.accuracy == 0.8103
    assert result.mean_confidence == pytest.approx(0.9348, abs=5e-5)
    assert result.nll == pytest.approx(0.8788, abs=5e-5)
    assert result.ece == pytest.approx(0.12453, abs=5e-6)
    assert result.interval("ece") == pytest.approx((0.117, 0.132), abs=6e-4)
    assert result.null("ece") == pytest.approx(0.0052, abs=1e-4)


def test_very_confident_and_wrong_counts_in_full():
    result = evaluate([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10)
    assert result.ece == pytest.approx(0.475, abs=1e-15)  # [0.95, 1.0] against [1, 0]; 0.025 if 1.0 had its own bin


def test_certain_and_wrong_costs_two():
    assert evaluate([0], probs=[[0.0, 1.0]]).brier == 2.0


def test_a_shift_and_the_dtype_of_exact_values_change_nothing():
    labels, _ = model(k=4)
    logits = np.random.default_rng(0).integers(-8, 9, size=(len(labels), 4))
    expected = evaluate(labels, logits=logits.astype(np.float64)).to_json()
    for dtype in (np.int8, np.int64, np.float16, np.float32, ">f4"):
        assert evaluate(labels, logits=logits.astype(dtype)).to_json() == expected
    assert evaluate(labels, logits=logits + 1000.0).to_json() == expected
    assert evaluate(labels.astype(np.uint8), logits=logits.tolist()).to_json() == expected


# ---- laws, each with an implementation that it must reject


def law_bins_are_right_closed(bin_of) -> None:
    """Confidences exactly on the edges, one ulp above them, 0 and 1: ((b - 1)/B, b/B]."""
    for n_bins in (2, 10, 15, 100):
        edges = np.linspace(0, 1, n_bins + 1)
        inner = [b for b in range(1, n_bins) if edges[b] >= 0.5]  # a confidence of two classes is at least 1/2
        for b in inner:
            assert bin_of(edges[b], n_bins) == b - 1
            assert bin_of(np.nextafter(edges[b], 1), n_bins) == b
        assert bin_of(1.0, n_bins) == n_bins - 1
        assert bin_of(1 + 1e-9, n_bins) == n_bins - 1


def our_bin(confidence: float, n_bins: int) -> int:
    count = evaluate([0], probs=[[confidence, 1 - min(confidence, 1)]], n_bins=n_bins).reliability.count
    assert count.sum() == 1
    return int(np.argmax(count))


def test_bins_are_right_closed():
    law_bins_are_right_closed(our_bin)


@pytest.mark.parametrize(
    "broken",
    [
        lambda c, n: int(np.searchsorted(np.linspace(0, 1, n + 1)[1:-1], c, side="right")),  # left-closed
        lambda c, n: int(np.searchsorted(np.linspace(0, 1, n + 1, dtype="f4")[1:-1], c)),  # edges in float32
        lambda c, n: math.ceil(c * n) - 1,  # arithmetic instead of a search
        lambda c, n: n if c >= 1 else our_bin(c, n),  # 1.0 in a bin of its own
    ],
)
def test_the_law_of_bins_rejects(broken):
    with pytest.raises(AssertionError):
        law_bins_are_right_closed(broken)


def law_nll_is_whole(nll) -> None:
    """nll(log_probs (1, 2), label): never clipped, and accurate on both ends."""
    assert nll(np.array([[0.0, -700.0]]), 1) == pytest.approx(700, rel=1e-12)
    assert nll(np.array([[0.0, -1e6]]), 1) == pytest.approx(1e6, rel=1e-12)
    assert nll(np.array([[0.0, -np.inf]]), 1) == math.inf
    assert nll(np.array([[16.942385, 0.0]]), 0) == pytest.approx(4.38546459e-8, rel=1e-8)
    assert nll(np.array([[40.0, 0.0]]), 0) == pytest.approx(math.exp(-40), rel=1e-12)


def test_nll_is_whole():
    law_nll_is_whole(lambda logits, label: evaluate([label], logits=logits).nll)


def clipped(logits, label):
    return -math.log(np.clip(softmax(logits, axis=1), 1e-15, 1)[0, label])


def of_float32(logits, label):
    with np.errstate(divide="ignore"):
        return -float(log_softmax(logits.astype(np.float32), axis=1)[0, label])


def of_probs(logits, label):
    with np.errstate(divide="ignore"):
        return -float(np.log(softmax(logits, axis=1))[0, label])


@pytest.mark.parametrize("broken", [clipped, of_float32, of_probs])
def test_the_law_of_nll_rejects(broken):
    with pytest.raises(AssertionError):
        law_nll_is_whole(broken)


def law_a_good_forecast_keeps_its_digits(brier) -> None:
    logits = np.array([[20.0, 0.0]])
    miss = math.exp(-20) / (1 + math.exp(-20))
    assert brier(logits) == pytest.approx(2 * miss * miss, rel=1e-12, abs=0)


def test_a_good_forecast_keeps_its_digits():
    law_a_good_forecast_keeps_its_digits(lambda logits: evaluate([0], logits=logits).brier)
    with pytest.raises(AssertionError):  # the textbook rearrangement
        law_a_good_forecast_keeps_its_digits(
            lambda logits: float((softmax(logits) ** 2).sum() - 2 * softmax(logits)[0, 0] + 1)
        )


def law_ties_go_to_the_first_index(accuracy_and_top5) -> None:
    scores = np.zeros((7, 7))
    assert accuracy_and_top5(np.arange(7), scores) == pytest.approx((1 / 7, 5 / 7), rel=1e-12)
    scores[:, 6] = 2
    assert accuracy_and_top5(np.arange(7), scores) == pytest.approx((1 / 7, 5 / 7), rel=1e-12)
    scores[:, 1:4] = -np.inf  # order now 6, 0, 4, 5, 1, 2, 3
    ours = accuracy_and_top5(np.array([1, 2, 3]), scores[:3])
    assert ours == pytest.approx((0, 1 / 3), rel=1e-12)


def test_ties_go_to_the_first_index():
    def ours(labels, logits):
        result = evaluate(labels, logits=logits)
        return result.accuracy, result.top5

    def generous(labels, logits):  # counts only what is strictly greater
        own = logits[np.arange(len(labels)), labels][:, None]
        rank = (logits > own).sum(axis=1)
        return float(np.mean(rank < 1)), float(np.mean(rank < 5))

    law_ties_go_to_the_first_index(ours)
    with pytest.raises(AssertionError):
        law_ties_go_to_the_first_index(generous)


def law_the_order_survives_rounding(accuracy) -> None:
    """Probabilities of huge or nearly equal logits tie by rounding; the prediction is that of the logits."""
    gap = np.array([[0.0, 1e-17], [1e5, 1e5 + 1e-10]])
    assert accuracy(np.array([1, 1]), gap) == 1.0


def test_the_prediction_is_that_of_the_logits():
    law_the_order_survives_rounding(lambda labels, logits: evaluate(labels, logits=logits).accuracy)
    with pytest.raises(AssertionError):
        law_the_order_survives_rounding(lambda y, z: float(np.mean(softmax(z, axis=1).argmax(axis=1) == y)))


def test_an_entry_above_one_does_not_change_what_the_numbers_are():
    labels, logits = model(k=4, scale=8)
    probs = softmax(logits, axis=1)
    before = evaluate(labels, probs=probs)
    probs[0] = [1 + 1e-9, 0, 0, 0]
    labels[0] = 0
    after = evaluate(labels, probs=probs)
    assert after.ece == pytest.approx(before.ece, abs=2 / len(labels))
    assert after.n == before.n == after.reliability.count.sum()


def test_a_confidence_above_one_has_no_negative_variance():
    result = evaluate([0, 0], probs=[[1 + 1e-9, 0], [1 + 1e-9, 0]])
    assert result.null("ece") == 0
    assert result.interval("ece")[0] == 0


def test_probabilities_are_not_renormalised():
    result = evaluate([0], probs=[[0.6, 0.4005]])
    assert result.nll == -math.log(0.6)
    assert result.mean_confidence == 0.6


# ---- rows that do not count


def test_empty_bins_are_nan_and_counts_add_up():
    labels, logits = model(n=40, k=3, scale=6)
    bins = evaluate(labels, logits=logits, n_bins=50).reliability
    empty = bins.count == 0
    assert empty.any()
    assert bins.count.sum() == 40
    assert bins.right.sum() == np.sum(logits.argmax(axis=1) == labels)
    for values in (bins.confidence, bins.accuracy, bins.lower, bins.upper):
        assert np.all(np.isnan(values) == empty)
    full = ~empty
    assert np.all((bins.lower <= bins.accuracy)[full])
    assert np.all((bins.accuracy <= bins.upper)[full])
    np.testing.assert_array_equal(bins.edges, np.linspace(0, 1, 51))
    inside = (bins.edges[:-1] < bins.confidence) & (bins.confidence <= bins.edges[1:])
    assert np.all(inside[full])


def test_ignored_rows_and_rows_of_weight_zero_are_as_absent():
    labels, logits = model(n=50, k=4)
    kept = np.arange(50) % 3 > 0
    ignored = np.where(kept, labels, -100)
    spoiled = logits.copy()
    spoiled[~kept] = np.nan
    spoiled[0] = np.inf
    expected = evaluate(labels[kept], logits=logits[kept])
    without = evaluate(ignored, logits=spoiled, ignore_index=-100)
    assert_same(without, expected, n_rows=int(kept.sum()))
    weights = kept.astype(float)
    weightless = evaluate(ignored, logits=spoiled, weights=weights)  # nor can a label of weight 0 be out of range
    assert weightless.n == kept.sum() == weightless.reliability.count.sum()
    assert headline(weightless) == pytest.approx(headline(expected), **EXACT)
    assert weightless.interval("ece") == pytest.approx(expected.interval("ece"), rel=1e-9)
    probs = softmax(logits, axis=1)
    probs[~kept] = 7
    assert evaluate(ignored, probs=probs, ignore_index=-100).n == kept.sum()


def test_integer_weights_equal_repetition():
    labels, logits = model(n=200, k=6)
    times = np.random.default_rng(0).integers(0, 4, 200)
    weighted = evaluate(labels, logits=logits, weights=times)
    repeated = evaluate(np.repeat(labels, times), logits=np.repeat(logits, times, axis=0))
    assert headline(weighted) == pytest.approx(headline(repeated), **EXACT)
    np.testing.assert_allclose(weighted.confusion, repeated.confusion, rtol=1e-12)
    for name in ("precision", "recall", "f1", "mean_probability"):
        np.testing.assert_allclose(
            getattr(weighted.per_class, name), getattr(repeated.per_class, name), rtol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(weighted.reliability.accuracy, repeated.reliability.accuracy, rtol=1e-12)
    assert weighted.n == np.sum(times > 0)
    # a row that counts three times is still one row: the interval is wider
    for name in ("accuracy", "top5", "nll", "brier", "ece", "mean_confidence"):
        assert np.diff(weighted.interval(name))[0] > np.diff(repeated.interval(name))[0], name


def test_intervals_depend_on_weights_by_the_effective_size_alone():
    labels, logits = model(n=400, k=6)
    plain = evaluate(labels, logits=logits)
    for scale in (0.125, 1.0, 1024.0):
        scaled = evaluate(labels, logits=logits, weights=np.full(400, scale))
        for name in ("accuracy", "top5", "nll", "brier", "ece", "mean_confidence"):
            assert scaled.interval(name) == pytest.approx(plain.interval(name), rel=1e-9), name
        assert scaled.null("ece") == pytest.approx(plain.null("ece"), rel=1e-12)
        np.testing.assert_allclose(scaled.reliability.lower, plain.reliability.lower, rtol=1e-9)
    # every row twice, with weights 1 and 3: the same means, from 640 effective rows of 800
    uneven = evaluate(
        np.concatenate([labels, labels]),
        logits=np.concatenate([logits, logits]),
        weights=np.concatenate([np.full(400, 1.0), np.full(400, 3.0)]),
    )
    n = (400 * 1 + 400 * 3) ** 2 / (400 * 1 + 400 * 9)
    p, z = plain.accuracy, 1.959963984540054
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    assert uneven.interval("accuracy") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, []])
def test_no_rows_are_an_evaluation_of_nan(weights):
    empty = evaluate([], logits=np.empty((0, 6)), weights=weights)
    assert empty.n == 0
    assert all(math.isnan(value) for value in headline(empty).values())
    assert math.isnan(empty.null("ece"))
    for name in ("accuracy", "top5", "nll", "brier", "ece", "mean_confidence"):
        assert np.isnan(empty.interval(name)).all()
    assert json.loads(empty.to_json())["ece_upper"] is None
    assert np.isnan(empty.per_class.mean_probability).all()
    assert "0 rows" in str(empty)
    all_ignored = evaluate([-1, -1], probs=np.full((2, 6), np.nan), ignore_index=-1)
    assert all_ignored.n == 0


# ---- merge


@st.composite
def divided_rows(draw):
    n, k = draw(st.integers(0, 40)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(n, k)) * draw(st.sampled_from([0.01, 3.0, 1e3, 1e300]))
    logits[rng.random((n, k)) < 0.1] = -np.inf
    logits[:, 0] = np.where(np.isfinite(logits).any(axis=1), logits[:, 0], 0.0)
    weights = draw(st.sampled_from([None, 1.0, 1e6]))
    weights = None if weights is None else rng.integers(0, 3, n) * rng.exponential(weights, n)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    parts = list(np.split(rng.permutation(n), cuts))
    return rng.integers(0, k, n), logits, weights, draw(st.permutations(parts))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(divided_rows())
def test_any_split_in_any_order_merges_to_the_whole(rows):
    labels, logits, weights, parts = rows
    merged = None
    for part in parts:
        piece = evaluate(labels[part], logits=logits[part], weights=None if weights is None else weights[part])
        merged = piece if merged is None else merged.merge(piece)
    whole = evaluate(labels, logits=logits, weights=weights)
    assert_same(merged, whole, n_rows=len(labels) if weights is None else int(np.sum(weights > 0)))
    right_to_left = evaluate(labels[:0], logits=logits[:0], weights=None if weights is None else []).merge(merged)
    assert_same(right_to_left, merged, n_rows=merged.n)


def law_many_small_parts_are_the_whole(nll_of_parts) -> None:
    """10,000 parts of one row, of very different sizes, against exact sums."""
    rng = np.random.default_rng(0)
    gaps = np.where(rng.random(10_000) < 0.01, 1e9, 1e-3) * rng.random(10_000)
    logits = np.stack([gaps, np.zeros(10_000)], axis=1)
    exact = math.fsum(gap + math.log1p(math.exp(-gap)) for gap in gaps.tolist()) / 10_000
    assert nll_of_parts(np.ones(10_000, int), logits) == pytest.approx(exact, rel=1e-14, abs=0)


def test_many_small_parts_are_the_whole():
    def merged(labels, logits):
        parts = [evaluate(labels[i : i + 1], logits=logits[i : i + 1]) for i in range(len(labels))]
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        assert total.n == 10_000 == total.confusion.sum()
        assert total.mean_confidence == pytest.approx(math.fsum(p.mean_confidence for p in parts) / 10_000, rel=1e-15)
        return total.nll

    def float32(labels, logits):
        rows = logits[:, 0] + np.log1p(np.exp(-logits[:, 0]))
        return float(np.cumsum(rows.astype(np.float32), dtype=np.float32)[-1]) / len(labels)

    law_many_small_parts_are_the_whole(merged)
    with pytest.raises(AssertionError):
        law_many_small_parts_are_the_whole(float32)


def test_one_long_bin_is_added_as_exactly_as_many_short_parts():
    result = evaluate(np.zeros(400_000, int), probs=np.tile([0.7, 0.3], (400_000, 1)))
    # np.bincount over all rows at once misses by 1e-11
    assert result.reliability.confidence[10] == pytest.approx(0.7, rel=1e-12, abs=0)
    assert result.per_class.mean_probability == pytest.approx([0.7, 0.3], rel=1e-12, abs=0)


def test_the_error_of_the_whole_is_not_the_mean_of_the_parts():
    labels, logits = model(n=200, k=3)
    a, b = evaluate(labels[:100], logits=logits[:100]), evaluate(labels[100:], logits=logits[100:])
    whole = evaluate(labels, logits=logits).ece
    assert a.merge(b).ece == pytest.approx(whole, **EXACT)
    assert abs((a.ece + b.ece) / 2 - whole) > 1e-3  # what averaging batches would report


def test_weighted_and_unweighted_rows_merge():
    labels, logits = model(n=60, k=4)
    plain = evaluate(labels[:20], logits=logits[:20])
    weighted = evaluate(labels[20:], logits=logits[20:], weights=np.full(40, 0.5))
    for both in (plain.merge(weighted), weighted.merge(plain)):
        expected = evaluate(labels, logits=logits, weights=np.repeat([1.0, 0.5], [20, 40]))
        assert_same(both, expected, n_rows=60)
        assert both.confusion.dtype == np.float64


def test_merge_names_what_differs():
    labels, logits = model(k=4)
    one = evaluate(labels, logits=logits)
    with pytest.raises(ValueError, match=r"^evaluations merge only with the same n_bins; got 15 and 10$"):
        one.merge(evaluate(labels, logits=logits, n_bins=10))
    with pytest.raises(ValueError, match=r"^evaluations merge only with the same n_classes; got 4 and 7$"):
        one.merge(evaluate(*model()[:1], logits=model()[1]))
    with pytest.raises(TypeError, match=r"^only an Evaluation merges with an Evaluation; got int$"):
        one.merge(0)


def test_an_evaluation_cannot_be_changed_and_survives_another_process():
    labels, logits = model(k=4)
    result = evaluate(labels, logits=logits)
    before = result.to_json()
    with pytest.raises(AttributeError):
        result.n = 5
    for array in (
        result.confusion,
        result.reliability.accuracy,
        result.reliability.count,
        result.per_class.recall,
        result.per_class.support,
        result.mean_sums.high,
        result.cell_sums.low,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    result.merge(result)
    assert result.to_json() == before == pickle.loads(pickle.dumps(result)).to_json()


# ---- arrays as they come


def test_every_layout_gives_the_same_bits(tmp_path):
    labels, logits = model(n=9000, k=12)  # three blocks
    logits = logits.astype(np.float32)
    expected = evaluate(labels, logits=logits).to_json()
    np.save(tmp_path / "logits.npy", logits)
    read_only = logits.copy()
    read_only.setflags(write=False)
    wide = np.full((18_000, 24), np.nan, dtype=np.float32)
    wide[::2, ::2] = logits
    for same in (
        np.asfortranarray(logits),
        read_only,
        wide[::2, ::2],
        logits[::-1][::-1],
        np.load(tmp_path / "logits.npy", mmap_mode="r"),
    ):
        assert evaluate(labels, logits=same).to_json() == expected
    images = logits.reshape(90, 10, 10, 12).transpose(0, 3, 1, 2)
    assert evaluate(labels.reshape(90, 10, 10), logits=images, axis=1).to_json() == expected
    assert evaluate(labels, logits=np.ascontiguousarray(logits.T), axis=0).to_json() == expected
    np.testing.assert_array_equal(read_only, logits)  # and the input is left alone


def test_one_row_needs_no_batch_dimension():
    alone = evaluate(2, logits=[0.0, 1.0, 3.0])
    assert alone.to_json() == evaluate([2], logits=[[0.0, 1.0, 3.0]]).to_json()
    assert alone.n == 1


def test_memory_beyond_the_input_is_bounded():
    logits = np.random.default_rng(0).normal(size=(2, 100, 60_000)).astype(np.float32)  # 48 MB, classes in the middle
    labels = np.zeros((2, 60_000), dtype=np.int64)
    tracemalloc.start()
    try:
        evaluate(labels, logits=logits, axis=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # a copy in float64 alone would be 96 MB


def test_confusion_stops_at_a_thousand_classes_and_classes_go_on():
    logits = 2 * np.eye(1001)[[3, 3, 1000]]
    result = evaluate([3, 4, 1000], logits=logits)
    assert result.confusion is None
    assert result.to_dict()["confusion"] is None
    assert result.merge(result).confusion is None
    assert result.per_class.support[[3, 4, 1000]].tolist() == [1, 1, 1]
    assert result.per_class.predicted[[3, 4, 1000]].tolist() == [2, 0, 1]
    thousand = evaluate([0], logits=2 * np.eye(1000)[:1])
    assert thousand.confusion.shape == (1000, 1000)
    assert thousand.confusion.dtype == np.int64


# ---- what leaves


def test_to_dict_has_flat_numbers_first():
    labels, logits = model(k=6)
    result = evaluate(labels, logits=logits)
    found = result.to_dict()
    numbers = [name for name, value in found.items() if not isinstance(value, (dict, list))]
    bounded = ("accuracy", "balanced_accuracy", "top5", "nll", "brier", "mean_confidence", "ece", "classwise_ece")
    assert numbers[:3] == ["n", "n_classes", "n_bins"]
    assert {f"{name}{end}" for name in bounded for end in ("", "_lower", "_upper")} < set(numbers)
    others = "n_infinite_nll ece_null classwise_ece_null ece_l2 mce ece_mass smooth_ece ece_p_value aurc excess_aurc"
    assert set(others.split()) < set(numbers)
    assert list(found) == [*numbers, "absent_classes", "reliability", "per_class", "confusion"]
    assert {type(found[name]) for name in numbers} == {int, float}
    for name in ("accuracy", "nll", "brier", "mean_confidence"):
        assert found[f"{name}_lower"] < found[name] < found[f"{name}_upper"]
        assert (found[f"{name}_lower"], found[f"{name}_upper"]) == result.interval(name)
    assert found["reliability"]["count"] == result.reliability.count.tolist()
    assert len(found["per_class"]["f1"]) == 6
    assert np.sum(found["confusion"]) == found["n"]
    assert "top5" not in evaluate(*model(k=5)[:1], logits=model(k=5)[1]).to_dict()


def test_json_is_strict():
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    result = evaluate([1, 0], probs=[[1.0, 0.0], [0.5, 0.5]])
    found = json.loads(result.to_json(), parse_constant=refuse)
    assert found["nll"] is None
    assert found["n_infinite_nll"] == 1
    assert found["reliability"]["accuracy"][0] is None
    assert found["accuracy"] == 0.5


def test_it_prints_its_numbers():
    labels, logits = model(k=6)
    result = evaluate(labels, logits=logits)
    assert f"accuracy={result.accuracy:.4g}" in repr(result)
    assert "\n" not in repr(result)
    assert f"{result.interval('ece')[1]:.4f}" in str(result)
    assert "a calibrated model would show" in str(result)
    assert "label had probability 0: 1" in str(evaluate([1], probs=[[1.0, 0.0]]))


def test_classes_without_a_row_are_listed():
    labels, logits = model(n=40, k=30)
    labels[labels == 3] = 4
    result = evaluate(labels, logits=logits)
    absent = sorted(set(range(30)) - set(labels.tolist()))
    assert 3 in absent
    assert list(result.absent_classes) == absent == result.to_dict()["absent_classes"]
    assert np.isnan(result.per_class.recall[absent]).all()
    assert f"classes without a row: {absent[0]}, " in str(result)
    assert "without a row" not in str(evaluate([0, 1], logits=[[3.0, 0.0], [0.0, 3.0]]))


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({}, TypeError, "evaluate wants exactly one of logits= and probs=; got neither"),
        (
            {"logits": [[0, 1]], "probs": [[0, 1]]},
            TypeError,
            "evaluate wants exactly one of logits= and probs=; got both",
        ),
        ({"logits": [[0.0, 1.0]], "axis": 2}, ValueError, "axis must be one of the 2 dimensions of logits; got 2"),
        ({"logits": 3.0}, ValueError, "axis must be one of the 0 dimensions of logits; got -1"),
        ({"logits": [[0.0, 1.0]], "n_bins": 0}, ValueError, "n_bins must be an integer of at least 1; got 0"),
        ({"logits": [[0.0, 1.0]], "n_bins": 2.5}, ValueError, "n_bins must be an integer of at least 1; got 2.5"),
        ({"logits": [[0.0, 1.0]], "n_bins": True}, ValueError, "n_bins must be an integer of at least 1; got True"),
        (
            {"logits": [[0.0, np.nan]]},
            ValueError,
            "logits must be finite or -inf, with at least one finite entry a row; row 0 holds NaN",
        ),
        (
            {"probs": [[2.0, -1.0]]},
            ValueError,
            "probs must be probabilities (each in [0, 1], every row summing to 1); row 0 holds -1 and sums to 1; "
            "these look like logits: pass them as logits",
        ),
        (
            {"logits": [[0.0, 1.0]], "weights": [-1.0]},
            ValueError,
            "weights must be finite and not negative; got -1.0 at index 0",
        ),
        (
            {"logits": [[0.0, 1.0]], "weights": [1e-200]},
            ValueError,
            "weights must be 0 or lie in [1e-100, 1e100], for their squares are summed; got 1e-200",
        ),
        (
            {"logits": [[0.0, 1.0]] * 2},
            ValueError,
            "labels must have shape (2,), one label a row; got shape (1,)",
        ),
    ],
)
def test_errors_say_what_came_and_what_to_do(arguments, kind, sentence):
    with pytest.raises(kind) as error:
        evaluate([0], **arguments)
    assert str(error.value) == sentence


def test_bad_rows_are_named_by_their_place_in_the_whole():
    labels, logits = model(n=9000, k=3)
    logits[[5000, 6000, 8000]] = [np.inf, 0, 0]
    with pytest.raises(ValueError, match=r"row 5000 \(and 2 other rows\) holds \+inf"):
        evaluate(labels, logits=logits)
    with pytest.raises(ValueError, match=r"row \(0, 5000\) \(and 2 other rows\)"):
        evaluate(labels[None], logits=logits[None])
    logits[[5000, 6000, 8000]] = -np.inf
    labels[5000] = -1
    with pytest.raises(ValueError, match=r"row 6000 \(and 1 other row\) holds only -inf"):
        evaluate(labels, logits=logits, ignore_index=-1)
    probs = np.full((9000, 3), 1 / 3)
    probs[[5000, 6000]] = 0.5
    with pytest.raises(ValueError, match=r"row 6000 sums to 1\.5"):
        evaluate(labels, probs=probs, ignore_index=-1)
    with pytest.raises(ValueError, match=r"got 3 at index 7"):
        evaluate(np.where(np.arange(9000) == 7, 3, 0), probs=probs)


def test_logits_that_look_like_probabilities_warn_once_and_stay_logits():
    labels, logits = model(n=9000, k=3)
    probs = softmax(logits, axis=1)
    with pytest.warns(LikelyProbabilitiesWarning) as caught:
        result = evaluate(labels, logits=probs)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller's line
    assert result.nll == pytest.approx(definition(labels, log_softmax(probs, axis=1))["nll"], **EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(labels, probs=probs)
        probs[8999, 0] += 1e-3  # one row that is none, in the last block
        evaluate(labels, logits=probs)


def test_one_hot_integers_are_probabilities():
    result = evaluate([0, 1, 2], probs=np.eye(3, dtype=int)[[0, 1, 1]])
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.n_infinite_nll == 1
    assert result.nll == math.inf
    assert result.brier == pytest.approx(2 / 3)
