import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from softargmax.metrics.ranking import RankingSums, auroc


def rows_of_classes(rng, n, n_classes, gain=2.0, scale=1.0):
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += gain
    return labels, logits * scale


def of_pairs(scores, positive, weights):
    """The definition: every row of the class against every other row, ties 1/2."""
    up, down = scores[positive], scores[~positive]
    won = (up[:, None] > down) + (up[:, None] == down) / 2
    pairs = weights[positive][:, None] * weights[~positive]
    return float((pairs * won).sum() / pairs.sum())


def by_order(scores, positive, weights):
    """Wrong: ties go to whichever row comes first."""
    rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return of_pairs(rank, positive, weights)


# binary scores on a grid: many ties
binary = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({positive for _, positive in rows}) == 2
)


def binary_auroc(rows, weights=None):
    scores, labels = np.array([z for z, _ in rows], float), np.array([int(positive) for _, positive in rows])
    return auroc(labels, logits=scores[:, None], weights=weights).per_class[1]


# ---- the value


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decimals", [1, 17])
def test_equals_scikit_learn(n_classes, weighted, decimals):
    rng = np.random.default_rng(n_classes)
    labels, logits = rows_of_classes(rng, 800, n_classes)
    logits = logits.round(decimals)
    weights = rng.exponential(size=800) if weighted else None
    probs = softmax(logits, axis=1)
    expected = [roc_auc_score(labels == k, probs[:, k], sample_weight=weights) for k in range(n_classes)]
    by_probs = auroc(labels, probs=probs, weights=weights)
    assert by_probs.per_class == pytest.approx(expected, abs=1e-12)
    assert by_probs.macro == pytest.approx(np.mean(expected), abs=1e-12)
    if decimals == 17:  # on a grid, probabilities that are equal may round apart
        assert auroc(labels, logits=logits, weights=weights).per_class == pytest.approx(expected, abs=1e-12)


@given(binary, st.randoms(use_true_random=False))
def test_is_the_share_of_pairs_in_any_order_of_the_rows(rows, random):
    scores, positive = np.array([z for z, _ in rows]), np.array([up for _, up in rows])
    assert binary_auroc(rows) == pytest.approx(of_pairs(scores, positive, np.ones(len(rows))), abs=1e-12)
    shuffled = random.sample(rows, len(rows))
    assert binary_auroc(shuffled) == pytest.approx(binary_auroc(rows), abs=1e-12)


def test_ties_that_go_to_the_first_row_would_not_pass():
    scores, positive = np.zeros(4), np.array([True, True, False, False])
    assert by_order(scores, positive, np.ones(4)) == 0
    assert by_order(scores, positive[::-1], np.ones(4)) == 1
    assert auroc(positive.astype(int), logits=scores[:, None]).per_class.tolist() == [0.5, 0.5]


@given(binary)
def test_only_the_order_of_the_scores_counts(rows):
    squeezed = [(math.atan(z) + 5, positive) for z, positive in rows]
    assert binary_auroc(squeezed) == pytest.approx(binary_auroc(rows), abs=1e-12)


@given(binary)
def test_other_labels_give_the_rest_of_one(rows):
    swapped = [(z, not positive) for z, positive in rows]
    assert binary_auroc(swapped) == pytest.approx(1 - binary_auroc(rows), abs=1e-12)


