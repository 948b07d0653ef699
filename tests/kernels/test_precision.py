"""Every kernel within the budget that its op promises, on the CPU that runs; `test_cpus.py` runs it as other CPUs.

The budgets are those of the docstrings of `ops`. Where an op promises none (entropy, gradient, evaluation, temperature
objective), its budget is what softmax promises for each entry, propagated to first order, and 8 + ln K roundings.
"""

import functools
import math

import ml_dtypes
import mpmath
import numpy as np
import pytest

import softargmax as sa
from softargmax.kernels import temperature
from softargmax.ops.evaluation import EvaluationTally, RowFacts
from softargmax.ops.spread import row_spread
from tests.cases import definitions
from tests.cases.compare import close
from tests.cases.rows import EDGE_ROWS, EDGE_TEMPERATURES, INF, exact_log_softmax

EXTENDED = np.longdouble
pytestmark = pytest.mark.skipif(np.finfo(EXTENDED).nmant < 63, reason="the reference needs numbers finer than float64")

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SIZES = (1, 2, 10, 16, 24, 25, 100, 1000)


def arithmetic_of(dtype):
    return np.float64 if dtype == np.float64 else np.float32


# ---- rows that are hard, and ordinary ones ----


def near_ties(rng, shape, dtype):
    return 1 + rng.integers(-3, 4, shape) * float(ml_dtypes.finfo(dtype).eps)


def confident(rng, shape, dtype):
    z = rng.standard_normal(shape)
    z[:, -1] = z.max(1) + rng.uniform(10, 90, len(z))
    return z


def some_without(rng, shape, dtype):
    z = rng.standard_normal(shape) * 4
    z[rng.random(shape) < 0.3] = -INF
    z[:, 0] = rng.standard_normal(len(z))
    return z


def one_and_equal_others(rng, shape, dtype):
    z = np.repeat(-rng.uniform(0, 12, (shape[0], 1)), shape[1], 1)
    z[:, shape[1] // 2] = 0
    return z


KINDS = {
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape),
    "wide": lambda rng, shape, dtype: rng.standard_normal(shape) * 30,
    "spread of 1e4": lambda rng, shape, dtype: rng.uniform(-1e4, 1e4, shape),
    "near ties": near_ties,
    "equal": lambda rng, shape, dtype: np.repeat(rng.standard_normal((shape[0], 1)), shape[1], 1),
    "confident": confident,
    "subnormal": lambda rng, shape, dtype: (
        rng.integers(-5, 6, shape) * float(ml_dtypes.finfo(dtype).smallest_subnormal)
    ),
    "far from 0": lambda rng, shape, dtype: 1000 + rng.standard_normal(shape) * 5,
    "some -inf": some_without,
    "one and equal others": one_and_equal_others,
    "of a power law": lambda rng, shape, dtype: rng.permuted(
        -rng.uniform(0.5, 3, (shape[0], 1)) * np.log(np.arange(1, shape[1] + 1)), axis=1
    ),
}


class Sample:
    """Rows of one size, each with a label (its largest, or any that is possible) and a temperature."""

    def __init__(self, seed, n, k, dtype):
        rng = np.random.default_rng((seed, k))
        parts = np.array_split(np.arange(n), len(KINDS))
        kinds = zip(KINDS.values(), parts, strict=True)
        z = np.concatenate([kind(rng, (len(part), k), dtype) for kind, part in kinds])
        self.logits = z.astype(dtype)
        self.z = self.logits.astype(np.float64)
        self.labels = rng.integers(0, k, n)
        largest = (rng.random(n) < 0.5) | (self.z[np.arange(n), self.labels] == -INF)
        self.labels[largest] = self.z.argmax(1)[largest]
        self.temperatures = np.exp(rng.uniform(-1.5, 1.5, n))
        self.dtype, self.computed = np.dtype(dtype), arithmetic_of(dtype)
        self.n, self.k = n, k
        self.eps = float(np.finfo(self.computed).eps)
        self.tiny = float(np.finfo(self.computed).tiny)


# ---- the reference: one set of formulas, in numbers of 64 bits or of 50 digits ----


class Extended:
    number = staticmethod(lambda x: np.asarray(x, EXTENDED))
    exp, log1p = np.exp, np.log1p
    rounded = staticmethod(lambda x: x)


