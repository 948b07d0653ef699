import importlib.resources
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from softargmax.metrics.calibration_error import (
    classwise_ece,
    ece,
    ece_debiased,
    mass_error_of_points,
    smooth_ece,
    smooth_error_of_points,
    smooth_reliability,
)

EXACT = {"rel": 1e-12, "abs": 1e-14}
ERRORS = [ece, classwise_ece, ece_debiased, smooth_ece]
NORMS = ["l1", "l2", "max"]


# ---- definitions, by loops


def width_bin(value, n_bins):
    """Right-closed, the edges those of linspace: the first bin that ends at or above the value."""
    edges = np.linspace(0, 1, n_bins + 1)
    return next(b for b in range(n_bins) if value <= edges[b + 1] or b == n_bins - 1)


def left_closed_bin(value, n_bins):
    edges = np.linspace(0, 1, n_bins + 1)
    return next(b for b in range(n_bins) if value < edges[b + 1] or b == n_bins - 1)


def mass_bins(values, weights, n_bins):
    """In fractions: how many of the b/B quantiles, the least value with at least that share below or at it, a value
    exceeds."""
    exact = {value: Fraction(0) for value in sorted(set(values))}
    for value, weight in zip(values, weights, strict=True):
        exact[value] += Fraction(float(weight))
    total, reached, below = sum(exact.values()), Fraction(0), {}
    for value, weight in exact.items():
        below[value] = min(n_bins - 1, reached * n_bins // total)
        reached += weight
    return [below[value] for value in values]


def error_of_bins(bins, confidence, right, weights, norm):
    gaps, mass = {}, {}
    for b, c, r, w in zip(bins, confidence, right, weights, strict=True):
        gaps.setdefault(b, []).append(w * (r - c))
        mass.setdefault(b, []).append(w)
    total = math.fsum(weights)
    errors = {b: abs(math.fsum(gaps[b])) / math.fsum(mass[b]) for b in gaps}
    if norm == "max":
        return max(errors.values())
    power = {"l1": 1, "l2": 2}[norm]
    return (math.fsum(math.fsum(mass[b]) * errors[b] ** power for b in gaps) / total) ** (1 / power)


def definition(confidence, right, weights=None, n_bins=15, scheme="width", norm="l1"):
    confidence, right = [float(c) for c in confidence], [float(r) for r in right]
    weights = [1.0] * len(right) if weights is None else [float(w) for w in weights]
    bins = mass_bins(confidence, weights, n_bins) if scheme == "mass" else [width_bin(c, n_bins) for c in confidence]
    return error_of_bins(bins, confidence, right, weights, norm)


def classwise_definition(labels, probs, weights=None, norm="l1", **options):
    errors = [
        definition(probs[:, k], np.asarray(labels) == k, weights, norm=norm, **options) for k in range(probs.shape[1])
    ]
    if norm == "max":
        return max(errors)
    return math.fsum(errors) / len(errors) if norm == "l1" else math.sqrt(math.fsum(e**2 for e in errors) / len(errors))


def debiased_definition(confidence, right, weights, n_bins):
    """Kumar et al. (2019), with Kish's number of rows where there are weights."""
    bins, total = mass_bins(confidence, weights, n_bins), 0.0
    for b in set(bins):
        c, r, w = (
            np.array([x for x, at in zip(each, bins, strict=True) if at == b]) for each in (confidence, right, weights)
        )
        size = w.sum() ** 2 / (w**2).sum()
        if size >= 2:
            accuracy = np.average(r, weights=w)
            gap = accuracy - np.average(c, weights=w)
            total += w.sum() * (gap**2 - accuracy * (1 - accuracy) / (size - 1))
    return math.sqrt(max(0.0, total / sum(weights)))


def mirrored_kernel(at, points, width):
    """A Gaussian around points and their images behind 0 and 1, nothing beyond a distance of 1/2."""
    at, kernel = np.asarray(at)[..., None], 0.0
    for image in (points, -points, 2 - points):
        away = np.abs(at - image)
        kernel = kernel + np.where(away <= 0.5 + 1e-9, np.exp(-((away / width) ** 2) / 2), 0)
    return kernel


def smooth_definition(confidence, right, n=1001):
    """The smooth ECE on relplot's grid, ends mirrored too, by direct sums: no Fourier transform, no convolution."""
    nodes, at = np.linspace(0, 1, n), np.linspace(0, 1, 200)
    mass, gap = np.zeros(n), np.zeros(n)
    for c, r in zip(confidence, right, strict=True):
        left = min(int(c * (n - 1)), n - 2)
        part = c * (n - 1) - left
        for node, share in ((left, 1 - part), (left + 1, part)):
            mass[node] += share
            gap[node] += share * (r - c)

    def error(width):
        assert width > 0.01, "a finer grid"
        kernel = mirrored_kernel(nodes, nodes, width)
        gaps, density = np.interp(at, nodes, kernel @ gap), np.interp(at, nodes, kernel @ mass)
        return np.abs(gaps).sum() / density.sum()

    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < error(middle) else (low, middle)
    return error(high), high


def smooth_integral(confidence, right, ends=1.0):
    """The smooth ECE by integrals, no grid, where error and bandwidth are equal; the kernel ends at a distance of 1/2.

    `ends` 0.5 is what relplot does to confidences of exactly 0 and 1.
    """
    confidence, which = np.unique(confidence, return_inverse=True)
    mass = np.bincount(which) * np.where((confidence == 0) | (confidence == 1), ends, 1.0)
    gap = mass * (np.bincount(which, weights=right) / np.bincount(which) - confidence)
    at = (np.arange(1500) + 0.5) / 1500

    def error(width):
        kernel = mirrored_kernel(at, confidence, width)
        return np.abs(kernel @ gap).sum() / (kernel @ mass).sum()

    return error(brentq(lambda width: error(width) - width, 2e-3, 1.0, xtol=1e-5))


def model(n=400, k=7, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += scale
    return labels, logits


def top(labels, probs):
    return probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(float)


def binary(confidence, right):
    """Labels and two columns with this confidence, at least 1/2, of class 0."""
    confidence = np.asarray(confidence)
    return 1 - np.asarray(right).astype(int), np.stack([confidence, 1 - confidence], axis=1)


def network(rows=slice(None)):
    with np.load(str(importlib.resources.files("softargmax.data") / "cifar10-resnet20.npz")) as file:
        return file["labels"][rows].astype(int), file["logits"][rows]


# ---- binned errors


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 10, 15, 500])
def test_equals_the_definition(norm, scheme, weighted, n_bins):
    labels, logits = model(k=4, seed=n_bins)
    probs = softmax(logits, axis=1)
    if n_bins == 10:  # votes of 100 trees: on edges, and tied
        probs = np.random.default_rng(0).multinomial(100, probs) / 100
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else None
    options = {"n_bins": n_bins, "scheme": scheme, "norm": norm}
    expected = definition(*top(labels, probs), weights, **options)
    assert ece(labels, probs=probs, weights=weights, **options) == pytest.approx(expected, **EXACT)
    expected = classwise_definition(labels, probs, weights, **options)
    assert classwise_ece(labels, probs=probs, weights=weights, **options) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_logits_mean_their_softmax(scheme):
    labels, logits = model()
    probs = softmax(logits, axis=1)
    for error in (ece, classwise_ece):
        assert error(labels, logits=logits, scheme=scheme) == pytest.approx(
            error(labels, probs=probs, scheme=scheme), rel=1e-11
        )


