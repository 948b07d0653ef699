"""Gradients of every op by autograd: the formula, which is the finite difference, and exact zeros at the edges."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import pytest

import softargmax as sa
from softargmax import ops
from tests.cases import definitions, libraries
from tests.cases.cross_entropy import coefficients, reduced, reference
from tests.cases.libraries import DIFFERENTIABLE, EPS, TINY, computed, rounded, spacing
from tests.cases.ops import OPS, edge_rows

INF, NAN = math.inf, math.nan
EVERY = libraries.typed(DIFFERENTIABLE)
# one dtype of each arithmetic is enough where a library compiles
SINGLE = libraries.typed(DIFFERENTIABLE, ("float32",))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The formulas of an op: a pair (gradient, where it is 0 by rule) for each argument that is differentiated."""

    formulas: Callable
    at: tuple[int | str, ...] = (0,)


def _both(of_logits, z, g, mask, temperature):
    return [of_logits(z, g, mask, temperature), definitions.temperature_gradient(of_logits, z, g, mask, temperature)]


GRADIENTS = {
    "softmax": Gradient(
        lambda g, z, mask, temperature: _both(definitions.softmax_gradient, z, g, mask, temperature),
        (0, "temperature"),
    ),
    "log_softmax": Gradient(
        lambda g, z, mask, temperature: _both(definitions.log_softmax_gradient, z, g, mask, temperature),
        (0, "temperature"),
    ),
    "logsumexp": Gradient(lambda g, z, mask: [definitions.logsumexp_gradient(z, g, mask)]),
    "cross_entropy": Gradient(
        lambda g, z, y, mask, **options: [
            definitions.cross_entropy_gradient(z, coefficients(z, y, mask=mask, **options) * g[:, None], mask)
        ]
    ),
    "sigmoid": Gradient(lambda g, z: [definitions.sigmoid_gradient(z, g)]),
    "log_sigmoid": Gradient(lambda g, z: [definitions.log_sigmoid_gradient(z, g)]),
    "binary_cross_entropy": Gradient(
        lambda g, z, y, **options: [definitions.binary_cross_entropy_gradient(z, y, g, **options)]
    ),
    "softmax_jacobian": Gradient(lambda g, z: [definitions.softmax_jacobian_gradient(z, g)]),
    "entropy": Gradient(lambda g, z, mask: [definitions.entropy_gradient(z, g, mask)]),
    "kl_divergence": Gradient(lambda g, z, q, mask: definitions.kl_divergence_gradients(z, q, g, mask), (0, 1)),
    "log_prob": Gradient(lambda g, z, labels, mask: [definitions.log_prob_gradient(z, labels, g, mask)]),
    "logits_from_probs": Gradient(lambda g, p: [definitions.logits_from_probs_gradient(p, g)]),
}
WITHOUT = {
    "cross_entropy_and_grad": "is a gradient itself, and NumPy's",
    "for_sampling": "rounds to multiples of 2^-53, which has no slope",
}


def test_every_op_has_its_gradient():
    assert set(GRADIENTS) | set(WITHOUT) == set(ops.__all__)


def cotangent(shape, seed=0):
    """Numbers of either sign, none 0, exact in every dtype."""
    return np.random.default_rng(seed).choice([-1.5, -1.0, -0.25, 0.5, 0.75, 1.0, 2.0], shape)


@functools.cache
def edge_case(name, dtype):
    """Arguments on the edge rows, a cotangent, and the formulas."""
    op = OPS[name]
    args, options = op.arguments(*edge_rows(dtype))
    args = [rounded(a, dtype) if a.dtype.kind == "f" else a for a in args]
    options = {key: rounded(a, dtype) if a.dtype.kind == "f" else a for key, a in options.items()}
    value = op.define(*args, **options)
    g = cotangent(value.shape)
    return args, options, value, g, GRADIENTS[name].formulas(g, *args, **options)


def as_function(op, where, args, options):
    """The op as a function of the arguments that are differentiated."""

    def f(*inputs):
        new_args, new_options = list(args), dict(options)
        for place, value in zip(where, inputs, strict=True):
            (new_options if isinstance(place, str) else new_args)[place] = value
        return op(*new_args, **new_options)

    return f, [options[place] if isinstance(place, str) else args[place] for place in where]


