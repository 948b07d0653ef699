import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import softargmax as sa
from softargmax import AbsentClassesWarning, CalibrationDegenerateWarning, NllRisesWarning
from softargmax.calibration import PlattScaling
from softargmax.calibration._one_vs_rest import one_vs_rest


def draw(k=2, n=500, seed=0, scale=2.5):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 4
    return logits, (logits / scale + 0.5 * np.arange(k) + rng.gumbel(size=(n, k))).argmax(-1)


def log_odds_of(logits, k):
    log_p = log_softmax(logits, axis=-1)
    return log_p[:, k] - np.log(-np.expm1(log_p[:, k]))


def best_sigmoid(scores, positive, weights=None):
    """Platt's definition, minimised by another method: slope and intercept for scores that are not saturated."""
    weights = np.ones(len(scores)) if weights is None else weights
    n_positive, n_negative = weights[positive].sum(), weights[~positive].sum()
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def loss(ab):
        f = ab[0] * scores + ab[1]
        return weights @ (np.logaddexp(0, f) - targets * f) / weights.sum()

    def slope(ab):
        residual = weights * (expit(ab[0] * scores + ab[1]) - targets) / weights.sum()
        return np.array([residual @ scores, residual.sum()])

    return minimize(loss, [0.0, 0.0], jac=slope, method="BFGS", options={"gtol": 1e-9}).x


# ---- the optimum ----


def law_is_platts_optimum(method):
    for k in (2, 4):
        logits, labels = draw(k)
        weights = np.random.default_rng(1).integers(1, 4, len(labels)).astype(float)
        fitted = method().fit(logits, labels, sample_weight=weights)
        classes = [1] if k == 2 else range(k)
        wanted = np.array([best_sigmoid(log_odds_of(logits, c), labels == c, weights) for c in classes])
        np.testing.assert_allclose(fitted.a_, wanted[:, 0], rtol=1e-6)
        np.testing.assert_allclose(fitted.b_, wanted[:, 1], rtol=1e-6)
        assert fitted.converged_
        assert fitted.grad_norm_ < 1e-8


def test_is_platts_optimum():
    law_is_platts_optimum(PlattScaling)


def test_targets_that_are_not_smoothed_are_rejected(monkeypatch):
    monkeypatch.setattr(
        "softargmax.calibration.platt.smoothed_targets", lambda ps: [p.positive.astype(float) for p in ps]
    )
    with pytest.raises(AssertionError):
        law_is_platts_optimum(PlattScaling)


def test_scikit_learn_finds_the_same_sigmoid():
    from sklearn.calibration import _SigmoidCalibration

    logits, labels = draw()
    peer = _SigmoidCalibration().fit(logits[:, 1] - logits[:, 0], labels)
    ours = PlattScaling().fit(logits, labels)
    np.testing.assert_allclose([ours.a_[0], ours.b_[0]], [-peer.a_, -peer.b_], rtol=1e-4)


def test_probabilities_are_the_sigmoids_divided_by_their_sum():
    logits, labels = draw(k=4)
    fitted = PlattScaling().fit(logits, labels)
    p = np.stack([expit(fitted.a_[k] * log_odds_of(logits, k) + fitted.b_[k]) for k in range(4)], axis=1)
    np.testing.assert_allclose(fitted.predict_proba(logits), p / p.sum(-1, keepdims=True), rtol=1e-12)
    two, labels = draw()
    fitted = PlattScaling().fit(two, labels)
    wanted = expit(fitted.a_[0] * (two[:, 1] - two[:, 0]) + fitted.b_[0])
    np.testing.assert_allclose(fitted.predict_proba(two)[:, 1], wanted, rtol=1e-12)


def test_two_classes_are_scale_free_and_do_not_depend_on_their_order():
    logits, labels = draw()
    plain = PlattScaling().fit(logits, labels)
    for factor in (1e-8, 1e6, 1e200):
        other = PlattScaling().fit(logits * factor, labels)
        np.testing.assert_allclose(other.a_ * factor, plain.a_, rtol=1e-9)
        np.testing.assert_allclose(other.b_, plain.b_, rtol=1e-9)
    swapped = PlattScaling().fit(logits[:, ::-1], 1 - labels)
    np.testing.assert_allclose(swapped.predict_proba(logits[:, ::-1])[:, ::-1], plain.predict_proba(logits), rtol=1e-9)
    one_column = PlattScaling().fit(logits[:, 1:] - logits[:, :1], labels)
    np.testing.assert_array_equal(one_column.a_, plain.a_)


def test_repairs_scores_of_the_wrong_sign():
    logits, labels = draw()
    fitted = PlattScaling().fit(-logits, labels)
    assert fitted.a_[0] < 0
    assert fitted.nll_after_ == pytest.approx(PlattScaling().fit(logits, labels).nll_after_, rel=1e-9)


# ---- log-odds ----


@pytest.mark.parametrize(
    "row", [[0.0, 0.0], [3.0, 1.0, 1.0], [800.0, 0.0, -5.0], [1e4, 1e4, 0.0], [40.0, 0.0, 0.0, 39.9], [1e300, -1e300]]
)
def test_log_odds_against_mpmath(row):
    with mpmath.workdps(900 if max(row) > 1e3 else 400):
        shifted = [mpmath.mpf(z) - max(row) for z in row]
        e = [mpmath.exp(z) for z in shifted]
        rest = [mpmath.fsum(e[:k] + e[k + 1 :]) for k in range(len(row))]
        wanted = [float(shifted[k] - mpmath.log(rest[k])) for k in range(len(row))]
    np.testing.assert_allclose(one_vs_rest(np.array([row]))[0], wanted, rtol=4e-16, atol=4e-16)