def test_equals_scikit_learn():
    labels, logits = model(n=1500, k=5)
    probs = softmax(logits, axis=1)
    confidence, right = top(labels, probs)
    for scheme, strategy in (("width", "uniform"), ("mass", "quantile")):  # 1500 rows: 100 in each of 15 bins, no ties
        share, mean = calibration_curve(right, confidence, n_bins=15, strategy=strategy)
        count = (
            np.full(15, 100)
            if scheme == "mass"
            else np.histogram(confidence, np.linspace(0, 1, 16))[0]  # no confidence is on an edge
        )
        gaps = np.abs(share - mean)
        count = count[count > 0]
        assert ece(labels, probs=probs, scheme=scheme) == pytest.approx(count @ gaps / 1500, **EXACT)
        assert ece(labels, probs=probs, scheme=scheme, norm="max") == pytest.approx(gaps.max(), **EXACT)


def test_equal_mass_has_the_edges_of_numpy():
    rng = np.random.default_rng(0)
    confidence, weights = rng.uniform(0.5, 1, 200), rng.exponential(size=200)
    right = (rng.random(200) < confidence).astype(float)
    edges = np.quantile(confidence, np.arange(1, 12) / 12, method="inverted_cdf", weights=weights)
    bins = np.searchsorted(edges, confidence, side="left")
    expected = error_of_bins(bins, confidence, right, weights, "l1")
    assert mass_error_of_points(confidence, weights, weights * right, 12) == pytest.approx(expected, **EXACT)


