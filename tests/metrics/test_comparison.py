import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax, xlogy
from scipy.stats import binomtest, norm, t, ttest_rel

from softargmax.metrics.comparison import Comparison, _tango_lower, compare
from softargmax.metrics.measure import evaluate

EXACT = {"rel": 1e-12, "abs": 1e-14}
MEANS = ("accuracy", "nll", "brier")
METRICS = (*MEANS, "ece")


def losses(labels, log_probs) -> dict[str, np.ndarray]:
    """Of every row, from log-probabilities."""
    probs = np.exp(log_probs)
    return {
        "accuracy": (log_probs.argmax(axis=1) == labels) * 1.0,
        "nll": -log_probs[np.arange(len(labels)), labels],
        "brier": ((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1),
        "confidence": probs.max(axis=1),
    }


def definition(labels, log_probs, weights, n_bins=15) -> dict[str, float]:
    """Values of one model, bins by loops."""
    of, edges = losses(labels, log_probs), np.linspace(0, 1, n_bins + 1)
    gaps = [0.0] * n_bins
    for right, confidence, weight in zip(of["accuracy"], of["confidence"], weights, strict=True):
        inside = next(b for b in range(n_bins) if confidence <= edges[b + 1] or b == n_bins - 1)
        gaps[inside] += weight * (right - confidence)
    values = {name: float(np.average(of[name], weights=weights)) for name in MEANS}
    return values | {"ece": sum(map(abs, gaps)) / sum(weights)}


def two_models(n=400, k=7, seed=0):
    """Labels and logits of a classifier that is right about two times in three, and of one that is a little better."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    a = rng.normal(size=(n, k)) * 2
    a[np.arange(n), labels] += 2
    b = 0.8 * a + rng.normal(size=(n, k)) * 0.3
    b[np.arange(n), labels] += 0.3
    return labels, a, b


def part_of(labels, a, b, rows, weights=None, groups=None, **options) -> Comparison:
    chosen = {"weights": weights, "groups": groups}
    chosen = {name: None if value is None else value[rows] for name, value in chosen.items()}
    return compare(labels[rows], logits=(a[rows], b[rows]), **chosen, **options)


# ---- the numbers


@pytest.mark.parametrize("k", [2, 3, 30])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_equals_the_definition(k, weighted, n_bins):
    labels, a, b = two_models(k=k, seed=k)
    a[5, (labels[5] + 1) % k] = -np.inf
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else None
    scores = [log_softmax(each, axis=1) for each in (a, b)]
    expected = [definition(labels, each, np.ones(400) if weights is None else weights, n_bins) for each in scores]
    from_logits = compare(labels, logits=(a, b), weights=weights, n_bins=n_bins)
    from_probs = compare(labels, probs=(softmax(a, axis=1), softmax(b, axis=1)), weights=weights, n_bins=n_bins)
    for result in (from_logits, from_probs):
        assert (result.n, result.n_classes, result.n_bins, result.weighted) == (400, k, n_bins, weighted)
        for name in METRICS:
            of_a, of_b = (each[name] for each in expected)
            assert getattr(result, name) == pytest.approx((of_a, of_b), **EXACT), name
            assert result.difference(name) == pytest.approx(of_b - of_a, **EXACT), name


def test_values_are_those_of_evaluate():
    """Also on a grid of probabilities, where many confidences are edges of bins."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    first = rng.integers(0, 21, (2, 500)) / 20
    probs = tuple(np.stack([each, 1 - each], axis=1) for each in first)
    result = compare(labels, probs=probs, n_bins=10)
    of_a, of_b = (evaluate(labels, probs=each, n_bins=10) for each in probs)
    for name in METRICS:
        assert getattr(result, name) == pytest.approx((getattr(of_a, name), getattr(of_b, name)), **EXACT), name
    assert result.n_infinite_nll.tolist() == [of_a.n_infinite_nll, of_b.n_infinite_nll]


def test_rows_that_tell_the_models_apart_are_counted():
    labels, a, b = two_models()
    right_a, right_b = a.argmax(axis=1) == labels, b.argmax(axis=1) == labels
    expected = [right_a & right_b, right_a & ~right_b, ~right_a & right_b, ~right_a & ~right_b]
    assert compare(labels, logits=(a, b)).rows_right.tolist() == [each.sum() for each in expected]


def law_differences_are_paired(interval) -> None:
    """A hundredth of the spread of either model is in their difference: SciPy's paired test."""
    labels, a, _ = two_models(n=300)
    b = 1.1 * a
    of_a, of_b = (losses(labels, log_softmax(each, axis=1)) for each in (a, b))
    for name in ("nll", "brier"):
        for level in (0.5, 0.95, 0.999):
            expected = ttest_rel(of_b[name], of_a[name]).confidence_interval(level)
            assert interval(labels, a, b, name, level) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_differences_are_paired():
    law_differences_are_paired(lambda labels, a, b, name, level: compare(labels, logits=(a, b)).interval(name, level))


def test_the_law_of_pairs_rejects_the_variance_of_independent_models():
    def unpaired(labels, a, b, name, level):
        of_a, of_b = (losses(labels, log_softmax(each, axis=1))[name] for each in (a, b))
        half = norm.ppf((1 + level) / 2) * math.sqrt((of_a.var(ddof=1) + of_b.var(ddof=1)) / len(labels))
        return of_b.mean() - of_a.mean() - half, of_b.mean() - of_a.mean() + half

    with pytest.raises(AssertionError):
        law_differences_are_paired(unpaired)


def law_small_differences_keep_their_digits(interval) -> None:
    """Losses of about 100, and differences of about 1e-7."""
    rng = np.random.default_rng(0)
    a = np.stack([rng.uniform(90, 110, 200), np.zeros(200)], axis=1)
    b = a + np.array([1e-7, 0]) * rng.random((200, 1))
    difference = (b[:, 0] - b[:, 1]) - (a[:, 0] - a[:, 1])  # each is its NLL to 1e-39
    expected = t.interval(0.95, 199, difference.mean(), difference.std(ddof=1) / math.sqrt(200))
    assert interval(np.ones(200, int), a, b) == pytest.approx(expected, rel=1e-6, abs=0)


def test_small_differences_keep_their_digits():
    law_small_differences_keep_their_digits(lambda labels, a, b: compare(labels, logits=(a, b)).interval("nll"))


def test_the_law_of_small_differences_rejects_sums_of_products():
    def products(labels, a, b):
        of_a, of_b = (losses(labels, log_softmax(each, axis=1))["nll"] for each in (a, b))
        n, mean = len(labels), float(np.mean(of_b - of_a))
        variance = (of_a @ of_a - 2 * (of_a @ of_b) + of_b @ of_b) / n - mean**2
        half = t.ppf(0.975, n - 1) * math.sqrt(max(variance, 0.0) / (n - 1))
        return mean - half, mean + half

    with pytest.raises(AssertionError):
        law_small_differences_keep_their_digits(products)


def test_weights_count_as_the_effective_number_of_rows():
    labels, a, b = two_models()
    weights = np.random.default_rng(1).exponential(size=400)
    of_a, of_b = (losses(labels, log_softmax(each, axis=1)) for each in (a, b))
    size = weights.sum() ** 2 / (weights @ weights)
    result = compare(labels, logits=(a, b), weights=weights)
    for name in ("nll", "brier"):
        difference = of_b[name] - of_a[name]
        mean = np.average(difference, weights=weights)
        deviation = math.sqrt(np.average((difference - mean) ** 2, weights=weights) / (size - 1))
        assert result.interval(name, 0.9) == pytest.approx(t.interval(0.9, size - 1, mean, deviation), rel=1e-9)
    right_a, right_b = of_a["accuracy"], of_b["accuracy"]
    z = norm.ppf(0.975)
    shares = [weights[x > y].sum() / weights.sum() for x, y in ((right_b, right_a), (right_a, right_b))]
    assert result.interval("accuracy") == pytest.approx(
        (_tango_lower(*shares, size, z), -_tango_lower(*shares[::-1], size, z)), rel=1e-9
    )


@pytest.mark.parametrize("model", [1, 2])
def test_whole_weights_are_repetitions(model):
    labels, a, b = two_models(n=60, seed=model)
    weights = np.random.default_rng(2).integers(0, 4, 60)
    rows = np.repeat(np.arange(60), weights)
    weighted = compare(labels, logits=(a, b), weights=weights)
    repeated = part_of(labels, a, b, rows)
    for name in METRICS:
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), **EXACT)
        assert weighted.difference(name) == pytest.approx(repeated.difference(name), **EXACT)
    equal = compare(labels, logits=(a, b), weights=np.full(60, 0.25))
    plain = compare(labels, logits=(a, b))
    for name in MEANS:
        assert equal.interval(name) == pytest.approx(plain.interval(name), **EXACT)