def scale_of(name, place, args, options):
    """What the terms of a gradient are as large as: 1, over T once, over T twice times the gaps of the row."""
    z = args[0]
    if name in ("softmax", "log_softmax"):
        t = options["temperature"]
        t = np.where((t == 0) | (t == INF), 1.0, t)
        gap = np.max(np.where(np.isfinite(z), z, -INF), -1, keepdims=True) - np.where(np.isfinite(z), z, INF)
        gap = np.nan_to_num(np.where(np.isfinite(gap), gap, 0.0)).max(-1, keepdims=True)
        return 4 * (1 + gap / t) / t if place == "temperature" else 4 / t * (1 + 0 * gap)
    if name in ("entropy", "kl_divergence"):
        return 4e5  # log-probabilities down to -131008 multiply the gap of the row
    return 8.0


def holds(values, wanted, zero, scale, dtype, where=True, budget=64):
    np.testing.assert_array_equal(values[zero], 0)
    chosen = np.broadcast_to(where, values.shape)
    in_dtype = np.where(chosen, rounded(wanted, dtype), 0.0)
    values = np.where(chosen, values, 0.0)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(in_dtype))
    rounding = spacing(in_dtype, dtype) if dtype in ("float16", "bfloat16") else 0.0
    arithmetic = computed(dtype)
    with np.errstate(invalid="ignore"):
        allowed = rounding + budget * EPS[arithmetic] * np.broadcast_to(scale, values.shape) + TINY[arithmetic]
        wrong = np.isfinite(in_dtype) & ~(np.abs(values - in_dtype) <= allowed)
    where = np.argwhere(wrong)[:5].tolist()
    assert not wrong.any(), f"at {where}: {values[wrong][:5]} instead of {in_dtype[wrong][:5]}"


# ---- the formulas are the finite differences ----


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_formula_is_the_finite_difference(name):
    rng = np.random.default_rng(0)
    z, h = rng.standard_normal((5, 4)) * 2, 1e-5
    op = OPS[name]
    mask = rng.random((5, 4)) < 0.7
    mask[np.arange(5), np.arange(5) % 4] = True  # the labels
    args, options = op.arguments(z, mask, rng.uniform(0.5, 2, (5, 1)))
    if name == "logits_from_probs":
        args = (definitions.softmax(z / 8),)  # away from 0, where a step of h is not small
    g = cotangent(op.define(*args, **options).shape)

    def total(f, inputs):
        value = f(*inputs)
        return (np.where(np.isfinite(value), value, 0.0) * g).sum()

    f, inputs = as_function(op.define, GRADIENTS[name].at, args, options)
    for i, (gradient, zero) in enumerate(GRADIENTS[name].formulas(g, *args, **options)):
        numeric = np.zeros(inputs[i].shape)
        for at in np.ndindex(numeric.shape):
            ends = []
            for step in (h, -h):
                moved = [x.copy() for x in inputs]
                moved[i][at] += step
                ends.append(total(f, moved))
            numeric[at] = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(gradient, numeric, atol=1e-8, rtol=1e-8)
        np.testing.assert_array_equal(numeric[zero], 0)


SECONDS = {
    "softmax": lambda g, v, z, mask, temperature: definitions.softmax_second(z, g, v, mask, temperature),
    "log_softmax": lambda g, v, z, mask, temperature: definitions.log_softmax_second(z, g, v, mask, temperature),
    "logsumexp": lambda g, v, z, mask: definitions.logsumexp_second(z, g, v, mask),
    "cross_entropy": lambda g, v, z, y, mask, **options: definitions.cross_entropy_second(
        z, coefficients(z, y, mask=mask, **options) * g[:, None], v, mask
    ),
}


