import importlib.resources
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from softargmax.metrics.calibration_error import class_bin_sums
from softargmax.metrics.decompositions import (
    BrierParts,
    brier_parts,
    brier_parts_of_bins,
    isotonic_parts_of_points,
    nll_parts,
)

EXACT = {"rel": 1e-12, "abs": 1e-12}


def model(n=400, k=4, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += scale
    return labels, logits


def network(rows=slice(None)):
    with np.load(str(importlib.resources.files("softargmax.data") / "cifar10-resnet20.npz")) as file:
        return file["labels"][rows].astype(int), file["logits"][rows]


# ---- Brier


def brier_definition(labels, probs, weights, n_bins):
    """Stephenson, Coelho & Jolliffe (2008), equations 5 to 9, class by class."""
    edges, parts = np.linspace(0, 1, n_bins + 1), np.zeros(5)
    total = math.fsum(weights)
    for k in range(probs.shape[1]):
        outcome, p = (labels == k).astype(float), probs[:, k]
        base = np.average(outcome, weights=weights)
        bins = np.array([next(b for b in range(n_bins) if x <= edges[b + 1] or b == n_bins - 1) for x in p])
        parts[2] += base * (1 - base)
        for b in np.unique(bins):
            w, o, f = (each[bins == b] for each in (weights, outcome, p))
            share, mean = np.average(o, weights=w), np.average(f, weights=w)
            parts[0] += w.sum() / total * (mean - share) ** 2
            parts[1] += w.sum() / total * (share - base) ** 2
            parts[3] += math.fsum(w * (f - mean) ** 2) / total
            parts[4] += 2 * math.fsum(w * (f - mean) * (o - share)) / total
    return parts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 10, 15, 300])
@pytest.mark.parametrize("k", [2, 7])
def test_brier_parts_equal_the_definition_and_add_up(weighted, n_bins, k):
    labels, logits = model(k=k)
    probs = softmax(logits, axis=1)
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else np.ones(len(labels))
    parts = brier_parts(labels, logits=logits, weights=weights if weighted else None, n_bins=n_bins)
    assert parts == pytest.approx(brier_definition(labels, probs, weights, n_bins), **EXACT)
    expected = brier_score_loss(labels, probs, sample_weight=weights, labels=np.arange(k), scale_by_half=False)
    assert parts.brier == pytest.approx(expected, **EXACT)
    assert brier_parts(labels, probs=probs, weights=weights, n_bins=n_bins) == pytest.approx(parts, **EXACT)


def law_parts_add_up_to_the_brier_score(parts_of) -> None:
    labels, logits = model()
    expected = brier_score_loss(labels, softmax(logits, axis=1), labels=np.arange(4), scale_by_half=False)
    assert parts_of(labels, logits).brier == pytest.approx(expected, **EXACT)


def test_the_law_of_the_sum_rejects_murphys_three_parts_and_a_single_covariance():
    def three(labels, logits):
        return brier_parts(labels, logits=logits)._replace(within_bin_variance=0.0, within_bin_covariance=0.0)

    def single(labels, logits):
        parts = brier_parts(labels, logits=logits)
        return parts._replace(within_bin_covariance=parts.within_bin_covariance / 2)

    law_parts_add_up_to_the_brier_score(lambda labels, logits: brier_parts(labels, logits=logits))
    for broken in (three, single):
        with pytest.raises(AssertionError):
            law_parts_add_up_to_the_brier_score(broken)


def test_forecasting_the_shares_is_all_uncertainty():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    parts = brier_parts(labels, probs=np.tile([0.5, 0.3, 0.2], (10, 1)))
    assert parts == pytest.approx((0, 0, 0.5 * 0.5 + 0.3 * 0.7 + 0.2 * 0.8, 0, 0), abs=1e-15)


def test_a_perfect_forecast_resolves_all_uncertainty():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    parts = brier_parts(labels, probs=np.eye(4)[labels])  # class 3 never comes
    assert parts == pytest.approx((0, 0.62, 0.62, 0, 0), abs=1e-15)
    assert parts.brier == pytest.approx(0, abs=1e-15)


def test_sums_of_parts_of_the_rows_are_those_of_the_whole():
    labels, logits = model()
    from softargmax.metrics._rows import rows_of

    halves = [rows_of(labels[half], logits=logits[half], caller="test") for half in (slice(150), slice(150, None))]
    sums = sum(class_bin_sums(rows, 15) for rows in halves)
    assert brier_parts_of_bins(*sums) == pytest.approx(brier_parts(labels, logits=logits), **EXACT)


