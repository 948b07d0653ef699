import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from softargmax.metrics import ece_interval, ece_null, evaluate, mean_interval, wilson

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
        "there is no interval for 'acuracy'; choose one of accuracy, top5, nll, brier, ece, mean_confidence "
        "(did you mean 'accuracy'?)"
    )
    with pytest.raises(ValueError, match=r"^top5 needs more than 5 classes; there are 2$"):
        result.interval("top5")
    with pytest.raises(ValueError, match=r"^only 'ece' has a null value; got 'nll'$"):
        result.null("nll")
    for level in (0.0, 1.0, 95, math.nan):
        for name in ("accuracy", "nll", "ece"):
            with pytest.raises(ValueError, match=r"^level must lie strictly between 0 and 1 \(0.95 for 95%\); got"):
                result.interval(name, level)
    with pytest.raises(ValueError, match=r"^level must lie"):
        mean_interval(1.0, 1.0, 1.0, 1.0, 2.0, low=0, high=1)


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
    confidence = rng.uniform(0.3, 1, 2000)
    shown = [error_of(bin_sums(confidence, (rng.random(2000) < confidence).astype(float))) for _ in range(400)]
    sums = bin_sums(confidence, np.ones(2000))
    ours = ece_null(sums[0], sums[1], sums[4])
    assert ours == pytest.approx(np.mean(shown), rel=0.03)
    assert ours != pytest.approx(np.mean(shown) / math.sqrt(2 / math.pi), rel=0.03)  # forgetting E|Z| would be seen


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


CONFIDENCES = {
    ".80": lambda rng, n: np.clip(rng.beta(4, 1, n), 0.1, 1),
    ".98": lambda rng, n: 1 - 0.02 * rng.exponential(1, n).clip(0, 20),
    ".999": lambda rng, n: 1 - 0.001 * rng.exponential(1, n).clip(0, 100),
    "saturated": lambda rng, n: 1 - 1e-7 * rng.random(n),
}
TRUTHS = {
    "calibrated": lambda c: c,
    "-.02 above .3": lambda c: np.where(c > 0.3, c - 0.02, c),
    "-.002": lambda c: c - 0.002,
    "-.05": lambda c: c - 0.05,
    "slope .7": lambda c: 0.5 + 0.7 * (c - 0.5),
    "wave": lambda c: np.clip(c + 0.05 * np.sin(20 * c), 0, 1),
}


def coverage(interval, confidences, truth, *, n, repeats, seed=0):
    """Share of intervals that hold the error of the whole population, and their mean width."""
    rng = np.random.default_rng(seed)
    everyone = CONFIDENCES[confidences](rng, 1_000_000)
    target = error_of(bin_sums(everyone, np.clip(TRUTHS[truth](everyone), 0, 1)))
    held, width = 0, 0.0
    for _ in range(repeats):
        confidence = CONFIDENCES[confidences](rng, n)
        right = (rng.random(n) < TRUTHS[truth](confidence)).astype(float)
        low, high = interval(confidence, right)
        held += low <= target + 1e-12 and target <= high
        width += high - low
    return held / repeats, width / repeats


def ours(confidence, right):
    return ece_interval(*bin_sums(confidence, right))


def percentile_bootstrap(confidence, right):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(right), (200, len(right)))
    return np.quantile([error_of(bin_sums(confidence[i], right[i])) for i in rows], [0.025, 0.975])


def normal_of_the_estimate(confidence, right):
    sums = bin_sums(confidence, right)
    n = sums[0].sum()
    half = 1.96 * math.sqrt((sums[5] - (sums[2] - sums[3]) ** 2 / n).sum()) / n
    return error_of(sums) - half, error_of(sums) + half


def law_intervals_hold_the_truth(interval) -> None:
    """60 repeats: a 95% interval holds the truth less than 50 times once in 10,000 such tests."""
    assert coverage(interval, ".80", "calibrated", n=500, repeats=60)[0] >= 50 / 60
    assert coverage(interval, ".80", "slope .7", n=500, repeats=60)[0] >= 50 / 60
    assert coverage(interval, "saturated", "-.002", n=500, repeats=60)[0] >= 50 / 60


def test_intervals_hold_the_truth():
    law_intervals_hold_the_truth(ours)


@pytest.mark.parametrize("broken", [percentile_bootstrap, normal_of_the_estimate])
def test_the_law_of_intervals_rejects(broken):
    with pytest.raises(AssertionError):
        law_intervals_hold_the_truth(broken)


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


# the rows of research/ece-interval.md that these confidences reproduce: coverage and mean width there
TABLE = [
    (".80", "calibrated", 0.0466, 0.0222, 0.0100),
    (".80", "-.02 above .3", 0.0561, 0.0345, 0.0161),
    (".80", "-.05", 0.0757, 0.0394, 0.0171),
    (".80", "slope .7", 0.0897, 0.0445, 0.0198),
    (".98", "calibrated", 0.0171, 0.0083, 0.0034),
    (".98", "-.05", 0.0484, 0.0240, 0.0106),
    (".999", "-.05", 0.0383, 0.0190, 0.0085),
    (".999", "calibrated", None, None, None),
    ("saturated", "calibrated", None, None, None),
    ("saturated", "-.002", None, None, None),
    ("saturated", "-.05", None, None, None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("confidences", "truth", "w500", "w2000", "w10000"), TABLE)
def test_the_coverage_table(confidences, truth, w500, w2000, w10000):
    for n, expected in ((500, w500), (2000, w2000), (10_000, w10000)):
        share, width = coverage(ours, confidences, truth, n=n, repeats=300)
        assert share >= 0.90, n
        if expected is not None:
            assert width == pytest.approx(expected, rel=0.25), n
