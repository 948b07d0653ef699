"""What every op says, over `ops.__all__`, libraries, dtypes, axes and layouts; each law rejects one that breaks it."""

import functools
import math

import mpmath
import numpy as np
import pytest

import softargmax as sa
from softargmax import ops
from softargmax.backends import backend_of
from tests.cases import definitions, libraries
from tests.cases.compare import agrees, close
from tests.cases.libraries import EPS, TINY, computed, rounded, spacing
from tests.cases.ops import EVERYWHERE, OPS, edge_rows
from tests.cases.rows import EDGE_ROWS, EDGE_TEMPERATURES, exact_log_softmax

INF, NAN = math.inf, math.nan

# a wider gap to the maximum, in float32 and in float64, is probability 0; a gap counts twice in the budget of softmax
WIDEST = {"float32": 104, "float64": 745}

every_op = pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in EVERYWHERE])


def test_every_op_has_a_case():
    assert set(OPS) == set(ops.__all__)


def first(op, result):
    """The value of an op; what comes with a gradient has it first."""
    return result[0] if op.name == "cross_entropy_and_grad" else result


def edge_budget(dtype):
    return 16 + 2 * WIDEST[computed(dtype)]


def refused_by_jax(op, library, dtype):
    """float64 results need the x64 mode of JAX."""
    return op.name == "for_sampling" and library.name == "jax" and dtype != "float64"


# ---- the edge table ----


@functools.cache
def edges(name, dtype):
    """Arguments on the edge rows and what the definition makes of them."""
    op = OPS[name]
    args, options = op.arguments(*edge_rows(dtype))
    args = [rounded(a, dtype) if a.dtype.kind == "f" else a for a in args]
    options = {key: rounded(a, dtype) if a.dtype.kind == "f" else a for key, a in options.items()}
    return args, options, op.define(*args, **options)


def test_the_definitions_say_what_the_edge_table_says():
    for row, p, log_p, total in EDGE_ROWS.values():
        z = np.array([row])
        close(definitions.softmax(z), [p], "float64")
        close(definitions.log_softmax(z), [log_p], "float64")
        close(definitions.logsumexp(z), [total], "float64")
    for temperature, row, p in EDGE_TEMPERATURES.values():
        close(definitions.softmax(np.array([row]), temperature=temperature), [p], "float64")
    nothing, lowest = np.zeros((1, 2), bool), np.array([[-INF, 1.0]])
    np.testing.assert_array_equal(definitions.softmax(lowest, nothing), [[0, 0]])
    np.testing.assert_array_equal(definitions.log_softmax(lowest, nothing), [[-INF, -INF]])
    np.testing.assert_array_equal(definitions.logsumexp(lowest, nothing), [-INF])
    np.testing.assert_array_equal(definitions.softmax(lowest, [[True, False]]), [[NAN, NAN]])


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS.values()])
def test_edges(op, typed):
    library, dtype = typed
    if op.numpy_only and library.name != "numpy":
        pytest.skip("NumPy only: another library has its own gradients, see test_ops_bad_input.py")
    if refused_by_jax(op, library, dtype):
        pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
    args, options, wanted = edges(op.name, dtype)
    args, options = op.converted(library, dtype, args, options)
    agrees(library, first(op, op(*args, **options)), wanted, op.result_dtype(dtype), edge_budget(dtype))


@every_op
@pytest.mark.parametrize(("name", "dtype"), libraries.typed(("torch", "jax", "tensorflow")))
def test_edges_where_the_library_compiles(op, name, dtype):
    library = libraries.get(name)
    with library.precision(dtype):
        if refused_by_jax(op, library, dtype):
            pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
        args, options, wanted = edges(op.name, dtype)
        args, options = op.converted(library, dtype, args, options)
        keys = tuple(options)
        compiled = library.compiled(lambda args, rest: op(*args, **dict(zip(keys, rest, strict=True))))
        result = compiled(args, tuple(options.values()))
        agrees(library, result, wanted, op.result_dtype(dtype), edge_budget(dtype))


# ---- sizes, axes, layouts, dtypes ----


@every_op
def test_one_class_no_classes_no_rows(op, library):
    if refused_by_jax(op, library, "float32"):
        pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
    for shape in ((4, 1), (3, 0), (0, 3), (0, 0)):
        z = np.array([[2.5], [-INF], [INF], [NAN]])[: shape[0], : shape[1]] if shape[1] == 1 else np.zeros(shape)
        if shape == (3, 0) and op.name in ("cross_entropy", "log_prob", "logits_from_probs", "for_sampling"):
            continue  # there is no class to name, and no distribution: see test_ops_bad_input.py
        args, options = op.arguments(z, np.ones(shape, bool), np.ones((shape[0], 1)))
        wanted = op.define(*args, **options)
        args, options = op.converted(library, "float32", args, options)
        agrees(library, op(*args, **options), wanted, op.result_dtype("float32"))


