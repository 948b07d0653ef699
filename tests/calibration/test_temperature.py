import math
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2

import softargmax as sa
from softargmax import AbsentClassesWarning, CalibrationDegenerateWarning
from softargmax.calibration import temperature
from softargmax.data import cifar10_resnet20
from softargmax.ops.temperature import temperature_objective


def draw(temperature=2.5, n=4000, k=6, seed=0, dtype=np.float64):
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, k)) * 4).astype(dtype)
    labels = (logits / temperature + rng.gumbel(size=(n, k))).argmax(-1)
    return logits, labels


def nll(logits, labels, temperature, weights=None):
    losses = -log_softmax(logits.astype(float) / temperature, axis=-1)[np.arange(len(labels)), labels]
    return np.average(losses, weights=weights)


# ---- published figures ----


def test_the_shipped_network():
    data = cifar10_resnet20()
    calibrator = sa.TemperatureScaling().fit(data.scores, data.labels)
    assert calibrator.temperature_ == pytest.approx(2.5592, abs=2e-4)
    assert calibrator.nll_before_ == pytest.approx(0.8788, abs=1e-4)
    assert calibrator.nll_after_ == pytest.approx(0.5573, abs=1e-4)
    assert calibrator.converged_
    assert not calibrator.at_bound_
    assert calibrator.grad_norm_ < 1e-8


def test_scikit_learn_finds_the_same_temperature():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    from benchmarks.temperature import GivesLogits

    logits, labels = draw(n=2000)
    peer = CalibratedClassifierCV(FrozenEstimator(GivesLogits().fit(logits, labels)), method="temperature", cv=2)
    peer.fit(logits, labels)
    ours = sa.TemperatureScaling().fit(logits, labels).predict_proba(logits)
    # the peer averages the temperatures of two folds
    np.testing.assert_allclose(ours, peer.predict_proba(logits), atol=2e-3)


# ---- the optimum ----


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0, 20.0])
def test_recovers_the_temperature_that_made_the_labels(temperature):
    logits, labels = draw(temperature, n=20_000)
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    low, high = calibrator.interval(0.999)
    assert low < temperature < high
    assert calibrator.temperature_ == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("n", "k"), [(50, 3), (300, 16), (300, 17), (200, 200)])
def test_is_the_minimum_that_another_method_finds(n, k, dtype, engine):
    logits, labels = draw(n=n, k=k, seed=n, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassesWarning)
        calibrator = sa.TemperatureScaling().fit(logits, labels)
    brent = minimize_scalar(
        lambda log_t: nll(logits, labels, math.exp(log_t)), bounds=(-3, 5), method="bounded", options={"xatol": 1e-9}
    )
    assert calibrator.nll_after_ <= brent.fun + 1e-13
    assert calibrator.temperature_ == pytest.approx(math.exp(brent.x), rel=1e-5)
    assert calibrator.nll_after_ == pytest.approx(nll(logits, labels, calibrator.temperature_), rel=1e-12)
    assert calibrator.nll_before_ == pytest.approx(nll(logits, labels, 1.0), rel=1e-12)


def test_a_warm_start_on_a_subsample_ends_at_the_same_place():
    logits, labels = draw(n=60_000, k=4)  # more than four subsamples
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    h = 1e-4
    around = [nll(logits, labels, calibrator.temperature_ * math.exp(d)) for d in (-h, h)]
    assert abs(around[1] - around[0]) / (2 * h) < 1e-8  # what a difference quotient can show
    assert calibrator.n_iter_ <= 4


def test_the_published_recipe_of_fifty_small_steps_does_not_reach_the_optimum():
    logits, labels = draw(temperature=3.0)

    def slope(t):
        return (nll(logits, labels, t + 1e-5) - nll(logits, labels, t - 1e-5)) / 2e-5

    t = 1.5
    for _ in range(50):
        t -= 0.01 * slope(t)
    ours = sa.TemperatureScaling().fit(logits, labels)
    assert ours.nll_after_ < nll(logits, labels, t) - 0.01


# ---- where the rows do not determine T ----


def fit_warned(logits, labels, **options):
    with pytest.warns(CalibrationDegenerateWarning) as caught:
        calibrator = sa.TemperatureScaling().fit(np.asarray(logits, float), labels, **options)
    return calibrator, str(caught[0].message)


def test_separable_rows_stop_at_laplaces_rule():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    logits = rng.standard_normal((50, 4)) * 0.1
    logits[np.arange(50), labels] += 1.5
    calibrator, message = fit_warned(logits, labels)
    assert "strict maximum" in message
    assert calibrator.at_bound_
    assert calibrator.nll_after_ == pytest.approx(1 / 52, rel=1e-9)
    assert nll(logits, labels, calibrator.temperature_) == pytest.approx(1 / 52, rel=1e-9)
    assert calibrator.interval()[0] == 0
    sure, _ = fit_warned(logits * 1e4, labels)  # below 1/(n + 2) already: left as it is
    assert sure.temperature_ == 1