@pytest.mark.parametrize("name", SECONDS)
def test_the_second_formula_is_the_finite_difference_of_the_first(name):
    rng = np.random.default_rng(0)
    z, v, h = rng.standard_normal((5, 4)) * 2, rng.standard_normal((5, 4)), 1e-5
    mask = rng.random((5, 4)) < 0.7
    mask[np.arange(5), np.arange(5) % 4] = True
    (_, *args), options = OPS[name].arguments(z, mask, rng.uniform(0.5, 2, (5, 1)))
    g = cotangent(OPS[name].define(z, *args, **options).shape)
    numeric = np.zeros(z.shape)
    for at in np.ndindex(z.shape):
        ends = []
        for step in (h, -h):
            moved = z.copy()
            moved[at] += step
            ends.append((GRADIENTS[name].formulas(g, moved, *args, **options)[0][0] * v).sum())
        numeric[at] = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(SECONDS[name](g, v, z, *args, **options)[0], numeric, atol=1e-8)


# ---- autograd is the formula, edges included ----


def check_gradients(library, name, dtype, compiled):
    op, gradient = OPS[name], GRADIENTS[name]
    args, options, value, g, wanted = edge_case(name, dtype)
    g = library.array(g, op.result_dtype(dtype))
    f, inputs = as_function(op, gradient.at, *op.converted(library, dtype, args, options))
    actual = library.vjp(f, inputs, g, compiled=compiled)
    # an infinite divergence has no gradient, a divergence of nothing neither
    where = np.isfinite(value)[:, None] if name == "kl_divergence" else True
    for place, values, (formula, zero) in zip(gradient.at, actual, wanted, strict=True):
        assert isinstance(values, library.array_type)
        assert library.dtype(values) == dtype
        holds(library.numpy(values), formula, zero, scale_of(name, place, args, options), dtype, where)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(("of", "dtype"), EVERY)
def test_gradients_at_the_edges(name, of, dtype):
    library = libraries.get(of)
    with library.precision(dtype):
        check_gradients(library, name, dtype, compiled=False)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(("of", "dtype"), SINGLE)
def test_gradients_at_the_edges_where_the_library_compiles(name, of, dtype):
    check_gradients(libraries.get(of), name, dtype, compiled=True)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(("of", "dtype"), libraries.typed(DIFFERENTIABLE, ("float32", "float64")))
def test_second_derivatives_at_the_edges(name, of, dtype):
    library = libraries.get(of)
    op = OPS[name]
    args, options, _, g, _ = edge_case(name, dtype)
    v = cotangent(args[0].shape, seed=1)
    wanted, zero = SECONDS[name](g, v, *args, **options)
    with library.precision(dtype):
        f, inputs = as_function(op, GRADIENTS[name].at, *op.converted(library, dtype, args, options))
        g = library.array(g, op.result_dtype(dtype))
        actual = library.second(f, inputs, g, library.array(v, dtype))
    scale = 16.0
    if name in ("softmax", "log_softmax"):
        t = options["temperature"]
        scale = 16.0 / np.where((t == 0) | (t == INF), 1.0, t) ** 2
    holds(library.numpy(actual[0]), wanted, zero, scale, dtype)
    for values in actual[1:]:  # at the temperature: a number wherever the row has a gradient that is one
        assert np.all(np.isfinite(library.numpy(values)[~np.isnan(wanted).any(-1)]))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "log_prob", "entropy"])
@pytest.mark.parametrize(("of", "dtype"), SINGLE)
def test_forward_mode_is_dual_to_the_gradient(name, of, dtype):
    """<jvp(v), g> = <v, vjp(g)>, row by row, at the edges too."""
    library, op = libraries.get(of), OPS[name]
    args, options, value, g, wanted = edge_case(name, dtype)
    f, inputs = as_function(op, (0,), *op.converted(library, dtype, args, options))
    v = cotangent(args[0].shape, seed=1)
    pushed = library.numpy(library.jvp(f, inputs, [library.array(v, dtype)]))
    one = np.where(wanted[0][1], 0.0, v * wanted[0][0]).sum(-1)
    usual = np.isfinite(args[0]).all(-1) & options["mask"].all(-1)
    other = (g * pushed).reshape(len(one), -1).sum(-1)
    scale = scale_of(name, 0, args, options) * 16
    holds(other[:, None], one[:, None], np.zeros((len(one), 1), bool), scale, dtype, usual[:, None])
    # nothing invented at the edges: NaN only where the row has one
    nan = np.isnan(value).reshape(len(one), -1).any(-1)
    assert not np.isnan(pushed.reshape(len(one), -1)[~nan]).any()