def axis_moved(value, n, k, leading, axis):
    """An argument for rows (n, K) as that for logits of shape (*leading, K) with the classes at `axis`."""
    if value.ndim == 2:
        return np.moveaxis(value.reshape(*leading, value.shape[1]), -1, axis)
    return value.reshape(leading) if value.shape == (n,) else value


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS.values()])
def test_axes(op, library):
    if op.elementwise or op.name in ("logits_from_probs", "for_sampling"):
        pytest.skip("has no axis")
    if op.numpy_only and library.name != "numpy":
        pytest.skip("NumPy only")
    rng = np.random.default_rng(0)
    leading, k = (3, 2), 4
    z = rounded(rng.standard_normal((6, k)) * 3, "float32")
    rows = op.arguments(z, rng.random((6, k)) < 0.8, rounded(rng.uniform(0.5, 2, (6, 1)), "float32"))
    wanted = op.define(*rows[0], **rows[1])
    for axis in (0, 1, -1, -3):
        place = axis % 3
        args = [axis_moved(a, 6, k, leading, place) for a in rows[0]]
        options = {key: axis_moved(a, 6, k, leading, place) for key, a in rows[1].items()}
        args, options = op.converted(library, "float32", args, options)
        result = first(op, op(*args, axis=axis, **options))
        shaped = wanted.reshape(leading + wanted.shape[1:])
        if wanted.ndim == 2:
            shaped = np.moveaxis(shaped, -1, place)  # (..., K, K) of the Jacobian stay last
        agrees(library, result, shaped, "float32")


def layouts(library, values, dtype):
    """Arrays of the same values, laid out in every way the library knows."""
    if library.name == "numpy":
        a = library.array(values, dtype)
        wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
        wide[::2, ::3] = a
        read_only = a.copy()
        read_only.flags.writeable = False
        yield from (wide[::2, ::3], np.asfortranarray(a), read_only, a[::-1, ::-1].copy()[::-1, ::-1])
        if dtype != "bfloat16":
            yield a.astype(a.dtype.newbyteorder(">"))
    elif library.name == "array_api_strict":
        yield library.array(values.T, dtype).T
        yield library.array(np.repeat(values, 2, axis=1), dtype)[:, ::2]
    elif library.name == "torch":
        yield library.array(values.T, dtype).T
        yield library.array(np.repeat(values, 2, axis=1), dtype)[:, ::2]
        yield library.array(values[:, None], dtype).expand(len(values), 1, values.shape[1])[:, 0]
        yield library.array(values, dtype).requires_grad_()
    else:
        yield library.array(values, dtype)  # these have none to choose


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS.values()])
def test_layouts(op, typed):
    library, dtype = typed
    if (op.numpy_only and library.name != "numpy") or refused_by_jax(op, library, dtype):
        pytest.skip("not here")
    rng = np.random.default_rng(0)
    z = rounded(rng.standard_normal((7, 5)) * 3, dtype)
    args, options = op.arguments(z, rng.random((7, 5)) < 0.8, rounded(rng.uniform(0.5, 2, (7, 1)), dtype))
    wanted = op.define(*args, **options)
    values = args[0]
    (_, *args), options = op.converted(library, dtype, args, options)
    for array in layouts(library, values, dtype):
        before = library.numpy(array).copy()
        agrees(library, first(op, op(array, *args, **options)), wanted, op.result_dtype(dtype))
        np.testing.assert_array_equal(library.numpy(array), before)


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS.values()])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_rows_computed_in_blocks(op, name, monkeypatch):
    """Many rows, of which some at a time are computed: what one block says, bit for bit."""
    if (op.numpy_only and name != "numpy") or op.elementwise or op.name in ("logits_from_probs", "for_sampling"):
        pytest.skip("has no blocks here")
    library = libraries.get(name)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 12)) * 3
    z[7, 2], z[20], z[33, 5] = NAN, -INF, INF
    given = op.arguments(z, rng.random((50, 12)) < 0.8, rng.uniform(0.5, 2, (50, 1)))
    args, options = op.converted(library, "float32", *given)
    results = []
    for elements in (1 << 20, 12 * 7):  # a block of all; 7 blocks of 7 rows and one
        monkeypatch.setattr(type(backend_of("z", args[0])[0]), "block_elements", elements)
        results.append(op(*args, **options))
    both = (result if isinstance(result, tuple) else (result,) for result in results)
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(library.numpy(one), library.numpy(other))


