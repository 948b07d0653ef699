import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from softargmax import (
    AbsentClassesWarning,
    CalibrationDegenerateWarning,
    FewRowsWarning,
    LiftedLogitsWarning,
    NllRisesWarning,
)
from softargmax.calibration import (
    AutoCalibrator,
    EnsembleTemperatureScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureScaling,
    load,
)


def draw(n=600, k=4, seed=0, mixed=0.5, temperature=2.0):
    """Logits that are too sure by 2, and whose classes are mixed up."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k)) * 3
    true = (logits + mixed * np.roll(logits, 1, axis=1)) / temperature + mixed * np.linspace(0, 2, k)
    return logits, (true + rng.gumbel(size=(n, k))).argmax(-1)


def fit(logits, labels, weights=None, groups=None, method=AutoCalibrator, **options):
    with warnings.catch_warnings():
        for category in (
            AbsentClassesWarning,
            CalibrationDegenerateWarning,
            FewRowsWarning,
            LiftedLogitsWarning,
            NllRisesWarning,
        ):
            warnings.simplefilter("ignore", category)
        return method(**options).fit(
            logits, labels, sample_weight=weights, **({} if groups is None else {"groups": groups})
        )


def nll(log_p, labels, weights=None):
    return float(np.average(-log_p[np.arange(len(labels)), labels], weights=weights))


def method_of(name):
    """What a name in `weights_` means, fitted on its own."""
    known = {
        "TemperatureScaling": TemperatureScaling(),
        "EnsembleTemperatureScaling": EnsembleTemperatureScaling(floor=None),
    }
    methods = {"StructuredVectorScaling": StructuredVectorScaling, "StructuredMatrixScaling": StructuredMatrixScaling}
    return known.get(name) or eval(name, {"__builtins__": {}}, methods)


def out_of_fold(names, logits, labels, part, weights=None, **options):
    """(n, methods): how likely each label is by each method, fitted from nothing to the other parts, with the floor."""
    n, k = logits.shape
    likelihoods = np.empty((n, len(names)))
    for each in np.unique(part):
        rest, out = part != each, part == each
        for j, name in enumerate(names):
            if name == "identity":
                p = softmax(logits[out], axis=-1)
            else:
                w = None if weights is None else weights[rest]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    method = method_of(name).set_params(**options)
                    p = method.fit(logits[rest], labels[rest], sample_weight=w).predict_proba(logits[out])
            likelihoods[out, j] = p[np.arange(out.sum()), labels[out]]
    size = n if weights is None else max(n, weights.sum())
    return likelihoods * size / (size + 1) + 1 / (size + 1) / k


def handicaps(names, n):
    """What a method with numbers for each class has to gain first, in nats a row."""
    return np.array([2 * np.log(len(names)) / n * ("Structured" in name) for name in names])


def best_mixture(names, likelihoods, weights=None):
    """The NLL of the mixture that is best once some are held back."""
    m = len(names)
    judged = likelihoods * np.exp(-handicaps(names, len(likelihoods)))
    found = minimize(
        lambda v: -np.average(np.log(judged @ v), weights=weights),
        np.full(m, 1 / m),
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return float(np.average(-np.log(likelihoods @ found.x), weights=weights))


# ---- laws ----


def law_held_out_rows_are_held_out(method):
    """Against fits of each method from nothing, on parts that are known, for each is one group.

    In a part the search ends early, by design; the likelihoods are then right to a thousandth.
    """
    rng = np.random.default_rng(0)
    for k, weights in ((2, None), (4, None), (4, rng.dirichlet(np.full(600, 3.0)) * 600)):
        logits, labels = draw(k=k)
        part = rng.permutation(600) % 5
        fitted = fit(logits, labels, weights, groups=part, method=method)
        names = [name for name in fitted.held_out_nll_ if name != "mixture"]
        likelihoods = out_of_fold(names, logits, labels, part, weights)
        wanted = np.average(-np.log(likelihoods), weights=weights, axis=0)
        wanted[names.index("identity")] = nll(log_softmax(logits, axis=-1), labels, weights)  # without a floor
        got = np.array([fitted.held_out_nll_[name] for name in names])
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)
        np.testing.assert_allclose(got[:2], wanted[:2], rtol=0, atol=1e-9)  # no penalty, no search cut short
        # a method of less than a hundredth is left out of the mixture
        assert fitted.held_out_nll_["mixture"] == pytest.approx(best_mixture(names, likelihoods, weights), abs=5e-4)


def law_groups_stay_together(method):
    """Rows in ten copies with the same label: who sees copies of the rows left out knows their labels."""
    rng = np.random.default_rng(1)
    once, drawn = draw(n=60, k=10, mixed=0.0, temperature=4.0)
    logits, labels, groups = np.repeat(once, 10, axis=0), np.repeat(drawn, 10), np.repeat(rng.permutation(60), 10)
    together, apart = fit(logits, labels, groups=groups, method=method), fit(logits, labels)
    name = "StructuredMatrixScaling(strength=0.1)"
    temperature = together.held_out_nll_["TemperatureScaling"]
    assert apart.held_out_nll_[name] < temperature - 0.2
    assert together.held_out_nll_[name] > temperature - 0.02
    new, new_labels = draw(n=5000, k=10, seed=2, mixed=0.0, temperature=4.0)
    honest, misled = (nll(each.predict_log_proba(new), new_labels) for each in (together, apart))
    assert honest < misled - 0.02


def law_weights_are_of_what_is_mixed(method):
    for seed in range(3):
        logits, labels = draw(seed=seed)
        fitted = fit(logits, labels, method=method)
        weights = np.array(list(fitted.weights_.values()))
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert np.all(weights >= 0.005)
        assert np.all(np.diff(weights) <= 0)  # the largest first
        assert set(fitted.members_) == set(fitted.weights_) - {"identity"}
        assert set(fitted.weights_) <= set(fitted.held_out_nll_)
        p = sum(
            w * (softmax(logits, axis=-1) if name == "identity" else fitted.members_[name].predict_proba(logits))
            for name, w in fitted.weights_.items()
        )
        wanted = p * 600 / 601 + 1 / 601 / 4
        np.testing.assert_allclose(fitted.predict_proba(logits), wanted, rtol=1e-10)
        alone = [name for name in fitted.held_out_nll_ if name != "mixture"]
        judged = np.array([fitted.held_out_nll_[name] for name in alone]) + handicaps(alone, 600)
        assert fitted.held_out_nll_["mixture"] <= judged.min() + 1e-6
        for name in fitted.members_:
            assert type(fitted.members_[name]) is type(method_of(name))
            alone = fit(logits, labels, method=lambda name=name: method_of(name))
            np.testing.assert_allclose(
                fitted.members_[name].predict_proba(logits), alone.predict_proba(logits), rtol=0, atol=5e-3
            )
            assert fitted.members_[name].nll_after_ == pytest.approx(alone.nll_after_, abs=1e-4)


def law_the_summary_says_what_the_weights_say(method):
    for logits, labels in (draw(), draw(k=2, seed=1), draw(mixed=0.0, seed=2)):
        fitted = fit(logits, labels, method=method)
        for name, weight in fitted.weights_.items():
            assert f"{name} {weight:.0%}" in fitted.summary_
        for name in set(fitted.held_out_nll_) - set(fitted.weights_) - {"mixture"}:
            assert f" {name} " not in fitted.summary_.split(":")[0]
        for name in ("mixture", "identity", "TemperatureScaling"):
            assert f"{fitted.held_out_nll_[name]:.4g}" in fitted.summary_
        assert "600" in fitted.summary_


def law_the_seed_says_which_rows_go_where(method):
    logits, labels = draw()
    one, same, other = (fit(logits, labels, method=method, random_state=seed) for seed in (3, 3, 4))
    assert one.held_out_nll_ == same.held_out_nll_
    np.testing.assert_array_equal(one.predict_proba(logits), same.predict_proba(logits))
    assert one.held_out_nll_["TemperatureScaling"] != other.held_out_nll_["TemperatureScaling"]
    assert one.held_out_nll_["identity"] == pytest.approx(other.held_out_nll_["identity"], rel=1e-12)
    np.testing.assert_allclose(one.predict_proba(logits), other.predict_proba(logits), atol=0.1)


def law_few_rows_get_one_temperature(method):
    for n in (20, 199):
        logits, labels = draw(n=n)
        fitted = fit(logits, labels, method=method)
        assert fitted.weights_ == {"TemperatureScaling": 1.0}
        p = TemperatureScaling().fit(logits, labels).predict_proba(logits)
        np.testing.assert_allclose(fitted.predict_proba(logits), p * n / (n + 1) + 1 / (n + 1) / 4, rtol=1e-12)
        assert fitted.held_out_nll_ == {}
        assert str(n) in fitted.summary_
        assert "too few" in fitted.summary_
    assert fit(*draw(n=200), method=method).held_out_nll_


def law_honest_scores_are_left_as_they_are(method):
    """Labels drawn from softmax(z): what is lost by looking for something, on 20,000 new rows."""
    losses = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        logits = rng.standard_normal((21_000, 5)) * 2
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        fitted = fit(logits[:1000], labels[:1000], method=method)
        new, new_labels = logits[1000:], labels[1000:]
        raw = nll(log_softmax(new, axis=-1), new_labels)
        losses.append(nll(fitted.predict_log_proba(new), new_labels) - raw)
    assert np.mean(losses) < 0.002


def forest(n, seed, trees=100):
    """Logs of the votes of trees that are too sure by 2; many classes have none."""
    rng = np.random.default_rng(seed)
    sure = softmax(rng.standard_normal((n, 4)) * 3, axis=-1)
    votes = np.array([rng.multinomial(trees, p) for p in sure]) / trees
    with np.errstate(divide="ignore"):
        return np.log(votes), (np.log(sure) / 2 + rng.gumbel(size=sure.shape)).argmax(-1)


def law_rows_of_minus_infinity_are_no_worse_off_than_with_one_temperature(method):
    logits, labels = forest(1000, 0)
    new, new_labels = forest(20_000, 1)
    assert np.isneginf(logits).any(axis=1).mean() > 0.3
    fitted, one = fit(logits, labels, method=method), fit(logits, labels, method=TemperatureScaling)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LiftedLogitsWarning)
        ours, wanted = (nll(each.predict_log_proba(new), new_labels) for each in (fitted, one))
    assert ours <= wanted + 1e-3


class OneTemperature(AutoCalibrator):
    """Which says nothing of others."""

    def _weigh(self, names, likelihoods, weights):
        super()._weigh(names, likelihoods, weights)
        self.held_out_nll_ = {name: value - 0.01 for name, value in self.held_out_nll_.items()}
        return np.eye(len(names))[0] * 0.98


class SeesAll(AutoCalibrator):
    """Which weighs by the rows that it was fitted to."""

    def _parts(self, labels, groups):
        return np.arange(len(labels)) % self.cv

    def _weigh(self, names, likelihoods, weights):
        return super()._weigh(names, likelihoods**0.9, weights)


class Greedy(AutoCalibrator):
    """Which takes the weakest penalty whatever the rows left out say."""

    def _weigh(self, names, likelihoods, weights):
        super()._weigh(names, likelihoods, weights)
        return np.eye(len(names))[-1]


class Raw(AutoCalibrator):
    def _weigh(self, names, likelihoods, weights):
        super()._weigh(names, likelihoods, weights)
        return np.eye(len(names))[1]


class Silent(AutoCalibrator):
    def _summary(self, n):
        return f"A mixture of TemperatureScaling, of {n} rows."


class Unseeded(AutoCalibrator):
    def _parts(self, labels, groups):
        return np.random.default_rng(len(labels)).permutation(len(labels)) % self.cv


class Bold(AutoCalibrator):
    """Which tells methods apart by any number of rows."""

    def _fit_probs(self, *rows):
        from softargmax.calibration import auto

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auto, "_FEW_ROWS", 10)
            super()._fit_probs(*rows)


LAWS = {
    law_held_out_rows_are_held_out: SeesAll,
    law_groups_stay_together: Unseeded,
    law_weights_are_of_what_is_mixed: OneTemperature,
    law_the_summary_says_what_the_weights_say: Silent,
    law_the_seed_says_which_rows_go_where: Unseeded,
    law_few_rows_get_one_temperature: Bold,
    law_honest_scores_are_left_as_they_are: Greedy,
    law_rows_of_minus_infinity_are_no_worse_off_than_with_one_temperature: Raw,
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(AutoCalibrator)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_method_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


# ---- what it is for ----


def test_better_than_one_temperature_where_classes_are_mixed_up():
    new, labels = draw(n=20_000, seed=7)
    fitted, one = fit(*draw(n=2000)), TemperatureScaling().fit(*draw(n=2000))
    gain = nll(one.predict_log_proba(new), labels) - nll(fitted.predict_log_proba(new), labels)
    promised = fitted.held_out_nll_["TemperatureScaling"] - fitted.held_out_nll_["mixture"]
    assert gain > 0.05
    assert gain == pytest.approx(promised, abs=0.02)
    assert any("Structured" in name for name in fitted.weights_)


def test_two_classes():
    logits, labels = draw(k=2)
    fitted = fit(logits, labels)
    one = fit(logits[:, 1:] - logits[:, :1], labels)  # one column means zero and that column
    np.testing.assert_allclose(
        one.predict_proba(logits[:, 1:] - logits[:, :1]), fitted.predict_proba(logits), atol=1e-6
    )
    assert any("Matrix" in name for name in fitted.held_out_nll_)


def test_beyond_two_hundred_classes_no_matrix_is_tried():
    logits, labels = draw(n=1500, k=250, mixed=0.2)
    fitted = fit(logits, labels)
    tried = set(fitted.held_out_nll_)
    assert not any("Matrix" in name for name in tried)
    assert any("Vector" in name for name in tried)
    some = fit(logits[:, :40], labels % 40)
    assert any("Matrix" in name for name in some.held_out_nll_)


def test_impossible_classes_stay_at_zero():
    logits, labels = draw(k=5)
    impossible = np.random.default_rng(3).random(logits.shape) < 0.3
    impossible[np.arange(len(labels)), labels] = False
    logits[impossible] = -np.inf
    fitted = fit(logits, labels, keep_zero=True)
    p = fitted.predict_proba(logits)
    assert np.all(p[impossible] == 0)
    assert np.all(p[~impossible] > 0)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-14)


def test_impossible_classes_are_so_in_rows_left_out_too():
    rng = np.random.default_rng(4)
    logits = rng.uniform(-1, 1, (600, 5))  # none far below a maximum: what is impossible cannot be told by its logit
    impossible = rng.random(logits.shape) < 0.3
    impossible[:, 0] = False
    logits[:5, :2], impossible[:5] = [1, -1], False  # every part has seen the largest drop
    logits[impossible] = -np.inf
    labels = (logits * 1.5 + [0, 0, 1, 0, 0] + rng.gumbel(size=logits.shape)).argmax(-1)
    part = np.arange(600) % 5
    fitted = fit(logits, labels, groups=part, keep_zero=True)
    names = [name for name in fitted.held_out_nll_ if "Structured" in name]
    wanted = -np.log(out_of_fold(names, logits, labels, part, keep_zero=True)).mean(axis=0)
    np.testing.assert_allclose([fitted.held_out_nll_[name] for name in names], wanted, rtol=0, atol=2e-3)


def test_a_class_without_a_row_and_rows_without_weight():
    logits, labels = draw(k=5)
    labels[labels == 2] = 0
    with pytest.warns(AbsentClassesWarning):
        fitted = AutoCalibrator().fit(logits, labels)
    assert fitted.absent_classes_.tolist() == [2]
    p = fitted.predict_proba(logits)
    assert p[:, 2].min() > 0
    assert p[:, 2].mean() < 0.1
    groups = np.arange(600) // 4
    padded = np.concatenate([np.full((9, 5), np.nan), logits]), np.concatenate([np.full(9, 99), labels])
    weights, wider = np.append(np.zeros(9), np.ones(600)), np.append(np.full(9, 1000), groups)
    np.testing.assert_array_equal(
        fit(*padded, weights, groups=wider).predict_proba(logits),
        fit(logits, labels, groups=groups).predict_proba(logits),
    )


def test_words_for_classes_and_for_groups():
    logits, labels = draw(k=3)
    words = np.array(["ant", "bee", "cow"])
    groups = np.arange(600) // 3
    named = fit(logits, words[labels], groups=[f"patient {g:04}" for g in groups], classes=list(words))
    plain = fit(logits, labels, groups=groups)
    np.testing.assert_array_equal(named.predict_proba(logits), plain.predict_proba(logits))
    np.testing.assert_array_equal(named.predict(logits), words[plain.predict(logits)])


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_say_nothing_leave_the_class_frequencies(sign):
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((1000, 4)) * 3
    labels = rng.choice(4, 1000, p=[0.6, 0.2, 0.1, 0.1])
    logits[np.arange(1000), labels] -= 1  # inverted
    with pytest.warns(CalibrationDegenerateWarning):
        fitted = AutoCalibrator().fit(logits, labels)
    wanted = np.bincount(labels) / 1000 * 1000 / 1001 + 1 / 1001 / 4
    np.testing.assert_allclose(fitted.predict_proba(sign * logits), np.tile(wanted, (1000, 1)), rtol=1e-9)
    assert fitted.weights_ == {"class frequencies": 1.0}
    assert "class frequencies" in fitted.summary_


@pytest.mark.parametrize(("n", "sign"), [(100, 1), (600, 1), (600, -1)])
def test_a_file_keeps_every_bit(n, sign, tmp_path):
    logits, labels = draw(n=n)
    logits = logits * sign
    fitted = fit(logits, labels, cv=3, random_state=5)
    fitted.save(tmp_path / "c.json")
    again = load(tmp_path / "c.json")
    assert again.get_params() == fitted.get_params()
    for attribute in ("weights_", "held_out_nll_", "summary_", "temperature_", "n_iter_", "grad_norm_", "converged_"):
        assert getattr(again, attribute) == getattr(fitted, attribute)
    assert list(again.weights_) == list(fitted.weights_)
    np.testing.assert_array_equal(again.predict_log_proba(logits), fitted.predict_log_proba(logits))


@pytest.mark.parametrize("cv", [1, 0, -3, 2.5, "5", None])
def test_a_number_of_parts_that_makes_no_sense(cv):
    with pytest.raises(ValueError, match=f"cv must be an integer, 2 or more; got {cv!r}"):
        AutoCalibrator(cv=cv).fit(*draw())


def test_groups_that_make_no_sense():
    logits, labels = draw()
    with pytest.raises(ValueError, match="X and groups must have the same length; got 600 rows and 599 groups"):
        AutoCalibrator().fit(logits, labels, groups=np.arange(599))
    with pytest.raises(ValueError, match="cv=5 needs at least 5 groups; got 4"):
        AutoCalibrator().fit(logits, labels, groups=np.arange(600) % 4)
    assert fit(logits, labels, groups=np.arange(600) % 4, cv=4).held_out_nll_


@pytest.mark.parametrize("cv", [2, 10])
def test_parts_hold_as_many_rows_of_each_class_and_of_all_groups(cv):
    labels = draw(n=1003)[1]
    part = AutoCalibrator(cv=cv)._parts(labels, None)
    for label in range(4):
        assert np.ptp(np.bincount(part[labels == label], minlength=cv)) <= 1
    assert np.ptp(np.bincount(part, minlength=cv)) <= 1
    groups = np.random.default_rng(0).integers(0, 100, 1003)
    part = AutoCalibrator(cv=cv)._parts(labels, groups)
    assert all(len(set(part[groups == group])) == 1 for group in range(100))
    assert np.ptp(np.bincount(part, minlength=cv)) <= np.bincount(groups).max()
