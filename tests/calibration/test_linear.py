"""Vector, matrix, Dirichlet and structured scaling against what their papers write down, minimised by scipy."""

import time
import warnings
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from softargmax import AbsentClassesWarning, CalibrationDegenerateWarning, FewRowsWarning, LiftedLogitsWarning
from softargmax.calibration import (
    DirichletCalibration,
    MatrixScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureScaling,
    VectorScaling,
    _linear,
    load,
)

METHODS = {
    "vector": VectorScaling,
    "matrix": MatrixScaling,
    "dirichlet": DirichletCalibration,
    "dirichlet, strong": partial(DirichletCalibration, reg_lambda=0.3, reg_mu=0.1),
    "svs": StructuredVectorScaling,
    "svs, centred": partial(StructuredVectorScaling, inputs="centred", strength=0.3),
    "sms": StructuredMatrixScaling,
    "sms, centred": partial(StructuredMatrixScaling, inputs="centred", strength=0.1),
}
STRUCTURED = [name for name in METHODS if name.startswith("s")]
every_method = pytest.mark.parametrize("name", METHODS)


def draw(n=1500, k=4, seed=0):
    """Logits that are too sure by 2, and whose classes are mixed up and unevenly favoured."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 3
    true = logits / 2 + 0.5 * np.roll(logits, 1, axis=1) / 2 + np.linspace(0, 1, k)
    return logits, (true + rng.gumbel(size=(n, k))).argmax(-1)


def fit(method, logits, labels, weights=None, **options):
    with warnings.catch_warnings():
        for category in (AbsentClassesWarning, FewRowsWarning, CalibrationDegenerateWarning, LiftedLogitsWarning):
            warnings.simplefilter("ignore", category)
        return method(**options).fit(logits, labels, sample_weight=weights)


def nll(log_p, labels, weights=None):
    return float(np.average(-log_p[np.arange(len(labels)), labels], weights=weights))


# ---- the definitions ----


def best_temperature(logits, labels, weights):
    found = minimize_scalar(
        lambda log_t: nll(log_softmax(logits / np.exp(log_t), axis=-1), labels, weights),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(np.exp(found.x))


class Definition:
    """The summed NLL and penalty of a method, of parameters in one vector: A or a, b, and the multiple of the identity.

    `x` are the inputs; the penalty is strengths times squares of the diagonal (less the multiple), of the rest of A,
    and of b.
    """

    def __init__(self, name, logits, labels, weights=None, impossible=None, filled=None):
        method = METHODS[name]()
        self.labels, self.k = labels, logits.shape[1]
        self.weights = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
        self.low = 0.0 if impossible is None else np.where(impossible, -np.inf, 0.0)
        self.dense = not isinstance(method, (VectorScaling, StructuredVectorScaling))
        self.onto = np.eye(self.k)[labels]
        t = best_temperature(logits + self.low, labels, weights)
        divides = not isinstance(method, DirichletCalibration)
        self.unit = 1.0 if divides else 1 / t  # of A that is temperature scaling
        z = (logits if filled is None else filled) / (t if divides else 1.0)
        centred = getattr(method, "inputs", "log_probs") == "centred" or isinstance(
            method, (VectorScaling, MatrixScaling)
        )
        self.x = z - z.mean(axis=1, keepdims=True) if centred else log_softmax(z, axis=-1)
        total, k = self.weights.sum(), self.k
        if isinstance(method, (VectorScaling, MatrixScaling)):
            self.diagonal = self.off = self.bias = 0.0
        elif isinstance(method, DirichletCalibration):  # ODIR on the mean NLL: Kull et al. (2019), section 4
            self.diagonal = 0.0
            self.off, self.bias = method.reg_lambda / (k * (k - 1)) * total, method.reg_mu / k * total
        else:
            self.diagonal = self.bias = method.strength * k
            self.off = method.strength * k * (k - 1)

    def parts(self, v):
        a, b = v[: -self.k - 1], v[-self.k - 1 : -1]
        return (a.reshape(self.k, self.k) if self.dense else np.diag(a)), b, v[-1]

    def logits(self, v):
        a, b, _ = self.parts(v)
        return self.x @ a + b + self.low

    def nll(self, v):
        return nll(log_softmax(self.logits(v), axis=-1), self.labels, self.weights)

    def __call__(self, v):
        """The value and its gradient."""
        a, b, multiple = self.parts(v)
        strength = np.where(np.eye(self.k) == 1, self.diagonal, self.off)
        away = a - multiple * np.eye(self.k)
        if self.diagonal == 0:
            away = a * (1 - np.eye(self.k))
        value = self.nll(v) * self.weights.sum() + (strength * away**2).sum() + self.bias * (b**2).sum()
        r = self.weights[:, None] * (softmax(self.logits(v), axis=-1) - self.onto)
        slopes = self.x.T @ r + 2 * strength * away
        of_a = slopes.ravel() if self.dense else np.diag(slopes)
        of_multiple = -2 * self.diagonal * np.diag(away).sum()
        return value, np.concatenate([of_a, r.sum(axis=0) + 2 * self.bias * b, [of_multiple]])

    def minimum(self, fixed=None):
        """Parameters of least value; those of the classes in `fixed` keep the temperature."""
        k = self.k
        identity = np.concatenate([self.unit * (np.eye(k).ravel() if self.dense else np.ones(k)), np.zeros(k), [1.0]])
        moving = np.ones(len(identity), bool)
        if fixed is not None:
            moving[: k * k if self.dense else k] = (np.ones((k, 1)) * ~fixed).ravel() if self.dense else ~fixed
            moving[-k - 1 : -1] = ~fixed

        def of(u):
            v = identity.copy()
            v[moving] = u
            return v

        def value(u):
            value, slopes = self(of(u))
            return value / self.weights.sum(), slopes[moving] / self.weights.sum()

        options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 20_000, "maxfun": 40_000, "maxcor": 60}
        return of(minimize(value, identity[moving], jac=True, method="L-BFGS-B", options=options).x)

    def value(self, fitted):
        """The mean penalised NLL of a fitted calibrator's parameters, at the multiple that suits them best."""
        a = fitted.coef_
        multiple = np.mean(np.diag(a) if self.dense else a)
        return self(np.concatenate([a.ravel(), fitted.intercept_, [multiple]]))[0] / self.weights.sum()