INTEGERS = ("bool", "uint8", "int32", "int8", "int16", "int64", "uint16", "uint32", "uint64")


@every_op
def test_integers_are_computed_in_the_default_float(op, library):
    if op.name in ("logits_from_probs", "for_sampling"):
        pytest.skip("takes probabilities")
    # JAX has no 64-bit integers here, and compiles every op anew for every dtype
    for dtype in INTEGERS[:3] if library.name == "jax" else INTEGERS:
        z = np.array([[0, 1, 1], [1, 0, 0]])
        args, options = op.arguments(z.astype(float), np.array([[True, True, False]] * 2), np.array([[1.0], [2.0]]))
        wanted = op.define(*args, **options)
        _, options = op.converted(library, library.default_float, (), options)
        args = [library.array(a, dtype if i == 0 or op.name == "kl_divergence" else None) for i, a in enumerate(args)]
        if op.name == "binary_cross_entropy":
            args[1] = library.array(op.arguments(z.astype(float), None, None)[0][1], library.default_float)
        agrees(library, op(*args, **options), wanted, library.default_float)


@every_op
def test_one_row_is_one_of_a_batch(op, library):
    if refused_by_jax(op, library, "float32"):
        pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
    args, options = op.arguments(
        np.array([[0.0, 1.0, -INF, 2.5]]), np.array([[True, True, True, False]]), np.ones((1, 1))
    )
    wanted = op.define(*args, **options)[0]
    # without the dimension of rows; what one row has no need of is a number
    alone = {key: a if a.ndim == 0 or key == "class_weights" else a[0] for key, a in options.items()}
    args, options = op.converted(library, "float32", [a[0] for a in args], alone)
    agrees(library, op(*args, **options), wanted, op.result_dtype("float32"))


@pytest.mark.parametrize("op", [sa.sigmoid, sa.log_sigmoid])
def test_one_number_has_a_sigmoid(op, typed):
    library, dtype = typed
    wanted = getattr(definitions, op.__name__)(rounded(np.array(0.75), dtype))
    agrees(library, op(library.array(np.array(0.75), dtype)), wanted, dtype)


def test_lists_and_numbers_beside_the_logits_join_their_library(library):
    z = library.array(np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 3.0]]), "float32")
    p = sa.softmax(z, mask=[[True, True, False]], temperature=[[2.0], [1.0]])
    wanted = definitions.softmax(np.array([[1.0, 2, 3], [1, 0, 3]]), [[True, True, False]], [[2.0], [1.0]])
    agrees(library, p, wanted, "float32")
    loss = sa.cross_entropy(z, [0, 2], class_weights=[1, 2, 3], weights=[1.0, 0.5])
    both = definitions.log_prob(np.array([[1.0, 2, 3], [1, 0, 3]]), [0, 2])
    agrees(library, loss, -(both[0] + 1.5 * both[1]) / 2.5, "float32")
    agrees(library, sa.log_prob(z, [0, 2]), both, "float32")
    y = [[1, 0, 1], [0, 0, 1]]
    wanted = definitions.binary_cross_entropy(np.array([[1.0, 2, 3], [1, 0, 3]]), y).sum()
    agrees(library, sa.binary_cross_entropy(z, y, reduction="sum"), wanted, "float32")


def test_options_of_another_float_dtype_do_not_change_that_of_the_result(typed):
    library, dtype = typed
    z = library.array(np.array([[1.0, 2.0], [0.5, 0.25]]), dtype)
    for other in libraries.FLOATS[library.name]:
        if library.name == "jax" and other == "float64" != dtype:
            continue
        t, w = library.array(np.array([[2.0], [0.5]]), other), library.array(np.array([1.0, 3.0]), other)
        assert library.dtype(sa.softmax(z, temperature=t)) == dtype
        loss = sa.cross_entropy(z, library.array(np.array([0, 1])), weights=w)
        assert library.dtype(loss) == computed(dtype)
        targets = library.array(np.array([[1.0, 0.0], [0.5, 0.5]]), other)
        assert library.dtype(sa.cross_entropy(z, targets, class_weights=w)) == computed(dtype)


def test_a_list_has_the_dtype_of_the_logits_beside_it(library):
    p, q = np.array([1.0, 2.0]), [2.0, 0.0]
    wanted = definitions.kl_divergence(p[None], np.array([q]))[0]
    agrees(library, sa.kl_divergence(library.array(p, "float32"), q), wanted, "float32")


