"""The tests of calibration: statistics by their definitions, p-values by enumeration, size and power by simulation."""

import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom, norm

from benchmarks import power
from softargmax.metrics.calibration_tests import (
    CalibrationTest,
    calibration_test,
    smooth_calibration_test,
    spiegelhalter_test,
)

DRAWN = [calibration_test, smooth_calibration_test]
ALL = [*DRAWN, spiegelhalter_test]


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def drawn(rng, probs):
    return (probs.cumsum(axis=-1) < rng.random(probs.shape[:-1])[..., None]).sum(axis=-1).clip(0, probs.shape[-1] - 1)


def spread_for(n_classes, confidence):
    """The standard deviation of normal logits whose mean confidence is as wanted."""
    z = np.random.default_rng(0).normal(size=(20_000, n_classes))
    low, high = 1e-2, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if softmax(middle * z).max(axis=-1).mean() < confidence else (low, middle)
    return low


def model(seed, n=400, n_classes=3, spread=2.0):
    """Probabilities of a calibrated model, and its labels."""
    rng = np.random.default_rng(seed)
    probs = softmax(spread * rng.normal(size=(n, n_classes)))
    return drawn(rng, probs), probs


# ---- Spiegelhalter's test ----


def test_for_two_classes_it_is_the_formula_of_the_paper():
    labels, probs = model(0, n_classes=2)
    p, y = probs[:, 1], labels
    z = ((y - p) * (1 - 2 * p)).sum() / np.sqrt(((1 - 2 * p) ** 2 * p * (1 - p)).sum())
    for given in ({"probs": probs}, {"probs": probs[:, 1:]}, {"logits": np.log(probs)}):
        found = spiegelhalter_test(labels, **given)
        assert found.statistic == pytest.approx(z, rel=1e-9)
        assert found.p_value == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)
    top = spiegelhalter_test(labels, probs=probs, top_label=True)  # of two classes the one is the other
    assert top.statistic == pytest.approx(z, rel=1e-9)


def test_for_more_classes_it_is_the_brier_score_less_its_expectation():
    labels, probs = model(1, n_classes=4)
    one_hot = np.eye(4)
    found = expected = variance = 0.0
    for label, p in zip(labels, probs, strict=True):  # mean and variance by going through the labels
        brier = ((one_hot - p) ** 2).sum(axis=1)
        found += brier[label]
        expected += p @ brier
        variance += p @ brier**2 - (p @ brier) ** 2
    assert spiegelhalter_test(labels, probs=probs).statistic == pytest.approx(
        (found - expected) / math.sqrt(variance), rel=1e-9
    )
    linear = one_hot[labels] - probs  # the sum over classes of (y - p)(1 - 2p), with the covariance of one draw
    covariance = sum((1 - 2 * p) @ (np.diag(p) - np.outer(p, p)) @ (1 - 2 * p) for p in probs)
    same = (linear * (1 - 2 * probs)).sum() / math.sqrt(covariance)
    assert spiegelhalter_test(labels, probs=probs).statistic == pytest.approx(same, rel=1e-9)


def test_of_the_top_label_it_asks_whether_predictions_are_right():
    labels, probs = model(2, n_classes=5)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    z = ((right - confidence) * (1 - 2 * confidence)).sum()
    z /= np.sqrt(((1 - 2 * confidence) ** 2 * confidence * (1 - confidence)).sum())
    found = spiegelhalter_test(labels, probs=probs, top_label=True)
    assert found.statistic == pytest.approx(z, rel=1e-9)
    assert found.method == "Spiegelhalter's test of the top label"


def test_its_sign_says_which_way():
    labels, probs = model(3, n=3000)
    assert spiegelhalter_test(labels, logits=1.5 * np.log(probs)).statistic > 4
    assert spiegelhalter_test(labels, logits=0.7 * np.log(probs)).statistic < -4


@pytest.mark.parametrize("top_label", [False, True])
def test_far_from_normal_it_counts_outcomes(top_label):
    probs = np.array([[0.98, 0.015, 0.005], [0.97, 0.02, 0.01], [0.99, 0.004, 0.006], [0.985, 0.01, 0.005]])
    labels = np.array([0, 1, 0, 0])
    found = spiegelhalter_test(labels, probs=probs, top_label=top_label)
    exact, z = 0.0, abs(found.statistic)
    for outcome in itertools.product(range(3), repeat=4):
        other = spiegelhalter_test(np.array(outcome), probs=probs, top_label=top_label).statistic
        exact += probs[np.arange(4), outcome].prod() * (abs(other) >= z - 1e-9)
    assert 0.02 < exact < 0.3
    assert abs(found.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / 999)
    assert 2 * norm.sf(z) < exact / 4  # what the normal tail would have said


