"""What isotonic, binning and Venn-Abers methods share: one curve a class, over log-odds."""

import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
from scipy.special import softmax

import softargmax as sa
from softargmax import AbsentClassesWarning, FewRowsWarning, NllRisesWarning
from softargmax.calibration import (
    BayesianBinning,
    HistogramBinning,
    IsotonicCalibration,
    VennAbers,
    _one_vs_rest,
)
from softargmax.calibration._one_vs_rest import Scores, equal_mass, midpoints, rounded_log_odds

METHODS = {
    "step": IsotonicCalibration,
    "linear": partial(IsotonicCalibration, kind="linear"),
    "histogram": HistogramBinning,
    "bbq": BayesianBinning,
    "venn": VennAbers,
}
ORDER_ONLY = [METHODS[name] for name in ("step", "histogram", "venn")]
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def draw(n=300, k=4, seed=0):
    """Logits that are too sure by a factor of 2, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 3
    return logits, (logits / 2 + rng.gumbel(size=(n, k))).argmax(-1)


def fit(method, logits, labels, weights=None, **options):
    with warnings.catch_warnings():
        for category in (AbsentClassesWarning, FewRowsWarning, NllRisesWarning):
            warnings.simplefilter("ignore", category)
        return method(**options).fit(logits, labels, sample_weight=weights)


# ---- the axis ----


def test_probabilities_that_are_equal_are_ties_whatever_the_other_classes_are():
    rng = np.random.default_rng(0)
    votes = rng.multinomial(90, [0.4, 0.3, 0.2, 0.1], size=2000) + 1.0
    votes[:, 0] = np.arange(2000) % 40 + 1
    votes[:, 3] = 200 - votes[:, :3].sum(-1)
    logits = np.log(votes)
    n_values = len(np.unique(votes[:, 0]))
    assert len(np.unique(softmax(logits, axis=-1)[:, 0])) > n_values  # by rounding
    assert len(np.unique(rounded_log_odds(logits)[:, 0])) == n_values
    shares = votes[:, 0] / 200
    np.testing.assert_allclose(rounded_log_odds(logits)[:, 0], np.log(shares / (1 - shares)), atol=2.0**-40)


def test_the_axis_rises_with_the_logit_as_far_as_float64_goes():
    d = np.array([-1e300, -1e5, -800.0, -40.0, -1e-11, 0.0, 1e-11, 40.0, 800.0, 1e5, 1e300])
    for others in (1, 5):
        axis = rounded_log_odds(np.column_stack([d, *np.zeros((others, len(d)))]))[:, 0]
        assert np.all(np.diff(axis) > 0)
        np.testing.assert_allclose(axis, d - math.log(others), atol=1e-9)


def law_rows_keep_their_order_under_saturation(method):
    rng = np.random.default_rng(0)
    d = rng.standard_normal(200)
    labels = (d + rng.logistic(size=200) > 0).astype(int)
    rows = np.column_stack([np.zeros(200), d])
    one, far = (fit(method, rows * scale, labels).predict_proba(rows * scale) for scale in (1, 2.0**12))
    np.testing.assert_array_equal(far, one)


@pytest.mark.parametrize("method", ORDER_ONLY)
def test_rows_keep_their_order_under_saturation(method):
    law_rows_keep_their_order_under_saturation(method)


@pytest.mark.parametrize("method", ORDER_ONLY)
def test_an_axis_of_probabilities_would_lose_it(method, monkeypatch):
    monkeypatch.setattr(_one_vs_rest, "rounded_log_odds", lambda logits: softmax(logits, axis=-1))
    monkeypatch.setattr("softargmax.calibration.venn_abers.rounded_log_odds", lambda logits: softmax(logits, axis=-1))
    with pytest.raises(AssertionError):
        law_rows_keep_their_order_under_saturation(method)


# ---- rows of equal scores, weights, bins ----


def test_scores_pool_ties_and_know_what_is_exactly_none():
    weights = np.array([0.25, 0.5, 0.75, 1.5, 2.0])
    scores = Scores.of(np.array([2.0, 1.0, 2.0, 1.0, 2.0]), np.array([True, False, True, False, True]), weights)
    np.testing.assert_array_equal(scores.log_odds, [1, 2])
    np.testing.assert_array_equal(scores.hits, [0, 3])
    np.testing.assert_array_equal(scores.misses, [2, 0])
    assert scores.n == 5
    assert Scores.of(np.zeros(2), np.array([True, False]), np.array([3.0, 4.0])).n == 7


@pytest.mark.parametrize(("n", "n_bins"), [(150, 15), (100, 7), (10, 15), (3, 2), (1, 4)])
def test_bins_of_rows_without_ties_differ_by_at_most_one_row(n, n_bins):
    scores = Scores(np.arange(n) * 1.0, np.ones(n), np.zeros(n), n)
    sizes = np.diff(equal_mass(scores.ranks, n_bins), append=n)
    assert len(sizes) == min(n, n_bins)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.sum() == n


def test_a_value_of_much_mass_is_a_bin_of_its_own():
    mass = np.array([1.0, 1, 1, 90, 1, 1, 1])
    scores = Scores(np.arange(7.0), mass, np.zeros(7), mass.sum())
    np.testing.assert_array_equal(equal_mass(scores.ranks, 10), [0, 3, 4])


def test_bins_meet_half_way_even_where_no_number_lies_between():
    big = np.nextafter(1.6e308, np.inf)
    np.testing.assert_array_equal(midpoints(np.array([-1.0, 2.0, 1.6e308, big])), [-1.0, 0.5, 8e307, big])


@every_method
def test_integer_weights_are_repetition(method):
    logits, labels = draw()
    logits[:150] = np.round(logits[:150])  # ties
    weights = np.random.default_rng(1).integers(1, 5, len(labels))
    weighted = fit(method, logits, labels, weights).predict_proba(logits)
    repeated = fit(method, np.repeat(logits, weights, axis=0), np.repeat(labels, weights)).predict_proba(logits)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)
    ignored = fit(method, logits, labels).predict_proba(logits)
    assert np.abs(ignored - repeated).max() > 0.01  # what the law rejects


@every_method
@pytest.mark.parametrize("scale", [1e-3, 1e100])
def test_any_weights_give_probabilities(method, scale):
    logits, labels = draw()
    weights = np.random.default_rng(0).random(len(labels)) * scale
    p = fit(method, logits, labels, weights).predict_proba(logits)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-12)


# ---- few rows, no spread, absent classes, impossible classes ----


@every_method
@pytest.mark.parametrize(("logits", "labels"), [([[0, -1], [0, 1]], [0, 1]), ([[2, 0, 0], [0, 2, 0]], [1, 0])])
def test_two_rows_are_enough(method, logits, labels):
    fitted = fit(method, np.array(logits, float), labels)
    p = fitted.predict_proba(np.array([[5.0, 0.0, -5.0][: len(logits[0])], [0.0] * len(logits[0])]))
    assert np.all(p > 0)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-14)
    assert math.isfinite(fitted.nll_after_)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("step", 3 / 10), ("linear", 3 / 10), ("histogram", 3 / 10), ("bbq", 4 / 12), ("venn", 4 / 12)],
)
def test_constant_logits_give_the_share_of_each_class(method, wanted):
    fitted = fit(METHODS[method], np.zeros((10, 2)), [1, 1, 1] + [0] * 7, floor=None)
    np.testing.assert_allclose(fitted.predict_proba(np.array([[0.0, -3], [0, 0], [0, 3]]))[1, 1], wanted, rtol=1e-14)
    if method != "venn":  # which knows that a row beyond all others is one
        assert fitted.predict_proba(np.array([[0.0, 3.0]]))[0, 1] == pytest.approx(wanted)


@every_method
def test_a_class_without_a_row_keeps_its_softmax_probability(method):
    logits, labels = draw(k=4)
    labels = np.where(labels == 2, 0, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NllRisesWarning)
        with pytest.warns(AbsentClassesWarning):
            fitted = method().fit(logits, labels)
    assert fitted.absent_classes_.tolist() == [2]
    np.testing.assert_allclose(fitted._probs(logits)[:, 2], softmax(logits, axis=-1)[:, 2], rtol=1e-14)
    p = fitted.predict_proba(logits * 100)
    assert p.min() > 0
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-13)
    named = fit(partial(method, classes=list("abcd")), logits, np.array(list("abcd"))[labels])
    np.testing.assert_array_equal(named.predict_proba(logits), fitted.predict_proba(logits))


@every_method
def test_what_is_impossible_stays_so_and_says_nothing_about_its_class(method):
    logits, labels = draw(k=3)
    mask = np.zeros(logits.shape, bool)
    mask[:100, 2] = labels[:100] != 2
    fitted = fit(method, np.where(mask, -np.inf, logits), labels, keep_zero=True)
    p = fitted.predict_proba(np.where(mask, -np.inf, logits))
    np.testing.assert_array_equal(p == 0, mask)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-13)
    possible = ~mask[:, 2]
    wanted = fit(method, logits[possible], labels[possible])
    np.testing.assert_allclose(fitted._probs(logits)[:, 2], wanted._probs(logits)[:, 2], rtol=1e-12)
    counted = fit(method, logits, labels)  # as if they were possible
    assert np.abs(counted._probs(logits)[:, 2] - wanted._probs(logits)[:, 2]).max() > 0.01


@every_method
def test_one_possible_class_a_row(method):
    rows = np.where(np.eye(3)[np.arange(12) % 3] == 1, 0.0, -np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = method(keep_zero=True).fit(rows, np.arange(12) % 3).predict_proba(rows)
    np.testing.assert_array_equal(p, np.where(rows == 0, 1.0, 0.0))


@every_method
def test_narrow_dtypes_give_what_float64_gives_rounded(method):
    logits, labels = draw()
    for dtype in (np.float16, np.float32):
        narrow = logits.astype(dtype)
        wide = narrow.astype(np.float64)
        p = fit(method, narrow, labels).predict_proba(narrow)
        assert p.dtype == dtype
        np.testing.assert_array_equal(p, fit(method, wide, labels).predict_proba(wide).astype(dtype))


def test_a_rise_of_the_nll_and_few_rows_are_said():
    logits, labels = draw()
    with pytest.warns(NllRisesWarning, match="HistogramBinning raised the NLL"):
        fitted = HistogramBinning(n_bins=1).fit(logits / 2, labels)
    assert fitted.nll_after_ > fitted.nll_before_
    with pytest.warns(FewRowsWarning, match="which is little for VennAbers: 1"):
        VennAbers().fit([[0.0, 3.0]] * 15, [0] * 11 + [1] * 4)


# ---- files ----


@every_method
@pytest.mark.parametrize("k", [2, 4])
def test_a_round_trip_is_bit_for_bit(method, k, tmp_path):
    logits, labels = draw(k=k)
    labels = np.where(labels == 3, 0, labels)
    fitted = fit(method, logits, labels)
    fitted.save(tmp_path / "c.json")
    again = sa.load(tmp_path / "c.json")
    assert again.get_params() == fitted.get_params()
    new = draw(seed=1, k=k)[0]
    for rows in (logits, new, new.astype(np.float32), new * 1e5):
        np.testing.assert_array_equal(again.predict_proba(rows), fitted.predict_proba(rows))
    if method is VennAbers:
        np.testing.assert_array_equal(again.intervals(new), fitted.intervals(new))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "c.json").read_bytes()


@pytest.mark.parametrize(
    ("method", "name", "change", "sentence"),
    [
        ("step", "lengths", lambda v: [v[0] - 1], "`lengths` must be integers above 0 that add up"),
        ("step", "lengths", lambda v: [v[0] + 0.5], "`lengths` must be integers above 0 that add up"),
        ("step", "log_odds", lambda v: v[::-1], "`log_odds` must increase within each curve"),
        ("step", "probs", lambda v: [1.5, *v[1:]], r"`probs` must lie in \[0, 1\], one for each"),
        ("step", "probs", lambda v: v[1:], r"`probs` must lie in \[0, 1\], one for each"),
        ("step", "epsilon", lambda v: -0.1, r"`epsilon` must lie in \[0, 1\]"),
        ("venn", "probs", lambda v: [*v[:-1], 0.0], "`probs` must be above 0 for p1"),
    ],
)
def test_files_that_make_no_sense_are_refused(method, name, change, sentence, tmp_path):
    logits, labels = draw(n=100, k=2)
    file = tmp_path / "c.json"
    fit(METHODS[method], logits, labels).save(file)
    document = json.loads(file.read_text())
    document["state"][name] = change(document["state"][name])
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=sentence):
        sa.load(file)