class Digits:
    number = staticmethod(np.frompyfunc(lambda x: mpmath.mpf(float(x)), 1, 1))
    exp, log1p = np.frompyfunc(mpmath.exp, 1, 1), np.frompyfunc(mpmath.log1p, 1, 1)

    @staticmethod
    def rounded(x):
        high = x.astype(np.float64)
        return high.astype(EXTENDED) + np.where(np.isfinite(high), x - Digits.number(high), 0).astype(np.float64)


class Exact:
    """What softmax(z / T) and its family are, the largest first taken off; all of it finite, 0 where p is 0."""

    def __init__(self, sample, temperatures=None, arithmetic=Extended):
        number, rows, k = arithmetic.number, np.arange(sample.n), sample.k
        z = number(sample.z)
        first, y = sample.z.argmax(1), sample.labels
        top = z[rows, first]
        with np.errstate(all="ignore"):
            u = z - top[:, None]
            if temperatures is not None:
                u = u / number(temperatures)[:, None]
            e = arithmetic.exp(u)
        u = np.where(sample.z == -INF, number(0.0), u)
        others = e.copy()
        others[rows, first] = number(0.0)
        rest = others.sum(1)
        total = 1 + rest
        log_sum = arithmetic.log1p(rest)
        p = e / total[:, None]
        log_p = np.where(sample.z == -INF, number(-INF), u - log_sum[:, None])
        away = p.copy()  # the distances to the label
        away[rows, y] = number(0.0)
        away[rows, y] = -away.sum(1)
        mean, square = (p * u).sum(1), (p * u * u).sum(1)
        exact = {
            "p": p,
            "log_p": log_p,
            "logsumexp": top + log_sum,
            "entropy": log_sum - mean,
            "loss": -log_p[rows, y],
            "gradient": away,
            "brier": (away * away).sum(1),
            "slope": u[rows, y] - mean,
            "curvature": square - mean * mean + mean - u[rows, y],
        }
        for name, value in exact.items():
            setattr(self, name, arithmetic.rounded(value))
        self.first, self.far = first, -arithmetic.rounded(u).astype(float)  # where the largest is, and how far it is
        others = np.where((np.arange(k) == first[:, None]) | (sample.z == -INF), INF, self.far).min(1)
        self.gap = np.where(np.isfinite(others), others, 0)


class Budgets:
    """How far from the exact value each result may be."""

    def __init__(self, sample, exact):
        eps, tiny, k = sample.eps, sample.tiny, sample.k
        p, far, at_label = exact.p.astype(float), exact.far, (np.arange(sample.n), sample.labels)
        base, both = (8 + math.log(k)) * eps, (8 + 2 * math.log(k)) * eps
        entry = (base + 2 * far * eps) * p

        def mean_of(f, slope):
            """Of E f(u): what the errors of p and of u make of it. What underflows is worth 100 at most."""
            return ((entry + 100 * tiny) * f + 2 * eps * far * p * slope).sum(1) + k * tiny

        self.p = entry + tiny
        self.log_p = both * np.abs(exact.log_p).astype(float)
        self.log_p[np.arange(sample.n), exact.first] *= 1 + 2 * eps * exact.gap / both
        self.log_p += k * tiny
        self.loss = self.log_p[at_label]
        self.logsumexp = base + eps * np.abs(exact.logsumexp).astype(float)
        # both parts of log(sum) - E u are positive; the first is at most E |u| + the share of the others
        others = np.where(np.arange(k) == exact.first[:, None], 0, 1)
        self.entropy = both * exact.entropy.astype(float) + mean_of(far + others, np.ones(k))
        self.gradient = entry.copy()
        self.gradient[at_label] = 0
        self.gradient[at_label] = self.gradient.sum(1)
        away = np.abs(exact.gradient).astype(float)
        self.brier = (2 * away * self.gradient + base * away**2).sum(1) + k * tiny
        self.gradient += k * tiny
        own = 2 * eps * far[at_label]
        self.objective = base + own
        self.slope = own + mean_of(far, np.ones(k))
        self.curvature = 2 * self.slope + mean_of(far**2, 2 * far) + 2 * (p * far).sum(1) * mean_of(far, np.ones(k))