def test_weights_beyond_the_range_of_the_dtype(library):
    z = library.array(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]]), "float32")
    plain = library.numpy(sa.cross_entropy(z, [0, 1]))
    for weight in (1e39, 1e-46, 1e300):
        mean = library.numpy(sa.cross_entropy(z, [0, 1], weights=[weight, weight]))
        np.testing.assert_allclose(mean, plain, rtol=1e-6)
        y = [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
        mean = library.numpy(sa.binary_cross_entropy(z, y, weights=[[weight] * 3]))
        np.testing.assert_allclose(mean, library.numpy(sa.binary_cross_entropy(z, y)), rtol=1e-6)
    losses = sa.cross_entropy(z, [0, 1], weights=[1e30, 0.0], class_weights=[1e30, 1.0, 1.0], reduction="none")
    np.testing.assert_array_equal(library.numpy(losses), [INF, 0])


def test_labels_of_64_bits_are_not_wrapped_into_a_class(library):
    z = library.array(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]]), "float32")
    losses = library.numpy(sa.cross_entropy(z, [2**40, 1], ignore_index=2**40, reduction="none"))
    assert losses[0] == 0
    assert losses[1] == pytest.approx(0.4076, abs=1e-4)


def test_labels_that_do_not_count_may_be_anything(library):
    z = library.array(np.array([0.5, 1.5, -1.0]), "float32")
    y, mask = library.array(np.array([1.0, NAN, -1.0]), "float32"), library.array(np.array([True, False, False]))
    wanted = math.log1p(math.exp(-0.5))
    for options in ({"mask": mask}, {"weights": library.array(np.array([1.0, 0.0, 0.0]), "float32")}):
        loss = float(library.numpy(sa.binary_cross_entropy(z, y, **options)))
        assert loss == pytest.approx(wanted, rel=1e-6)


# ---- `out` ----


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax])
@pytest.mark.parametrize(("name", "dtype"), libraries.typed(("numpy", "torch")))
def test_out(op, name, dtype):
    library = libraries.get(name)
    z = rounded(np.random.default_rng(0).standard_normal((30, 40)) * 3, dtype)
    wanted = op(library.array(z, dtype))
    same = functools.partial(np.testing.assert_array_equal, library.numpy(wanted))
    out = library.array(np.zeros(z.shape), dtype)
    assert op(library.array(z, dtype), out=out) is out
    same(library.numpy(out))
    strided = library.array(np.zeros((30, 80)), dtype)[:, ::2]
    op(library.array(z, dtype), out=strided)
    close(library.numpy(strided), library.numpy(wanted), dtype)
    in_place = library.array(z, dtype)
    assert op(in_place, out=in_place) is in_place
    same(library.numpy(in_place))


def test_out_of_torch_is_refused_where_it_would_lie():
    torch = libraries.get("torch").xp
    memory = torch.arange(8.0)
    with pytest.raises(ValueError, match="out overlaps the logits in part"):
        sa.softmax(memory[:6], out=memory[2:])
    with pytest.raises(ValueError, match="out .*requires_grad|out .*gradient"):
        sa.softmax(torch.zeros(3), out=torch.zeros(3, requires_grad=True))
    with pytest.raises(ValueError, match="out must be"):
        sa.softmax(torch.zeros(3), out=torch.zeros(4))
    with pytest.raises(ValueError, match="out must be"):
        sa.softmax(torch.zeros(3), out=torch.zeros(3, dtype=torch.float64))


def test_out_is_for_arrays_that_can_be_written(library):
    if library.name in ("numpy", "torch"):
        pytest.skip("can be written")
    z = library.array(np.zeros(3), "float32")
    with pytest.raises(TypeError, match="out"):
        sa.softmax(z, out=library.array(np.zeros(3), "float32"))


# ---- precision ----


@functools.cache
def exact_rows(k, dtype, temperature=1.0):
    """Rows of several widths, in float64, and their log-probabilities as mpmath says, in float64 rounded once."""
    rng = np.random.default_rng(k)
    z = rounded(np.concatenate([rng.standard_normal((2, k)) * scale for scale in (1, 10, 100)]), dtype)
    exact = [exact_log_softmax(row, temperature) for row in z]
    with mpmath.workdps(60):
        p = np.array([[float(mpmath.exp(x)) for x in row] for row in exact])
    return z, np.array([[float(x) for x in row] for row in exact]), p


def within(values, wanted, budget, dtype):
    """|values - wanted| <= budget * |wanted| where normal, and one rounding if the result is in half precision."""
    half = spacing(wanted, dtype) if dtype in ("float16", "bfloat16") else 0.0
    tiny = max(TINY[computed(dtype)], 0.0)
    error = np.abs(values - wanted)
    normal = np.abs(wanted) >= tiny
    worst = (error - half)[normal] / (np.broadcast_to(budget, wanted.shape) * np.abs(wanted))[normal]
    assert np.all(worst <= 1), f"{worst.max():.3g} times what is allowed"