@st.composite
def forecasts(draw):
    rows = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2)), min_size=1, max_size=40))
    probs = np.array([[min(a, b), abs(a - b), 20 - max(a, b)] for a, b, _ in rows]) / 20
    return np.array([label for _, _, label in rows]), probs


@settings(max_examples=80, deadline=None)
@given(forecasts(), st.integers(1, 20))
def test_brier_parts_lie_in_their_ranges(rows, n_bins):
    labels, probs = rows
    parts = brier_parts(labels, probs=probs, n_bins=n_bins)
    assert parts.brier == pytest.approx(np.mean(np.sum((probs - np.eye(3)[labels]) ** 2, axis=1)), **EXACT)
    assert 0 <= parts.reliability <= 2
    assert 0 <= parts.resolution <= parts.uncertainty + 1e-12
    assert parts.uncertainty <= 1
    assert parts.within_bin_variance >= -1e-15


# ---- NLL by temperature


def temperature_definition(labels, logits, weights=None):
    def nll(log_t):
        rows = log_softmax(logits / math.exp(log_t), axis=1)
        return np.average(-rows[np.arange(len(labels)), labels], weights=weights)

    start = min(np.linspace(-20, 20, 401), key=nll)
    best = minimize_scalar(nll, bounds=(start - 0.2, start + 0.2), method="bounded", options={"xatol": 1e-9})
    return nll(0.0) - best.fun, best.fun


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_temperature_parts_equal_the_definition(weighted, scale):
    labels, logits = model()
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else None
    parts = nll_parts(labels, logits=scale * logits, weights=weights)
    assert parts == pytest.approx(temperature_definition(labels, scale * logits, weights), rel=1e-9, abs=1e-9)
    probs = softmax(scale * logits, axis=1)
    if scale < 30:  # where softmax loses no small probability to underflow or rounding
        assert nll_parts(labels, probs=probs, weights=weights) == pytest.approx(parts, rel=1e-9, abs=1e-9)


def law_refinement_knows_no_scale(parts_of) -> None:
    labels, logits = model()
    expected = parts_of(labels, logits).refinement
    for scale in (1e-100, 1e-4, 3.0, 1e4, 1e100):
        assert parts_of(labels, scale * logits).refinement == pytest.approx(expected, rel=1e-9)


def test_refinement_knows_no_scale():
    law_refinement_knows_no_scale(lambda labels, logits: nll_parts(labels, logits=logits))


def test_the_law_of_scale_rejects_a_grid_of_temperatures():
    def grid(labels, logits):
        values = [
            log_loss(labels, softmax(logits / t, axis=1), labels=np.arange(4)) for t in np.geomspace(0.05, 20, 200)
        ]
        return type("Parts", (), {"refinement": min(values)})

    with pytest.raises(AssertionError):
        law_refinement_knows_no_scale(grid)


def test_parts_of_a_real_network_add_up():
    labels, logits = network(slice(0, 2000))
    parts = nll_parts(labels, logits=logits)
    rows = log_softmax(logits.astype(float), axis=1)
    assert sum(parts) == pytest.approx(-rows[np.arange(len(labels)), labels].mean(), rel=1e-6)
    assert parts == pytest.approx(temperature_definition(labels, logits.astype(float)), rel=1e-6)
    assert parts.calibration > 0.2
    assert nll_parts(labels, logits=logits.astype(float)) == pytest.approx(parts, rel=1e-6)


def test_a_calibrated_model_loses_half_a_row_by_its_own_temperature():
    """Wilks: twice the summed gain of one free number is chi-square with one degree of freedom, whose mean is 1."""
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(200):
        logits = rng.normal(size=(300, 3)) * 1.5
        labels = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
        gains.append(2 * 300 * nll_parts(labels, logits=logits).calibration)
    assert np.mean(gains) == pytest.approx(1, abs=0.3)  # a standard error is 0.1


def test_separable_rows_leave_nothing():
    labels, logits = model()
    logits[np.arange(len(labels)), labels] = logits.max(axis=1) + 1e-6  # by a hair, of spreads of several units
    for scale in (1.0, 1e-6, 1e6):
        parts = nll_parts(labels, logits=scale * logits)
        assert 0 <= parts.refinement < 1e-12
        assert parts.calibration == pytest.approx(log_loss(labels, softmax(scale * logits, axis=1)), rel=1e-6)


def test_ties_at_the_top_leave_their_logarithm():
    logits = np.array([[3.0, 3.0, -1.0], [0.0, 2.0, 1.0]])
    assert nll_parts([1, 1], logits=logits).refinement == pytest.approx(math.log(2) / 2, rel=1e-9)