def test_without_a_spread_it_says_nothing_or_everything():
    zeros = np.zeros(50, int)
    for probs in (np.full((50, 3), 1 / 3), np.eye(3)[zeros]):
        found = spiegelhalter_test(zeros, probs=probs)
        assert (found.statistic, found.p_value) == (0.0, 1.0)
    for top_label in (False, True):
        impossible = spiegelhalter_test([0] * 49 + [1], probs=np.eye(3)[zeros], top_label=top_label)
        assert (impossible.statistic, impossible.p_value) == (math.inf, 0.0)


# ---- the smooth test ----


def kernel(u, v):
    weight = 1 / np.arange(1, 33)
    waves = [np.cos(math.pi * j * u[:, None]) * np.cos(math.pi * j * v) * (2 if j else 1) for j in range(32)]
    return np.tensordot(weight / weight.sum(), waves, axes=1)


def test_its_statistic_is_the_double_sum_over_the_kernel():
    rng = np.random.default_rng(4)
    confidence = rng.choice([0.6, 0.75, 0.9, 0.99, 1.0], size=300)  # ties share one place
    right = rng.random(300) < confidence
    variance = confidence * (1 - confidence)
    place = np.array([variance[confidence < c].sum() + variance[confidence == c].sum() / 2 for c in confidence])
    place /= variance.sum()
    residual = right - confidence
    wanted = residual @ kernel(place, place) @ residual / variance.sum()
    found = smooth_calibration_test(right.astype(int), probs=confidence[:, None], draws=9)
    assert found.statistic == pytest.approx(wanted, rel=1e-9)


def test_its_p_value_is_that_of_all_outcomes():
    confidence = np.array([0.55, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.97])
    right = np.array([1, 0, 1, 1, 0, 1, 1, 1])
    found = smooth_calibration_test(right, probs=confidence[:, None], draws=4999)
    exact = 0.0
    for outcome in itertools.product([0, 1], repeat=8):
        other = smooth_calibration_test(np.array(outcome), probs=confidence[:, None], draws=1).statistic
        chance = np.where(outcome, confidence, 1 - confidence).prod()
        exact += chance * (other >= found.statistic - 1e-9)
    assert 0.1 < exact < 0.9
    assert abs(found.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / 4999)


def test_it_sees_only_whether_predictions_are_right():
    labels, probs = model(5, n_classes=4)
    confidence = probs.max(axis=1)
    right = (probs.argmax(axis=1) == labels).astype(int)
    # (n, 1): class 1 is "right", which is predicted where the confidence is above a half
    two = np.stack([1 - confidence, confidence], axis=1)
    sure = confidence > 0.5
    one, other = (
        smooth_calibration_test(labels[sure], probs=probs[sure], draws=99),
        smooth_calibration_test(right[sure], probs=two[sure], draws=99),
    )
    assert one.statistic == pytest.approx(other.statistic, rel=1e-9)


# ---- the test of all probabilities ----


def surprises(labels, probs, n_bins):
    """Sums over cells, bins and classes, one cell after the other."""
    n, n_classes = probs.shape
    bins = np.ceil(probs * n_bins).astype(int).clip(1, n_bins) - 1
    sums = np.zeros(3)
    for b in range(n_bins):
        in_bin = [(i, k) for i in range(n) for k in range(n_classes) if bins[i, k] == b]
        error = sum((labels[i] == k) - probs[i, k] for i, k in in_bin)
        together = [sum(probs[i, k] for j, k in in_bin if j == i) for i in range(n)]
        sums[1] += error**2 / (1 + sum(q * (1 - q) for q in together))
        for k in range(n_classes):
            p = probs[bins[:, k] == b, k]
            error = (labels[bins[:, k] == b] == k).sum() - p.sum()
            sums[0] += error**2 / (1 + (p * (1 - p)).sum())
    for k in range(n_classes):
        p = probs[:, k]
        sums[2] += ((labels == k).sum() - p.sum()) ** 2 / (1 + (p * (1 - p)).sum())
    return sums


def slow_calibration_test(labels, probs, n_bins, draws, rng):
    rows = [surprises(labels, probs, n_bins)]
    for _ in range(draws):
        new = np.array([rng.choice(probs.shape[1], p=p) for p in probs])
        rows.append(surprises(new, probs, n_bins))
    rows = np.cbrt(rows)
    largest = ((rows - rows[1:].mean(axis=0)) / rows[1:].std(axis=0)).max(axis=1)
    return largest[0], (largest >= largest[0] - 1e-9).mean()


