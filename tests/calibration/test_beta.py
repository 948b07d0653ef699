import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import softargmax as sa
from softargmax import AbsentClassesWarning, CalibrationDegenerateWarning
from softargmax.calibration import BetaCalibration


def draw_beta(a, b, c, n=3000, seed=0):
    """Logits of two classes, and labels drawn from the map with these numbers."""
    rng = np.random.default_rng(seed)
    d = rng.standard_normal(n) * 2
    p = expit(a * -np.logaddexp(0, -d) + b * np.logaddexp(0, d) + c)
    return np.stack([np.zeros(n), d], axis=1), (rng.random(n) < p).astype(int)


def draw(k, n=800, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 4
    return logits, (logits / 2.5 + 0.5 * np.arange(k) + rng.gumbel(size=(n, k))).argmax(-1)


def features(logits, k):
    p = np.exp(log_softmax(logits, axis=-1))[:, k]
    return np.stack([np.log(p), -np.log(1 - p), np.ones(len(p))], axis=1)


def best_beta(x, positive, weights=None):
    """(a, b, c) of maximum likelihood with a, b >= 0, and the NLL, by another optimiser."""
    weights = np.ones(len(x)) if weights is None else weights
    side = np.where(positive, -1.0, 1.0)

    def loss(abc):
        f = side * (x @ abc)
        return weights @ np.logaddexp(0, f) / weights.sum(), x.T @ (weights * side * expit(f)) / weights.sum()

    found = minimize(
        loss,
        [1.0, 1.0, 0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (0, None), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )
    return found.x, found.fun


def betacal(x, positive):
    """The fit of the paper's own code: logistic regression without a penalty, again without what came out negative."""

    def logistic(columns):
        theta = np.zeros(columns.shape[1])
        for _ in range(50):
            p = expit(columns @ theta)
            theta -= np.linalg.solve((columns.T * (p * (1 - p))) @ columns, columns.T @ (p - positive))
        return theta

    a, b, c = logistic(x)
    if a < 0:
        (b, c), a = logistic(x[:, 1:]), 0.0
    elif b < 0:
        (a, c), b = logistic(x[:, [0, 2]]), 0.0
    return np.array([a, b, c])


def of(fitted, k=0):
    return np.array([fitted.a_[k], fitted.b_[k], fitted.c_[k]])


# ---- the optimum ----


@pytest.mark.parametrize("abc", [(1.0, 1.0, 0.0), (0.5, 2.0, 0.3), (2.0, 0.3, -0.5)])
def test_recovers_the_map_that_made_the_labels(abc):
    logits, labels = draw_beta(*abc, n=20_000)
    fitted = BetaCalibration().fit(logits, labels)
    np.testing.assert_allclose(of(fitted), abc, atol=0.12)
    assert not fitted.at_bound_


def law_is_the_maximum_of_the_likelihood(method):
    # (0.2, 0, 0): the second slope comes out negative in some draws; (0, 0.2, 0): the first
    for seed in range(4):
        for abc in ((0.5, 2.0, 0.3), (0.3, 0.0, 0.0), (0.0, 0.3, 0.0)):
            logits, labels = draw_beta(*abc, n=300, seed=seed)
            weights = np.random.default_rng(seed).integers(1, 3, len(labels)).astype(float)
            fitted = method().fit(logits, labels, sample_weight=weights)
            wanted, nll = best_beta(features(logits, 1), labels == 1, weights)
            assert fitted.nll_after_ <= nll + 1e-12
            np.testing.assert_allclose(of(fitted), wanted, atol=1e-4)


def test_is_the_maximum_of_the_likelihood():
    law_is_the_maximum_of_the_likelihood(BetaCalibration)


def test_a_negative_slope_that_is_only_cut_off_is_rejected():
    class CutOff(BetaCalibration):
        def _fit_sigmoid(self, problems):
            (problem,) = problems
            x = features(np.stack([np.zeros_like(problem.log_odds), problem.log_odds], axis=1), 1)
            a, b, c = minimize(
                lambda abc: problem.weights @ np.logaddexp(0, np.where(problem.positive, -1, 1) * (x @ abc)), [1, 1, 0]
            ).x
            return super()._fit_sigmoid(problems)._replace(coefficients=np.array([max(a, 0.0), max(b, 0.0), c]))

    with pytest.raises(AssertionError):
        law_is_the_maximum_of_the_likelihood(CutOff)


def test_agrees_with_the_fit_of_the_paper():
    zeros = 0
    for seed in range(8):
        for abc in ((0.5, 2.0, 0.3), (0.3, 0.0, 0.0), (0.0, 0.3, 0.0)):
            logits, labels = draw_beta(*abc, n=200, seed=seed)
            wanted = betacal(features(logits, 1), labels)
            if wanted.min(initial=0, where=[True, True, False]) < 0:
                continue  # both slopes: the paper says nothing of that
            np.testing.assert_allclose(of(BetaCalibration().fit(logits, labels)), wanted, rtol=1e-6, atol=1e-6)
            zeros += wanted[:2].min() == 0
    assert zeros >= 5


def test_more_classes_one_by_one():
    logits, labels = draw(4)
    fitted = BetaCalibration().fit(logits, labels)
    p = np.empty_like(logits)
    for k in range(4):
        x = features(logits, k)
        _, nll = best_beta(x, labels == k)
        side = np.where(labels == k, -1.0, 1.0)
        assert np.logaddexp(0, side * (x @ of(fitted, k))).mean() <= nll + 1e-10
        p[:, k] = expit(x @ of(fitted, k))
    np.testing.assert_allclose(fitted.predict_proba(logits), p / p.sum(-1, keepdims=True), rtol=1e-10)


@pytest.mark.filterwarnings("ignore::softargmax.CalibrationDegenerateWarning", "ignore::softargmax.FewRowsWarning")
def test_two_classes_never_end_worse():
    for seed in range(30):
        logits, labels = draw(2, n=30, seed=seed)
        for factor in (-1.0, 0.01, 1.0, 100.0):
            fitted = BetaCalibration().fit(logits * factor, labels)
            assert fitted.nll_after_ <= fitted.nll_before_ + 1e-12 * max(1, fitted.nll_before_)


def test_two_classes_do_not_depend_on_their_order():
    logits, labels = draw_beta(0.5, 2.0, 0.3)
    one, other = BetaCalibration().fit(logits, labels), BetaCalibration().fit(logits[:, ::-1], 1 - labels)
    np.testing.assert_allclose([one.a_, one.b_, one.c_], [other.b_, other.a_, -other.c_], rtol=1e-8)


def test_saturated_rows_are_exact():
    logits, labels = draw_beta(0.5, 2.0, 0.3, n=300)
    logits = np.concatenate([logits, [[0.0, 900.0], [0.0, -900.0]]])
    fitted = BetaCalibration().fit(logits, np.append(labels, [1, 0]))
    a, b, c = of(fitted)
    log_p = fitted.predict_log_proba([[0.0, 900.0], [0.0, -900.0]])
    np.testing.assert_allclose(log_p[:, 0], [-(b * 900 + c), 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_p[:, 1], [0, -a * 900 + c], rtol=1e-12, atol=1e-12)


# ---- rows that determine nothing ----


def test_a_threshold_that_separates_is_bounded_by_laplace():
    d = np.repeat([-3.0, -1.0, -0.5, 0.5, 1.5, 2.0], 10)
    logits = np.stack([np.zeros(60), d], axis=1)
    for threshold in (0.0, 1.0):
        with pytest.warns(CalibrationDegenerateWarning, match="a threshold separates"):
            fitted = BetaCalibration().fit(logits, (d > threshold).astype(int))
        assert fitted.at_bound_
        assert fitted.nll_after_ == pytest.approx(1 / 62, rel=1e-9)
        assert fitted.a_[0] == fitted.b_[0]
        np.testing.assert_allclose(fitted.predict_proba([[5.0, 5.0 + threshold]]), [[0.5, 0.5]], atol=1e-12)


def test_separated_rows_that_are_sure_already_are_left_alone():
    logits = np.array([[0.0, 20.0], [20.0, 0.0]] * 20)
    with pytest.warns(CalibrationDegenerateWarning, match="a threshold separates"):
        fitted = BetaCalibration().fit(logits, [1, 0] * 20)
    assert of(fitted).tolist() == [1, 1, 0]
    np.testing.assert_array_equal(fitted.predict_proba(logits), sa.softmax(logits))


def test_separated_but_for_rows_on_the_threshold():
    d = np.array([-2.0] * 20 + [0.5] * 9 + [3.0] * 20)
    labels = np.array([0] * 20 + [1] * 6 + [0] * 3 + [1] * 20)
    with pytest.warns(CalibrationDegenerateWarning, match="a threshold separates"):
        fitted = BetaCalibration().fit(np.stack([np.zeros(49), d], axis=1), labels)
    np.testing.assert_allclose(fitted.predict_proba([[0.0, 0.5]])[0, 1], 6 / 9, rtol=1e-9)
    least = -(6 * np.log(6 / 9) + 3 * np.log(3 / 9)) / 49
    assert fitted.nll_after_ == pytest.approx(least + 1 / 51, rel=1e-9)


def test_inverted_scores_give_the_share_of_the_class():
    logits, labels = draw(2)
    with pytest.warns(CalibrationDegenerateWarning, match="inverted or useless"):
        fitted = BetaCalibration().fit(-logits, labels)
    assert of(fitted)[:2].tolist() == [0, 0]
    np.testing.assert_allclose(fitted.predict_proba(logits)[:, 1], labels.mean(), rtol=1e-12)
    threshold = np.array([[0.0, -1.0], [0.0, 1.0]] * 20)
    with pytest.warns(CalibrationDegenerateWarning, match="inverted or useless"):
        assert BetaCalibration().fit(threshold, [1, 0] * 20).a_[0] == 0


def test_constant_logits_give_the_share_of_the_class():
    with pytest.warns(CalibrationDegenerateWarning, match="constant"):
        fitted = BetaCalibration().fit(np.full((40, 2), 7.0), [0] * 30 + [1] * 10)
    np.testing.assert_allclose(fitted.predict_proba([[7.0, 7.0]]), [[0.75, 0.25]], rtol=1e-12)


def test_one_slope_where_p_hardly_moves_on_one_side():
    rng = np.random.default_rng(0)
    d = 30 + rng.standard_normal(400) * 2
    labels = (rng.random(400) < expit(d - 30)).astype(int)
    fitted = BetaCalibration().fit(np.stack([np.zeros(400), d], axis=1), labels)
    assert fitted.a_[0] == fitted.b_[0]
    assert fitted.a_[0] == pytest.approx(1.0, abs=0.3)
    p = fitted.predict_proba([[0.0, -50.0]])  # far outside: a slope from nothing would be without bounds
    assert 0 < p[0, 1] < 1e-20


def test_a_class_without_a_row_shares_the_map_of_the_others():
    logits, labels = draw(4)
    labels[labels == 2] = 0
    with pytest.warns(AbsentClassesWarning):
        fitted = BetaCalibration().fit(logits, labels)
    x = np.concatenate([features(logits, k) for k in (0, 1, 3)])
    wanted, _ = best_beta(x, np.concatenate([labels == k for k in (0, 1, 3)]))
    np.testing.assert_allclose(of(fitted, 2), wanted, atol=1e-4)


@pytest.mark.parametrize("k", [2, 4])
def test_file(k, tmp_path):
    logits, labels = draw(k)
    fitted = BetaCalibration(classes=list("abcd"[:k])).fit(logits, np.array(list("abcd"))[labels])
    fitted.save(tmp_path / "c.json")
    again = sa.load(tmp_path / "c.json")
    np.testing.assert_array_equal(again.predict_log_proba(logits), fitted.predict_log_proba(logits))
    assert again.predict(logits).tolist() == fitted.predict(logits).tolist()
    text = (tmp_path / "c.json").read_text()
    head, rest = text.split('"b": [', 1)
    (tmp_path / "c.json").write_text(head + '"b": [-' + rest.lstrip())
    with pytest.raises(ValueError, match="`a` and `b` must not be negative"):
        sa.load(tmp_path / "c.json")