# ---- accuracy


@pytest.mark.parametrize(
    ("gained", "lost", "n", "level", "expected", "digits"),
    [
        # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: airway hyper-responsiveness
        (1, 7, 21, 0.95, (-0.517, -0.026), 3),
        # Fagerland, Lydersen and Laake (2017), Statistical Analysis of Contingency Tables, 8: complete response
        (6, 16, 161, 0.95, (-0.1240, -0.0054), 4),
    ],
)
def test_published_intervals_of_paired_shares(gained, lost, n, level, expected, digits):
    labels = np.zeros(n, int)
    right_a = np.repeat([True, False], [lost, n - lost])
    right_b = np.repeat([False, True, False], [lost, gained, n - lost - gained])
    a, b = (np.stack([right, ~right], axis=1) * 3.0 for right in (right_a, right_b))
    result = compare(labels, logits=(a, b))
    assert np.round(result.interval("accuracy", level), digits) == pytest.approx(expected, abs=1e-12)
    assert result.mcnemar() == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-12)


def law_ends_are_where_the_score_test_rejects(lower) -> None:
    """By the definition: the likeliest shares with that difference are searched for, not solved for."""
    for gained, lost, n in ((3, 9, 40), (0, 5, 60), (12, 0, 30), (200, 150, 5000), (0, 0, 25)):
        for level in (0.8, 0.99):
            z = norm.ppf((1 + level) / 2)
            end = lower(gained / n, lost / n, n, z)

            def unlikely(share, end=end, gained=gained, lost=lost, n=n):  # share: of rows that b loses
                rest = max(1 - 2 * share - end, 0.0)
                return -(xlogy(gained, share + end) + xlogy(lost, share) + xlogy(n - gained - lost, rest))

            least, most = max(0.0, -end), (1 - end) / 2
            share = minimize_scalar(unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
            score = ((gained - lost) / n - end) / math.sqrt((2 * share + end - end * end) / n)
            assert score == pytest.approx(z, rel=1e-5)


def test_ends_are_where_the_score_test_rejects():
    law_ends_are_where_the_score_test_rejects(_tango_lower)


def test_the_law_of_ends_rejects_the_interval_of_wald():
    def wald(gained, lost, n, z):
        return gained - lost - z * math.sqrt((gained + lost - (gained - lost) ** 2) / n)

    with np.errstate(all="ignore"), pytest.raises((AssertionError, ValueError, ZeroDivisionError)):
        law_ends_are_where_the_score_test_rejects(wald)


def law_accuracy_is_covered(interval) -> None:
    """80 rows, of which b gains 8% and loses 3%: 1000 samples, all of them known by their counts."""
    rng = np.random.default_rng(0)
    held = 0
    for gained, lost, _ in rng.multinomial(80, [0.08, 0.03, 0.89], 1000) / 80:
        low, high = interval(gained, lost)
        held += low <= 0.05 <= high
    assert 0.935 <= held / 1000 <= 0.97


def test_accuracy_is_covered():
    z = norm.ppf(0.975)
    law_accuracy_is_covered(lambda s, r: (_tango_lower(s, r, 80, z), -_tango_lower(r, s, 80, z)))


def test_the_law_of_coverage_rejects_independent_shares():
    def independent(gained, lost):  # accuracies of about 0.8
        half = 1.96 * math.sqrt(2 * 0.8 * 0.2 / 80)
        return gained - lost - half, gained - lost + half

    with pytest.raises(AssertionError):
        law_accuracy_is_covered(independent)


def test_mcnemar():
    labels, a, b = two_models()
    result = compare(labels, logits=(a, b))
    _, only_a, only_b, _ = result.rows_right
    assert result.mcnemar() == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-12)
    assert compare(labels, logits=(a, a)).mcnemar() == 1
    assert math.isnan(compare(labels[:0], logits=(a[:0], b[:0])).mcnemar())
    for option in ({"weights": np.ones(400)}, {"groups": np.arange(400)}):
        with pytest.raises(ValueError, match=r"^McNemar's test counts independent rows without weights; use interval"):
            compare(labels, logits=(a, b), **option).mcnemar()