@given(binary, st.data())
def test_a_weight_is_so_many_rows(rows, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    repeated = [row for row, times in zip(rows, weights, strict=True) for _ in range(times)]
    if not repeated:
        return
    assert binary_auroc(rows, weights) == pytest.approx(binary_auroc(repeated), abs=1e-12, nan_ok=True)
    assert binary_auroc(rows, np.array(weights) / 7) == pytest.approx(binary_auroc(repeated), abs=1e-12, nan_ok=True)


@given(binary)
def test_of_two_classes_both_have_the_same(rows):
    scores, labels = np.array([z for z, _ in rows], float), np.array([int(positive) for _, positive in rows])
    two = np.stack([scores / 2, scores * 1.5], axis=1)
    for result in (auroc(labels, logits=two), auroc(labels, logits=scores[:, None])):
        assert result.per_class[0] == pytest.approx(result.per_class[1], abs=1e-12)
        assert result.interval(0) == pytest.approx(result.interval(1), abs=1e-12)
        assert result.interval("macro") == pytest.approx(result.interval(1), abs=1e-12)


def test_logits_rank_where_probabilities_are_rounded_to_one():
    logits = np.array([[0.0, 40.0], [0.0, 50.0], [0.0, 45.0]])
    labels = [0, 1, 1]
    assert auroc(labels, logits=logits).per_class.tolist() == [1, 1]
    assert auroc(labels, probs=softmax(logits, axis=1)).per_class[1] == 0.5  # all three are 1.0


def test_probabilities_of_zero_and_the_widest_logits_rank():
    logits = [[0.0, -np.inf], [1e308, -1e308], [0.0, -800.0], [0.0, -900.0]]
    assert auroc([0, 0, 1, 1], logits=logits).per_class[1] == 1


def test_every_layout_gives_the_same():
    rng = np.random.default_rng(0)
    labels, logits = rows_of_classes(rng, 60, 3)
    labels[:5] = -100
    flat = auroc(labels, logits=logits, ignore_index=-100)
    image = logits.reshape(5, 3, 4, 3).transpose(0, 3, 1, 2)
    folded = auroc(labels.reshape(5, 3, 4), logits=image, axis=1, ignore_index=-100)
    assert folded.per_class.tolist() == flat.per_class.tolist()
    assert folded.interval() == flat.interval()
    assert auroc(labels[5:], logits=logits[5:]).per_class.tolist() == flat.per_class.tolist()


def test_more_classes_than_are_read_together():
    rng = np.random.default_rng(1)
    labels, logits = rows_of_classes(rng, 300, 19)
    result = auroc(labels, logits=logits.astype(np.float16))
    probs = softmax(logits.astype(np.float16).astype(float), axis=1)
    assert result.per_class[18] == pytest.approx(roc_auc_score(labels == 18, probs[:, 18]), abs=1e-12)
    assert result.n_defined == 19


# ---- classes without rows, few rows, none


def test_a_class_without_rows_has_none_and_is_not_in_the_mean():
    result = auroc([0, 0, 1], probs=[[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.4, 0.6, 0.0]])
    assert result.per_class.tolist() == pytest.approx([0.5, 1, math.nan], nan_ok=True)
    assert (result.macro, result.n_defined) == (0.75, 2)
    assert all(map(math.isnan, result.interval(2)))
    low, high = result.interval()
    assert 0 < low < 0.75 < high <= 1


@pytest.mark.parametrize("n", [0, 1])
def test_one_row_and_none_have_none(n):
    result = auroc(np.zeros(n, int), logits=np.zeros((n, 3)))
    assert np.isnan(result.per_class).all()
    assert result.n_defined == 0
    assert math.isnan(result.macro)
    assert all(map(math.isnan, (*result.interval(), *result.interval(1))))
    with pytest.raises(ValueError, match="level"):
        result.interval(level=95)


def test_unknown_classes_are_named():
    result = auroc([0, 1], logits=[[2.0, 1.0], [1.0, 2.0]])
    for which in (2, -1, 1.0, "mean"):
        with pytest.raises(ValueError, match="classes are 0 to 1, or 'macro'"):
            result.interval(which)


# ---- intervals


def delong(scores, positive):
    """The standard error as the paper has it: placements of every row, by pairs."""
    up, down = scores[positive], scores[~positive]
    won = (up[:, None] > down) + (up[:, None] == down) / 2
    return math.sqrt(won.mean(axis=1).var(ddof=1) / len(up) + won.mean(axis=0).var(ddof=1) / len(down))


@pytest.mark.parametrize("decimals", [1, 17])
def test_the_standard_error_is_that_of_delong(decimals):
    labels, logits = rows_of_classes(np.random.default_rng(2), 200, 4)
    probs = softmax(logits, axis=1).round(decimals)
    probs /= probs.sum(axis=1, keepdims=True)
    for weights in (None, np.full(200, 0.3)):
        result = auroc(labels, probs=probs, weights=weights)
        expected = [delong(probs[:, k], labels == k) for k in range(4)]
        assert result.standard_error == pytest.approx(expected, rel=1e-10)


def test_the_standard_error_of_the_mean_is_that_of_what_each_row_adds():
    labels, logits = rows_of_classes(np.random.default_rng(3), 400, 3)
    probs = softmax(logits, axis=1)
    whole = auroc(labels, probs=probs).macro
    without = [auroc(np.delete(labels, i), probs=np.delete(probs, i, axis=0)).macro for i in range(400)]
    jackknife = math.sqrt(399 / 400 * np.sum((np.array(without) - whole) ** 2))
    assert auroc(labels, probs=probs).macro_standard_error == pytest.approx(jackknife, rel=0.02)


def test_unequal_weights_widen_the_interval():
    rng = np.random.default_rng(4)
    labels, logits = rows_of_classes(rng, 500, 2, gain=1.0)
    weights = rng.exponential(size=500) ** 2
    weighted = auroc(labels, logits=logits, weights=weights)
    assert weighted.positives[1] < 0.5 * (labels == 1).sum()
    assert weighted.standard_error[1] > 1.3 * auroc(labels, logits=logits).standard_error[1]
    again = auroc(labels, logits=logits, weights=weights * 1e6)
    assert again.interval(1) == pytest.approx(weighted.interval(1), rel=1e-9)


@pytest.mark.parametrize(("distance", "least"), [(1.0, 0.92), (3.0, 0.95)])
def test_intervals_hold_the_truth_where_normal_ones_do_not(distance, least):
    rng = np.random.default_rng(5)
    truth = norm.cdf(distance / math.sqrt(2))
    labels = np.repeat([1, 0], [10, 100])
    held, normal = 0, 0
    for _ in range(400):
        scores = rng.normal(size=110) + distance * labels
        result = auroc(labels, logits=scores[:, None])
        low, high = result.interval(1)
        held += low <= truth <= high
        normal += abs(result.per_class[1] - truth) <= 1.96 * result.standard_error[1]
    assert held / 400 >= least
    if distance == 3.0:
        assert normal / 400 < 0.8


def test_perfect_and_constant_scores_have_wide_intervals():
    labels = np.repeat([0, 1], 20)
    low, high = auroc(labels, logits=(labels * 2.0 - 1)[:, None]).interval(1)
    assert high == 1
    assert 0.7 < low < 0.95
    for weights in (None, np.full(40, 0.1), np.random.default_rng(0).uniform(0.9, 1.1, 40)):
        low, high = auroc(labels, logits=np.zeros((40, 1)), weights=weights).interval(1)
        assert low < 0.35
        assert high > 0.65


# ---- sums


def sums_of(labels, scores, kind, weights=None):
    return RankingSums.of(np.asarray(labels), np.asarray(scores), weights, kind=kind)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 12]), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_the_auroc_of_sums_is_within_its_error(seed, n_classes, scale, weighted):
    rng = np.random.default_rng(seed)
    labels, logits = rows_of_classes(rng, 40, n_classes, scale=scale)
    weights = rng.exponential(size=40) + 1e-3 if weighted else None
    for kind, scores in (("logits", logits), ("probs", softmax(logits, axis=1))):
        sums = sums_of(labels, scores, kind, weights)
        exact = auroc(labels, **{kind: scores}, weights=weights)
        off = np.abs(sums.auroc().per_class - exact.per_class)
        assert np.array_equal(np.isnan(off), np.isnan(exact.per_class))
        assert not np.any(off > sums.auroc_error() + 1e-12)
        assert sums.auroc().positives == pytest.approx(exact.positives)
        assert sums.auroc().negatives == pytest.approx(exact.negatives)