def law_the_definition_is_minimised(name, method=None, *, rows=None, weights=None, fixed=None, **masks):
    logits, labels = draw() if rows is None else rows
    definition = Definition(name, logits, labels, weights, **masks)
    given = logits if not masks else np.where(masks["impossible"], -np.inf, logits)
    fitted = fit(method or METHODS[name], given, labels, weights, **({"keep_zero": True} if masks else {}))
    best = definition.minimum(fixed)
    least = definition(best)[0] / definition.weights.sum()
    # a penalty of 1e-4 that makes parameters one: on what, is known here
    tiny = 1e-4 * (best**2).sum() / definition.weights.sum() if name not in STRUCTURED else 0.0
    assert -1e-9 <= definition.value(fitted) - least <= 1e-9 + tiny
    assert fitted.converged_
    p = fitted.predict_proba(given)
    np.testing.assert_allclose(p, softmax(definition.logits(best), axis=-1), rtol=0, atol=1e-5 if tiny == 0 else 3e-3)
    assert fitted.nll_after_ == pytest.approx(definition.nll(best), abs=1e-8 + tiny)
    assert fitted.nll_after_ == pytest.approx(nll(fitted.predict_log_proba(given), labels, weights), rel=1e-10)


@every_method
def test_the_definition_is_minimised(name):
    law_the_definition_is_minimised(name)


@every_method
def test_the_definition_is_minimised_with_weights(name):
    weights = np.random.default_rng(1).uniform(0.1, 3, 1500)
    law_the_definition_is_minimised(name, rows=draw(seed=1), weights=weights)


@every_method
@pytest.mark.parametrize("k", [2, 3, 7])
def test_the_definition_is_minimised_for_few_and_more_classes(name, k):
    law_the_definition_is_minimised(name, rows=draw(n=1000, k=k, seed=2))


@every_method
def test_the_definition_is_minimised_without_rows_of_a_class(name):
    logits, labels = draw(k=5, seed=3)
    kept = labels != 3
    fixed = np.arange(5) == 3 if name not in STRUCTURED else None
    law_the_definition_is_minimised(name, rows=(logits[kept], labels[kept]), fixed=fixed)


@every_method
def test_the_definition_is_minimised_over_what_is_possible(name):
    logits, labels = draw(seed=4)
    impossible = np.random.default_rng(4).random(logits.shape) < 0.3
    impossible[np.arange(len(labels)), labels] = False
    top = np.where(impossible, -np.inf, logits).max(axis=1, keepdims=True)
    lowest = np.where(impossible, np.inf, logits).min(axis=1, keepdims=True)
    filled = np.where(impossible, np.minimum(top - (top - lowest).max(), lowest), logits)
    law_the_definition_is_minimised(name, rows=(logits, labels), impossible=impossible, filled=filled)


def broken(base, **methods):
    return type("Broken", (base,), methods)