# ---- groups


def test_rows_that_are_their_own_groups_are_independent():
    labels, a, b = two_models()
    plain, grouped = compare(labels, logits=(a, b)), compare(labels, logits=(a, b), groups=np.arange(400) * 7 - 1000)
    assert (plain.n_groups, grouped.n_groups) == (None, 400)
    for name in ("nll", "brier"):
        assert grouped.interval(name) == pytest.approx(plain.interval(name), rel=1e-9)
    assert grouped.interval("accuracy") == pytest.approx(plain.interval("accuracy"), rel=0.02)  # t, not normal


def law_repeated_rows_prove_nothing_new(interval) -> None:
    """Every row ten times, its copies a group: the interval of the rows once."""
    labels, a, b = two_models(n=50)
    rows = np.tile(np.arange(50), 10)
    once = compare(labels, logits=(a, b), groups=np.arange(50))
    for name in MEANS:
        assert interval(labels[rows], a[rows], b[rows], rows, name) == pytest.approx(once.interval(name), rel=1e-9)


def test_repeated_rows_prove_nothing_new():
    law_repeated_rows_prove_nothing_new(
        lambda labels, a, b, groups, name: compare(labels, logits=(a, b), groups=groups).interval(name)
    )


def test_the_law_of_repeated_rows_rejects_rows_taken_as_independent():
    with pytest.raises(AssertionError):
        law_repeated_rows_prove_nothing_new(
            lambda labels, a, b, groups, name: compare(labels, logits=(a, b)).interval(name)
        )