def share(found, exact, budget, rounded_to=None):
    """The largest error over its budget; results of half precision may be half of a last place further."""
    found = found.astype(EXTENDED)
    exact, budget = np.broadcast_arrays(exact, budget)
    if rounded_to is not None and rounded_to.itemsize == 2:
        info = ml_dtypes.finfo(rounded_to)
        largest = float(info.max) * (1 + float(info.eps) / 4)  # from here on it is inf
        over = np.abs(exact) >= largest
        np.testing.assert_array_equal(found[over], np.sign(exact[over]) * INF)
        _, exponent = np.frexp((np.abs(exact) + budget).astype(float))
        place = np.ldexp(1.0, np.maximum(exponent - 1, np.frexp(float(info.tiny))[1] - 1)) * float(info.eps)
        exact, budget, found = np.where(over, found, exact), budget + np.where(np.isfinite(exact), place, 0) / 2, found
    fine = np.isfinite(exact)
    np.testing.assert_array_equal(found[~fine], exact[~fine])
    return float(np.max(np.abs(found[fine] - exact[fine]) / budget[fine], initial=0))


# ---- the laws: each op, by every path that its rows can take ----


def softmaxes(op):
    def run(s, exact, at_temperature):
        column = s.temperatures[:, None]
        yield "plain", op(s.logits), exact
        yield "with T", op(s.logits, temperature=column), at_temperature
        yield "first axis", op(s.logits.T, axis=0, temperature=column.T).T, at_temperature

    return run


def numbers(op):
    def run(s, exact, _):
        yield "rows", op(s.logits, s.labels, -1), exact
        yield "first axis", op(s.logits.T, s.labels, 0), exact

    return run


def gradients(s, exact, _):
    yield "rows", sa.cross_entropy_and_grad(s.logits, s.labels, reduction="none")[1], exact
    yield "first axis", sa.cross_entropy_and_grad(s.logits.T, s.labels, axis=0, reduction="none")[1].T, exact


LAWS = {  # the name of the exact value: of the result, how it is computed
    "softmax": ("p", softmaxes(sa.softmax)),
    "log_softmax": ("log_p", softmaxes(sa.log_softmax)),
    "logsumexp": ("logsumexp", numbers(lambda z, y, axis: sa.logsumexp(z, axis=axis))),
    "log_prob": ("loss", numbers(lambda z, y, axis: -sa.log_prob(z, y, axis=axis))),
    "cross_entropy": ("loss", numbers(lambda z, y, a: sa.cross_entropy_and_grad(z, y, axis=a, reduction="none")[0])),
    "gradient": ("gradient", gradients),
    "entropy": ("entropy", numbers(lambda z, y, axis: sa.entropy(z, axis=axis))),
}


class Known:
    """A sample and its exact values, once for all laws."""

    def __init__(self, sample, arithmetic=Extended):
        self.sample = sample
        self.exact = Exact(sample, None, arithmetic), Exact(sample, sample.temperatures, arithmetic)
        self.budgets = {id(exact): Budgets(sample, exact) for exact in self.exact}


def shares_of_law(law, known):
    """(path, share of the budget) of every path."""
    value, run = LAWS[law]
    for path, found, exact in run(known.sample, *known.exact):
        rounded_to = known.sample.dtype if found.ndim == 2 else None
        yield path, share(found, getattr(exact, value), getattr(known.budgets[id(exact)], value), rounded_to)


def evaluation_shares(known):
    """Computed in float64 whatever the logits are."""
    s, exact = known.sample, known.exact[0]
    s64 = Sample.__new__(Sample)
    s64.__dict__ = s.__dict__ | {"eps": 2.0**-52, "tiny": float(np.finfo(float).tiny)}
    budgets = Budgets(s64, exact)
    found = RowFacts.empty(s.n)
    EvaluationTally(s.k, 15).add(s.logits, s.labels, np.ones(s.n), 1.0, found)
    np.testing.assert_array_equal(found.predicted, exact.first)
    top = np.arange(s.n), exact.first
    yield "confidence", share(found.confidence, exact.p[top], budgets.p[top])
    yield "nll", share(found.nll, exact.loss, budgets.loss)
    yield "brier", share(found.brier, exact.brier, budgets.brier)