# ---- cross-entropy: the whole product of its options, and sums over rows ----


def cross_entropy_options():
    for kind in ("labels", "targets"):
        for masked in (False, True):
            for by_class in (False, True):
                for weighted in (False, True):
                    for ignore in (None, 3, -100) if kind == "labels" else (None,):
                        for smoothing in (0.0, 0.1, 1.0):
                            yield kind, masked, by_class, weighted, ignore, smoothing


def cross_entropy_case(kind, masked, by_class, weighted, ignore, smoothing, dtype, n=7, k=5):
    rng = np.random.default_rng(0)
    z = rounded(rng.standard_normal((n, k)) * 3, dtype)
    y = rng.integers(0, k, n) if kind == "labels" else rounded(rng.dirichlet(np.ones(k), n), dtype)
    if ignore == -100:
        y[4] = -100
    mask = rng.random((n, k)) < 0.7
    mask[1] = False
    mask[2] = True
    arrays = {
        "mask": mask if masked else None,
        "class_weights": rounded([0, 0.5, 1, 1.5, 2], dtype) if by_class else None,
        "weights": rounded(np.arange(n) % 4, dtype) if weighted else None,
    }
    given = {key: a for key, a in arrays.items() if a is not None}
    return z, y, given, {"ignore_index": ignore, "label_smoothing": smoothing}


def check_cross_entropy(library, dtype, result, gradient, z, y, options, reduction):
    losses, totals = reference(z, y, **options)
    wanted = reduced(losses, totals, reduction)
    values = library.numpy(result)
    assert library.dtype(result) == computed(dtype)
    np.testing.assert_allclose(values, wanted, rtol=64 * EPS[computed(dtype)])
    if gradient is None:
        return
    denominator = totals.sum() if reduction == "mean" else 1.0
    mask = options.get("mask")
    formula, zero = definitions.cross_entropy_gradient(z, coefficients(z, y, **options), mask)
    holds(library.numpy(gradient), formula / denominator, zero, 8.0, dtype)


def test_cross_entropy_over_the_whole_product_of_options(library):
    """Losses of rows for all of it; reductions and gradients for every fifth, which holds each option with each."""
    dtype = "float32"
    for i, case in enumerate(cross_entropy_options()):
        z, y, arrays, static = cross_entropy_case(*case, dtype)
        (rows, *rest), options = OPS["cross_entropy"].converted(library, dtype, (z, y), arrays)
        for reduction in ("none", "mean", "sum") if i % 5 == 0 else ("none",):

            def loss(array, rest=rest, options=options | static, reduction=reduction):
                return sa.cross_entropy(array, *rest, reduction=reduction, **options)

            gradient = None
            if library.name in DIFFERENTIABLE and reduction != "none":
                (gradient,) = library.vjp(loss, [rows], library.array(np.array(1.0), dtype))
            check_cross_entropy(library, dtype, loss(rows), gradient, z, y, arrays | static, reduction)


@pytest.mark.parametrize(("of", "dtype"), libraries.typed(dtypes=("float16", "bfloat16", "float64")))
def test_cross_entropy_in_the_other_dtypes(of, dtype):
    library = libraries.get(of)
    with library.precision(dtype):
        for case in (("labels", True, True, True, 3, 0.1), ("targets", True, True, True, None, 0.1)):
            z, y, arrays, static = cross_entropy_case(*case, dtype)
            args, converted = OPS["cross_entropy"].converted(library, dtype, (z, y), arrays)

            def loss(array, rest=args[1:], options=converted | static):
                return sa.cross_entropy(array, *rest, **options)

            loss = library.quick(loss)
            result, gradient = loss(args[0]), None
            if library.name in DIFFERENTIABLE:
                (gradient,) = library.vjp(loss, args[:1], library.array(np.array(1.0), computed(dtype)))
            check_cross_entropy(library, dtype, result, gradient, z, y, arrays | static, "mean")