@pytest.mark.parametrize(("seed", "scale"), [(6, 1.0), (7, 1.6)])
def test_it_is_what_its_definition_says(seed, scale):
    labels, probs = model(seed, n=40)
    probs = softmax(scale * np.log(probs))
    statistic, p_value = slow_calibration_test(labels, probs, 4, 400, np.random.default_rng(seed))
    found = calibration_test(labels, probs=probs, n_bins=4, draws=4000)
    assert abs(found.p_value - p_value) < 4 * math.sqrt(max(p_value * (1 - p_value), 0.01) / 400)
    assert found.statistic == pytest.approx(statistic, abs=0.3)  # in standard deviations of 400 draws


def test_labels_are_drawn_from_the_probabilities():
    """One row, one cell of each class: the p-value is the probability of what is no likelier."""
    probs = np.array([[0.6, 0.3, 0.08, 0.02]])
    for label, wanted in ((3, 0.02), (2, 0.1), (1, 0.4), (0, 1.0)):
        found = calibration_test([label], probs=probs, draws=9999)
        assert abs(found.p_value - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / 9999) + 1e-4
    never = calibration_test([3], probs=[[0.6, 0.4, 0.0, 0.0]], draws=999)
    assert never.p_value == 1 / 1000


# ---- what they share ----