def test_pairs_in_one_bin_that_count_as_lost_would_not_pass():
    labels, logits = rows_of_classes(np.random.default_rng(6), 4000, 3, scale=0.01)
    sums = sums_of(labels, logits, "logits")
    error, exact = sums.auroc_error(), auroc(labels, logits=logits).per_class
    assert (error > 1e-3).all()
    assert (np.abs(sums.auroc().per_class - exact) < error / 4).all()
    others, own = np.moveaxis(sums.cells, 1, 0)
    lost = (own * (np.cumsum(others, axis=1) - others)).sum(axis=1) / own.sum(axis=1) / others.sum(axis=1)
    assert (np.abs(lost - exact) > 0.9 * error).all()
    assert (np.abs(lost - exact) > np.abs(sums.auroc().per_class - exact) * 4).all()


@pytest.mark.parametrize(("n_classes", "gain", "scale"), [(2, 1, 1), (10, 2, 3), (10, 1, 1), (100, 3, 2), (1000, 4, 2)])
def test_the_error_of_ordinary_sums_is_below_a_thousandth(n_classes, gain, scale):
    labels, logits = rows_of_classes(np.random.default_rng(7), 4000, n_classes, gain, scale)
    sums = sums_of(labels, logits.astype(np.float32), "logits")
    assert np.nanmean(sums.auroc_error()) < 1e-3
    close = sums.auroc()
    exact = auroc(labels, logits=logits.astype(np.float32)) if n_classes <= 100 else None
    if exact is not None:
        assert close.standard_error == pytest.approx(exact.standard_error, rel=0.02)
        assert close.interval(0) == pytest.approx(exact.interval(0), abs=2e-3)