def log_budget(z, k, eps, temperature):
    """(8 + 2 ln K) eps, and for the maximum twice its gap to the second, in eps."""
    budget = np.full(z.shape, (8 + 2 * math.log(k)) * eps)
    top = np.sort(z, axis=-1)
    budget[np.arange(len(z)), z.argmax(-1)] += 2 * (top[:, -1] - top[:, -2]) / temperature * eps
    return budget


@pytest.mark.parametrize("k", [2, 10, 1000])
def test_precision_against_mpmath(k, typed):
    library, dtype = typed
    half = dtype in ("float16", "bfloat16")
    if half and k == 1000:
        pytest.skip("the arithmetic is that of float32")
    eps = EPS[computed(dtype)]
    for temperature in (1.0, 0.3125, 7.0):  # exact in every dtype
        z, log_p, p = exact_rows(k, dtype, temperature)
        array = library.array(z, dtype)
        gap = (z.max(-1, keepdims=True) - z) / temperature
        values = library.numpy(sa.softmax(array, temperature=temperature))
        within(values, p, (8 + math.log(k) + 2 * gap) * eps, dtype)
        values = library.numpy(sa.log_softmax(array, temperature=temperature))
        within(values, log_p, log_budget(z, k, eps, temperature), dtype)
    z, log_p, p = exact_rows(k, dtype)
    array, budget = library.array(z, dtype), log_budget(z, k, eps, 1.0)
    total = z[:, 0] - log_p[:, 0]
    error = np.abs(library.numpy(sa.logsumexp(array)) - total)
    assert np.all(error <= (8 + math.log(k)) * eps + eps * np.abs(total) + 2.0**-50 * np.abs(z[:, 0]))
    for label in (0, k - 1, *z.argmax(-1)[:3]):
        labels = library.array(np.full(len(z), label))
        within(library.numpy(sa.log_prob(array, labels)), log_p[:, label], budget[:, label], computed(dtype))
        losses = library.numpy(sa.cross_entropy(array, labels, reduction="none"))
        within(losses, -log_p[:, label], budget[:, label], computed(dtype))


@pytest.mark.parametrize("k", [2, 10, 1000])
def test_precision_of_entropy_and_divergence(k, typed):
    """Each term p log p within what softmax and log_softmax are held to, and the sum of k of them."""
    library, dtype = typed
    if dtype in ("float16", "bfloat16") and k == 1000:
        pytest.skip("the arithmetic is that of float32")
    eps = EPS[computed(dtype)]
    z, log_p, p = exact_rows(k, dtype)
    gap = z.max(-1, keepdims=True) - z
    budget, softmax_budget = log_budget(z, k, eps, 1.0), (8 + math.log(k) + 2 * gap) * eps
    entropy = -(p * log_p).sum(-1)
    allowed = (p * -log_p * (budget + softmax_budget)).sum(-1) + math.log(2 * k) * eps * entropy + TINY[computed(dtype)]
    error = np.abs(library.numpy(sa.entropy(library.array(z, dtype))) - entropy)
    assert np.all(error <= allowed), (error / allowed).max()
    q = z[::-1]
    log_q, q_budget = log_p[::-1], budget[::-1]
    terms = p * (log_p - log_q)
    allowed = (p * (np.abs(log_p) * budget + np.abs(log_q) * q_budget) + np.abs(terms) * softmax_budget).sum(-1)
    allowed += math.log(2 * k) * eps * np.abs(terms).sum(-1) + TINY[computed(dtype)]
    divergence = library.numpy(sa.kl_divergence(library.array(z, dtype), library.array(q, dtype)))
    error = np.abs(divergence - terms.sum(-1))
    assert np.all(error <= allowed), (error / allowed).max()


@functools.cache
def exact_sigmoids(dtype):
    z = np.concatenate([np.linspace(-30, 30, 61), np.linspace(-0.1, 0.1, 11), [-80.0, 80.0, 1e-4]])
    z = rounded(z, dtype)
    with mpmath.workdps(80):
        logs = [-mpmath.log1p(mpmath.exp(-mpmath.mpf(float(x)))) for x in z]
        return z, np.array([float(x) for x in logs]), np.array([float(mpmath.exp(x)) for x in logs])