def objective_shares(known):
    """Loss, slope and curvature of each row alone, in float64."""
    s, exact = known.sample, known.exact[1]
    s64 = Sample.__new__(Sample)
    s64.__dict__ = s.__dict__ | {"eps": 2.0**-52, "tiny": float(np.finfo(float).tiny)}
    budgets = Budgets(s64, exact)
    sums, flat, weight = np.zeros((s.n, 1, 3)), s.logits.reshape(-1), np.ones(s.n)
    for r in range(s.n):
        beta = 1 / s.temperatures[r : r + 1]
        temperature.temperature_objective_rows(flat, s.labels, weight, s.k, beta, sums[r], r, r + 1)
    for i, (name, value) in enumerate([("objective", "loss"), ("slope", "slope"), ("curvature", "curvature")]):
        yield name, share(sums[:, 0, i], getattr(exact, value), getattr(budgets, name))


def spread_shares(known):
    """Means within a few roundings of the mean of |z|; the rest exactly."""
    s = known.sample
    found = row_spread(s.logits.astype(s.computed))
    finite = np.isfinite(s.z)
    z = np.where(finite, s.z, 0)
    np.testing.assert_array_equal(found.top, s.z.max(1))
    np.testing.assert_array_equal(found.lowest, np.where(finite, s.z, INF).min(1))
    np.testing.assert_array_equal(found.n_low, (~finite).sum(1))
    count = finite.sum(1)
    exact = [EXTENDED(math.fsum(row)) for row in z]
    yield "mean", share(found.mean, np.array(exact) / count, 8 * 2.0**-52 * np.abs(z).sum(1) / count + 1e-320)


INNER_LAWS = {"evaluation": evaluation_shares, "temperature": objective_shares, "spread": spread_shares}


def all_shares(known, laws=(*LAWS, *INNER_LAWS)):
    for law in laws:
        if law in LAWS:
            yield from ((f"{law}, {path}", value) for path, value in shares_of_law(law, known))
        elif law != "temperature" or known.sample.dtype.itemsize > 2:  # a fit reads float32 and float64
            yield from ((f"{law}, {path}", value) for path, value in INNER_LAWS[law](known))


FEW = {1: 22, 2: 44, 10: 66, 16: 44, 24: 44, 25: 44, 100: 22, 1000: 11}