def test_sums_merge_as_if_made_together():
    rng = np.random.default_rng(8)
    labels, logits = rows_of_classes(rng, 9000, 4)
    weights = rng.exponential(size=9000) + 1e-3
    together, parts = (
        sums_of(labels, logits, "logits"),
        [sums_of(labels[some], logits[some], "logits") for some in (slice(0, 1), slice(1, 5000), slice(5000, None))],
    )
    assert np.array_equal(parts[0].merge(parts[1]).merge(parts[2]).cells, together.cells)
    assert np.array_equal(parts[2].merge(parts[0].merge(parts[1])).cells, together.cells)
    whole = sums_of(labels, logits, "logits", weights)
    halves = [sums_of(labels[some], logits[some], "logits", weights[some]) for some in (slice(0, 77), slice(77, None))]
    merged = halves[0].merge(halves[1])
    assert merged.cells.value == pytest.approx(whole.cells.value, rel=1e-12)
    assert merged.auroc().per_class == pytest.approx(whole.auroc().per_class, abs=1e-13)
    nothing = sums_of(labels[:0], logits[:0], "logits")
    assert np.array_equal(nothing.merge(together).cells, together.cells)
    assert np.isnan(nothing.auroc().per_class).all()
    assert np.isnan(nothing.auroc_error()).all()
    mixed = together.merge(whole)  # rows of weight 1 and others
    assert mixed.cells.value.sum() == pytest.approx(together.cells.sum() + whole.cells.value.sum())
    with pytest.raises(ValueError, match="of 4 and of 3 classes"):
        together.merge(sums_of([0], np.zeros((1, 3)), "logits"))


def test_sums_keep_the_order_of_probabilities_from_end_to_end():
    # one row of the class at each p, one of the others at the next: in order, every bin or the next one
    logits = np.concatenate([-np.geomspace(700, 1e-3, 300), [0], np.geomspace(1e-3, 700, 300)])
    labels = np.arange(len(logits)) % 2
    for kind, scores in (("logits", logits), ("probs", 1 / (1 + np.exp(-logits)))):
        two = np.stack([np.zeros_like(logits), scores] if kind == "logits" else [1 - scores, scores], axis=1)
        bins = [np.flatnonzero(sums_of([0], row[None], kind).cells[1].sum(axis=0))[0] for row in two]
        assert np.all(np.diff(bins) >= 0), kind
        assert bins[0] < 150
        assert bins[-1] > 8191 - 150
        assert len(set(bins)) > 300
        sums = sums_of(labels, two, kind)
        assert sums.auroc().per_class[1] == pytest.approx(auroc(labels, **{kind: two}).per_class[1], abs=2e-3)


def test_sums_of_a_thousand_classes_stay_below_50_megabytes_and_of_more_are_refused():
    counts = sums_of([0], np.zeros((1, 1000)), "logits").cells
    weights = sums_of([0], np.zeros((1, 1000)), "logits", np.ones(1)).cells
    assert counts.nbytes < 20e6
    assert weights.high.nbytes + weights.low.nbytes < 50e6
    with pytest.raises(ValueError, match="at most 1000 classes; there are 1001; call auroc on the rows"):
        sums_of([0], np.zeros((1, 1001)), "logits")


def test_sums_by_class_do_not_tell_the_interval_of_the_mean():
    labels, logits = rows_of_classes(np.random.default_rng(9), 100, 3)
    result = sums_of(labels, logits, "logits").auroc()
    assert result.macro == pytest.approx(auroc(labels, logits=logits).macro, abs=1e-3)
    with pytest.raises(ValueError, match="call auroc on the rows"):
        result.interval()