def test_inverted_scores_leave_the_logarithm_of_the_classes():
    labels, logits = model(scale=5.0)
    parts = nll_parts(labels, logits=-logits)
    assert parts.refinement == pytest.approx(math.log(4), rel=1e-10)
    assert parts.refinement >= math.log(4)


def test_constant_logits_cannot_be_calibrated_by_temperature():
    assert nll_parts([0, 1, 2], logits=np.full((3, 4), 7.0)) == pytest.approx((0, math.log(4)), abs=1e-15)


def test_impossible_classes_stay_out():
    labels, logits = model()
    barred = np.column_stack([logits, np.full(len(labels), -np.inf)])
    assert nll_parts(labels, logits=barred) == pytest.approx(nll_parts(labels, logits=logits), **EXACT)
    assert nll_parts(labels, probs=softmax(barred, axis=1)) == pytest.approx(nll_parts(labels, logits=logits), rel=1e-9)


def test_a_label_of_probability_0_cannot_be_helped_by_temperature():
    for options in ({"logits": [[0.0, -np.inf], [3.0, 0.0]]}, {"probs": [[1.0, 0.0], [0.6, 0.4]]}):
        parts = nll_parts([1, 0], **options)
        assert parts.refinement == math.inf
        assert math.isnan(parts.calibration)
        assert nll_parts([1, 0], weights=[0.0, 1.0], **options).refinement < 1e-9


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_dtypes(dtype):
    labels, logits = model()
    logits = logits.astype(dtype)
    assert nll_parts(labels, logits=logits) == pytest.approx(nll_parts(labels, logits=logits.astype(float)), rel=1e-6)


def test_logits_near_the_largest_float():
    labels, logits = model()
    parts = nll_parts(labels, logits=logits * 1e300)
    assert parts.refinement == pytest.approx(nll_parts(labels, logits=logits).refinement, rel=1e-6)


# ---- NLL by isotonic regression


def isotonic_definition(confidence, right, weights=None):
    weights = np.ones(len(right)) if weights is None else weights
    fitted = IsotonicRegression().fit(confidence, right, sample_weight=weights).predict(confidence)
    before, after = (-np.average(np.log(np.where(right == 1, p, 1 - p)), weights=weights) for p in (confidence, fitted))
    return before - after, after


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decimals", [2, 12])
def test_isotonic_parts_equal_the_definition(weighted, decimals):
    rng = np.random.default_rng(decimals)
    confidence = np.clip(np.round(rng.uniform(0.5, 1, 300), decimals), 0.5, 0.99)
    right = (rng.random(300) < confidence**2).astype(int)
    weights = rng.exponential(size=300) if weighted else None
    probs = np.stack([confidence, 1 - confidence], axis=1)
    parts = nll_parts(1 - right, probs=probs, weights=weights, by="isotonic")
    assert parts == pytest.approx(isotonic_definition(confidence, right, weights), **EXACT)


def law_a_rising_map_changes_no_refinement(parts_of) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 300)
    right = (rng.random(300) < confidence**2).astype(float)
    expected = parts_of(confidence, right).refinement
    for bent in (confidence**3, np.sqrt(confidence), 0.4 + 0.1 * confidence):
        assert parts_of(bent, right).refinement == pytest.approx(expected, rel=1e-12)
        assert parts_of(bent, right).calibration >= 0


def test_a_rising_map_changes_no_refinement():
    law_a_rising_map_changes_no_refinement(lambda c, r: isotonic_parts_of_points(c, 1 - c, np.ones(len(c)), r))


def test_the_law_of_rising_maps_rejects_bins():
    def binned(confidence, right):
        bins = np.minimum((15 * confidence).astype(int), 14)
        share = (np.bincount(bins, weights=right) / np.maximum(np.bincount(bins), 1))[bins]
        nll = -np.mean(np.log(np.where(right == 1, share, 1 - share)))
        return type("Parts", (), {"refinement": nll, "calibration": 0})

    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        law_a_rising_map_changes_no_refinement(binned)


def test_a_wrong_row_of_confidence_1_can_be_mapped():
    parts = nll_parts([0, 1, 0, 0], probs=[[1.0, 0.0]] * 4, by="isotonic")
    assert parts.calibration == math.inf
    assert parts.refinement == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-12)


def test_confidences_that_round_to_1_are_told_apart():
    """Gaps of 40 and 60: both are 1.0 in float64, their doubts e^-40 and e^-60 are not."""
    logits = [[40.0, 0.0]] * 2 + [[60.0, 0.0]] * 2
    parts = nll_parts([1, 1, 0, 0], logits=logits, by="isotonic")
    assert parts.refinement == 0
    assert parts.calibration == pytest.approx(20, rel=1e-12)