def test_groups_of_unequal_size_and_weights_equal_the_definition():
    labels, a, b = two_models()
    rng = np.random.default_rng(3)
    groups, weights = rng.integers(0, 25, 400) ** 2, rng.exponential(size=400)
    of_a, of_b = (losses(labels, log_softmax(each, axis=1)) for each in (a, b))
    result = compare(labels, logits=(a, b), weights=weights, groups=groups)
    for name in ("nll", "brier"):
        difference = of_b[name] - of_a[name]
        mean = np.average(difference, weights=weights)
        spread = sum(float((weights * (difference - mean))[groups == g].sum()) ** 2 for g in set(groups))
        n = len(set(groups))
        deviation = math.sqrt(spread * n / (n - 1)) / weights.sum()
        assert result.interval(name) == pytest.approx(t.interval(0.95, n - 1, mean, deviation), rel=1e-9)


def grouped_sample(rng, n_groups=40, size=15):
    """Two models that differ in few rows, but in some groups much more than in others."""
    differ = rng.random((n_groups, size)) < rng.beta(0.4, 2.5, (n_groups, 1))
    gains = rng.random((n_groups, size)) < rng.beta(2, 2, (n_groups, 1))
    right = rng.random((n_groups, size)) < 0.8
    groups = np.repeat(np.arange(n_groups), size)
    return [np.where(differ, gains == model, right).ravel() for model in (0, 1)], groups


