import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import chi2, norm

import softargmax as sa
from softargmax import AbsentClassesWarning, CalibrationDegenerateWarning
from softargmax.calibration import LabelShiftEM, LogitAdjustment, PriorCorrection

CENTRES = np.array([-1.0, 0.0, 2.0])


def log_posterior(x, prior):
    """Of three normal classes: right by construction."""
    return np.log(prior) + norm.logpdf(x[:, None] - CENTRES)


def draw(prior, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=prior)
    return CENTRES[labels] + rng.standard_normal(n), labels


TRAIN, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])


# ---- prior correction ----


def law_is_bayes_rule(method):
    x, labels = draw(TRAIN)
    fitted = method(train_prior=TRAIN, target_prior=TARGET).fit(log_posterior(x, TRAIN), labels)
    wanted = softmax(log_posterior(x, TARGET), axis=-1)
    np.testing.assert_allclose(fitted.predict_proba(log_posterior(x, TRAIN)), wanted, rtol=1e-11)


def test_is_bayes_rule():
    law_is_bayes_rule(PriorCorrection)


def test_a_correction_in_the_other_direction_is_rejected():
    def inverse(train_prior, target_prior):
        return PriorCorrection(train_prior=target_prior, target_prior=train_prior)

    with pytest.raises(AssertionError):
        law_is_bayes_rule(inverse)


def test_class_weights_are_undone():
    # a model that minimises the weighted loss learns w_k pi_k p(x | k): the two-line correction p / w
    x, labels = draw(TRAIN)
    weights = np.array([1.0, 4.0, 20.0])
    weighted = log_posterior(x, weights * TRAIN)
    fitted = PriorCorrection(train_prior=weights * TRAIN, target_prior=TRAIN).fit(weighted, labels)
    p = softmax(weighted, axis=-1) / weights
    np.testing.assert_allclose(fitted.predict_proba(weighted), p / p.sum(-1, keepdims=True), rtol=1e-11)
    assert fitted.nll_after_ < fitted.nll_before_


def test_the_real_thing_balanced_class_weights():
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression

    X, y = make_classification(6000, 10, n_informative=6, n_classes=3, weights=[0.9, 0.08, 0.02], random_state=1)
    model = LogisticRegression(class_weight="balanced").fit(X[:4000], y[:4000])
    logits, labels = model.decision_function(X[4000:]), y[4000:]
    fitted = PriorCorrection().fit(model.decision_function(X[:4000]), y[:4000])  # equal shares -> those of the labels
    after = sa.cross_entropy(fitted.transform(logits), labels)
    plain = sa.cross_entropy(LogisticRegression().fit(X[:4000], y[:4000]).decision_function(X[4000:]), labels)
    assert after < 0.6 * sa.cross_entropy(logits, labels)
    assert after < 1.15 * plain


def test_priors_are_shares_counts_or_labels():
    x, labels = draw(TRAIN)
    logits = log_posterior(x, TRAIN)
    weights = np.random.default_rng(0).integers(0, 3, len(labels)).astype(float)
    fitted = PriorCorrection().fit(logits, labels, sample_weight=weights)
    np.testing.assert_allclose(fitted.train_prior_, [1 / 3] * 3, rtol=1e-15)
    np.testing.assert_allclose(fitted.target_prior_, np.bincount(labels, weights) / weights.sum(), rtol=1e-14)
    counts = PriorCorrection(train_prior=[70, 20, 10], target_prior=[1e-310, 1e300, 1e300]).fit(logits, labels)
    np.testing.assert_allclose(counts.train_prior_, TRAIN, rtol=1e-14)
    np.testing.assert_allclose(counts.target_prior_, [np.finfo(float).tiny, 0.5, 0.5], rtol=1e-12)
    assert np.isfinite(counts.predict_log_proba(logits)).all()


def test_there_and_back():
    x, labels = draw(TRAIN)
    logits = log_posterior(x, TRAIN)
    there = PriorCorrection(train_prior=TRAIN, target_prior=TARGET).fit(logits, labels)
    back = PriorCorrection(train_prior=TARGET, target_prior=TRAIN).fit(logits, labels)
    np.testing.assert_allclose(back.transform(there.transform(logits)), logits, atol=1e-13)
    same = PriorCorrection(train_prior=TRAIN, target_prior=TRAIN).fit(logits, labels)
    np.testing.assert_array_equal(same.transform(logits), logits)


@pytest.mark.parametrize("method", [PriorCorrection, LogitAdjustment, LabelShiftEM])
def test_a_class_without_a_row_counts_as_one_row_more_of_each(method):
    logits = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.warns(AbsentClassesWarning):
        fitted = method().fit(logits, [0] * 15 + [2] * 5)
    prior = {"PriorCorrection": "target_prior_", "LogitAdjustment": "prior_", "LabelShiftEM": "train_prior_"}
    np.testing.assert_allclose(getattr(fitted, prior[method.__name__]), np.array([16, 1, 6]) / 23, rtol=1e-14)