def test_the_example_of_two_rows():
    assert ece([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10) == pytest.approx(0.475, **EXACT)


def law_bins_are_right_closed(error) -> None:
    """Confidences in tenths, 10 bins: which side an edge belongs to is a tenth of the error and more."""
    confidence = np.repeat([0.6, 0.7, 0.75, 0.8, 0.9, 1.0], 20)
    right = np.concatenate([np.arange(20) < n for n in (15, 11, 17, 13, 19, 18)]).astype(float)
    expected, other = (
        error_of_bins([rule(c, 10) for c in confidence], confidence, right, np.ones(120), "l1")
        for rule in (width_bin, left_closed_bin)
    )
    assert abs(expected - other) > 0.1 * expected
    assert error(*binary(confidence, right), 10) == pytest.approx(expected, **EXACT)


def by_rule(rule):
    def error(labels, probs, n_bins):
        confidence, right = top(labels, probs)
        return error_of_bins([rule(c, n_bins) for c in confidence], confidence, right, np.ones(len(labels)), "l1")

    return error


def test_bins_are_right_closed():
    law_bins_are_right_closed(lambda labels, probs, n_bins: ece(labels, probs=probs, n_bins=n_bins))


def test_the_law_of_edges_rejects_left_closed_bins():
    with pytest.raises(AssertionError):
        law_bins_are_right_closed(by_rule(left_closed_bin))


def law_bins_are_found_by_search(error) -> None:
    """.56 is the edge 56 of 100, so in the bin that ends there, though .56 * 100 is more than 56."""
    confidence = np.repeat([0.555, 0.56, 0.565], 4)
    right = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1.0])
    expected = (abs(4 * 0.445 - 4 * 0.56) + 4 * 0.435) / 12
    assert error(*binary(confidence, right), 100) == pytest.approx(expected, **EXACT)


def test_bins_are_found_by_search():
    law_bins_are_found_by_search(lambda labels, probs, n_bins: ece(labels, probs=probs, n_bins=n_bins))


def test_the_law_of_search_rejects_a_product():
    with pytest.raises(AssertionError):
        law_bins_are_found_by_search(by_rule(lambda c, n_bins: math.ceil(c * n_bins) - 1))


def law_edges_are_of_float64(error) -> None:
    """A float32 is the number that it is: .6 in float32 is above 6/10, hence in the bin above."""
    labels, probs = binary(np.repeat([0.6, 0.65], 10).astype(np.float32), np.arange(20) < 12)
    value = error(labels, probs, 10)
    assert value == error(labels, probs.astype(np.float64), 10)
    assert value == pytest.approx(abs(12 - 10 * (float(np.float32(0.6)) + float(np.float32(0.65)))) / 20, **EXACT)


def test_edges_are_of_float64():
    law_edges_are_of_float64(lambda labels, probs, n_bins: ece(labels, probs=probs, n_bins=n_bins))


def test_the_law_of_float32_rejects_edges_of_float32():
    def rounded(c, n_bins):
        return int(np.searchsorted(np.linspace(0, 1, n_bins + 1).astype(np.float32)[1:-1], np.float32(c), side="left"))

    with pytest.raises(AssertionError):
        law_edges_are_of_float64(by_rule(rounded))


def test_confidence_1_and_0_are_in_the_last_and_first_bin():
    labels, probs = binary([0.95, 1.0, 1.0], [1, 1, 0])  # class 0: 2.95 against 2 in one bin; class 1: .05 against 1
    assert ece(labels, probs=probs, n_bins=10) == pytest.approx(0.95 / 3, **EXACT)
    assert classwise_ece(labels, probs=probs, n_bins=10) == pytest.approx(0.95 / 3, **EXACT)