@pytest.mark.parametrize(("of", "dtype"), SINGLE)
def test_cross_entropy_compiled_with_its_options(of, dtype):
    """Every option on and off, and with each other, in one function."""
    library = libraries.get(of)
    cases = [case for i, case in enumerate(cross_entropy_options()) if i % 13 == 0]
    built = [cross_entropy_case(*case, dtype) for case in cases]
    ready = [OPS["cross_entropy"].converted(library, dtype, (z, y), arrays) for z, y, arrays, _ in built]

    def losses(arguments):
        return [
            sa.cross_entropy(z, y, **options, **static)
            for ((z, y), options), (*_, static) in zip(arguments, built, strict=True)
        ]

    for result, (z, y, arrays, static) in zip(library.compiled(losses)(ready), built, strict=True):
        check_cross_entropy(library, dtype, result, None, z, y, arrays | static, "mean")


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_a_mean_over_nothing_has_the_gradient_zero(of):
    library = libraries.get(of)
    z = library.array(np.array([[1.0, 2.0], [NAN, INF]]), "float32")
    labels, nothing = library.array(np.array([-1, -1])), library.array(np.zeros((2, 2), bool))
    one = library.array(np.array(1.0), "float32")
    for empty, wanted in (("zero", 0.0), ("nan", NAN)):
        for loss in (
            lambda z, empty=empty: sa.cross_entropy(z, labels, ignore_index=-1, empty=empty),
            lambda z, empty=empty: sa.cross_entropy(z, [0, 1], mask=nothing, empty=empty),
            lambda z, empty=empty: sa.binary_cross_entropy(z, [[0, 1], [0, 1]], mask=nothing, empty=empty),
        ):
            loss = library.quick(loss)
            np.testing.assert_array_equal(library.numpy(loss(z)), wanted)
            np.testing.assert_array_equal(library.numpy(library.vjp(loss, [z], one)[0]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no row counts|over nothing"):
        sa.cross_entropy(z, labels, ignore_index=-1, empty="raise")


# ---- what is learned beside the logits ----


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_coefficients_of_0_have_the_gradient_of_their_neighbours(of):
    """By a weight it is the loss at weight 1, by a target the score: also where a coefficient is 0."""
    library = libraries.get(of)
    z = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]])
    nll = -definitions.log_softmax(z)
    rows, labels, one = library.array(z, "float32"), library.array(np.array([0, 1])), library.array(1.0, "float32")
    y = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    targets = library.array(y, "float32")
    positive, negative = -definitions.log_sigmoid(z), -definitions.log_sigmoid(-z)
    cases = [
        (lambda w: sa.cross_entropy(rows, labels, weights=w, reduction="sum"), np.zeros(2), nll[[0, 1], [0, 1]]),
        (
            lambda c: sa.cross_entropy(rows, labels, class_weights=c, reduction="sum"),
            np.array([0.0, 1.0, 0.0]),
            [nll[0, 0], nll[1, 1], 0.0],
        ),
        (
            lambda w: sa.binary_cross_entropy(rows, targets, weights=w, reduction="sum"),
            np.zeros((2, 3)),
            np.where(y == 1, positive, negative),
        ),
        (
            lambda c: sa.binary_cross_entropy(rows, targets, pos_weight=c, reduction="sum"),
            np.zeros(3),
            (y * positive).sum(0),
        ),
        (lambda t: sa.binary_cross_entropy(rows, t, reduction="sum"), y, -z),
    ]
    for f, at, wanted in cases:
        (gradient,) = library.vjp(library.quick(f), [library.array(at, "float32")], one)
        np.testing.assert_allclose(library.numpy(gradient), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_an_ignored_row_of_nan_has_no_gradient_at_all(of):
    library = libraries.get(of)
    z = library.array(np.array([[NAN, 1.0], [0.0, 2.0]]), "float32")
    labels, one = library.array(np.array([0, 1])), library.array(1.0, "float32")
    f = library.quick(lambda z, w: sa.cross_entropy(z, labels, weights=w, reduction="sum"))
    at_z, at_w = library.vjp(f, [z, library.array(np.array([0.0, 0.0]), "float32")], one)
    np.testing.assert_array_equal(library.numpy(at_z), np.zeros((2, 2)))
    np.testing.assert_allclose(library.numpy(at_w), [0.0, math.log1p(math.exp(-2))], rtol=1e-5)


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_a_temperature_near_0_is_the_rule_of_0(of):
    library = libraries.get(of)
    z = library.array(np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 1.0]]), "float32")
    for t in (1e-20, 1e-30, 1e-38, 1e-45):
        f = library.quick(lambda z, t: sa.softmax(z, temperature=t))
        column = library.array(np.full((2, 1), t), "float32")
        np.testing.assert_array_equal(library.numpy(f(z, column)), [[0, 0, 1], [0.5, 0.5, 0]])
        g = library.array(np.arange(6.0).reshape(2, 3), "float32")
        _, at_t = library.vjp(f, [z, column], g)
        np.testing.assert_array_equal(library.numpy(at_t), np.zeros((2, 1)))