@pytest.mark.parametrize(
    ("calibrator", "sentence"),
    [
        (
            PriorCorrection(train_prior=[0.5, 0.5, 0.0]),
            "train_prior must .* above 0 for every class; got 0.0 for class 2;",
        ),
        (PriorCorrection(target_prior=[0.5, np.nan, 0.5]), "target_prior must be finite .* got nan for class 1"),
        (PriorCorrection(target_prior=[1, -1, 1], classes=["a", "b", "c"]), "got -1 for class 'b'"),
        (
            PriorCorrection(target_prior=[0.5, 0.5]),
            "target_prior must have one number for each of the 3 classes; got 2",
        ),
        (
            PriorCorrection(train_prior=0.5),
            r"train_prior must have one number for each class, in one dimension; got .*\(\)",
        ),
        (
            LogitAdjustment(prior=[0.0, 0.5, 0.5]),
            "prior must be finite and above 0 for every class; got 0.0 for class 0",
        ),
        (LogitAdjustment(tau=-1.0), "tau must be finite and not negative; got -1.0"),
        (LogitAdjustment(tau=np.inf), "tau must be finite and not negative; got inf"),
        (LabelShiftEM(train_prior=[1, 1, 0]), "got 0 for class 2"),
        (LabelShiftEM(tol=0.0), "tol must be finite and above 0; got 0.0"),
        (LabelShiftEM(max_iter=0), "max_iter must be at least 1; got 0"),
    ],
)
def test_priors_that_make_no_sense(calibrator, sentence):
    labels = np.arange(20) % 3
    if calibrator.classes is not None:
        labels = np.array(calibrator.classes)[labels]
    with pytest.raises(ValueError, match=sentence):
        calibrator.fit(np.random.default_rng(0).standard_normal((20, 3)), labels)


# ---- logit adjustment ----


def test_adjustment_takes_tau_log_prior_off():
    x, labels = draw(TRAIN)
    logits = log_posterior(x, TRAIN)
    for tau in (0.0, 0.5, 1.0, 2.0):
        fitted = LogitAdjustment(prior=TRAIN, tau=tau).fit(logits, labels)
        np.testing.assert_allclose(fitted.transform(logits), logits - tau * np.log(TRAIN), atol=1e-13)
    same = LogitAdjustment(tau=0.0).fit(logits, labels)
    np.testing.assert_array_equal(same.transform(logits), logits)
    equal = PriorCorrection(train_prior=TRAIN, target_prior=[1, 1, 1]).fit(logits, labels).predict_proba(logits)
    np.testing.assert_allclose(
        LogitAdjustment(prior=TRAIN).fit(logits, labels).predict_proba(logits), equal, rtol=1e-11
    )