def test_precision_of_the_two_class_ops(typed):
    """What softmax and log_softmax of (z, 0) are held to."""
    library, dtype = typed
    z, log_p, p = exact_sigmoids(dtype)
    eps, array = EPS[computed(dtype)], library.array(z, dtype)
    within(library.numpy(sa.sigmoid(array)), p, (8 + math.log(2) + 2 * np.maximum(-z, 0)) * eps, dtype)
    budget = (8 + 2 * math.log(2) + 2 * np.maximum(z, 0)) * eps
    within(library.numpy(sa.log_sigmoid(array)), log_p, budget, dtype)
    ones = library.array(np.ones(len(z)), dtype)
    losses = library.numpy(sa.binary_cross_entropy(array, ones, reduction="none"))
    within(losses, -log_p, budget, computed(dtype))


def test_a_sigmoid_is_a_softmax_of_two(typed):
    library, dtype = typed
    if dtype != "float64":
        pytest.skip("a law in float64")
    z = np.linspace(-40, 40, 321)
    pair = library.array(np.stack([z, np.zeros_like(z)], axis=-1), dtype)
    one = library.numpy(sa.sigmoid(library.array(z, dtype)))
    np.testing.assert_allclose(one, library.numpy(sa.softmax(pair))[:, 0], rtol=1e-12)


@pytest.mark.parametrize("k", [131_072, 1_000_003])
def test_long_rows_keep_their_precision(k, library):
    row = rounded(np.random.default_rng(1).standard_normal(k) * 3, "float32")
    gap = (row.max() - row).astype(np.longdouble)
    total = np.exp(-gap).sum()
    array = library.array(row, "float32")
    budget = (8 + math.log(k) + 2 * gap.astype(float)) * EPS["float32"]
    within(library.numpy(sa.softmax(array)), (np.exp(-gap) / total).astype(float), budget, "float32")
    value = float(row.max() + np.log(total))
    error = abs(float(library.numpy(sa.logsumexp(array))) - value)
    assert error <= (8 + math.log(k)) * EPS["float32"] + EPS["float32"] * abs(value)


@pytest.mark.parametrize("name", [n for n in libraries.NAMES if "float16" in libraries.FLOATS[n]])
def test_sums_in_half_precision_do_not_overflow(name):
    library, k = libraries.get(name), 262_144
    for dtype in ("float16", "bfloat16"):
        array = library.array(np.zeros(k), dtype)
        assert np.all(np.abs(library.numpy(sa.log_softmax(array)) + math.log(k)) <= spacing(math.log(k), dtype))
        np.testing.assert_array_equal(library.numpy(sa.softmax(array)), rounded(1 / k, dtype))
        total = sa.logsumexp(array)
        assert library.dtype(total) == "float32"
        assert float(library.numpy(total)) == pytest.approx(math.log(k), rel=1e-6)


def test_a_sure_model_keeps_its_digits(library):
    # peers give 0 here; 4.3855e-8 = log1p(exp(-16.942385))
    z = library.array(np.array([[16.942385, 0.0]]), "float32")
    labels = library.array(np.array([0]))
    for value in (sa.cross_entropy(z, labels), -sa.log_softmax(z)[0, 0], -sa.log_prob(z, labels)[0]):
        assert float(library.numpy(value)) == pytest.approx(4.3855e-8, rel=1e-4)
    one = library.array(np.array([16.942385]), "float32")
    assert float(library.numpy(-sa.log_sigmoid(one)[0])) == pytest.approx(4.3855e-8, rel=1e-4)


def peers(library):
    """The softmax, log-softmax and log-sum-exp that people use with the library."""
    if library.name == "torch":
        torch = library.xp
        return torch.softmax, torch.log_softmax, torch.logsumexp
    if library.name == "jax":
        nn = library.xp.nn
        return nn.softmax, nn.log_softmax, nn.logsumexp
    if library.name == "tensorflow":
        tf = library.xp
        return tf.nn.softmax, tf.nn.log_softmax, tf.reduce_logsumexp
    special = pytest.importorskip("scipy.special")
    return special.softmax, special.log_softmax, special.logsumexp


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "tensorflow"])
@pytest.mark.parametrize("k", [2, 10, 1000])
def test_no_less_precise_than_the_peer(k, name):
    library, eps = libraries.get(name), EPS["float32"]
    z, log_p, p = exact_rows(k, "float32")
    total = z[:, 0] - log_p[:, 0]
    array = library.array(z, "float32")
    ours = (sa.softmax, sa.log_softmax, sa.logsumexp)
    for op, peer, wanted in zip(ours, peers(library), (p, log_p, total), strict=True):
        normal = np.abs(wanted) >= TINY["float32"]
        errors = [
            (np.abs(library.numpy(f(array, -1) if f is peer else f(array)) - wanted) / np.abs(wanted))[normal].max()
            for f in (op, peer)
        ]
        assert errors[0] <= errors[1] + eps


