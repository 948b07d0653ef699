"""The shipped reference: that it is what the script computes, and that the script computes the right thing."""

import math

import mpmath
import numpy as np
import pytest

from softargmax import ops
from softargmax.parity import cases
from tests.cases.cross_entropy import reduced, reference
from tests.cases.rows import row_log_probability
from tools import make_parity_reference as script

EPS = np.finfo(np.float64).eps


def test_the_file_is_what_the_script_computes():
    assert script.TARGET.read_text("utf-8") == script.text()


def test_there_are_200_cases_of_every_op_and_dtype():
    assert len(cases()) == 200
    assert {case.op for case in cases()} == set(ops.__all__)
    assert {case.dtype for case in cases()} == {"float16", "bfloat16", "float32", "float64"}
    assert len({(case.op, case.name, case.dtype) for case in cases()}) == 200
    differentiated = {case.op for case in cases() if case.cotangent is not None}
    assert differentiated == {"softmax", "log_softmax", "logsumexp", "cross_entropy", "binary_cross_entropy"}


def test_inputs_are_numbers_of_their_dtype():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for case in cases():
        dtype = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else case.dtype
        for x in (*case.arguments, *case.options.values(), case.cotangent):
            if isinstance(x, np.ndarray) and x.dtype == np.float64:
                np.testing.assert_array_equal(x.astype(dtype).astype(np.float64), x, err_msg=case.name)


def test_edges_are_what_has_no_arithmetic():
    for case in cases():
        for result in case.results:
            named = ~np.isfinite(result.exact) | ((result.exact == 0) & (result.budget == 0))
            assert np.all(result.edge[named])
            assert np.all(result.budget[~named] > 0)
            assert np.all(result.budget[named] == 0)


def test_rounding_is_that_of_ieee():
    numbers = np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-50, 50).repeat(20)
    with np.errstate(over="ignore"):
        for dtype in ("float16", "float32"):
            found = [script.rounded(float(x), dtype) for x in numbers]
            np.testing.assert_array_equal(found, numbers.astype(dtype).astype(np.float64))
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    float32 = numbers[np.abs(numbers) < 1e38].astype(np.float32)
    found = [script.rounded(float(x), "bfloat16") for x in float32]
    np.testing.assert_array_equal(found, float32.astype(bfloat16).astype(np.float64))


def of(*names):
    return [case for case in cases() if case.op in names and case.cotangent is None and "axis" not in case.options]


def rows_of(case):
    """The rows with their masks and temperatures."""
    z = case.arguments[0]
    mask = np.broadcast_to(case.options.get("mask", True), z.shape).reshape(-1, z.shape[-1])
    t = np.broadcast_to(case.options.get("temperature", 1.0), (*z.shape[:-1], 1)).reshape(-1)
    return zip(z.reshape(-1, z.shape[-1]), mask, t, strict=True)


def as_dtype(values, dtype):
    """What is beyond the largest number of a dtype is infinite."""
    top = {"float16": 65520.0, "bfloat16": 3.396e38, "float32": 3.4028236e38, "float64": math.inf}[dtype]
    return np.where(np.abs(values) >= top, np.copysign(np.inf, values), values)


@np.errstate(over="ignore")  # the largest numbers
@pytest.mark.parametrize(
    "case",
    [case for case in of("softmax", "log_softmax") if case.arguments[0].size],
    ids=lambda case: f"{case.op} {case.name} {case.dtype}",
)
def test_softmax_is_that_of_a_float64_loop(case):
    (result,) = case.results
    for (z, mask, t), exact in zip(rows_of(case), result.exact.reshape(-1, *result.exact.shape[-1:]), strict=True):
        if len(z) > 2000:
            np.testing.assert_array_equal(exact, np.resize(exact[:64], exact.shape))
            z, mask, exact, repeats = z[:64], mask[:64], exact[:64], len(z) / 64
        else:
            repeats = 1
        if t == 0:
            z = np.where(z == np.where(mask, z, -np.inf).max(), 0.0, np.where(np.isnan(z), z, -np.inf))
        elif t == np.inf:
            z = np.where(np.isfinite(z), 0.0, z)
        else:
            z = z / t
        log_p = np.array(row_log_probability(z, mask)) - math.log(repeats)
        wanted = as_dtype(log_p, case.dtype) if case.op == "log_softmax" else np.exp(log_p)
        usual = np.isfinite(wanted) & (np.abs(wanted) > 1e-300)
        np.testing.assert_allclose(exact[~usual], wanted[~usual], rtol=0, atol=1e-300)
        # the loop rounds log p, and z / T before it
        size = 8 + np.abs(log_p[usual]) * (case.op == "softmax") + np.max(np.abs(z[usual]), initial=0, where=t != 1)
        assert np.all(np.abs(exact[usual] - wanted[usual]) <= 4 * EPS * size * np.abs(wanted[usual]))