def other_strengths(*args):
    """A penalty of other strengths than those that are written down."""
    return lambda self, total, n_classes: _linear.penalty(
        n_classes, dense=self._dense, **dict(zip(("diagonal", "off_diagonal", "intercept"), args, strict=True))
    )


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("vector", broken(VectorScaling, _inputs=lambda self: "log_probs")),
        ("matrix", broken(MatrixScaling, _penalty=other_strengths(1.0, 1.0, 1.0))),
        ("dirichlet", broken(DirichletCalibration, _divides=True)),
        ("dirichlet", broken(DirichletCalibration, _penalty=other_strengths(1e-4, 1e-3, 1e-3))),
        ("svs", broken(StructuredVectorScaling, _penalty=other_strengths(1.0, 1.0, 1.0))),
        ("sms", broken(StructuredMatrixScaling, _penalty=other_strengths(4.0, 4.0, 4.0))),
        ("sms", broken(StructuredMatrixScaling, _inputs=lambda self: "centred")),
    ],
)
def test_another_penalty_or_input_is_rejected(name, method):
    with pytest.raises(AssertionError):
        law_the_definition_is_minimised(name, method)


# ---- many classes: where the slopes of a convex function are 0, there is its minimum ----


@pytest.mark.parametrize("k", [50, 150])
@pytest.mark.parametrize("name", STRUCTURED)
def test_many_classes(name, k):
    logits, labels = draw(n=3000, k=k)
    fitted = fit(METHODS[name], logits, labels)
    definition = Definition(name, logits, labels)
    a = fitted.coef_
    multiple = np.mean(np.diag(a) if definition.dense else a)
    slopes = definition(np.concatenate([a.ravel(), fitted.intercept_, [multiple]]))[1] / len(labels)
    assert np.abs(slopes).max() < 1e-7
    assert fitted.converged_
    assert fitted.grad_norm_ < 1e-7
    temperature = fit(TemperatureScaling, logits, labels)
    assert fitted.nll_after_ < temperature.nll_after_ - 0.01
    new, new_labels = draw(n=3000, k=k, seed=9)
    gain = nll(temperature.predict_log_proba(new), new_labels) - nll(fitted.predict_log_proba(new), new_labels)
    assert gain > 0.01


@pytest.mark.parametrize("name", ["vector", "matrix", "dirichlet"])
def test_fifty_classes_without_restraint(name):
    logits, labels = draw(n=4000, k=50)
    definition = Definition(name, logits, labels)
    fitted = fit(METHODS[name], logits, labels)
    v = np.concatenate([fitted.coef_.ravel(), fitted.intercept_, [0.0]])
    assert np.abs(definition(v)[1]).max() / len(labels) < 1e-6  # the penalty of 1e-4 is in it
    assert fitted.converged_


@pytest.mark.parametrize("method", [VectorScaling, StructuredVectorScaling, StructuredMatrixScaling])
def test_a_hundred_classes_take_seconds(method):
    logits, labels = draw(n=5000, k=100)
    start = time.process_time()
    fit(method, logits, labels)
    assert time.process_time() - start < 20  # of all threads together


# ---- what is known ----

TRUE_A = np.array([[0.9, 0.3, -0.2, 0.0], [0.0, 0.5, 0.2, 0.1], [0.1, -0.3, 0.7, 0.2], [-0.2, 0.0, 0.1, 0.6]])
TRUE_B = np.array([0.5, -0.3, 0.0, 0.2])


@pytest.mark.parametrize("name", [name for name in METHODS if "strong" not in name])  # whose penalty does not fade
def test_as_good_as_who_knows_the_map(name):
    """n = 50,000: twenty parameters cost 20 / 2n nats."""
    rng = np.random.default_rng(5)
    matrix = TRUE_A if "vector" not in name and "svs" not in name else np.diag(np.diag(TRUE_A))

    def rows():
        z = rng.standard_normal((50_000, 4)) * 3
        centred = name in ("vector", "matrix") or "centred" in name
        x = z - z.mean(axis=1, keepdims=True) if centred else log_softmax(z, axis=-1)
        u = x @ matrix + TRUE_B  # a temperature in front would be one more factor of the matrix
        return z, (u + rng.gumbel(size=u.shape)).argmax(-1), log_softmax(u, axis=-1)

    z, labels, truth = rows()
    fitted = fit(METHODS[name], z, labels)
    assert abs(nll(fitted.predict_log_proba(z), labels) - nll(truth, labels)) < 1e-3
    assert nll(truth, labels) < fit(TemperatureScaling, z, labels).nll_after_ - 0.01


# ---- edges ----