# ---- agreement of the libraries ----


@pytest.mark.parametrize("name", libraries.NAMES[1:])
def test_libraries_agree_with_numpy(name):
    """On rows of every kind, within what two results of that precision may differ by."""
    library, numpy = libraries.get(name), libraries.get("numpy")
    rng = np.random.default_rng(2)
    z = rng.standard_normal((200, 12)) * rng.choice([1, 10, 60], (200, 1))
    special = rng.random(z.shape) < 0.03
    z[special] = rng.choice([INF, -INF, NAN, 0.0, -0.0, 3e38, 1e-40], special.sum())
    z, mask = rounded(z, "float32"), rng.random(z.shape) < 0.8
    temperature = rounded(rng.choice([0.0, 0.5, 1.0, 20.0, INF], (200, 1)), "float32")
    budget = 2 * (8 + 2 * math.log(12) + 2 * WIDEST["float32"])
    for op in EVERYWHERE:
        if refused_by_jax(op, library, "float32"):
            continue
        args, options = op.arguments(z, mask, temperature)
        converted = (op.converted(lib, "float32", args, options) for lib in (numpy, library))
        wanted, actual = (op(*a, **o) for a, o in converted)
        assert library.dtype(actual) == numpy.dtype(wanted)
        both = library.numpy(actual), numpy.numpy(wanted)
        # what lies below the normal range may be flushed to 0; a divergence is a difference
        atol = 1e-5 if op.name == "kl_divergence" else 2 * TINY["float32"]
        np.testing.assert_allclose(*both, rtol=budget * EPS["float32"], atol=atol, err_msg=op.name)


# ---- the laws, each with an implementation that it rejects ----


def law_shift(f, z):
    np.testing.assert_array_equal(f.softmax(z + 1024), f.softmax(z))
    total = f.logsumexp(z) + 1024
    assert np.all(np.abs(f.logsumexp(z + 1024) - total) <= 2 * EPS["float32"] * total)
    np.testing.assert_array_equal(f.log_softmax(z + 1024), f.log_softmax(z))
    np.testing.assert_array_equal(f.entropy(z + 1024), f.entropy(z))
    np.testing.assert_array_equal(f.kl_divergence(z + 1024, z[::-1]), f.kl_divergence(z, z[::-1]))


def law_rows_sum_to_one(f, z):
    allowed = 2 * EPS["float32"] * z.shape[-1]
    assert np.all(np.abs(f.softmax(z).sum(-1) - 1) <= allowed)
    assert np.all(np.abs(np.exp(f.log_softmax(z)).sum(-1) - 1) <= 64 * EPS["float32"] * z.shape[-1])
    assert np.all(np.abs(f.softmax_jacobian(z).sum(-1)) <= allowed)
    assert np.all(np.abs(f.sigmoid(z) + f.sigmoid(-z) - 1) <= allowed)


def law_order(f, z):
    for values in (f.softmax(z), np.exp(f.log_softmax(z))):
        for p, row in zip(values, z, strict=True):
            order = np.argsort(row, kind="stable")
            assert np.all(p[order][1:] >= p[order][:-1] * (1 - 2 * EPS["float32"]))
            assert p[np.argmax(row)] == p.max()
    order = np.argsort(z[0])
    assert np.all(np.diff(f.sigmoid(z[0])[order]) >= -2 * EPS["float32"] * f.sigmoid(z[0])[order][1:])


def law_permutation(f, z):
    order = np.random.default_rng(0).permutation(z.shape[-1])
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-30)
    same(f.softmax(z[:, order]), f.softmax(z)[:, order])
    same(f.log_softmax(z[:, order]), f.log_softmax(z)[:, order])
    same(f.softmax_jacobian(z[:, order]), f.softmax_jacobian(z)[:, order][:, :, order])
    same(f.logsumexp(z[:, order]), f.logsumexp(z))
    same(f.entropy(z[:, order]), f.entropy(z))


def law_rows_are_alone(f, z):
    for op in (f.softmax, f.log_softmax, f.logsumexp, f.entropy):
        np.testing.assert_array_equal(op(z[::-1])[::-1], op(z))
        np.testing.assert_allclose(op(np.concatenate([z, z * 0 + INF]))[: len(z)], op(z), rtol=1e-6)