def test_fine_points_stand_for_rows():
    labels, logits = network(slice(0, 3000))
    probs = np.round(softmax(logits.astype(float), axis=1), 3)
    confidence, right = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(float)
    confidence = np.minimum(confidence, 0.999)
    distinct, at = np.unique(confidence, return_inverse=True)
    weight, hits = np.bincount(at).astype(float), np.bincount(at, weights=right)
    order = np.random.default_rng(0).permutation(len(distinct))
    points = isotonic_parts_of_points(distinct[order], 1 - distinct[order], weight[order], hits[order])
    rows = isotonic_parts_of_points(confidence, 1 - confidence, np.ones(3000), right)
    assert points == pytest.approx(rows, **EXACT)
    assert points == pytest.approx(isotonic_definition(confidence, right), **EXACT)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=50))
def test_isotonic_parts_are_never_negative(rows):
    confidence = np.array([c for c, _ in rows]) / 100
    right = np.array([float(r) for _, r in rows])
    parts = isotonic_parts_of_points(confidence, 1 - confidence, np.ones(len(right)), right)
    share = right.mean()
    base = sum(-x * math.log(x) for x in (share, 1 - share) if x > 0)
    assert parts.calibration >= 0
    assert 0 <= parts.refinement <= base + 1e-12  # a constant is monotone


# ---- what all have in common

CALLS = [
    brier_parts,
    lambda labels, **options: nll_parts(labels, by="temperature", **options),
    lambda labels, **options: nll_parts(labels, by="isotonic", **options),
]


@pytest.mark.parametrize("parts_of", CALLS)
def test_no_rows_give_nan(parts_of):
    assert np.isnan(parts_of(np.empty(0, int), probs=np.empty((0, 3)))).all()
    assert np.isnan(parts_of([-1], probs=[[0.5, 0.5]], ignore_index=-1)).all()


@pytest.mark.parametrize("parts_of", CALLS)
def test_whole_weights_are_repetitions(parts_of):
    labels, logits = model(n=100)
    times = np.random.default_rng(0).integers(1, 5, 100)
    weighted = parts_of(labels, logits=logits, weights=times)
    repeated = parts_of(np.repeat(labels, times), logits=np.repeat(logits, times, axis=0))
    assert weighted == pytest.approx(repeated, **EXACT)
    assert weighted != pytest.approx(parts_of(labels, logits=logits), rel=1e-3)
    for scale in (1e-90, 1e90):
        assert parts_of(labels, logits=logits, weights=times * scale) == pytest.approx(weighted, **EXACT)


@pytest.mark.parametrize("parts_of", CALLS)
def test_rows_of_weight_0_and_ignored_rows_are_as_absent(parts_of):
    labels, logits = model(n=60)
    expected = parts_of(labels[:50], logits=logits[:50])
    logits[50:] = np.nan
    labels[50:] = 99
    assert parts_of(labels, logits=logits, weights=[1.0] * 50 + [0.0] * 10) == pytest.approx(expected, **EXACT)
    assert parts_of(labels, logits=logits, ignore_index=99) == expected


@pytest.mark.parametrize("parts_of", CALLS)
def test_layouts(parts_of):
    labels, logits = model(n=24, k=3)
    expected = parts_of(labels, logits=logits)
    pixels = np.moveaxis(logits.reshape(2, 3, 4, 3), -1, 1)
    assert parts_of(labels.reshape(2, 3, 4), logits=pixels, axis=1) == pytest.approx(expected, **EXACT)
    labels, score = (labels > 1).astype(int), logits[:, :1]
    two = parts_of(labels, logits=np.concatenate([np.zeros_like(score), score], axis=1))
    assert parts_of(labels, logits=score) == pytest.approx(two, **EXACT)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"^by must be one of 'temperature', 'isotonic'; got 'vector'$"):
        nll_parts([0], probs=[[0.5, 0.5]], by="vector")
    with pytest.raises(ValueError, match=r"^n_bins must be an integer of at least 1; got 0$"):
        brier_parts([0], probs=[[0.5, 0.5]], n_bins=0)
    for call in CALLS:
        with pytest.raises(TypeError, match=r"wants exactly one of logits= and probs=; got both$"):
            call([0], logits=[[0.0, 1.0]], probs=[[0.5, 0.5]])
        with pytest.raises(ValueError, match="NaN"):
            call([0, 1], logits=[[0.0, 1.0], [np.nan, 0.0]])


def test_parts_are_named_floats():
    labels, logits = model()
    parts = brier_parts(labels, logits=logits)
    assert isinstance(parts, BrierParts)
    assert all(type(part) is float for part in (*parts, *nll_parts(labels, logits=logits), parts.brier))
