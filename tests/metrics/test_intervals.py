import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm, t

from softargmax.metrics import ece_interval, ece_null, evaluate, mean_interval, wilson
from softargmax.metrics.intervals import (
    classwise_ece_interval,
    classwise_ece_null,
    clustered_mean_interval,
    clustered_wilson,
    ece_l2_interval,
)

N_BINS = 15


def bin_sums(confidence, right):
    """What `ece_interval` takes, of unweighted rows."""
    where = np.minimum(np.ceil(confidence * N_BINS).astype(int) - 1, N_BINS - 1)
    one = np.ones(len(confidence))
    terms = (one, one, right, confidence, confidence * (1 - confidence), (right - confidence) ** 2)
    return [np.bincount(where, weights=term, minlength=N_BINS) for term in terms]


def error_of(sums):
    return np.abs(sums[2] - sums[3]).sum() / sums[0].sum()


# ---- Wilson, means


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (1, 2), (813, 1000), (999_999, 1_000_000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wilson_equals_scipy(right, n, level):
    expected = binomtest(right, n).proportion_ci(level, method="wilson")
    assert wilson(right, n, level) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)


def test_wilson_reaches_its_ends_exactly_and_broadcasts():
    low, high = wilson(np.array([0.0, 3.0, 49.0, 0.0]), np.array([49.0, 49.0, 49.0, 0.0]))
    assert low[0] == 0
    assert high[2] == 1
    assert low[2] < 1
    assert np.isnan(low[3])
    assert np.isnan(high[3])


def test_means_have_the_normal_interval_of_their_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    logits = rng.normal(size=(500, 3)) * 2
    result = evaluate(labels, logits=logits)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = {
        "nll": -log_probs[np.arange(500), labels],
        "brier": ((np.exp(log_probs) - np.eye(3)[labels]) ** 2).sum(axis=1),
        "mean_confidence": np.exp(log_probs).max(axis=1),
    }
    for name, values in rows.items():
        expected = norm.interval(0.9, values.mean(), values.std(ddof=1) / math.sqrt(500))
        assert result.interval(name, level=0.9) == pytest.approx(expected, rel=1e-9), name


def test_mean_intervals_stay_in_range():
    many_good = evaluate(np.zeros(20, int), logits=[[5.0, 0.0]] * 19 + [[-9.0, 0.0]])
    assert many_good.interval("nll")[0] == 0
    assert many_good.interval("brier")[0] == 0
    assert evaluate([0, 0], probs=[[0.0, 1.0], [0.6, 0.4]]).interval("brier")[1] == 2
    one = evaluate([0], logits=[[3.0, 1.0]])
    assert one.interval("nll") == (0, math.inf)  # one row says nothing about the spread
    assert one.interval("mean_confidence") == (0, 1)