def law_groups_are_covered(interval) -> None:
    """600 rows in 40 groups, whose long-run difference is 0."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        (right_a, right_b), groups = grouped_sample(rng)
        logits = tuple(np.stack([right, ~right], axis=1) * 1.0 for right in (right_a, right_b))
        probs = tuple(0.25 + 0.5 * each for each in logits)
        low, high = interval(np.zeros(600, int), probs, groups)
        held += low <= 0 <= high
    assert 0.92 <= held / 500 <= 0.98


@pytest.mark.parametrize("name", ["accuracy", "brier"])
def test_groups_are_covered(name):
    law_groups_are_covered(lambda labels, probs, groups: compare(labels, probs=probs, groups=groups).interval(name))


def test_the_law_of_groups_rejects_independent_rows():
    with pytest.raises(AssertionError):
        law_groups_are_covered(lambda labels, probs, groups: compare(labels, probs=probs).interval("accuracy"))


def test_groups_may_have_one_id_an_image():
    labels, a, b = two_models(n=24, k=3)
    images = {"logits": tuple(each.reshape(4, 2, 3, 3).transpose(0, 3, 1, 2) for each in (a, b)), "axis": 1}
    result = compare(labels.reshape(4, 2, 3), groups=np.array([4, 4, 9, 1])[:, None, None], **images)
    expected = compare(labels, logits=(a, b), groups=np.repeat([4, 4, 9, 1], 6))
    assert result.to_json() == expected.to_json()
    assert result.n_groups == 3


def test_few_groups_say_little():
    labels, a, b = two_models(n=20)
    one = compare(labels, logits=(a, b), groups=np.zeros(20, int))
    assert [one.interval(name) for name in MEANS] == [(-1, 1), (-math.inf, math.inf), (-2, 2)]
    same = compare(labels, logits=(a, a), groups=np.arange(20) // 5)
    z = t.ppf(0.975, 3)
    assert same.interval("accuracy") == pytest.approx((-(z**2) / (4 + z**2), z**2 / (4 + z**2)), rel=1e-9)


# ---- swapping, equality, edges


@pytest.mark.parametrize("option", [{}, {"groups": np.arange(400) // 9}, {"weights": np.linspace(0.1, 3, 400)}])
def test_swapped_models_have_swapped_signs(option):
    labels, a, b = two_models()
    one, other = compare(labels, logits=(a, b), **option), compare(labels, logits=(b, a), **option)
    assert one.rows_right.tolist() == other.rows_right[[0, 2, 1, 3]].tolist()
    for name in METRICS:
        assert getattr(one, name) == getattr(other, name)[::-1]
        assert one.difference(name) == -other.difference(name)
    for name in MEANS:
        low, high = other.interval(name)
        assert one.interval(name) == (-high, -low)


def test_a_model_does_not_differ_from_itself():
    labels, a, _ = two_models()
    result = compare(labels, logits=(a, a + 0))
    assert [result.difference(name) for name in METRICS] == [0, 0, 0, 0]
    assert result.interval("nll") == result.interval("brier") == (0, 0)
    z2 = norm.ppf(0.975) ** 2
    assert result.interval("accuracy") == pytest.approx((-z2 / (400 + z2), z2 / (400 + z2)), rel=1e-12)
    assert "better" not in str(result)


def test_no_rows_are_nan():
    result = compare([], logits=(np.empty((0, 3)), np.empty((0, 3))))
    for name in METRICS:
        assert np.isnan([*getattr(result, name), result.difference(name)]).all()
    for name in MEANS:
        assert np.isnan(result.interval(name)).all()
    assert json.loads(result.to_json())["nll_difference"] is None
    assert str(result).startswith("0 rows, 3 classes")
    ignored = compare([-1, -1], logits=(np.full((2, 3), np.nan), np.zeros((2, 3))), ignore_index=-1, groups=[1, 2])
    assert (ignored.n, ignored.n_groups) == (0, 0)
    assert np.isnan(ignored.interval("accuracy")).all()


def test_one_row_says_nothing_of_the_spread():
    result = compare([0], logits=([[3.0, 0.0]], [[2.0, 0.0]]))
    assert result.interval("nll") == (-math.inf, math.inf)
    assert result.interval("brier") == (-2, 2)
    low, high = result.interval("accuracy")
    assert (low, high) == pytest.approx((-0.7935, 0.7935), abs=1e-4)


def test_an_infinite_nll_is_stated():
    sure, fair, n = [[1.0, 0.0]] * 3, [[0.6, 0.4]] * 3, math.inf
    labels = [0, 1, 0]
    for pair, value, count in (((sure, fair), -n, (1, 0)), ((fair, sure), n, (0, 1))):
        result = compare(labels, probs=pair)
        assert result.difference("nll") == value
        assert result.interval("nll") == (value, value)
        assert result.n_infinite_nll.tolist() == list(count)
        assert f"rows whose label had probability 0: a {count[0]}, b {count[1]}" in str(result)
        assert math.isfinite(result.difference("brier"))
    mixed = compare([0, 1], probs=([[1.0, 0.0], [1.0, 0.0]], [[0.9, 0.1], [0.4, 0.6]]))
    assert mixed.nll == (n, pytest.approx(-math.log(0.9 * 0.6) / 2))  # of all its rows
    both = compare(labels, probs=(sure, sure))
    assert both.nll == (n, n)
    assert np.isnan([both.difference("nll"), *both.interval("nll")]).all()
    assert json.loads(both.to_json())["nll_a"] is None


def test_differences_too_large_to_square_have_the_whole_range():
    result = compare([1, 0], logits=([[1e200, -1e200], [0.0, 0.0]], np.zeros((2, 2))))
    assert result.difference("nll") == pytest.approx(-1e200)
    assert result.interval("nll") == (-math.inf, math.inf)


# ---- merge


def assert_same(one: Comparison, other: Comparison) -> None:
    assert (one.n, one.weighted, one.n_groups) == (other.n, other.weighted, other.n_groups)
    np.testing.assert_array_equal(one.rows_right, other.rows_right)
    np.testing.assert_array_equal(one.n_infinite_nll, other.n_infinite_nll)
    absolute = np.abs(one.sums.value)
    absolute[2:] = np.maximum(absolute[0] + absolute[1], absolute[3])  # differences cancel
    np.testing.assert_array_less(np.abs(one.sums.value - other.sums.value), 1e-12 * absolute + 1e-300)
    np.testing.assert_allclose(one.weight_sums.value, other.weight_sums.value, rtol=1e-12)
    np.testing.assert_allclose(one.bin_sums.value, other.bin_sums.value, atol=1e-12 * one.weight_sums.value[0])
    if one.groups is not None:
        np.testing.assert_array_equal(one.groups.ids, other.groups.ids)
        np.testing.assert_allclose(one.groups.sums.value, other.groups.sums.value, atol=1e-12 * absolute.max())


@st.composite
def divided_rows(draw):
    n, k = draw(st.integers(0, 40)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = rng.normal(size=(2, n, k)) * draw(st.sampled_from([0.01, 3.0, 1e3]))
    for each in (a, b):
        each[rng.random((n, k)) < 0.1] = -np.inf
        each[:, 0] = np.where(np.isfinite(each).any(axis=1), each[:, 0], 0.0)
    weights = rng.integers(0, 3, n) * rng.exponential(1e3, n) if draw(st.booleans()) else None
    groups = rng.integers(-3, 4, n) if draw(st.booleans()) else None
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    parts = draw(st.permutations(list(np.split(rng.permutation(n), cuts))))
    return rng.integers(0, k, n), a, b, weights, groups, parts


@given(divided_rows())
def test_any_split_in_any_order_merges_to_the_whole(rows):
    labels, a, b, weights, groups, parts = rows
    pieces = [part_of(labels, a, b, part, weights, groups) for part in parts]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    whole = compare(labels, logits=(a, b), weights=weights, groups=groups)
    assert_same(merged, whole)
    assert_same(part_of(labels, a, b, slice(0, 0), weights, groups).merge(merged), whole)


def test_the_law_of_merges_rejects_the_mean_of_parts():
    labels, a, b = two_models()
    whole = compare(labels, logits=(a, b))
    first, second = part_of(labels, a, b, slice(100)), part_of(labels, a, b, slice(100, None))
    assert first.merge(second).difference("ece") == pytest.approx(whole.difference("ece"), **EXACT)
    assert (first.difference("nll") + second.difference("nll")) / 2 != pytest.approx(whole.difference("nll"), **EXACT)
    assert first.merge(second).interval("nll") == pytest.approx(whole.interval("nll"), rel=1e-12)


def test_merge_names_what_differs():
    labels, a, b = two_models()
    one = compare(labels, logits=(a, b))
    with pytest.raises(ValueError, match=r"^comparisons merge only with the same n_bins; got 15 and 10$"):
        one.merge(compare(labels, logits=(a, b), n_bins=10))
    with pytest.raises(ValueError, match=r"^comparisons merge only with the same n_classes; got 7 and 3$"):
        one.merge(compare(*two_models(k=3)[:1], logits=two_models(k=3)[1:]))
    with pytest.raises(ValueError, match=r"^a comparison with groups and one without do not merge; pass groups= to"):
        one.merge(compare(labels, logits=(a, b), groups=labels))
    with pytest.raises(TypeError, match=r"^only a Comparison merges with a Comparison; got int$"):
        one.merge(0)


def test_nothing_can_be_changed():
    labels, a, b = two_models()
    result = compare(labels, logits=(a, b))
    before = result.to_json()
    with pytest.raises(AttributeError):
        result.n = 5
    for array in (result.rows_right, result.n_infinite_nll, result.sums.high, result.merge(result).rows_right):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert result.to_json() == before


# ---- arrays as they come, blocks, memory


def test_layouts_that_differ_between_the_models_are_read_in_step():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 50, 60, 2))  # 9000 rows
    labels = rng.integers(0, 2, (3, 50, 60))
    expected = compare(labels, logits=(a, b))
    of_a, of_b = map(np.asfortranarray, (a, b))
    for pair in ((a, of_b), (of_a, b), (of_a, of_b), (a.astype(">f8"), b[::-1][::-1])):
        assert_same(compare(labels, logits=pair), expected)
    images = tuple(np.ascontiguousarray(np.moveaxis(each, -1, 1)) for each in (a, b))
    assert_same(compare(labels, logits=images, axis=1), expected)
    assert_same(compare(labels, logits=(images[0], np.moveaxis(b, -1, 1)), axis=1), expected)


def test_tensors_and_one_column():
    labels, a, b = two_models(k=2)
    expected = compare(labels, logits=(a, b)).to_json()
    tensors = torch.tensor(a, requires_grad=True), torch.tensor(b)
    assert compare(torch.tensor(labels), logits=tensors).to_json() == expected
    column = compare(labels, logits=((a[:, 1] - a[:, 0])[:, None], (b[:, 1] - b[:, 0])[:, None]))
    assert column.rows_right.tolist() == compare(labels, logits=(a, b)).rows_right.tolist()
    assert column.interval("nll") == pytest.approx(compare(labels, logits=(a, b)).interval("nll"), rel=1e-9)


def test_ignored_rows_are_as_absent_whatever_they_hold():
    labels, a, b = two_models()
    expected = part_of(labels, a, b, slice(10, None), groups=np.arange(400) // 4)
    a[:5], b[5:10] = np.nan, np.inf
    marked = np.where(np.arange(400) < 10, -100, labels)
    ignored = compare(marked, logits=(a, b), ignore_index=-100, groups=np.arange(400) // 4)
    assert ignored.n == 390
    assert_same(ignored, expected)
    weighted = compare(labels, logits=(a, b), weights=np.arange(400) >= 10)
    assert weighted.interval("nll") == pytest.approx(part_of(labels, a, b, slice(10, None)).interval("nll"), rel=1e-9)


def test_memory_is_that_of_a_block():
    row = np.linspace(0, 9, 300)
    a, b = (np.broadcast_to(each, (100_000, 300)) for each in (row, row[::-1]))  # 240 MB each, were they in memory
    labels = np.zeros(100_000, int)
    compare(labels[:10], logits=(a[:10], b[:10]))
    tracemalloc.start()
    try:
        compare(labels, logits=(a, b))
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


# ---- words


def test_the_table():
    labels, a, b = two_models()
    result = compare(labels, logits=(a, b), groups=np.arange(400) // 2)
    lines = str(result).splitlines()
    assert lines[0] == "400 rows in 200 groups, 7 classes; 95% intervals of b - a in brackets"
    assert lines[3].startswith("nll ")
    low, high = result.interval("nll")
    assert high < 0
    assert lines[3].endswith(f"[{low:+.4f}, {high:+.4f}]  b is better")
    assert str(compare(labels, logits=(b, a))).count("a is better") == str(result).count("b is better") >= 2
    assert f"nll={result.difference('nll'):+.4g}" in repr(result)


def test_higher_accuracy_and_lower_loss_are_better():
    labels = np.zeros(50, int)
    good, bad = np.tile([2.0, 0.0], (50, 1)), np.tile([0.0, 2.0], (50, 1))
    good[0], bad[1] = [0.0, 1.0], [3.0, 0.0]  # else there is no spread
    for pair, better in (((good, bad), "a"), ((bad, good), "b")):
        words = [line.split("  ")[-1] for line in str(compare(labels, logits=pair)).splitlines()[2:5]]
        assert words == [f"{better} is better"] * 3


def test_numbers_by_name():
    labels, a, b = two_models()
    result = compare(labels, logits=(a, b))
    numbers = result.to_dict()
    for name in MEANS:
        assert (numbers[f"{name}_a"], numbers[f"{name}_b"]) == getattr(result, name)
        assert numbers[f"{name}_difference"] == result.difference(name)
        bounds = numbers[f"{name}_difference_lower"], numbers[f"{name}_difference_upper"]
        assert bounds == result.interval(name)
    assert numbers["ece_difference"] == result.difference("ece")
    assert numbers["both_right"] + numbers["only_a_right"] == np.sum(a.argmax(axis=1) == labels)
    assert json.loads(result.to_json()) == numbers


# ---- bad input


def test_names_and_levels_are_checked():
    labels, a, b = two_models()
    result = compare(labels, logits=(a, b))
    with pytest.raises(ValueError) as error:
        result.difference("acuracy")
    assert str(error.value) == (
        "there is no difference for 'acuracy'; choose one of accuracy, nll, brier, ece (did you mean 'accuracy'?)"
    )
    with pytest.raises(ValueError, match=r"^there is no interval of the difference for 'brie'; choose one of accuracy"):
        result.interval("brie")
    with pytest.raises(ValueError, match=r"^the difference of two calibration errors has no interval: noise lifts"):
        result.interval("ece")
    for level in (0.0, 1.0, 95, math.nan):
        for name in MEANS:
            with pytest.raises(ValueError, match=r"^level must lie strictly between 0 and 1 \(0.95 for 95%\); got"):
                result.interval(name, level)


Z = np.array([[1.0, 2.0, -1.0], [0.0, 5.0, 2.0]])
NAN = np.where(np.arange(6).reshape(2, 3) == 4, np.nan, Z)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            {},
            TypeError,
            r"^compare wants one pair, logits=\(a, b\) or probs=\(a, b\); got neither; for a model of each",
        ),
        ({"logits": (Z, Z), "probs": (Z, Z)}, TypeError, r"got both; .* pass logits=\(a, logits_from_probs\(b\)\)$"),
        ({"logits": Z}, TypeError, r"^logits must be a pair, the tuple \(a, b\) of .*; got numpy.ndarray$"),
        ({"logits": [Z, Z]}, TypeError, r"; got builtins.list$"),
        ({"probs": (Z, Z, Z)}, TypeError, r"^probs must be a pair, .*; got 3 of them$"),
        ({"logits": (Z, Z[:1])}, ValueError, r"same rows and classes; a has shape \(2, 3\), b has shape \(1, 3\)$"),
        ({"logits": (Z[:, :2], Z)}, ValueError, r"; a has shape \(2, 2\), b has shape \(2, 3\)$"),
        ({"logits": (Z, NAN)}, ValueError, r"^model b: logits must be finite or -inf, .*; row 1 holds NaN$"),
        ({"logits": (NAN, Z)}, ValueError, r"^model a: logits must be finite or -inf, .*; row 1 holds NaN$"),
        ({"probs": (np.full((2, 3), 1 / 3), Z)}, ValueError, r"^model b: probs must be .*; row 0 holds -1 .* logits$"),
        ({"logits": (Z, "abc")}, TypeError, r"^model b: logits must be real numbers"),
        ({"logits": (Z, Z), "labels": [0, 3]}, ValueError, r"^labels must lie in \[0, 2\]"),
        ({"logits": (Z, Z), "labels": [0, 1, 2]}, ValueError, r"^labels must have shape \(2,\)"),
        ({"logits": (Z, Z), "weights": [1.0, -1.0]}, ValueError, r"^weights must be finite and not negative"),
        ({"logits": (Z, Z), "groups": [0.5, 1.0]}, TypeError, r"^groups must be integers"),
        ({"logits": (Z, Z), "groups": [1, 2, 3]}, ValueError, r"^groups must have the shape of the labels \(2,\)"),
        ({"logits": (Z, Z), "n_bins": 0}, ValueError, r"^n_bins must be an integer of at least 1; got 0$"),
        ({"logits": (Z, Z), "axis": 2}, ValueError, r"^axis must be one of the 2 dimensions of logits; got 2$"),
    ],
)
def test_bad_input_is_named(given, kind, message):
    with pytest.raises(kind, match=message):
        compare(**{"labels": [0, 1], **given})