@functools.cache
def few(dtype, k):
    """Rows of every kind against 50 digits."""
    with mpmath.workdps(50):
        return Known(Sample(1, FEW[k], k, DTYPES[dtype]), Digits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", [*LAWS, *INNER_LAWS])
def test_every_kernel_keeps_its_budget(law, dtype):
    for k in SIZES:
        for path, value in all_shares(few(dtype, k), (law,)):
            assert value <= 1, (path, k)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_of_the_campaign_is_right(dtype):
    """Its own error is below a hundredth of every budget; and its formulas agree with the definition at 420 digits."""
    for k in SIZES:
        known = few(dtype, k)
        for one, other in zip(Known(known.sample).exact, known.exact, strict=True):
            budgets = known.budgets[id(other)]
            for name in ("p", "log_p", "logsumexp", "loss", "entropy", "gradient", "brier", "slope", "curvature"):
                assert share(getattr(one, name), getattr(other, name), getattr(budgets, name)) < 0.01, (name, k)
    s = Sample(2, 33, 10, DTYPES[dtype])
    exact = Exact(s, s.temperatures)
    for r in range(s.n):
        possible = s.z[r] > -INF
        by_definition = exact_log_softmax(s.z[r][possible], s.temperatures[r])
        with mpmath.workdps(420):
            for value, wanted in zip(exact.log_p[r][possible], by_definition, strict=True):
                assert abs(float(value) - float(wanted)) <= 2.0**-52 * abs(float(wanted)) + s.tiny


def naive_log(z, **options):
    return np.log(sa.softmax(z, **options))


def summed_one_by_one(z, **options):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / np.cumsum(e, axis=1, dtype=e.dtype)[:, -1:]


def without_the_maximum(z, y, axis):
    return np.log(np.exp(z).sum(axis))


def gradient_by_difference(z, y):
    return sa.softmax(z) - np.eye(z.shape[1], dtype=z.dtype)[y]


BROKEN = {
    "softmax": lambda s, exact, _: [("", summed_one_by_one(s.logits), exact)],
    "log_softmax": lambda s, exact, _: [("", naive_log(s.logits), exact)],
    "logsumexp": lambda s, exact, _: [("", without_the_maximum(s.logits, s.labels, 1), exact)],
    "log_prob": lambda s, exact, _: [("", -naive_log(s.logits)[np.arange(s.n), s.labels], exact)],
    "cross_entropy": lambda s, exact, _: [("", sa.logsumexp(s.logits) - s.logits[np.arange(s.n), s.labels], exact)],
    "gradient": lambda s, exact, _: [("", gradient_by_difference(s.logits, s.labels), exact)],
    "entropy": lambda s, exact, _: [
        ("", sa.logsumexp(s.logits) - (sa.softmax(s.logits) * np.maximum(s.logits, -1e30)).sum(1), exact)
    ],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("law", LAWS)
def test_every_law_rejects_a_broken_kernel(law, dtype, monkeypatch):
    monkeypatch.setitem(LAWS, law, (LAWS[law][0], BROKEN[law]))
    with np.errstate(all="ignore"):
        found = []
        for k in SIZES:
            try:
                found += [value for _, value in all_shares(few(dtype, k), (law,))]
            except AssertionError:  # an infinity or NaN in the wrong place
                found.append(INF)
    assert not max(found) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_terms_just_too_small_to_be_added_to_one(place, dtype):
    """The worst case of a sum: each term is below half of the last place of 1 and is lost where it is added to 1."""
    dtype = DTYPES[dtype]
    eps = float(np.finfo(dtype).eps)
    for k in [*range(2, 34), 100, 500, 993, 1000, 1023, 1024, 1025, 4100]:
        z = np.full((1, k), math.log(0.499999 * eps), dtype)
        at = {"first": 0, "middle": k // 2, "last": k - 1}[place]
        z[0, at] = 0
        p = 1 / (1 + (k - 1) * np.exp(z[0, at - 1].astype(EXTENDED)))
        for found in (sa.softmax(z)[0, at], sa.softmax(z, temperature=np.ones((1, 1)))[0, at]):
            assert abs(found.astype(EXTENDED) - p) <= (8 + math.log(k)) * eps * p, k


EDGE_SIZES = (3, 24, 25, 100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", EDGE_SIZES)
def test_every_edge_row(k, dtype):
    rows = [row for row, *_ in EDGE_ROWS.values()]
    cold = [row for _, row, _ in EDGE_TEMPERATURES.values()]
    temperatures = np.array([1.0] * len(rows) + [abs(t) for t, *_ in EDGE_TEMPERATURES.values()])[:, None]
    z = np.full((len(rows) + len(cold), k), -INF)
    z[:, :2], z[:, -1] = np.array(rows + cold)[:, :2], np.array(rows + cold)[:, 2]
    logits = z.astype(DTYPES[dtype])
    z = logits.astype(np.float64)
    for axis, given in ((-1, logits), (0, logits.T)):
        t = temperatures if axis else temperatures.T

        def of(op, given=given, axis=axis, **options):
            found = op(given, axis=axis, **options)
            return found.T if axis == 0 else found  # .T of numbers is themselves

        computed = "float64" if dtype == "float64" else "float32"
        with np.errstate(all="ignore"):
            p, log_p = definitions.softmax(z, None, temperatures), definitions.log_softmax(z, None, temperatures)
            close(of(sa.softmax, temperature=t), p, dtype, budget=12)
            close(of(sa.log_softmax, temperature=t), log_p, dtype, budget=12)
            close(of(sa.logsumexp), definitions.logsumexp(z), computed, budget=12)
            close(of(sa.entropy), definitions.entropy(z), computed, budget=20)


# ---- the campaign ----

MANY = {1: 5_000, 2: 15_000, 10: 25_000, 16: 15_000, 24: 15_000, 25: 15_000, 100: 8_000, 1000: 2_000}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_100_000_rows_of_each_dtype(dtype):
    worst = {}
    for k, n in MANY.items():
        for seed in range(0, n, 1000):
            known = Known(Sample(1000 + seed, min(1000, n), k, DTYPES[dtype]))
            for path, value in all_shares(known):
                worst[path] = max(worst.get(path, (0, 0)), (value, k))
    for path, (value, k) in worst.items():
        print(f"{dtype:9} {path:28} {value:.3f} of its budget, at K = {k}")
    assert max(worst.values())[0] <= 1