# ---- temperatures that are learned ----


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax])
@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_the_gradient_of_a_temperature_has_its_shape(op, of):
    library = libraries.get(of)
    rng = np.random.default_rng(0)
    z, g = rounded(rng.standard_normal((2, 3, 4)), "float32"), cotangent((2, 3, 4))
    formula = getattr(definitions, f"{op.__name__}_gradient")
    arrays = library.array(z, "float32"), library.array(g, "float32")
    for shape in ((), (1,), (3, 1), (2, 1, 1), (2, 3, 1)):
        t = rounded(rng.uniform(0.5, 2, shape), "float32")
        full = np.broadcast_to(t, (2, 3, 1)).reshape(6, 1)
        per_row, _ = definitions.temperature_gradient(formula, z.reshape(6, 4), g.reshape(6, 4), None, full)
        wanted = per_row.reshape(2, 3, 1)
        wanted = wanted.sum(tuple(range(3 - t.ndim)))
        wanted = wanted.sum(tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True)
        f = library.quick(lambda t: op(arrays[0], temperature=t))
        (actual,) = library.vjp(f, [library.array(t, "float32")], arrays[1])
        assert library.numpy(actual).shape == shape
        np.testing.assert_allclose(library.numpy(actual), wanted.reshape(shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_a_temperature_is_learned(of):
    """Along the slope at its log: the value that a sweep over temperatures finds."""
    library = libraries.get(of)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 5)) * 4
    labels = (z / 2.5 + rng.gumbel(size=z.shape)).argmax(-1)
    rows, y = library.array(z, "float32"), library.array(labels)

    def nll(log_t):
        exp = library.xp.exp if of != "jax" else library.xp.numpy.exp
        log_p = sa.log_softmax(rows, temperature=exp(log_t))
        return sa.cross_entropy(log_p, y)  # log-probabilities are logits

    nll = library.quick(nll)
    low, high, one = -1.0, 2.0, library.array(np.array(1.0), "float32")
    for _ in range(10):  # the loss is convex in 1 / T: follow the sign of the slope
        middle = (low + high) / 2
        (slope,) = library.vjp(nll, [library.array(np.array(middle), "float32")], one)
        low, high = (middle, high) if library.numpy(slope) < 0 else (low, middle)
    sweep = np.exp(np.linspace(-1, 2, 601))
    best = min(sweep, key=lambda t: -definitions.log_softmax(z / t)[np.arange(400), labels].mean())
    assert math.exp(middle) == pytest.approx(best, rel=0.01)


# ---- a gradient of its own invention is found out ----


def inline_softmax(library):
    """exp(z) / sum(exp(z)) with masked entries at -inf: what people write."""
    xp = library.xp.numpy if library.name == "jax" else library.xp

    def f(z, mask, temperature):
        z = xp.where(mask, z, -INF) / temperature
        e = xp.exp(z - (xp.amax(z, -1, keepdims=True) if library.name == "torch" else xp.max(z, -1, keepdims=True)))
        return e / e.sum(-1, keepdims=True)

    return f


@pytest.mark.parametrize("of", ["torch", "jax"])
def test_the_edges_reject_the_softmax_that_people_write(of):
    library = libraries.get(of)
    args, options, _, g, wanted = edge_case("softmax", "float32")
    (z,), options = OPS["softmax"].converted(library, "float32", args, options)
    f = functools.partial(inline_softmax(library), **options)
    (actual,) = library.vjp(f, [z], library.array(g, "float32"))
    with pytest.raises(AssertionError):
        holds(library.numpy(actual), *wanted[0], 4e3, "float32")