@every_method
def test_rows_that_a_bias_separates_stop_at_laplaces_rule(name):
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 200)
    logits = rng.uniform(-0.5, 0.5, (200, 3)) + 2 * np.eye(3)[labels] + [2.5, 0, 0]  # the first is favoured wrongly
    assert not fit(TemperatureScaling, logits, labels).at_bound_
    method = METHODS[name]
    if name not in STRUCTURED:
        with pytest.warns(CalibrationDegenerateWarning, match="can be separated by"):
            fitted = method().fit(logits, labels)
        assert fitted.at_bound_
        assert nll(fitted.predict_log_proba(logits), labels) == pytest.approx(1 / 202, rel=1e-6)
    else:  # a penalty that asks for less
        fitted = method().fit(logits, labels)
        assert not fitted.at_bound_
        assert 1 / 202 < fitted.nll_after_ < fit(TemperatureScaling, logits, labels).nll_after_ / 2
    np.testing.assert_array_equal(fitted.predict(logits), labels)


@every_method
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_constant_logits_leave_the_frequencies(name, scale):
    rng = np.random.default_rng(7)
    labels = rng.choice(3, 400, p=[0.7, 0.2, 0.1])
    logits = np.repeat(rng.standard_normal((400, 1)) * scale, 3, axis=1)
    with pytest.warns(CalibrationDegenerateWarning, match="constant in every row"):
        fitted = METHODS[name]().fit(logits, labels)
    p = fitted.predict_proba(logits)
    assert np.ptp(p, axis=0).max() < 1e-9
    frequencies = np.bincount(labels) / 400
    if name in ("vector", "matrix"):
        np.testing.assert_allclose(p[0], frequencies, atol=1e-5)
    else:
        assert frequencies[0] > p[0, 0] > p[0, 1] > p[0, 2]
        assert p[0, 0] > 0.5


@every_method
def test_never_worse_than_the_best_temperature_nor_than_nothing(name):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, k = rng.integers(10, 80), rng.integers(2, 9)
        logits = rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-3, 3)
        labels = rng.integers(0, k, n) if seed % 2 else (logits + rng.gumbel(size=(n, k))).argmax(-1)
        labels[:2] = [0, 1]
        fitted = fit(METHODS[name], logits, labels)
        after = nll(fitted.predict_log_proba(logits), labels)
        raw = nll(log_softmax(logits, axis=-1), labels)
        temperature = fit(TemperatureScaling, logits, labels).nll_after_
        assert after <= raw + 1e-12 * max(1, raw)
        assert after <= max(temperature, 1 / (n + 2)) + 1e-9 * max(1, temperature)


@pytest.mark.parametrize("name", [name for name in METHODS if "dirichlet" not in name])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_logits_does_not_matter(name, factor):
    logits, labels = draw(n=800, k=15)
    one, other = fit(METHODS[name], logits, labels), fit(METHODS[name], logits * factor, labels)
    assert other.nll_after_ == pytest.approx(one.nll_after_, abs=1e-9)
    np.testing.assert_allclose(other.predict_proba(logits * factor), one.predict_proba(logits), rtol=0, atol=1e-6)


@every_method
def test_a_shift_of_a_row_does_not_matter(name):
    logits, labels = draw(n=800, k=15)
    shift = np.random.default_rng(8).standard_normal((800, 1)) * 50
    one, other = fit(METHODS[name], logits, labels), fit(METHODS[name], logits + shift, labels)
    np.testing.assert_allclose(other.predict_proba(logits + shift), one.predict_proba(logits), rtol=0, atol=1e-6)


@every_method
@pytest.mark.parametrize("k", [3, 70])
def test_a_file_keeps_every_bit(name, k, tmp_path):
    logits, labels = draw(n=200, k=k)
    fitted = fit(METHODS[name], logits, labels)
    fitted.save(tmp_path / "c.json")
    again = load(tmp_path / "c.json")
    assert again.get_params() == fitted.get_params()
    for attribute in ("coef_", "intercept_", "temperature_", "n_iter_", "grad_norm_", "converged_", "at_bound_"):
        np.testing.assert_array_equal(getattr(again, attribute), getattr(fitted, attribute))
    np.testing.assert_array_equal(again.predict_proba(logits), fitted.predict_proba(logits))


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (DirichletCalibration, {"reg_lambda": -1}, "reg_lambda must be a finite number, 0 or more; got -1"),
        (DirichletCalibration, {"reg_mu": np.inf}, "reg_mu must be a finite number, 0 or more; got inf"),
        (StructuredVectorScaling, {"strength": 0}, "strength must be a finite number above 0; got 0"),
        (StructuredMatrixScaling, {"strength": np.nan}, "strength must be a finite number above 0; got nan"),
        (StructuredMatrixScaling, {"inputs": "raw"}, "inputs must be 'log_probs' or 'centred'; got 'raw'"),
    ],
)
def test_options_that_make_no_sense(method, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        method(**options).fit(*draw(n=50))