def test_inverted_and_useless_scores_end_at_the_largest_temperature_and_say_so():
    logits, labels = draw(n=500)
    inverted, message = fit_warned(-logits, labels)
    assert "inverted or useless" in message
    assert inverted.at_bound_
    assert inverted.temperature_ > 1e4
    assert inverted.nll_after_ == pytest.approx(math.log(6), rel=1e-3)  # never the reversed ranking of a negative T
    low, high = inverted.interval()
    assert low > 1
    assert high == math.inf
    np.testing.assert_array_equal(inverted.predict(-logits), (-logits).argmax(-1))


def test_ties_with_the_maximum_end_at_the_smallest_temperature():
    calibrator, message = fit_warned([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0]], [0, 1, 2])
    assert "with ties" in message
    assert calibrator.at_bound_
    assert calibrator.temperature_ < 0.01
    assert calibrator.nll_after_ == pytest.approx(math.log(2) / 3, rel=1e-6)


def test_constant_logits_give_one():
    calibrator, message = fit_warned(np.full((10, 3), 0.1), np.arange(10) % 3)
    assert "constant" in message
    assert calibrator.temperature_ == 1
    assert calibrator.interval() == (0, math.inf)


def test_two_rows_are_enough():
    calibrator, _ = fit_warned([[1.0, 0.0], [0.0, 0.8]], [0, 1])
    assert calibrator.nll_after_ == pytest.approx(1 / 4)


# ---- the interval ----


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("n", "scale"), [(30, 1.0), (300, 1.0), (5000, 1e3)])
def test_the_interval_is_the_profile_likelihoods(n, scale, level):
    from scipy.optimize import brentq

    logits, labels = draw(n=n, k=4, seed=3)
    logits = logits * scale
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    best = math.log(calibrator.temperature_)

    def rise(x):
        return n * (nll(logits, labels, math.exp(x)) - calibrator.nll_after_) - chi2.ppf(level, 1) / 2

    low, high = calibrator.interval(level)
    assert math.log(low) == pytest.approx(brentq(rise, best - 3, best), abs=2e-5)
    if rise(best + 8) > 0:
        assert math.log(high) == pytest.approx(brentq(rise, best, best + 8), abs=2e-5)
    else:
        assert high == math.inf


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        logits, labels = draw(temperature=2.0, n=200, k=4, seed=seed)
        low, high = sa.TemperatureScaling().fit(logits, labels).interval(0.9)
        covered += low < 2.0 < high
    assert 0.9 - 3 * 0.0212 < covered / 200 < 0.9 + 3 * 0.0212  # three standard errors


def test_weights_count_as_rows_in_the_interval():
    logits, labels = draw(n=100, k=3)
    weights = np.random.default_rng(0).integers(1, 4, 100)
    weighted = sa.TemperatureScaling().fit(logits, labels, sample_weight=weights)
    repeated = sa.TemperatureScaling().fit(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
    assert weighted.interval() == pytest.approx(repeated.interval(), rel=1e-9)


@pytest.mark.parametrize("level", [0, 1, -0.1, 0.9999, math.nan])
def test_a_level_that_cannot_be_served(level):
    logits, labels = draw(n=50)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 0.999\]"):
        sa.TemperatureScaling().fit(logits, labels).interval(level)


# ---- two classes, one column ----


def test_one_column_means_zero_and_that_column():
    logits, labels = draw(k=2, n=500)
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    two, one = sa.TemperatureScaling().fit(logits, labels), sa.TemperatureScaling().fit(margin, labels)
    assert one.temperature_ == pytest.approx(two.temperature_, rel=1e-9)
    np.testing.assert_allclose(one.predict_proba(margin), two.predict_proba(logits), rtol=1e-12)
    assert one.predict_proba(margin).shape == (500, 2)
    np.testing.assert_allclose(one.decision_function(margin), margin[:, 0] / one.temperature_)
    assert one.decision_function(margin).shape == (500,)