def test_an_infinite_mean_has_an_infinite_interval():
    result = evaluate([1, 0, 0], probs=[[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    assert result.nll == math.inf
    assert result.interval("nll") == (math.inf, math.inf)
    assert result.interval("brier")[0] < result.brier < result.interval("brier")[1]


def test_losses_too_large_to_square_have_the_whole_range():
    result = evaluate([1, 0], logits=[[1e200, -1e200], [0.0, 0.0]])
    assert result.n_infinite_nll == 0
    assert result.nll == pytest.approx(1e200)
    assert result.interval("nll") == (0, math.inf)


def test_names_and_levels_are_checked():
    result = evaluate([0, 1], logits=[[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(ValueError) as error:
        result.interval("acuracy")
    assert str(error.value) == (
        "there is no interval for 'acuracy'; choose one of accuracy, balanced_accuracy, top5, nll, brier, "
        "mean_confidence, ece, ece_l2, classwise_ece (did you mean 'accuracy'?)"
    )
    with pytest.raises(ValueError, match=r"^top5 needs more than 5 classes; there are 2$"):
        result.interval("top5")
    with pytest.raises(ValueError, match=r"^only 'ece' and 'classwise_ece' have a null value; got 'nll'$"):
        result.null("nll")
    for level in (0.0, 1.0, 95, math.nan):
        for name in ("accuracy", "nll", "ece"):
            with pytest.raises(ValueError, match=r"^level must lie strictly between 0 and 1 \(0.95 for 95%\); got"):
                result.interval(name, level)
    with pytest.raises(ValueError, match=r"^level must lie"):
        mean_interval(1.0, 1.0, 1.0, 1.0, 2.0, low=0, high=1)


# ---- rows in groups


def test_groups_of_one_size_have_the_student_interval_of_their_means():
    means = np.random.default_rng(1).normal(3, 1, 12)
    expected = t.interval(0.9, 11, means.mean(), means.std(ddof=1) / math.sqrt(12))
    ours = clustered_mean_interval(40 * means, np.full(12, 40.0), 0.9, low=-math.inf, high=math.inf)
    assert ours == pytest.approx(expected, rel=1e-12)
    cut = clustered_mean_interval(40 * means, np.full(12, 40.0), 0.9, low=2.9, high=3.0)
    assert 2.9 <= cut[0] <= cut[1] == 3.0


def test_a_mean_over_groups_of_any_size_is_that_of_their_rows():
    rng = np.random.default_rng(2)
    weight = rng.integers(1, 90, 500).astype(float)
    total = weight * rng.normal(5, 1, 500)
    low, high = clustered_mean_interval(total, weight, low=0, high=math.inf)
    assert (low + high) / 2 == pytest.approx(total.sum() / weight.sum())
    again = [
        total[rows].sum() / weight[rows].sum() for rows in (rng.integers(0, 500, 500) for _ in range(2000))
    ]  # of groups: means are one thing that a bootstrap is good for
    assert (low, high) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.02)


def test_groups_that_say_nothing():
    nothing, one = np.zeros(0), np.ones(1)
    assert np.isnan(clustered_mean_interval(nothing, nothing, low=0, high=1)).all()
    assert np.isnan(clustered_wilson(nothing, nothing, 0.0)).all()
    assert clustered_mean_interval(one, one, low=0, high=2) == (0, 2)
    assert clustered_wilson(one, one, 1.0) == (0, 1)
    assert clustered_mean_interval(np.array([1.0, math.inf]), np.ones(2), low=0, high=math.inf) == (math.inf, math.inf)
    empty = np.array([0.0, 5.0, 0.0, 3.0, 4.0]), np.array([0.0, 9.0, 0.0, 9.0, 9.0])
    used = np.array([5.0, 3.0, 4.0]), np.full(3, 9.0)
    assert clustered_wilson(*empty, 27.0) == clustered_wilson(*used, 27.0)
    for interval in (
        lambda: clustered_wilson(one, one, 1.0, 95),
        lambda: clustered_mean_interval(one, one, 0, low=0, high=1),
    ):
        with pytest.raises(ValueError, match=r"^level must lie strictly between 0 and 1"):
            interval()


def test_shares_by_groups_stay_in_range_and_never_meet():
    size = np.full(30, 50.0)
    for share in (np.zeros(30), np.ones(30), np.r_[np.zeros(29), 0.02], np.r_[np.ones(29), 0.0]):
        low, high = clustered_wilson(share * size, size, 1500)
        assert 0 <= low <= share.mean() <= high <= 1
        assert high - low > 0.001
    assert clustered_wilson(size, size, 1500)[0] == pytest.approx(wilson(30, 30)[0], abs=0.02)  # not of 1,500 rows


def test_groups_of_one_row_are_rows():
    right = (np.arange(4000) % 5 > 0).astype(float)
    assert clustered_wilson(right, np.ones(4000), 4000) == pytest.approx(np.ravel(wilson(3200, 4000)), abs=1e-4)
    alike = clustered_wilson(np.full(40, 7.0), np.full(40, 10.0), 400)  # groups that do not differ at all: the rows
    assert alike == pytest.approx(np.ravel(wilson(280, 400)), abs=2e-3)
    # rows that are alike count once: fifty copies of each change nothing
    copies = clustered_wilson(50 * right, np.full(4000, 50.0), 200_000)
    assert copies == pytest.approx(np.ravel(wilson(3200, 4000)), abs=1e-4)


# ---- calibration error


def test_the_interval_is_deterministic_and_grows_with_the_level():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.3, 1, 1000)
    sums = bin_sums(confidence, (rng.random(1000) < confidence - 0.1).astype(float))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert ece_interval(*sums) == ece_interval(*sums)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    narrow, wide = ece_interval(*sums, level=0.5), ece_interval(*sums, level=0.99)
    assert wide[0] < narrow[0] < 0.1 < narrow[1] < wide[1]


def test_empty_bins_change_nothing():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.9, 1, 300)
    sums = bin_sums(confidence, np.ones(300))
    used = sums[0] > 0
    assert 0 < used.sum() < N_BINS
    assert ece_interval(*sums) == ece_interval(*(each[used] for each in sums))


def test_the_null_value_is_what_a_calibrated_model_shows():
    rng = np.random.default_rng(0)
    for confidence in (rng.uniform(0.3, 1, 2000), 1 - 0.02 * rng.random(100)):  # hardly a mistake in the second
        n = len(confidence)
        shown = [error_of(bin_sums(confidence, (rng.random(n) < confidence).astype(float))) for _ in range(2000)]
        sums = bin_sums(confidence, np.ones(n))
        ours = ece_null(sums[0], sums[1], sums[3], sums[4])
        assert ours == pytest.approx(np.mean(shown), rel=0.03)
        assert ours != pytest.approx(np.mean(shown) / math.sqrt(2 / math.pi), rel=0.03)  # forgetting E|Z| would be seen
    normal = np.sqrt(sums[4]).sum() * math.sqrt(2 / math.pi) / n
    assert normal != pytest.approx(np.mean(shown), rel=0.03)  # nor are so few mistakes normal


def test_one_bin_has_the_same_ece_and_root_mean_square():
    sums = bin_sums(np.full(400, 0.9), (np.arange(400) % 5 > 0).astype(float))
    assert ece_l2_interval(*sums) == pytest.approx(ece_interval(*sums), rel=1e-4)


def test_the_root_mean_square_is_no_less_than_the_mean():
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.3, 1, 5000)
    sums = bin_sums(confidence, (rng.random(5000) < confidence**2).astype(float))
    assert ece_l2_interval(*sums)[0] > ece_interval(*sums)[0] > 0.1


def group_covariance(rng, groups, size, copies):
    """Sums of groups of rows with one confidence each, that are right together, and the covariance of their bins."""
    confidence = np.repeat(rng.uniform(0.4, 1, (groups, size // copies)), copies, axis=1)
    right = (np.repeat(rng.random((groups, size // copies)), copies, axis=1) < confidence - 0.05).astype(float)
    where = np.ceil(confidence * N_BINS).astype(int) - 1
    each = np.stack([np.bincount(w, d, N_BINS) for w, d in zip(where, right - confidence, strict=True)])
    rest = each - each.mean(axis=0)
    return bin_sums(confidence.ravel(), right.ravel()), groups / (groups - 1) * rest.T @ rest


def test_a_covariance_of_independent_rows_changes_little_and_copies_count_once():
    sums, covariance = group_covariance(np.random.default_rng(0), 5000, 1, 1)
    assert ece_interval(*sums, covariance=covariance) == pytest.approx(ece_interval(*sums), abs=0.006)
    for k in (1, 2):  # the lower end too lies within the noise of two sets of draws
        assert ece_interval(*sums, covariance=covariance / 10**k) == pytest.approx(ece_interval(*sums), abs=0.006)
    copied = [9 * each for each in sums]
    assert ece_interval(*copied, covariance=81 * covariance) == pytest.approx(
        ece_interval(*sums, covariance=covariance), abs=0.002
    )
    naive, grouped = ece_interval(*copied), ece_interval(*copied, covariance=81 * covariance)
    assert grouped[1] - grouped[0] > 2 * (naive[1] - naive[0])


def test_one_group_says_nothing_of_the_calibration_error():
    sums, covariance = group_covariance(np.random.default_rng(0), 20, 10, 1)
    assert ece_interval(*sums, covariance=np.full((N_BINS, N_BINS), math.inf)) == (0, 1)
    assert ece_l2_interval(*sums, covariance=covariance * math.nan) == (0, 1)


def test_noise_in_fine_bins_does_not_lift_the_lower_end():
    """One bin is off, the others show the error that noise shows on average: the truth is the one bin's error."""
    count = np.full(15, 100_000.0)
    spread = count * 0.75 * 0.25
    error = 0.8 * np.sqrt(spread) * np.where(np.arange(15) % 2, 1, -1)
    error[7] = 60 * math.sqrt(spread[7])
    low, high = ece_interval(count, count, count * 0.75 + error, count * 0.75, spread, spread)
    assert low < error[7] / count.sum() < high  # 1.02 times the truth with the observed errors as the only shape


def test_a_saturated_model_that_makes_no_mistake_is_not_proved_perfect():
    """500 right of 500 at confidence 1 - 1e-7: three errors in 500 would be no surprise (the rule of three)."""
    low, high = ece_interval(*bin_sums(np.full(500, 1 - 1e-7), np.ones(500)))
    assert low == 0
    assert 3 / 500 < high < 5 / 500


def test_weights_that_know_nothing_keep_the_coverage():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(60):
        confidence = rng.uniform(0.6, 1, 800)
        right = rng.random(800) < confidence - 0.05
        probs = np.stack([1 - confidence, confidence], axis=1)
        low, high = evaluate(right.astype(int), probs=probs, weights=rng.exponential(size=800)).interval("ece")
        held += low <= 0.05 <= high
    assert held >= 50


# ---- every class


def class_sums(probs, labels, weights=None):
    """What `classwise_ece_interval` takes."""
    n, k = probs.shape
    w = np.ones(n) if weights is None else weights
    where = (np.clip(np.ceil(probs * N_BINS).astype(int) - 1, 0, N_BINS - 1) + N_BINS * np.arange(k)).ravel()
    hit = np.eye(k)[labels]
    terms = (np.ones_like(probs), hit, probs, probs**2, probs * hit)
    return [np.bincount(where, (w[:, None] * term).ravel(), k * N_BINS).reshape(k, N_BINS) for term in terms]


def drawn_rows(n, k, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    p = np.exp(rng.normal(size=(n, k)) * spread)
    p /= p.sum(axis=1, keepdims=True)
    return p, np.minimum((p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), k - 1)


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (1, 0.03), (7, 0.2), (40, 0.97), (3000, 0.4)])
def test_the_noise_of_a_cell_of_equal_rows_is_that_of_the_binomial(n, p):
    one = np.zeros((2, N_BINS))
    one[0, 3] = 1
    expected = binom(n, p).expect(lambda x: abs(x - n * p)) / n
    assert classwise_ece_null(one * n, one * n * p, one * n * p * p) == pytest.approx(expected, rel=1e-9)
    # weights of 3: three times the error of a third of the rows
    third = classwise_ece_null(3 * one * n, 3 * one * n * p, 3 * one * n * p * p, inflation=3.0)
    assert third == pytest.approx(expected, rel=1e-9)


def test_classwise_intervals_are_deterministic_and_know_no_unit_of_weight():
    sums = class_sums(*drawn_rows(800, 5))
    assert classwise_ece_interval(*sums) == classwise_ece_interval(*sums)
    threefold = [3 * each for each in sums]
    assert classwise_ece_interval(*threefold, inflation=3.0) == pytest.approx(classwise_ece_interval(*sums), rel=1e-9)
    narrow, wide = (classwise_ece_interval(*sums, level=level) for level in (0.5, 0.99))
    assert wide[0] <= narrow[0] <= narrow[1] < wide[1]
    with pytest.raises(ValueError, match=r"^level must lie strictly between 0 and 1 \(0.95 for 95%\); got 95$"):
        classwise_ece_interval(*sums, level=95)


def test_without_rows_there_is_no_classwise_error():
    nothing = [np.zeros((4, N_BINS))] * 5
    assert np.isnan(classwise_ece_interval(*nothing)).all()
    assert math.isnan(classwise_ece_null(*nothing[:3]))


def test_probabilities_of_exactly_0_and_1():
    labels = np.arange(600) % 3
    low, high = classwise_ece_interval(*class_sums(np.eye(3)[labels], labels))
    assert low == 0
    assert 3 / 600 * 2 / 3 / 2 < high < 0.02  # three errors of 600 would be no surprise, each in one cell at least
    wrong = classwise_ece_interval(*class_sums(np.eye(3)[(labels + 1) % 3], labels))
    assert wrong[0] > 0.6
    assert wrong[1] == pytest.approx(2 / 3, abs=0.05)
    assert classwise_ece_null(*(class_sums(np.eye(3)[labels], labels)[i] for i in (0, 2, 3))) == 0


def test_an_error_of_one_class_is_found():
    probs, labels = drawn_rows(20_000, 4)
    labels = np.where((labels == 2) & (np.arange(20_000) % 3 == 0), 1, labels)
    off = np.abs(np.subtract(*class_sums(probs, labels)[1:3])).sum() / 80_000
    low, high = classwise_ece_interval(*class_sums(probs, labels))
    assert 0.02 < low < off < high + 0.005


def test_a_thousand_classes_take_little_time_and_memory():
    sums = class_sums(*drawn_rows(3000, 1000))
    classwise_ece_interval(*sums)
    start = time.process_time()
    classwise_ece_interval(*sums)
    assert time.process_time() - start < 1
    tracemalloc.start()
    classwise_ece_interval(*sums)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