def law_row_order_means_nothing(error) -> None:
    """Half of 40 rows are tied; bins of equal mass that split ties see another set in another order."""
    rng = np.random.default_rng(0)
    confidence = np.concatenate([np.full(20, 0.8), rng.uniform(0.5, 1, 20)])
    right = (rng.random(40) < 0.7).astype(float)
    values = {error(*binary(confidence[order], right[order])) for order in (rng.permutation(40) for _ in range(20))}
    assert len(values) == 1


@pytest.mark.parametrize("norm", NORMS)
def test_row_order_means_nothing_for_equal_mass(norm):
    law_row_order_means_nothing(lambda labels, probs: ece(labels, probs=probs, scheme="mass", n_bins=7, norm=norm))


def test_the_law_of_row_order_rejects_bins_that_split_ties():
    def split(labels, probs):
        confidence, right = top(labels, probs)
        order = np.argsort(confidence, kind="stable")
        parts = zip(np.array_split(confidence[order], 7), np.array_split(right[order], 7), strict=True)
        return sum(abs(r.sum() - c.sum()) for c, r in parts) / len(labels)

    with pytest.raises(AssertionError):
        law_row_order_means_nothing(split)


def test_equal_confidences_are_one_bin_of_equal_mass():
    labels, probs = binary(np.full(30, 0.75), np.arange(30) < 21)
    for norm in NORMS:
        assert ece(labels, probs=probs, scheme="mass", norm=norm) == pytest.approx(0.05, **EXACT)
    assert smooth_ece(labels, probs=probs) == pytest.approx(0.05, rel=1e-9)


def test_fewer_rows_than_bins_of_equal_mass():
    labels, probs = binary([0.6, 0.7, 0.9], [1, 0, 1])
    assert ece(labels, probs=probs, scheme="mass") == pytest.approx((0.4 + 0.7 + 0.1) / 3, **EXACT)
    assert ece(labels, probs=probs, scheme="mass", n_bins=1) == pytest.approx(0.2 / 3, **EXACT)


def law_a_million_equal_rows_keep_their_digits(error) -> None:
    labels, probs = binary(np.full(1_000_000, 0.7), np.ones(1_000_000))
    assert error(labels, probs) == pytest.approx(0.3, rel=1e-13)


def test_a_million_equal_rows_keep_their_digits():
    law_a_million_equal_rows_keep_their_digits(lambda labels, probs: ece(labels, probs=probs))


def test_the_law_of_digits_rejects_plain_addition():
    def plain(labels, probs):
        confidence, right = top(labels, probs)
        return abs(np.cumsum(right - confidence)[-1]) / len(labels)

    with pytest.raises(AssertionError):
        law_a_million_equal_rows_keep_their_digits(plain)


def test_classes_without_rows_count():
    probs = np.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.5, 0.2, 0.3]])
    labels = np.array([0, 1, 0])
    for scheme in ("width", "mass"):
        for norm in NORMS:
            options = {"scheme": scheme, "norm": norm, "n_bins": 2}
            expected = classwise_definition(labels, probs, **options)
            assert classwise_ece(labels, probs=probs, **options) == pytest.approx(expected, **EXACT)
    without = classwise_ece(labels, probs=np.column_stack([probs, np.zeros(3)]))
    assert without == pytest.approx(classwise_ece(labels, probs=probs) * 3 / 4, **EXACT)


def test_classes_are_sorted_in_bounded_memory(monkeypatch):
    labels, logits = model(n=300, k=20)
    expected = classwise_ece(labels, logits=logits, scheme="mass")
    monkeypatch.setattr("softargmax.metrics.calibration_error._COLUMN_ELEMENTS", 900)  # three classes at a time
    assert classwise_ece(labels, logits=logits, scheme="mass") == expected


def test_memory_of_many_classes_stays_far_below_the_input():
    labels, logits = model(n=20_000, k=200)
    tracemalloc.start()
    classwise_ece(labels, logits=logits)
    assert tracemalloc.get_traced_memory()[1] < 3 * logits.nbytes  # blocks of a million: 8 MB each, against 32 MB
    tracemalloc.stop()


# ---- the debiased error


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 2, 40, 400])
def test_debiased_equals_the_definition(weighted, n):
    labels, logits = model(n=n, k=3, seed=n)
    probs = softmax(logits, axis=1)
    weights = np.random.default_rng(1).exponential(size=n) if weighted else np.ones(n)
    expected = debiased_definition(*top(labels, probs), weights, 15)
    value = ece_debiased(labels, probs=probs, weights=weights if weighted else None)
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-12)