def test_logits_far_beyond_those_of_the_fit_do_not_overflow():
    logits, labels = draw(n=300, k=3)
    calibrator = sa.TemperatureScaling().fit(logits * 1e-200, labels)
    far = np.array([[1e200, -1e200, 9e199], [1.0, 2.0, 2.0]])
    np.testing.assert_allclose(calibrator.predict_proba(far), [[1, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(calibrator.predict(far), [0, 1])


def test_a_shift_costs_no_digits():
    logits, labels = draw(n=300, k=3)
    calibrator = sa.TemperatureScaling().fit(logits * 1e-3, labels)
    z = np.array([[0.0625, 0.0, 0.03125]])
    np.testing.assert_array_equal(calibrator.predict_proba(z + 2.0**30), calibrator.predict_proba(z))


@pytest.mark.parametrize("scale", [1e-260, 1e260])
def test_scales_near_the_ends_of_float64(scale):
    logits, labels = draw(n=300, k=3)
    one, other = sa.TemperatureScaling().fit(logits, labels), sa.TemperatureScaling().fit(logits * scale, labels)
    assert other.nll_after_ == pytest.approx(one.nll_after_, abs=1e-12)
    assert other.interval()[1] / scale == pytest.approx(one.interval()[1], rel=1e-9)
    with pytest.raises(ValueError, match="beyond what float64 can divide; multiply all logits by one constant"):
        sa.TemperatureScaling().fit(logits * scale * scale**0.1, labels)


@pytest.mark.parametrize("size", [1e6, 1e60, 1e90, 1e200])
def test_one_wild_row_does_not_stop_the_search(size):
    logits, labels = draw(n=200, k=4, temperature=2.0)
    wild = np.concatenate([logits, [[size, 0, 0, 0]]])
    calibrator = sa.TemperatureScaling().fit(wild, [*labels, 0])
    wanted = sa.TemperatureScaling().fit(logits, labels)
    assert calibrator.converged_
    assert calibrator.temperature_ == pytest.approx(wanted.temperature_, rel=1e-6)
    assert calibrator.n_iter_ < 40


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 0.999])
def test_the_interval_of_separable_rows(level):
    from scipy.optimize import brentq

    logits = np.full((8, 4), -100.0)
    labels = np.arange(8) % 4
    logits[np.arange(8), (labels + 1) % 4] = -0.1  # one close rival
    logits[np.arange(8), labels] = 0
    calibrator, _ = fit_warned(logits, labels)

    def rise(x):
        return 8 * nll(logits, labels, math.exp(x)) - chi2.ppf(level, 1) / 2

    low, high = calibrator.interval(level)
    assert low == 0
    assert math.log(high) == pytest.approx(brentq(rise, -6, 6), abs=2e-5)


def test_a_fit_that_fails_leaves_nothing_that_looks_fitted():
    from sklearn.exceptions import NotFittedError

    logits, labels = draw(n=50, k=4)
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    with pytest.raises(ValueError, match="one class only"):
        calibrator.fit(np.zeros((5, 5)), [1] * 5)
    for use in (calibrator.predict_proba, calibrator.transform, calibrator.predict):
        with pytest.raises(NotFittedError):
            use(logits)
    with pytest.raises(NotFittedError):
        calibrator.interval()


def test_float16_decisions_are_made_before_rounding():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((4000, 10)) * 0.5 + 60).astype(np.float16)
    labels = (logits.astype(float) + rng.gumbel(size=logits.shape)).argmax(-1)
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    np.testing.assert_array_equal(calibrator.predict(logits), logits.argmax(-1))
    two = sa.TemperatureScaling().fit(logits[:, :2], labels % 2)
    wanted = ((logits[:, 1].astype(float) - logits[:, 0]) / two.temperature_).astype(np.float16)
    np.testing.assert_array_equal(two.decision_function(logits[:, :2]), wanted)


def test_the_probabilities_are_the_softmax_of_the_divided_logits():
    logits, labels = draw(n=300)
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    t = calibrator.temperature_
    np.testing.assert_allclose(calibrator.predict_proba(logits), sa.softmax(logits, temperature=t), rtol=1e-13)
    np.testing.assert_allclose(calibrator.transform(logits), logits / t, rtol=1e-15)
    assert calibrator.score(logits, labels) == (logits.argmax(-1) == labels).mean()


def test_a_large_fit_takes_six_passes_at_most(monkeypatch):
    read = []

    def counted(logits, *rest):
        read.append(len(logits))
        return temperature_objective(logits, *rest)

    monkeypatch.setattr(temperature, "temperature_objective", counted)
    for seed, t, most in ((0, 2.5, 4.5), (1, 0.8, 4.5), (2, 20.0, 6)):  # at T = 20 the labels hardly know the logits
        rng = np.random.default_rng(seed)
        logits = (rng.standard_normal((100_000, 10)) * 4).astype(np.float32)
        labels = (logits / t + rng.gumbel(size=logits.shape)).argmax(-1)
        read.clear()
        fitted = sa.TemperatureScaling().fit(logits, labels)
        assert fitted.temperature_ == pytest.approx(t, rel=0.1)
        assert max(read) == len(logits)
        assert sum(read) <= most * len(logits)