@pytest.mark.parametrize("test", ALL)
def test_edges(test):
    none = test(np.empty(0, int), logits=np.empty((0, 3)))
    assert none.n == 0
    assert math.isnan(none.p_value)
    assert math.isnan(none.statistic)
    assert str(none).endswith(", 0 rows: nothing to test")
    assert test([-1, -1], logits=np.zeros((2, 3)), ignore_index=-1).n == 0
    one = test([0], logits=[[2.0, 0.0, 1.0]])
    assert one.n == 1
    assert one.p_value > 0.5
    surprising = test([1], probs=[[0.97, 0.03]])
    assert 0.01 < surprising.p_value < 0.06  # one row of chance 0.03
    sure = test([0, 0, 1], probs=[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert sure.p_value == 1
    impossible = test([0, 1, 1], probs=[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert impossible.p_value <= 1 / 1000


@pytest.mark.parametrize("test", ALL)
def test_layouts_and_rows_that_do_not_count(test):
    labels, probs = model(8, n=360)
    logits = np.log(probs)
    plain = test(labels, logits=logits)
    assert plain == test(labels, logits=logits)
    assert isinstance(plain, CalibrationTest)
    assert plain.n == 360
    images = np.moveaxis(logits.reshape(4, 9, 10, 3), -1, 1)
    assert test(labels.reshape(4, 9, 10), logits=images, axis=1) == plain
    weights = np.ones(400)
    weights[360:] = 0
    more = np.concatenate([logits, np.full((40, 3), np.nan)])
    fewer = test(np.concatenate([labels, np.zeros(40, int)]), logits=more, weights=weights)
    ignored = test(np.concatenate([labels, np.full(40, 255)]), logits=more, ignore_index=255)
    for other in (fewer, ignored, test(labels, logits=logits, weights=np.full(360, 7.0))):
        assert other.statistic == pytest.approx(plain.statistic, rel=1e-9)
        assert other.p_value == pytest.approx(plain.p_value, rel=1e-9)
        assert other.n == 360
    shuffle = np.random.default_rng(0).permutation(360)
    moved = test(labels[shuffle], logits=logits[shuffle])
    assert moved.statistic == pytest.approx(plain.statistic, abs=0.1)  # the draws are others
    assert moved.p_value == pytest.approx(plain.p_value, abs=0.06)


def test_probabilities_that_do_not_quite_sum_to_1():
    labels, probs = model(9)
    for test in ALL:
        plain = test(labels, probs=probs)
        assert test(labels, probs=probs * 1.0005).statistic == pytest.approx(plain.statistic, abs=0.1)
        assert test([0, 0, 1], probs=[[1.0005, 0.0], [1.0, 0.0005], [0.0, 1.0]]).p_value == 1


@pytest.mark.parametrize("test", ALL)
def test_what_is_refused(test):
    labels, probs = model(10, n=5)
    with pytest.raises(TypeError, match=rf"^{test.__name__} wants exactly one of logits= and probs=; got neither$"):
        test(labels)
    with pytest.raises(ValueError, match="row 2"):
        test(labels, probs=np.where(np.arange(5)[:, None] == 2, 0.7, probs))


def test_counts_are_whole_and_positive():
    labels, probs = model(10, n=5)
    for name, value in itertools.product(("n_bins", "draws"), (0, -3, 2.5, True, "9")):
        with pytest.raises(ValueError, match=rf"^{name} must be an integer of at least 1; got {value!r}$"):
            calibration_test(labels, probs=probs, **{name: value})
    with pytest.raises(ValueError, match=r"^draws must be an integer of at least 1; got 0$"):
        smooth_calibration_test(labels, probs=probs, draws=0)


@pytest.mark.parametrize("test", DRAWN)
def test_draws_come_from_the_seed_alone(test):
    labels, probs = model(11)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (test(labels, probs=probs, draws=2100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert one == same
    assert one.p_value != other.p_value
    assert abs(one.p_value - other.p_value) < 0.06
    assert (one.p_value * 2101) % 1 == pytest.approx(0, abs=1e-6) or (one.p_value * 2101) % 1 > 1 - 1e-6


def test_memory_does_not_grow_with_draws_times_classes():
    labels, probs = model(12, n=50, n_classes=1000)
    tracemalloc.start()
    calibration_test(labels, probs=probs, n_bins=40, draws=999)  # all counts at once: 320 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_words():
    found = CalibrationTest("a test", 2.34567, 0.034, 1200)
    assert str(found) == (
        "a test, 1200 rows: statistic 2.346, p = 0.034\n"
        "a calibrated model would show so much or more in 3 of 100 samples"
    )
    for p_value, words in [(1.0, "100 of 100"), (0.004, "4 of 1,000"), (3e-6, "3 of 1,000,000"), (0.0, "less than 1")]:
        assert words in str(CalibrationTest("a test", 1.0, p_value, 9))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.n = 3


# ---- size: calibrated models are rejected as often as the level says ----


def rejected(test, n_classes, confidence, n, repeats, level=0.05):
    """How many of `repeats` calibrated models are rejected, each with rows of its own."""
    rng = np.random.default_rng([n_classes, int(1000 * confidence), n])
    spread = spread_for(n_classes, confidence)
    count = 0
    for seed in range(repeats):
        probs = softmax(spread * rng.normal(size=(n, n_classes)))
        count += test(drawn(rng, probs), probs=probs, seed=seed) <= level
    return count


def fair(count, repeats, level=0.05):
    """Whether a test of the right size would come out so: the central 99.9% of the binomial distribution."""
    low, high = binom.interval(0.999, repeats, level)
    return low <= count <= high


def p_of(test, **options):
    """A p-value as a function of the rows and a seed, which tests without draws do not take."""
    if test is not spiegelhalter_test:
        return lambda labels, probs, seed: test(labels, probs=probs, seed=seed, **options).p_value
    return lambda labels, probs, seed: test(labels, probs=probs, **options).p_value


def with_draws(draws):
    return {
        "calibration": p_of(calibration_test, draws=draws),
        "smooth": p_of(smooth_calibration_test, draws=draws),
        "Spiegelhalter": p_of(spiegelhalter_test),
        "Spiegelhalter, top label": p_of(spiegelhalter_test, top_label=True),
    }


TESTS = with_draws(99)


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize(("n_classes", "confidence"), [(2, 0.8), (3, 0.98), (10, 0.8)])
def test_the_size_is_right(name, n_classes, confidence):
    """300 models: 15 rejections are expected, and 4 to 29 are within the law."""
    assert fair(rejected(TESTS[name], n_classes, confidence, n=200, repeats=300), 300)


def rows_drawn_again(labels, probs, seed):
    """Broken: rows are resampled, not labels, so that the errors under test are in the draws as well."""
    rng = np.random.default_rng(seed)
    found = np.abs(surprise_of_bins(labels, probs)).sum()
    some = (rng.integers(len(labels), size=len(labels)) for _ in range(99))
    return (1 + sum(np.abs(surprise_of_bins(labels[i], probs[i])).sum() >= found for i in some)) / 100


def surprise_of_bins(labels, probs, n_bins=10):
    confidence = probs.max(axis=1)
    bins = np.ceil(confidence * n_bins).astype(int) - 1
    return np.bincount(bins, (labels == probs.argmax(axis=1)) - confidence, n_bins)


def with_a_wrong_variance(labels, probs, seed):
    """Broken: the classes of a row as if they were independent."""
    terms = (np.eye(probs.shape[1])[labels] - probs) * (1 - 2 * probs)
    variance = (probs * (1 - probs) * (1 - 2 * probs) ** 2).sum()
    return 2 * norm.sf(abs(terms.sum()) / math.sqrt(variance))


def one_sided(labels, probs, seed):
    """Broken: both tails are looked at, one is counted."""
    return norm.sf(abs(spiegelhalter_test(labels, probs=probs).statistic))


@pytest.mark.parametrize("broken", [rows_drawn_again, with_a_wrong_variance, one_sided])
def test_the_law_of_size_rejects_a_broken_test(broken):
    assert not fair(rejected(broken, 3, 0.8, n=200, repeats=300), 300)


def test_weights_keep_the_size():
    def weighted(test, **options):
        def p_value(labels, probs, seed):
            weights = np.random.default_rng(seed).exponential(size=len(labels)) + 0.1
            return test(labels, probs=probs, weights=weights, **options).p_value

        return p_value

    for test in (weighted(calibration_test, draws=99), weighted(smooth_calibration_test, draws=99)):
        assert fair(rejected(test, 3, 0.8, n=100, repeats=200), 200)
    assert fair(rejected(weighted(spiegelhalter_test), 3, 0.8, n=100, repeats=200), 200)


def test_few_outcomes_err_on_the_side_of_the_model():
    """20 rows of confidence .99: most samples have no row wrong."""
    for name, p_value in TESTS.items():
        assert rejected(p_value, 2, 0.99, n=20, repeats=300) <= binom.ppf(0.9995, 300, 0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize(
    ("n_classes", "confidence", "n"), [*itertools.product([2, 3, 10], [0.8, 0.98], [200, 2000]), (100, 0.8, 2000)]
)
def test_the_size_is_right_to_a_point(name, n_classes, confidence, n):
    """2,000 models: at a true size of 5% the share has a standard deviation of 0.5 points. Ten minutes in all."""
    count = rejected(with_draws(199)[name], n_classes, confidence, n, repeats=2000)
    print(f"{name}, K = {n_classes}, confidence {confidence}, n = {n}: {count / 20:.2f}%")
    assert 0.035 <= count / 2000 <= 0.065


# ---- power: what each of them sees ----


def p_values(logits, truth, seed=0):
    labels = drawn(np.random.default_rng(seed), truth)
    return {name: p_value(labels, softmax(logits), 0) for name, p_value in TESTS.items()}


def test_all_see_over_and_underconfidence():
    logits = 2 * np.random.default_rng(13).normal(size=(2000, 4))
    for temperature in (0.7, 1.4):
        assert max(p_values(logits, softmax(logits / temperature)).values()) <= 0.01, temperature


def test_classes_that_come_too_often_are_seen_by_the_test_of_all_probabilities():
    logits = 2 * np.random.default_rng(14).normal(size=(2000, 4))
    found = p_values(logits, softmax(logits + 0.4 * np.array([1, -1, 1, -1])))
    assert found["calibration"] <= 0.01
    assert found["smooth"] > 0.05  # the confidence is right on average


def test_errors_that_cancel_in_bins_are_seen_by_the_smooth_test():
    rng = np.random.default_rng(15)
    confidence = rng.uniform(0.5, 1, 4000)
    wave = 0.6 * (1 - confidence) * np.sign(np.sin(30 * np.pi * confidence))
    logits = np.log(np.stack([1 - confidence, confidence], axis=1))
    found = p_values(logits, np.stack([1 - confidence - wave, confidence + wave], axis=1))
    assert found["smooth"] <= 0.01
    assert found["Spiegelhalter"] > 0.05


def test_what_is_advised_is_what_was_measured():
    page = power.PAGE.read_text()
    low, high = binom.interval(0.9999, power.REPEATS, power.LEVEL) / np.array(power.REPEATS)
    for n in power.SIZES:
        columns = power.curves(page, n)
        calibrated = columns["T"] == 1
        for name in power.CURVES:
            assert low <= columns[name][calibrated] <= high, (n, name)
        for name in (*power.OURS[1:], power.ECE):
            assert np.all(columns[power.OURS[2]] >= columns[name] - 0.1), (n, name)  # one direction, best seen
    rows = page.split("## Other errors")[1].splitlines()
    shares = {row.split("|")[1].strip(): [float(x) for x in row.split("|")[2:-1]] for row in rows if "0." in row[-9:]}
    by_turns, too_often = (next(shares[name] for name in shares if name.startswith(x)) for x in ("confid", "every"))
    assert by_turns[1] > 2 * max(by_turns[2:])
    assert too_often[0] > 2 * max(too_often[1:5])