def test_log_odds_of_rows_with_minus_infinity():
    got = one_vs_rest(np.array([[1.0, 0.0, -np.inf], [-np.inf, 2.0, -np.inf]]))
    np.testing.assert_array_equal(got, [[1.0, -1.0, -np.inf], [-np.inf, np.inf, -np.inf]])


def test_saturated_rows_keep_their_order():
    logits, labels = draw(k=3)
    fitted = PlattScaling().fit(logits, labels)
    rows = np.array([[z, 0.0, 0.0] for z in (50.0, 500.0, 5000.0)])
    assert np.all(sa.softmax(rows)[:, 0] == 1)
    below = fitted.predict_log_proba(rows)[:, 1]
    assert np.all(np.diff(below) < 0)
    assert np.isfinite(below).all()


# ---- rows that say little ----


def test_separable_rows_stay_finite_and_are_not_degenerate():
    logits = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, -3.0]] * 10)
    labels = (logits[:, 1] > 0).astype(int)
    fitted = PlattScaling().fit(logits, labels)
    np.testing.assert_allclose(
        [fitted.a_[0], fitted.b_[0]], best_sigmoid(logits[:, 1], labels == 1), rtol=1e-5, atol=1e-6
    )
    assert not fitted.at_bound_
    p = fitted.predict_proba(logits)
    assert p.min() > 1e-4


def test_constant_logits_give_the_share_of_the_class():
    labels = np.array([0] * 30 + [1] * 10)
    with pytest.warns(CalibrationDegenerateWarning, match="class 1: its log-odds are constant"):
        fitted = PlattScaling().fit(np.full((40, 2), 7.0), labels)
    assert fitted.at_bound_
    share = (10 * 11 / 12 + 30 / 32) / 40  # the mean of the smoothed targets
    np.testing.assert_allclose(fitted.predict_proba([[7.0, 7.0]])[0, 1], share, rtol=1e-12)
    assert fitted.a_[0] == 1  # rows that differ still differ


def test_a_class_without_a_row_has_the_sigmoid_of_all_others_together():
    logits, labels = draw(k=4)
    labels[labels == 2] = 0
    with pytest.warns(AbsentClassesWarning):
        fitted = PlattScaling().fit(logits, labels)
    present = [0, 1, 3]
    scores = np.concatenate([log_odds_of(logits, k) for k in present])
    positive = np.concatenate([labels == k for k in present])
    np.testing.assert_allclose([fitted.a_[2], fitted.b_[2]], best_sigmoid(scores, positive), rtol=1e-6)
    assert fitted.predict_proba(logits)[:, 2].min() > 0


def test_rows_where_a_class_is_impossible_say_nothing_about_it():
    logits, labels = draw(k=3)
    out = (np.random.default_rng(5).random(len(labels)) < 0.3) & (labels != 2)
    logits[out, 2] = -np.inf
    fitted = PlattScaling(keep_zero=True).fit(logits, labels)
    with np.errstate(divide="ignore"):
        wanted = best_sigmoid(log_odds_of(logits[~out], 2), labels[~out] == 2)
    np.testing.assert_allclose([fitted.a_[2], fitted.b_[2]], wanted, rtol=1e-6)
    p = fitted.predict_proba(logits)
    np.testing.assert_array_equal(p[:, 2] == 0, out)
    alone = fitted.predict_proba([[1.0, -np.inf, -np.inf]])
    np.testing.assert_array_equal(alone, [[1.0, 0.0, 0.0]])


def test_no_row_in_which_a_class_is_open():
    logits = np.where(np.eye(2)[[0, 1] * 20] == 1, 0.0, -np.inf)
    with pytest.warns(CalibrationDegenerateWarning, match="certain or impossible in every row"):
        fitted = PlattScaling(keep_zero=True).fit(logits, [0, 1] * 20)
    assert (fitted.a_[0], fitted.b_[0]) == (1, 0)


def test_a_rise_of_the_nll_is_said():
    logits = np.array([[0.0, 30.0], [30.0, 0.0]] * 20)  # right, and sure of it; Platt's targets are not
    with pytest.warns(NllRisesWarning, match="PlattScaling raised the NLL"):
        fitted = PlattScaling().fit(logits, [1, 0] * 20)
    assert fitted.nll_after_ > fitted.nll_before_


@pytest.mark.filterwarnings("ignore::softargmax.NllRisesWarning")
@pytest.mark.parametrize("seed", range(3))
def test_one_row_far_off_does_not_stop_the_search(seed):
    logits, labels = draw(seed=seed, n=60)
    for far in (1e6, 1e60, 1e200):
        for label in (0, 1):
            rows, answers = np.append(logits, [[0.0, far]], axis=0), np.append(labels, label)
            fitted = PlattScaling().fit(rows, answers)
            assert fitted.converged_
            assert np.isfinite(fitted.predict_log_proba(rows)).all()
            assert fitted.nll_after_ < 1.0


# ---- files ----


@pytest.mark.parametrize("k", [2, 4])
def test_file(k, tmp_path):
    logits, labels = draw(k)
    fitted = PlattScaling().fit(logits, labels)
    fitted.save(tmp_path / "c.json")
    again = sa.load(tmp_path / "c.json")
    np.testing.assert_array_equal(again.predict_log_proba(logits), fitted.predict_log_proba(logits))
    assert (again.n_iter_, again.grad_norm_, again.converged_) == (fitted.n_iter_, fitted.grad_norm_, True)
    text = (tmp_path / "c.json").read_text()
    (tmp_path / "c.json").write_text(text.replace('"a": [', '"a": [\n1.0, ', 1))
    with pytest.raises(ValueError, match="`a` must be finite numbers of shape"):
        sa.load(tmp_path / "c.json")