def test_adjustment_lowers_the_balanced_error_of_a_long_tail():
    tail = np.array([0.9, 0.08, 0.02])
    x, labels = draw(tail, n=20_000)
    logits = log_posterior(x, tail)

    def balanced_error(predicted):
        return np.mean([np.mean(predicted[labels == k] != k) for k in range(3)])

    errors = [balanced_error(LogitAdjustment(tau=tau).fit(logits, labels).predict(logits)) for tau in (0, 1, 3)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[1] < errors[2]  # tau = 1 is best: logits are right here


# ---- label shift ----


def mean_log_likelihood(prior, logits, train):
    return np.mean(np.log(softmax(logits, axis=-1) @ (prior / train)))


def law_maximises_the_likelihood(method, seeds=range(4)):
    for seed in seeds:
        x, labels = draw(TRAIN, seed=seed)
        moved = log_posterior(draw(TARGET, n=150, seed=seed + 100)[0], TRAIN)
        fitted = method(train_prior=TRAIN, tol=1e-10).fit(log_posterior(x, TRAIN), labels).adapt(moved)
        assert fitted.converged_
        assert fitted.gap_ <= 1e-10
        n = len(moved)
        em = ((n + 1) * fitted.target_prior_ - 1 / 3) / n  # without the share that is mixed in
        best = minimize(
            lambda free, z=moved: -mean_log_likelihood(softmax(np.append(free, 0)), z, TRAIN),
            [0.0, 0.0],
            method="BFGS",
            options={"gtol": 1e-8},
        )
        assert mean_log_likelihood(em, moved, TRAIN) >= -best.fun - 1e-9
        np.testing.assert_allclose(em, softmax(np.append(best.x, 0)), atol=2e-4)


def test_maximises_the_likelihood():
    law_maximises_the_likelihood(LabelShiftEM)


def test_an_em_that_averages_the_posteriors_once_is_rejected(monkeypatch):
    def once(likelihoods, start, **_):
        posterior = likelihoods * start
        return (posterior / posterior.sum(-1, keepdims=True)).mean(0), 1, 0.0

    monkeypatch.setattr("softargmax.calibration.label_shift._expectation_maximization", once)
    with pytest.raises(AssertionError):
        law_maximises_the_likelihood(LabelShiftEM)


def test_the_gap_bounds_what_is_left():
    x, labels = draw(TRAIN)
    moved = log_posterior(draw(TARGET, n=500, seed=9)[0], TRAIN)
    n = len(moved)

    def em(fitted):
        return ((n + 1) * fitted.target_prior_ - 1 / 3) / n

    source = log_posterior(x, TRAIN)
    best = em(LabelShiftEM(train_prior=TRAIN, tol=1e-12).fit(source, labels).adapt(moved))
    highest = mean_log_likelihood(best, moved, TRAIN)
    last = -np.inf
    for max_iter in (1, 2, 5, 20):
        with pytest.warns(CalibrationDegenerateWarning, match=f"EM did not settle in {max_iter} iterations"):
            fitted = LabelShiftEM(train_prior=TRAIN, max_iter=max_iter).fit(source, labels).adapt(moved)
        assert fitted.n_iter_ == max_iter
        assert not fitted.converged_
        here = mean_log_likelihood(em(fitted), moved, TRAIN)
        assert last < here <= highest + 1e-12  # EM climbs
        assert highest - here <= fitted.gap_
        last = here


def test_finds_the_shares_of_rows_without_labels_and_the_probabilities_that_follow():
    x, labels = draw(TRAIN, n=5000)
    there, answers = draw(TARGET, n=20_000, seed=1)
    moved = log_posterior(there, TRAIN)
    fitted = LabelShiftEM(train_prior=TRAIN).fit(log_posterior(x, TRAIN), labels)
    before = sa.cross_entropy(fitted.transform(moved), answers)
    fitted.adapt(moved)
    found, truth, source = (mean_log_likelihood(p, moved, TRAIN) for p in (fitted.target_prior_, TARGET, TRAIN))
    assert 2 * len(moved) * (found - truth) < chi2.ppf(0.999, 2)  # the rows do not contradict the truth
    assert 2 * len(moved) * (found - source) > 1000  # but what was before
    after = sa.cross_entropy(fitted.transform(moved), answers)
    right = sa.cross_entropy(log_posterior(there, TARGET), answers)
    assert after < right + 0.002
    assert before > right + 0.1


def test_nothing_changes_before_adapt_and_each_adapt_begins_anew():
    x, labels = draw(TRAIN)
    source = log_posterior(x, TRAIN)
    fitted = LabelShiftEM().fit(source, labels)
    np.testing.assert_array_equal(fitted.transform(source), source)
    assert (fitted.converged_, fitted.n_iter_) == (False, 0)
    assert np.isnan(fitted.gap_)
    moved = log_posterior(draw(TARGET, seed=1)[0], TRAIN)
    wanted = LabelShiftEM().fit(source, labels).adapt(moved).target_prior_
    np.testing.assert_array_equal(fitted.adapt(source).adapt(moved).target_prior_, wanted)
    with pytest.raises(ValueError, match="row 0 .* holds NaN"):
        fitted.adapt(moved * np.nan)
    with pytest.raises(AttributeError, match="not fitted yet"):
        LabelShiftEM().adapt(moved)


def test_a_class_of_which_nothing_is_seen_is_rare_not_impossible():
    logits = np.array([[30.0, 0.0], [0.0, 30.0]])
    fitted = LabelShiftEM().fit(np.repeat(logits, 10, axis=0), [0] * 10 + [1] * 10)
    fitted.adapt(np.repeat(logits[:1], 99, axis=0))
    np.testing.assert_allclose(fitted.target_prior_, [1 - 0.005, 0.005], rtol=1e-6)


# ---- files ----


@pytest.mark.parametrize(
    "calibrator",
    [
        PriorCorrection(train_prior=[0.7, 0.2, 0.1]),
        LogitAdjustment(tau=1.5),
        LabelShiftEM(train_prior=TRAIN.tolist(), tol=1e-6),
    ],
)
def test_file(calibrator, tmp_path):
    x, labels = draw(TRAIN)
    logits = log_posterior(x, TRAIN)
    calibrator.fit(logits, labels)
    for adapted in (False, True):
        if adapted and isinstance(calibrator, LabelShiftEM):
            calibrator.adapt(log_posterior(draw(TARGET)[0], TRAIN))
        calibrator.save(tmp_path / "c.json")
        again = sa.load(tmp_path / "c.json")
        np.testing.assert_array_equal(again.predict_log_proba(logits), calibrator.predict_log_proba(logits))
        assert again.get_params() == calibrator.get_params()
    text = (tmp_path / "c.json").read_text()
    head, state = text.split('"state"')
    name = "prior" if isinstance(calibrator, LogitAdjustment) else "train_prior"
    place = state.index("[", state.index(f'"{name}"')) + 1
    (tmp_path / "c.json").write_text(f'{head}"state"{state[:place]} -{state[place:].lstrip()}')
    with pytest.raises(ValueError, match=f"`{name}` must be above 0 and sum to 1"):
        sa.load(tmp_path / "c.json")


def test_log_softmax_is_what_is_shifted():
    # only differences count: a constant a row, as in logits instead of log-probabilities, changes nothing
    x, labels = draw(TRAIN)
    logits = log_posterior(x, TRAIN)
    for method in (PriorCorrection, LogitAdjustment):
        fitted = method().fit(logits, labels)
        p = fitted.predict_proba(logits)
        np.testing.assert_allclose(fitted.predict_proba(log_softmax(logits, axis=-1)), p, rtol=1e-12)