def law_a_calibrated_model_has_no_error_on_average(error) -> None:
    """Over 200 samples, of the squares: what is left of .01 of noise must be noise."""
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(200):
        confidence = np.repeat([0.6, 0.9], 20)
        squares.append(error(*binary(confidence, rng.random(40) < confidence)))
    assert np.median(squares) < 0.05


def test_a_calibrated_model_has_no_debiased_error():
    law_a_calibrated_model_has_no_error_on_average(lambda labels, probs: ece_debiased(labels, probs=probs, n_bins=2))


def test_the_law_of_no_bias_rejects_the_plug_in():
    with pytest.raises(AssertionError):
        law_a_calibrated_model_has_no_error_on_average(
            lambda labels, probs: ece(labels, probs=probs, n_bins=2, scheme="mass", norm="l2")
        )


# ---- the smooth error


def smooth_sets():
    rng = np.random.default_rng(0)
    skewed = rng.beta(5, 2, 2000)
    yield skewed, rng.random(2000) < skewed**1.5
    certain = rng.beta(8, 0.5, 1000)
    yield certain, rng.random(1000) < 0.2 + 0.7 * certain
    tied = rng.choice([0.0, 0.5, 0.95, 1.0], 400)
    yield tied, rng.random(400) < 0.05 + 0.8 * tied
    yield np.ones(50), np.arange(50) < 41
    yield np.array([0.3]), np.zeros(1)


@pytest.mark.parametrize("case", range(5))
def test_smooth_error_equals_direct_sums(case):
    confidence, right = list(smooth_sets())[case]
    value, width = smooth_error_of_points(confidence, np.ones(len(right)), right.astype(float))
    assert (value, width) == pytest.approx(smooth_definition(confidence, right), **EXACT)
    assert abs(value - smooth_integral(confidence, right)) < 2e-3


def law_smoothing_follows_the_integrals(error) -> None:
    """A network that is nearly always certain: most of its confidences are within a thousandth of 1."""
    labels, logits = network(slice(0, 2000))
    confidence, right = top(labels, softmax(logits.astype(float), axis=1))
    confidence = np.round(confidence, 3)
    assert abs(error(confidence, right) - smooth_integral(confidence, right)) < 2e-3


def test_smoothing_follows_the_integrals():
    law_smoothing_follows_the_integrals(lambda c, r: smooth_error_of_points(c, np.ones(len(c)), r)[0])


def test_the_law_of_integrals_rejects_ends_without_mirror_image():
    with pytest.raises(AssertionError):
        law_smoothing_follows_the_integrals(lambda c, r: smooth_integral(c, r, ends=0.5))


def test_smoothing_never_adds_to_the_error_of_distinct_confidences():
    for confidence, right in smooth_sets():
        points = [np.sum(right[confidence == c] - c) for c in np.unique(confidence)]
        value, _ = smooth_error_of_points(confidence, np.ones(len(right)), right.astype(float))
        assert value <= np.abs(points).sum() / len(right) + 1e-3


def test_smooth_error_is_continuous_where_bins_are_not():
    right = np.arange(100) % 2 == 0
    on_an_edge, beside_it = (binary(np.where(right, 0.8, 0.8 + step), right) for step in (0.0, 1e-9))
    one_bin, two_bins = (ece(labels, probs=probs, n_bins=10) for labels, probs in (on_an_edge, beside_it))
    assert (one_bin, two_bins) == pytest.approx((0.3, 0.5), abs=1e-8)
    smooth, moved = (smooth_ece(labels, probs=probs) for labels, probs in (on_an_edge, beside_it))
    assert smooth == pytest.approx(moved, abs=1e-7)


def test_small_bandwidths_have_finer_grids():
    """A million calibrated rows: the error is near the smallest bandwidth, which 1001 points do not resolve."""
    rng = np.random.default_rng(1)
    confidence = rng.random(1_000_000)
    right = (rng.random(1_000_000) < confidence).astype(float)
    value, width = smooth_error_of_points(confidence, np.ones(len(right)), right)
    assert 1e-4 < value < 0.004
    assert width == pytest.approx(value, abs=2e-3)


