import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from softargmax import CalibrationDegenerateWarning, LiftedLogitsWarning, NllRisesWarning
from softargmax.calibration import EnsembleTemperatureScaling, TemperatureScaling, load


def draw(n=1500, k=4, seed=0, mistakes=0.05, temperature=1.5):
    """Logits that are right about their doubt but for a few rows, which are sure and wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 3
    labels = (logits / temperature + rng.gumbel(size=(n, k))).argmax(-1)
    wrong = rng.random(n) < mistakes
    labels[wrong] = rng.integers(0, k, wrong.sum())
    return logits, labels


def fit(logits, labels, weights=None, **options):
    with warnings.catch_warnings():
        for category in (CalibrationDegenerateWarning, LiftedLogitsWarning, NllRisesWarning):
            warnings.simplefilter("ignore", category)
        return EnsembleTemperatureScaling(**options).fit(logits, labels, sample_weight=weights)


def nll(p, labels, weights=None):
    return float(np.average(-np.log(p[np.arange(len(labels)), labels]), weights=weights))


def parts(logits, temperature):
    """The probabilities that are mixed, as the paper has them: (n, 3, K)."""
    uniform = np.full(logits.shape, 1 / logits.shape[1])
    return np.stack([softmax(logits / temperature, axis=-1), softmax(logits, axis=-1), uniform], axis=1)


def by_slsqp(likelihoods, weights=None):
    found = minimize(
        lambda v: -np.average(np.log(likelihoods @ v), weights=weights),
        np.full(3, 1 / 3),
        bounds=[(1e-12, 1)] * 3,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x / found.x.sum()


def law_the_three_weights_are_the_best(method):
    rng = np.random.default_rng(1)
    for k, seed, weights in ((2, 0, None), (4, 1, None), (30, 2, None), (4, 3, rng.uniform(0.1, 4, 1500))):
        logits, labels = draw(k=k, seed=seed)
        fitted = method(floor=None).fit(logits, labels, sample_weight=weights)
        temperature = TemperatureScaling().fit(logits, labels, sample_weight=weights)
        alone = parts(logits, temperature.temperature_)[np.arange(len(labels)), :, labels]
        two_steps = float(np.average(-np.log(alone @ by_slsqp(alone, weights)), weights=weights))
        assert fitted.nll_after_ <= two_steps + 1e-10
        mixed = parts(logits, fitted.temperature_)
        likelihoods = mixed[np.arange(len(labels)), :, labels]
        wanted = by_slsqp(likelihoods, weights)
        best = float(np.average(-np.log(likelihoods @ wanted), weights=weights))
        assert fitted.nll_after_ <= best + 1e-10
        np.testing.assert_allclose(fitted.weights_, wanted, atol=2e-4)  # as near as SLSQP comes
        p = fitted.predict_proba(logits)
        np.testing.assert_allclose(p, np.einsum("v,nvk->nk", fitted.weights_, mixed), rtol=1e-11)
        assert fitted.nll_after_ == pytest.approx(nll(p, labels, weights), rel=1e-11)
        assert fitted.nll_after_ <= min(temperature.nll_after_, fitted.nll_before_) + 1e-10
        assert fitted.converged_
        assert fitted.grad_norm_ <= 1e-10


def law_the_ranking_stays(method):
    for dtype in (np.float16, np.float32, np.float64):
        logits, labels = draw(k=5)
        logits = (np.round(logits) if dtype is np.float64 else logits).astype(dtype)  # many ties
        far = np.concatenate([logits * 20, logits / 500, np.zeros((1, 5), dtype)])
        fitted = method().fit(logits, labels)
        for rows in (logits, far):
            p = fitted.predict_proba(rows)
            assert np.all(p[np.arange(len(p)), rows.argmax(-1)] == p.max(axis=-1))
            tied = rows == rows.max(axis=-1, keepdims=True)
            assert np.all(p[tied] == np.broadcast_to(p.max(axis=-1, keepdims=True), p.shape)[tied])
        assert np.array_equal(fitted.predict(logits), logits.argmax(-1))
    assert method.preserves_argmax


class Halves(EnsembleTemperatureScaling):
    """Half temperature, half raw."""

    def _mix(self, best, logits, labels, weights):
        super()._mix(best, logits, labels, weights)
        self.weights_ = np.array([0.5, 0.5, 0.0])


class Unweighted(EnsembleTemperatureScaling):
    def _mix(self, best, logits, labels, weights):
        super()._mix(best, logits, labels, np.ones(len(weights)))


class Uneven(EnsembleTemperatureScaling):
    """As if the uniform were the class frequencies."""

    def _probs(self, logits):
        p = super()._probs(logits)
        return p + 0.01 * np.arange(p.shape[1])


LAWS = [
    (law_the_three_weights_are_the_best, Halves),
    (law_the_three_weights_are_the_best, Unweighted),
    (law_the_three_weights_are_the_best, Uneven),
    (law_the_ranking_stays, Uneven),
]


@pytest.mark.parametrize("law", dict(LAWS))
def test_law(law):
    law(EnsembleTemperatureScaling)


@pytest.mark.parametrize(("law", "method"), LAWS)
def test_each_law_rejects_a_method_that_breaks_it(law, method):
    with pytest.raises(AssertionError):
        law(method)


def test_as_good_as_who_knows_where_a_tenth_of_the_labels_say_nothing():
    def rows(seed, n=20_000):
        logits, labels = draw(n=n, seed=seed, mistakes=0.0, temperature=1.0)
        nonsense = np.random.default_rng(seed + 10).random(n) < 0.1
        labels[nonsense] = np.random.default_rng(seed + 20).integers(0, 4, nonsense.sum())
        return logits, labels

    fitted, one = fit(*rows(0)), TemperatureScaling().fit(*rows(0))
    new, labels = rows(1)
    truth = nll(0.9 * softmax(new, axis=-1) + 0.1 / 4, labels)
    assert nll(fitted.predict_proba(new), labels) == pytest.approx(truth, abs=1e-3)
    assert nll(one.predict_proba(new), labels) > truth + 0.01
    assert fitted.weights_[:2].sum() > 0.8
    assert fitted.temperature_ == pytest.approx(1, abs=0.05)  # not that of temperature scaling: nonsense softens it
    assert one.temperature_ > 1.3
    assert fitted.weights_[2] == pytest.approx(0.1, abs=0.03)


def test_rows_drawn_from_one_temperature_need_no_mixture():
    logits, labels = draw(n=20_000, mistakes=0.0)
    fitted = fit(logits, labels)
    assert fitted.temperature_ == pytest.approx(1.5, rel=0.05)
    assert fitted.nll_after_ == pytest.approx(TemperatureScaling().fit(logits, labels).nll_after_, abs=1e-3)


def test_the_floor_mixes_in_the_uniform_and_none_does_not():
    logits, labels = draw(n=300)
    floored, plain = fit(logits, labels), fit(logits, labels, floor=None)
    np.testing.assert_array_equal(floored.weights_, plain.weights_)
    e = 1 / 301
    wanted = (1 - e) * plain.predict_proba(logits) + e / 4
    np.testing.assert_allclose(floored.predict_proba(logits), wanted, rtol=1e-12)
    right = np.eye(4)[np.arange(400) % 4] * 900  # all right, by far: the raw scores are the best, and say 0
    plain = fit(right, np.arange(400) % 4, floor=None)
    assert plain.predict_proba(right).min() == 0
    assert fit(right, np.arange(400) % 4).predict_proba(right).min() == pytest.approx(1 / 401 / 4, rel=1e-9)
    assert plain.nll_after_ <= plain.nll_before_


def test_useless_scores_become_uniform():
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3000, 3)) * 5
    labels = (-logits / 5 + rng.gumbel(size=(3000, 3))).argmax(-1)
    with pytest.warns(CalibrationDegenerateWarning, match="inverted or useless"):
        fitted = EnsembleTemperatureScaling().fit(logits, labels)
    assert fitted.at_bound_
    np.testing.assert_allclose(fitted.predict_proba(logits), 1 / 3, atol=1e-3)
    assert fitted.nll_after_ == pytest.approx(np.log(3), abs=1e-6)


def test_constant_logits_are_uniform():
    with pytest.warns(CalibrationDegenerateWarning, match="constant"):
        fitted = EnsembleTemperatureScaling().fit(np.full((30, 3), 2.0), np.arange(30) % 3)
    np.testing.assert_allclose(fitted.predict_proba(np.full((2, 3), -1.0)), 1 / 3, rtol=1e-12)


def test_impossible_classes_stay_at_zero_and_the_uniform_is_over_the_others():
    logits, labels = draw(n=600)
    impossible = np.random.default_rng(3).random(logits.shape) < 0.3
    impossible[np.arange(600), labels] = False
    logits[impossible] = -np.inf
    fitted = fit(logits, labels, floor=None, keep_zero=True)
    p = fitted.predict_proba(logits)
    assert np.all(p[impossible] == 0)
    assert np.all(p[~impossible] > 0)
    uniform = ~impossible / (~impossible).sum(axis=1, keepdims=True)
    mixed = np.stack([softmax(logits / fitted.temperature_, axis=-1), softmax(logits, axis=-1), uniform], axis=1)
    wanted = by_slsqp(mixed[np.arange(600), :, labels])
    np.testing.assert_allclose(p, np.einsum("v,nvk->nk", fitted.weights_, mixed), rtol=1e-11)
    assert fitted.nll_after_ <= nll(np.einsum("v,nvk->nk", wanted, mixed), labels) + 1e-10


@pytest.mark.parametrize("floor", ["laplace", None])
def test_a_file_keeps_every_bit(floor, tmp_path):
    logits, labels = draw(n=300)
    fitted = fit(logits, labels, floor=floor)
    fitted.save(tmp_path / "c.json")
    again = load(tmp_path / "c.json")
    assert again.get_params() == fitted.get_params()
    np.testing.assert_array_equal(again.weights_, fitted.weights_)
    for attribute in ("temperature_", "n_iter_", "grad_norm_", "converged_", "at_bound_"):
        assert getattr(again, attribute) == getattr(fitted, attribute)
    np.testing.assert_array_equal(again.predict_log_proba(logits), fitted.predict_log_proba(logits))


def test_the_example_of_the_paper_in_logarithms():
    """Log-probabilities are logits: nothing changes."""
    logits, labels = draw(n=300)
    one, other = fit(logits, labels), fit(log_softmax(logits, axis=-1), labels)
    np.testing.assert_allclose(other.weights_, one.weights_, atol=1e-8)
    np.testing.assert_allclose(
        other.predict_proba(log_softmax(logits, axis=-1)), one.predict_proba(logits), rtol=0, atol=1e-9
    )


def test_confident_mistakes_do_not_hold_the_temperature_up():
    """As of forests and of averaged models: some labels have probability 0. What is true but for them is known here."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20_000, 5)) * 3
    labels = (logits / 0.5 + rng.gumbel(size=logits.shape)).argmax(-1)
    wrong = rng.random(20_000) < 0.01
    labels[wrong] = logits[wrong].argmin(-1)
    fitted = fit(logits, labels, floor=None)
    assert TemperatureScaling().fit(logits, labels).temperature_ > 0.6
    assert fitted.temperature_ == pytest.approx(0.5, rel=0.1)