@pytest.mark.parametrize("case", of("cross_entropy"), ids=lambda case: f"{case.name} {case.dtype}")
def test_cross_entropy_is_that_of_a_float64_loop(case):
    options = dict(case.options)
    reduction = options.pop("reduction", "mean")
    losses, totals = reference(*case.arguments, **options)
    np.testing.assert_allclose(case.results[0].exact, reduced(losses, totals, reduction), rtol=1e-13)


def naive(row):
    """exp(z) / sum(exp(z)) as it is written down, with digits to spare."""
    e = [mpmath.exp(mpmath.mpf(float(x))) if x > -np.inf else mpmath.mpf(0) for x in row]
    return [x / mpmath.fsum(e) for x in e]


NAIVE = {
    "logsumexp": lambda z: mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(x))) for x in z if x > -np.inf)),
    "entropy": lambda z: -mpmath.fsum(p * mpmath.log(p) for p in naive(z) if p),
    "kl_divergence": lambda z, q: mpmath.fsum(
        a * mpmath.log(a / b) if b else mpmath.inf for a, b in zip(naive(z), naive(q), strict=True) if a
    ),
    "log_prob": lambda z, label: mpmath.log(naive(z)[label]),
    "softmax_jacobian": lambda z: [
        [p * ((i == j) - q) for j, q in enumerate(naive(z))] for i, p in enumerate(naive(z))
    ],
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-mpmath.mpf(float(z)))),
    "log_sigmoid": lambda z: -mpmath.log(1 + mpmath.exp(-mpmath.mpf(float(z)))),
}  # fmt: skip


@pytest.mark.parametrize("op", NAIVE)
def test_the_other_ops_are_their_definitions(op):
    seen = 0
    for case in of(op):
        logits, *rest = case.arguments
        if "mask" in case.options or logits.size > 5000 or np.abs(logits[np.isfinite(logits)]).max(initial=0) > 1000:
            continue
        k = None if op.endswith("sigmoid") else logits.shape[-1]
        if k == 0:
            continue
        rows = logits.reshape(-1, k) if k else logits.reshape(-1)
        others = [x.reshape(-1, k) if x.shape == logits.shape and k else x.reshape(-1) for x in rest]
        results = case.results[0].exact.reshape(len(rows), -1)
        for row, result, *beside in zip(rows, results, *others, strict=True):
            if np.isnan(row).any() or (row == np.inf).any() or np.all(row == -np.inf):
                continue
            if any(np.isnan(x).any() for x in beside):
                continue
            with mpmath.workdps(400):
                wanted = np.array(NAIVE[op](row, *beside), dtype=object)
            np.testing.assert_allclose(result, wanted.astype(np.float64).reshape(-1), rtol=4e-16, err_msg=case.name)
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize(
    "case",
    [case for case in cases() if case.cotangent is not None and case.op != "binary_cross_entropy"],
    ids=lambda case: f"{case.op} {case.name} {case.dtype}",
)
def test_gradients_are_differences_of_the_definition(case):
    """Central differences of <g, f(z)> with 100 digits, row by row, where nothing but numbers is about."""
    logits = case.arguments[0]
    gradient = case.results[0].exact
    if case.options.get("temperature") in (0.0, math.inf):
        assert not gradient.any()
        return
    mask = np.broadcast_to(case.options.get("mask", True), logits.shape)
    g = case.cotangent if case.cotangent.ndim else np.full(len(logits), case.cotangent)
    scale = 1 / len(logits) if case.op == "cross_entropy" and "reduction" not in case.options else 1.0
    compared = 0
    for i, row in enumerate(logits):
        inside = mask[i] & ~(row == -np.inf)
        if not inside.any() or not np.isfinite(row[inside]).all():
            continue
        places = list(np.flatnonzero(inside))

        def value(z, i=i, places=places):
            p = [mpmath.exp(x / case.options.get("temperature", 1.0)) for x in z]
            total = mpmath.fsum(p)
            if case.op == "logsumexp":
                return g[i] * mpmath.log(total)
            if case.op == "cross_entropy":
                label = int(case.arguments[1][i])
                # a label outside pulls nothing down: what is left of the gradient is p
                return g[i] * scale * (mpmath.log(total) - (z[places.index(label)] if label in places else 0))
            one = (lambda x: x) if case.op == "softmax" else mpmath.log
            return mpmath.fsum(float(g[i][j]) * one(x / total) for j, x in zip(places, p, strict=True))

        with mpmath.workdps(100):
            z = [mpmath.mpf(float(row[j])) for j in places]
            h = mpmath.mpf(10) ** -40
            for n, j in enumerate(places):
                up, down = ([x + s * h * (m == n) for m, x in enumerate(z)] for s in (1, -1))
                wanted = float((value(up) - value(down)) / (2 * h))
                np.testing.assert_allclose(gradient[i, j], wanted, rtol=4e-16, atol=1e-30)
                compared += 1
        np.testing.assert_array_equal(gradient[i][~inside], 0)
    assert compared >= 8