def test_fine_points_stand_for_rows():
    """Rows of equal confidence as one point: the same numbers."""
    labels, logits = network(slice(0, 3000))
    confidence, right = top(labels, np.round(softmax(logits.astype(float), axis=1), 3))
    distinct, at = np.unique(confidence, return_inverse=True)
    weight, hits = np.bincount(at).astype(float), np.bincount(at, weights=right)
    order = np.random.default_rng(0).permutation(len(distinct))
    points = (distinct[order], weight[order], hits[order])
    ones = np.ones(3000)
    assert mass_error_of_points(*points, 15) == pytest.approx(
        mass_error_of_points(confidence, ones, right, 15), **EXACT
    )
    assert smooth_error_of_points(*points) == pytest.approx(smooth_error_of_points(confidence, ones, right), **EXACT)
    empty = (np.append(distinct, np.nan), np.append(weight, 0.0), np.append(hits, 0.0))  # a cell without rows
    assert mass_error_of_points(*empty, 15) == mass_error_of_points(distinct, weight, hits, 15)
    assert smooth_error_of_points(*empty) == smooth_error_of_points(distinct, weight, hits)


# ---- the smooth reliability diagram


def test_the_smooth_diagram_is_a_kernel_regression():
    rng = np.random.default_rng(2)
    confidence = np.round(rng.beta(4, 2, 500), 3)  # on the grid, so that nothing is spread
    weight = rng.exponential(size=500)
    right = weight * (rng.random(500) < confidence**2)
    grid = np.linspace(0, 1, 21)
    curve = smooth_reliability(confidence, weight, right, grid, size=300.0)
    assert curve.bandwidth == smooth_error_of_points(confidence, weight, right)[1]
    for i, t in enumerate(grid):
        k = mirrored_kernel(t, confidence, curve.bandwidth)
        accuracy = (k @ right) / (k @ weight)
        count = (k @ weight) ** 2 / (k**2 @ weight) * 300 / weight.sum()
        assert curve.accuracy[i] == pytest.approx(accuracy, rel=1e-9)
        assert curve.confidence[i] == pytest.approx((k @ (weight * confidence)) / (k @ weight), rel=1e-9)
        z = 1.959963984540054
        root = z * math.sqrt(accuracy * (1 - accuracy) / count + z**2 / (4 * count**2))
        for bound, sign in ((curve.lower[i], -1), (curve.upper[i], 1)):
            assert bound == pytest.approx((accuracy + z**2 / (2 * count) + sign * root) / (1 + z**2 / count), rel=1e-9)
    for name in ("grid", "confidence", "accuracy", "lower", "upper", "density"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(curve, name)[0] = 0


def test_the_smooth_diagram_shows_the_smooth_error():
    labels, logits = network(slice(0, 4000))
    confidence, right = top(labels, softmax(logits.astype(float) / 2, axis=1))
    grid = np.linspace(0, 1, 2001)
    curve = smooth_reliability(confidence, np.ones(4000), right, grid)
    assert np.trapezoid(curve.density, grid) == pytest.approx(1, abs=1e-6)
    gap = np.abs(curve.accuracy - curve.confidence) * curve.density
    error, _ = smooth_error_of_points(confidence, np.ones(4000), right)
    assert np.trapezoid(gap, grid) == pytest.approx(error, abs=1e-3)


def law_the_band_holds_the_smoothed_truth(band) -> None:
    """In 19 of 20 samples at any one point; here three points of 300 samples."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, 400)
        truth = confidence - 0.15
        right = (rng.random(400) < truth).astype(float)
        grid = np.array([0.6, 0.75, 0.9])
        curve = smooth_reliability(confidence, np.ones(400), right, grid)
        kernel = mirrored_kernel(grid, confidence, curve.bandwidth)
        smoothed = kernel @ truth / kernel.sum(axis=1)
        lower, upper = band(curve)
        held.append((lower <= smoothed) & (smoothed <= upper))
    assert np.all(np.abs(np.mean(held, axis=0) - 0.95) < 0.035)


def test_the_band_holds_the_smoothed_truth():
    law_the_band_holds_the_smoothed_truth(lambda curve: (curve.lower, curve.upper))


def test_the_law_of_the_band_rejects_all_rows_counted_at_every_point():
    def narrow(curve):
        half = 1.96 * np.sqrt(curve.accuracy * (1 - curve.accuracy) / 400)
        return curve.accuracy - half, curve.accuracy + half

    with pytest.raises(AssertionError):
        law_the_band_holds_the_smoothed_truth(narrow)


def test_the_smooth_diagram_far_from_all_rows_and_without_any():
    curve = smooth_reliability(np.array([0.9]), np.array([10.0]), np.array([9.0]), np.array([0.0, 0.9]))
    assert curve.density[0] == 0
    assert np.isnan([curve.accuracy[0], curve.confidence[0], curve.lower[0], curve.upper[0]]).all()
    assert curve.lower[1] < 0.9 < curve.upper[1]
    none = smooth_reliability(np.empty(0), np.empty(0), np.empty(0), np.linspace(0, 1, 3))
    assert np.isnan(none.accuracy).all()
    assert math.isnan(none.bandwidth)


# ---- what all have in common


@pytest.mark.parametrize("error", ERRORS)
def test_no_rows_give_nan(error):
    assert math.isnan(error(np.empty(0, int), probs=np.empty((0, 3))))
    assert math.isnan(error([-1], probs=[[0.5, 0.5]], ignore_index=-1))
    for options in ({"scheme": "mass"}, {"norm": "l2"}, {"norm": "max"}):
        if error in (ece, classwise_ece):
            assert math.isnan(error(np.empty(0, int), probs=np.empty((0, 3)), **options))


@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("norm", NORMS)
def test_one_row_errs_by_its_gap(scheme, norm):
    for label, expected in ((0, 0.2), (1, 0.8)):
        options = {"probs": [[0.8, 0.2]], "scheme": scheme, "norm": norm}
        assert ece([label], **options) == pytest.approx(expected, **EXACT)
        assert classwise_ece([label], **options) == pytest.approx(expected, **EXACT)
    assert smooth_ece([1], probs=[[0.8, 0.2]]) == pytest.approx(0.8, rel=1e-9)
    assert ece_debiased([1], probs=[[0.8, 0.2]]) == 0


@pytest.mark.parametrize("error", [ece, classwise_ece, smooth_ece])
@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_whole_weights_are_repetitions(error, scheme):
    options = {} if error is smooth_ece else {"scheme": scheme}
    labels, logits = model(n=100, k=3)
    times = np.random.default_rng(0).integers(1, 5, 100)
    weighted = error(labels, logits=logits, weights=times, **options)
    repeated = error(np.repeat(labels, times), logits=np.repeat(logits, times, axis=0), **options)
    assert weighted == pytest.approx(repeated, **EXACT)
    assert weighted != error(labels, logits=logits, **options)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_the_scale_of_weights_means_nothing(error, scheme):
    options = {"scheme": scheme} if error in (ece, classwise_ece) else {}
    labels, logits = model(n=150, k=3)  # tenths of 15 bins: every quantile is a row, if rounding lets it
    expected = error(labels, logits=logits, **options)
    for scale in (0.1, 1 / 3, 1e-90, 1e90):
        value = error(labels, logits=logits, weights=np.full(150, scale), **options)
        assert value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("error", ERRORS)
def test_rows_of_weight_0_and_ignored_rows_are_as_absent(error):
    labels, logits = model(n=60, k=3)
    expected = error(labels[:50], logits=logits[:50])
    logits[50:] = np.nan
    labels[50:] = 99
    assert error(labels, logits=logits, weights=[1.0] * 50 + [0.0] * 10) == pytest.approx(expected, **EXACT)
    assert error(labels, logits=logits, ignore_index=99) == expected


@pytest.mark.parametrize("error", ERRORS)
def test_layouts(error):
    labels, logits = model(n=24, k=3)
    expected = error(labels, logits=logits)
    pixels = np.moveaxis(logits.reshape(2, 3, 4, 3), -1, 1)
    assert error(labels.reshape(2, 3, 4), logits=pixels, axis=1) == expected
    score = logits[:, :1]
    two = error((labels > 1).astype(int), logits=np.concatenate([np.zeros_like(score), score], axis=1))
    assert error((labels > 1).astype(int), logits=score) == two


@pytest.mark.parametrize("error", ERRORS)
def test_what_is_wrong_is_said(error):
    with pytest.raises(TypeError, match=rf"^{error.__name__} wants exactly one of logits= and probs=; got neither"):
        error([0])
    if error is not smooth_ece:
        for n_bins in (0, 2.5, True):
            with pytest.raises(ValueError, match=r"^n_bins must be an integer of at least 1; got "):
                error([0], probs=[[0.5, 0.5]], n_bins=n_bins)
    if error in (ece, classwise_ece):
        with pytest.raises(ValueError, match=r"^scheme must be one of 'width', 'mass'; got 'equal'$"):
            error([0], probs=[[0.5, 0.5]], scheme="equal")
        with pytest.raises(ValueError, match=r"^norm must be one of 'l1', 'l2', 'max'; got 1$"):
            error([0], probs=[[0.5, 0.5]], norm=1)


# ---- laws


@st.composite
def forecasts(draw):
    rows = draw(st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=60))
    return binary([0.5 + c / 128 for c, _ in rows], [r for _, r in rows])


@settings(max_examples=60, deadline=None)
@given(forecasts(), st.integers(1, 40))
def test_errors_lie_between_0_and_1_and_norms_are_ordered(rows, n_bins):
    labels, probs = rows
    for scheme in ("width", "mass"):
        l1, l2, largest = (ece(labels, probs=probs, n_bins=n_bins, scheme=scheme, norm=norm) for norm in NORMS)
        assert 0 <= l1 <= l2 * (1 + 1e-12)
        assert l2 <= largest * (1 + 1e-12)
        assert largest <= 1
    assert 0 <= classwise_ece(labels, probs=probs, n_bins=n_bins) <= 1
    debiased = ece_debiased(labels, probs=probs, n_bins=n_bins)
    assert 0 <= debiased <= ece(labels, probs=probs, n_bins=n_bins, scheme="mass", norm="l2") * (1 + 1e-12)
    assert 0 <= smooth_ece(labels, probs=probs) <= 1 + 1e-12


def law_merging_bins_never_adds_error(error) -> None:
    """2n bins of equal width are n in pairs: gaps can only cancel."""

    @settings(max_examples=60, deadline=None, database=None)
    @given(forecasts(), st.sampled_from([1, 2, 4, 8, 16]))
    def law(rows, n_bins):
        labels, probs = rows
        assert error(labels, probs, n_bins) <= error(labels, probs, 2 * n_bins) * (1 + 1e-12)

    law()


def test_merging_bins_never_adds_error():
    for norm in ("l1", "l2", "max"):
        law_merging_bins_never_adds_error(lambda y, p, n_bins, norm=norm: ece(y, probs=p, n_bins=n_bins, norm=norm))
    law_merging_bins_never_adds_error(lambda y, p, n_bins: classwise_ece(y, probs=p, n_bins=n_bins))


def test_the_law_of_merging_rejects_the_mean_over_bins():
    def unweighted(labels, probs, n_bins):
        confidence, right = top(labels, probs)
        bins = np.array([width_bin(c, n_bins) for c in confidence])
        return float(np.mean([abs(np.mean((right - confidence)[bins == b])) for b in np.unique(bins)]))

    with pytest.raises(AssertionError):
        law_merging_bins_never_adds_error(unweighted)


def law_calibrated_points_have_no_error(error) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 10, 1000):
        confidence, weight = rng.random(n), rng.exponential(size=n)
        assert error(confidence, weight, weight * confidence) == pytest.approx(0, abs=1e-15)


def test_calibrated_points_have_no_error():
    for norm in NORMS:
        law_calibrated_points_have_no_error(lambda *points, norm=norm: mass_error_of_points(*points, 15, norm))
    law_calibrated_points_have_no_error(lambda *points: smooth_error_of_points(*points)[0])


def test_the_law_of_calibrated_points_rejects_the_middle_of_the_bin_as_confidence():
    def middles(confidence, weight, right):
        bins = np.minimum((confidence * 15).astype(int), 14)
        gap = np.bincount(bins, weights=right - weight * (bins + 0.5) / 15)
        return np.abs(gap).sum() / weight.sum()

    with pytest.raises(AssertionError):
        law_calibrated_points_have_no_error(middles)


def test_a_real_network():
    labels, logits = network()
    assert ece(labels, logits=logits) == pytest.approx(0.12453, abs=5e-6)
    assert smooth_ece(labels, logits=logits) == pytest.approx(
        0.1245, abs=5e-4
    )  # nearly always too sure: no bin errs less
    assert ece(labels, logits=logits, scheme="mass") == pytest.approx(0.1245, abs=5e-4)