def law_a_distance_is_not_negative(f, z):
    k = z.shape[-1]
    assert np.all(f.kl_divergence(z, z) == 0)
    assert np.all(f.kl_divergence(z, z[::-1]) >= -1e-6)
    assert np.any(f.kl_divergence(z, z[::-1]) > 0.1)
    assert np.all(f.entropy(z) >= 0)
    assert np.all(f.entropy(z) <= math.log(k) * (1 + 8 * EPS["float32"]))
    close(f.entropy(z * 0), np.full(len(z), math.log(k)), "float32")


class Floats32:
    """The ops of a library as functions of NumPy arrays of float32 values."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        def call(*arrays):
            return self.library.numpy(getattr(sa, name)(*(self.library.array(a, "float32") for a in arrays)))

        return call


class Broken(Floats32):
    """One op replaced by a mistake that people make."""

    def __init__(self, library, **replaced):
        super().__init__(library)
        self.__dict__.update(replaced)


def naive(z):
    with np.errstate(all="ignore"):
        e = np.exp(z.astype(np.float32))
        return e / e.sum(-1, keepdims=True)


def over_everything(z):
    with np.errstate(all="ignore"):
        e = np.exp(z - z.max())
        return e / e.sum(-1, keepdims=True)


def unnormalised(z):
    return np.exp(z - z.max(-1, keepdims=True))


def descending(z):
    return definitions.softmax(-z)


def first_is_special(z):
    p = definitions.softmax(z)
    p[:, 0] = 0
    return p


def a_difference_of_labels(p_logits, q_logits):
    return definitions.log_softmax(p_logits)[:, 0] - definitions.log_softmax(q_logits)[:, 0]


LAWS = {
    law_shift: {"softmax": naive},
    law_rows_sum_to_one: {"softmax": unnormalised},
    law_order: {"softmax": descending},
    law_permutation: {"softmax": first_is_special},
    law_rows_are_alone: {"softmax": over_everything},
    law_a_distance_is_not_negative: {"kl_divergence": a_difference_of_labels},
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law, library):
    # eighths, so that adding 1024 is exact in float32
    z = np.random.default_rng(3).integers(-200, 200, (40, 17)) / 8
    law(Floats32(library), z)
    with pytest.raises(AssertionError):
        law(Broken(library, **LAWS[law]), z)


# ---- probabilities to sample from ----


def law_sums_are_exact(for_sampling, p):
    """In any order: the entries are whole multiples of 2^-53, and those add up to 2^53."""
    q = for_sampling(p)
    assert q.dtype == np.float64
    whole = q * 2.0**53
    np.testing.assert_array_equal(whole, np.rint(whole))
    np.testing.assert_array_equal([sum(map(int, row)) for row in whole], 2**53)
    np.testing.assert_array_equal(q == 0, p == 0)
    assert np.all(q >= 0)
    for row, given in zip(q, p, strict=True):
        order = np.argsort(given, kind="stable")
        assert np.all((np.diff(row[order]) >= 0) | (np.diff(given[order]) == 0))
        assert row[np.argmax(given)] == row.max()
    total = p.sum(-1, keepdims=True)
    # the rounding to 2^-53 a class, all of it on the largest
    assert np.all(np.abs(q - p / total) <= np.maximum(np.abs(p / total) * 1e-3, p.shape[-1] * 2.0**-52))


def normalised_in_float64(p):
    return p.astype(float) / p.astype(float).sum(-1, keepdims=True)


@pytest.mark.parametrize(("name", "dtype"), libraries.typed())
def test_for_sampling_sums_to_one_in_any_order(name, dtype):
    library = libraries.get(name)
    if name == "jax" and dtype != "float64":
        pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
    rng = np.random.default_rng(0)
    with library.precision(dtype):
        for k in (1, 2, 3, 10, 1000 if dtype == "float64" else 50):
            p = rng.dirichlet(np.full(k, 0.3), 50)
            p[0] = np.eye(k)[k - 1]
            p[1] = 1 / k
            p = rounded(np.where(p < 1e-7, 0.0, p), dtype)
            p = p[np.abs(p.sum(-1) - 1) < 9e-4]
            law_sums_are_exact(lambda q: library.numpy(sa.for_sampling(library.array(q, dtype))), p)


def test_the_law_of_exact_sums_rejects_a_division():
    with pytest.raises(AssertionError):
        law_sums_are_exact(normalised_in_float64, np.random.default_rng(0).dirichlet(np.ones(10), 50))


def test_a_strict_sampler_takes_them():
    p = sa.for_sampling(sa.softmax(np.float32(np.random.default_rng(0).standard_normal((100, 5000)))))
    for row in p:
        assert math.fsum(row) == 1 == math.fsum(row[::-1]) == np.sum(row) == np.cumsum(row)[-1]
