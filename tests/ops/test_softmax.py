import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import softargmax as sa
from tests.cases.rows import (
    EDGE_ROWS,
    EDGE_TEMPERATURES,
    exact_log_softmax,
    exact_logsumexp,
)

FLOATS = [np.float16, np.float32, np.float64]
INF, NAN = math.inf, math.nan


def same(actual, wanted, dtype, ulps=2):
    """Equal with NaN, zeros and infinities in their places, within `ulps` elsewhere."""
    actual = np.asarray(actual)
    assert actual.dtype == dtype
    wanted = np.asarray(wanted, np.float64)
    assert actual.shape == wanted.shape
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = wanted.astype(dtype)  # what overflows the dtype is inf there
        close = np.abs(actual.astype(np.float64) - wanted) <= ulps * np.spacing(np.abs(rounded))
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    for value in (0.0, INF, -INF):
        np.testing.assert_array_equal(actual == value, rounded == value)
    assert np.all(close | ~np.isfinite(rounded)), (actual, wanted)


# ---- the edge table, cell by cell ----


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [3, 16, 17, 40, 1100])
@pytest.mark.parametrize("case", EDGE_ROWS)
def test_edge_row(case, width, dtype, engine):
    row, p, log_p, total = EDGE_ROWS[case]
    pad = width - len(row)
    ordinary = np.linspace(-1, 1, width)
    z = np.array([ordinary, row + [-INF] * pad, ordinary], dtype)
    all_nan = np.isnan(p).all()
    before = sa.softmax(ordinary.astype(dtype))
    with np.errstate(all="raise"):  # edges raise no floating-point warning either
        p_all, log_all, total_all = sa.softmax(z), sa.log_softmax(z), sa.logsumexp(z)
    same(p_all[1], p + [NAN if all_nan else 0] * pad, dtype)
    same(log_all[1], log_p + [NAN if all_nan else -INF] * pad, dtype)
    same(total_all[1], total, np.float32 if dtype == np.float16 else dtype)
    for neighbour in (0, 2):  # an edge row leaves the others as they are
        np.testing.assert_array_equal(p_all[neighbour], before)
        assert np.isfinite(log_all[neighbour]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [3, 17])
@pytest.mark.parametrize("case", EDGE_TEMPERATURES)
def test_edge_temperature(case, width, dtype, engine):
    temperature, row, p = EDGE_TEMPERATURES[case]
    pad = width - len(row)
    z = np.array(row + [-INF] * pad, dtype)
    wanted = np.array(p + [NAN if np.isnan(p).all() else 0.0] * pad)
    same(sa.softmax(z, temperature=temperature), wanted, dtype)
    with np.errstate(divide="ignore"):
        same(sa.log_softmax(z, temperature=temperature), np.log(wanted), dtype)
    # the same as one temperature of many: its row follows the rule, the others theirs
    many = sa.softmax(np.array([z, z]), temperature=[[temperature], [1.0]])
    same(many[0], wanted, dtype)
    np.testing.assert_array_equal(many[1], sa.softmax(z))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("under", [NAN, INF, -INF, 1e4])
@pytest.mark.parametrize("width", [3, 20])
def test_what_is_masked_is_as_absent(under, width, dtype, engine):
    z = np.linspace(0, 1, width).astype(dtype)
    mask = np.ones(width, bool)
    mask[1] = False
    hidden = z.copy()
    hidden[1] = under
    kept = sa.softmax(z[mask])
    p = sa.softmax(hidden, mask=mask)
    assert p[1] == 0
    assert np.max(np.abs(p[mask].astype(float) - kept)) <= 2 * np.finfo(dtype).eps
    assert sa.log_softmax(hidden, mask=mask)[1] == -INF
    assert abs(float(sa.logsumexp(hidden, mask=mask)) - float(sa.logsumexp(z[mask]))) <= 4 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_mask_that_leaves_nothing_gives_zero_and_one_that_leaves_only_minus_inf_gives_nan(dtype, engine):
    z = np.array([[1, NAN, INF], [-INF, 1, 2], [1, 2, 3]], dtype)
    mask = np.array([[False] * 3, [True, False, False], [True, True, False]])
    p, log_p, total = sa.softmax(z, mask=mask), sa.log_softmax(z, mask=mask), sa.logsumexp(z, mask=mask)
    np.testing.assert_array_equal(p[:2], np.array([[0, 0, 0], [NAN] * 3], dtype))
    np.testing.assert_array_equal(log_p[:2], np.array([[-INF] * 3, [NAN] * 3], dtype))
    np.testing.assert_array_equal(total[:2], [-INF, -INF])
    assert p[2, 2] == 0
    assert p[2, :2].sum() == pytest.approx(1, abs=2 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_class_no_classes_no_rows(dtype, engine):
    lse = np.float32 if dtype == np.float16 else dtype
    np.testing.assert_array_equal(sa.softmax(np.array([[5], [-3]], dtype)), np.array([[1], [1]], dtype))
    np.testing.assert_array_equal(sa.log_softmax(np.array([[5], [-3]], dtype)), np.array([[0], [0]], dtype))
    np.testing.assert_array_equal(sa.logsumexp(np.array([[5], [-3]], dtype)), np.array([5, -3], lse))
    for shape, reduced in (((2, 0), (2,)), ((0, 3), (0,)), ((0, 0), (0,)), ((2, 0, 3), (2, 0))):
        z = np.zeros(shape, dtype)
        for op in (sa.softmax, sa.log_softmax):
            assert op(z).shape == shape
            assert op(z).dtype == dtype
        np.testing.assert_array_equal(sa.logsumexp(z), np.full(reduced, -INF, lse))
        assert sa.logsumexp(z).dtype == lse


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64, np.uint64])
def test_integers_are_computed_in_float64(dtype, engine):
    z = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    for op in (sa.softmax, sa.log_softmax, sa.logsumexp):
        assert op(z).dtype == np.float64
        np.testing.assert_array_equal(op(z), op(z.astype(np.float64)))


# ---- precision ----


def draws(seed, n, k, scale, dtype):
    return (np.random.default_rng(seed).standard_normal((n, k)) * scale).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0])
@pytest.mark.parametrize(("k", "scale"), [(2, 3), (10, 3), (16, 30), (17, 3), (100, 10), (1000, 3), (5000, 30)])
def test_precision_is_within_the_budget(k, scale, temperature, dtype, engine):
    eps = np.finfo(dtype).eps
    for row in draws(k, 3, k, scale, dtype):
        exact = exact_log_softmax(row, temperature)
        p, log_p = sa.softmax(row, temperature=temperature), sa.log_softmax(row, temperature=temperature)
        total = sa.logsumexp(row)
        gap = (float(row.max()) - row.astype(float)) / temperature
        exact_p = np.array([float(mpmath.exp(x)) for x in exact])
        normal = exact_p > np.finfo(dtype).tiny
        error = np.abs(p - exact_p)[normal] / exact_p[normal]
        assert np.all(error <= (8 + math.log(k) + 2 * gap[normal]) * eps)
        log_error = np.array([abs(float(a) - e) / abs(e) for a, e in zip(log_p.tolist(), exact, strict=True)], float)
        second = np.sort(gap)[1]
        budget = np.full(k, (8 + 2 * math.log(k)) * eps)
        budget[np.argmax(row)] += 2 * second * eps
        assert np.all(log_error <= budget)
        value = float(exact_logsumexp(row))
        assert abs(float(total) - value) <= (8 + math.log(k)) * eps + eps * abs(value)


@pytest.mark.parametrize("k", [131_072, 1_000_003])
def test_long_rows_keep_their_precision(k, engine):
    row = draws(1, 1, k, 3, np.float32)[0]
    exact = np.exp(row.astype(np.longdouble) - row.max())
    exact /= exact.sum()
    error = np.abs(sa.softmax(row) - exact) / exact
    gap = (row.max() - row).astype(float)
    assert np.all(error <= (8 + math.log(k) + 2 * gap) * np.finfo(np.float32).eps)


@pytest.mark.parametrize("k", [1000, 65_504, 65_536, 262_144])
def test_float16_sums_do_not_overflow(k, engine):
    z = np.zeros(k, np.float16)
    assert abs(float(sa.log_softmax(z)[0]) + math.log(k)) <= np.spacing(np.float16(math.log(k)))
    assert np.all(sa.softmax(z) == np.float16(1 / k))
    assert sa.logsumexp(z).dtype == np.float32
    assert float(sa.logsumexp(z)) == pytest.approx(math.log(k), rel=1e-6)


def test_log_softmax_is_accurate_where_the_model_is_sure(engine):
    # peers give 0 here; 4.3855e-8 = log1p(exp(-16.942385))
    assert float(-sa.log_softmax(np.float32([16.942385, 0]))[0]) == pytest.approx(4.3855e-8, rel=1e-4)


def test_huge_logits_divided_by_a_large_temperature(engine):
    z = np.array([3e38, -3e38, 0], np.float32)  # z - max overflows; (z - max) / T does not
    np.testing.assert_allclose(sa.log_softmax(z, temperature=1e37), np.array([0, -60, -30]), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(
        sa.softmax(z, temperature=1e39), sa.softmax(z.astype(float), temperature=1e39), rtol=1e-6
    )


def test_tutorial_values():
    # well-known tutorials print .73/.25/.02, .7/.2/.1 and .628
    np.testing.assert_array_equal(sa.softmax([2, 1, 0.1]).round(3), [0.659, 0.242, 0.099])
    np.testing.assert_array_equal(sa.softmax([2, 1, 0.5]).round(3), [0.629, 0.231, 0.140])


# ---- laws, each with a broken implementation that it rejects ----

# differences of these are exact in float32, so that shifting is not a matter of rounding
exact_rows = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40),
    elements=st.integers(-(2**10), 2**10).map(lambda i: i / 8),
)
any_rows = npst.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
    elements=st.one_of(
        st.floats(width=16),
        st.sampled_from([INF, -INF, NAN, 0.0, -0.0, 65504.0, 2**-24]),
    ),
)


def law_shift(softmax, z):
    np.testing.assert_array_equal(softmax(z + np.float32(1024)), softmax(z))


def law_rows_sum_to_one(softmax, z):
    assert np.all(np.abs(softmax(z).sum(-1, dtype=float) - 1) <= 2 * np.finfo(np.float32).eps * z.shape[-1])


def law_order(softmax, z):
    p = softmax(z).reshape(-1, z.shape[-1])
    for row, logits in zip(p, z.reshape(p.shape), strict=True):
        order = np.argsort(logits, kind="stable")
        eps = np.finfo(np.float32).eps
        assert np.all(row[order][1:] >= row[order][:-1] * (1 - 2 * eps))
        assert row[np.argmax(logits)] == row.max()


def law_permutation(softmax, z):
    order = np.random.default_rng(0).permutation(z.shape[-1])
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    np.testing.assert_allclose(softmax(z[..., order]), softmax(z)[..., order], rtol=1e-6, atol=2 * smallest)


def law_rows_are_alone(softmax, z):
    rows = z.reshape(-1, z.shape[-1])
    np.testing.assert_array_equal(softmax(rows), np.stack([softmax(row) for row in rows]))


def naive(z):
    with np.errstate(all="ignore"):
        e = np.exp(z)
        return e / e.sum(-1, keepdims=True)


def over_everything(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def unnormalised(z):
    return np.exp(z - z.max(-1, keepdims=True))


def inverted(z):
    return sa.softmax(-z)


def first_is_special(z):
    p = sa.softmax(z).copy()
    p[..., 0] = 0
    return p


LAWS = {
    law_shift: naive,
    law_rows_sum_to_one: unnormalised,
    law_order: inverted,
    law_permutation: first_is_special,
    law_rows_are_alone: over_everything,
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law, engine):
    @given(exact_rows)
    def holds(z):
        law(sa.softmax, z)

    holds()
    z = np.array([[1, 2, 3], [700, 2, 1], [0.5, 0, 0]], np.float32)
    with pytest.raises(AssertionError):
        law(LAWS[law], z)


def relative_budget(dtype):
    # a gap above this gives 0 or a number below the normal range
    widest = 104 if dtype == np.float32 else 745
    return (8 + math.log(20) + 2 * widest) * float(np.finfo(dtype).eps)


@given(any_rows)
def test_any_floats_agree_with_float64_rounded_once(z):
    with np.errstate(over="ignore"):
        p, wanted = sa.softmax(z), sa.softmax(z.astype(np.float64)).astype(z.dtype)
        log_p, log_wanted = sa.log_softmax(z), sa.log_softmax(z.astype(np.float64)).astype(z.dtype)
    np.testing.assert_array_equal(np.isnan(p), np.isnan(wanted))
    fine = ~np.isnan(wanted)
    computed = np.float32 if z.dtype == np.float16 else z.dtype
    allowed = np.spacing(wanted[fine]) + relative_budget(computed) * wanted[fine]
    flushed = 2 * float(np.finfo(computed).tiny)  # what lies below the normal range may be 0
    assert np.all(np.abs(p[fine].astype(float) - wanted[fine]) <= allowed + flushed)
    np.testing.assert_array_equal(log_p == -INF, log_wanted == -INF)
    assert np.all(p[fine] >= 0)
    assert np.all(p[fine] <= 1)


@given(any_rows)
def test_kernels_and_definitions_agree(z):
    from softargmax.backends import numpy as backend

    kernels = sa.softmax(z), sa.logsumexp(z)
    compiles, backend._numba_compiles = backend._numba_compiles, lambda: False
    try:
        definitions = sa.softmax(z), sa.logsumexp(z)
    finally:
        backend._numba_compiles = compiles
    computed = np.float32 if z.dtype == np.float16 else z.dtype
    for one, other in zip(kernels, definitions, strict=True):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_array_equal(np.isinf(one), np.isinf(other))
        rtol = 2 * relative_budget(computed) + float(np.finfo(one.dtype).eps)
        # what lies below the normal range may be flushed
        np.testing.assert_allclose(one, other, rtol=rtol, atol=2 * float(np.finfo(computed).tiny))


# ---- arrays as people have them ----


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3, np.int64(1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_axis_is_the_one_asked_for(axis, dtype, engine):
    z = draws(0, 6, 20, 3, dtype).reshape(4, 6, 5)
    last = np.moveaxis(z, axis, -1)
    np.testing.assert_array_equal(sa.softmax(z, axis=axis), np.moveaxis(sa.softmax(last), -1, axis))
    np.testing.assert_array_equal(sa.log_softmax(z, axis=axis), np.moveaxis(sa.log_softmax(last), -1, axis))
    np.testing.assert_array_equal(sa.logsumexp(z, axis=axis), sa.logsumexp(last))
    kept = sa.logsumexp(z, axis=axis, keepdims=True)
    np.testing.assert_array_equal(kept, np.expand_dims(sa.logsumexp(last), axis))


def test_the_layout_does_not_matter(engine):
    z = draws(0, 30, 40, 3, np.float32)
    wanted = sa.softmax(z)
    big = np.zeros((60, 80), np.float32)
    big[::2, ::2] = z
    unaligned = np.frombuffer(b"\0" + z.tobytes(), np.uint8)[1:].view(np.float32).reshape(z.shape)
    read_only = z.copy()
    read_only.flags.writeable = False
    variants = {
        "strided": big[::2, ::2],
        "reversed": z[::-1, ::-1][::-1, ::-1],
        "Fortran": np.asfortranarray(z),
        "read-only": read_only,
        "unaligned": unaligned,
        "big-endian": z.astype(">f4"),
        "list": z.tolist(),
    }
    for name, variant in variants.items():
        result = sa.softmax(variant)
        np.testing.assert_array_equal(result, wanted if name != "list" else sa.softmax(z.astype(float)), err_msg=name)
        assert result.dtype.isnative
        np.testing.assert_array_equal(sa.logsumexp(variant), sa.logsumexp(z if name != "list" else z.astype(float)))
    np.testing.assert_array_equal(read_only, z)


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax])
def test_out(op, engine):
    z = draws(0, 30, 40, 3, np.float32)
    wanted = op(z)
    out = np.empty_like(z)
    assert op(z, out=out) is out
    np.testing.assert_array_equal(out, wanted)
    strided = np.zeros((30, 80), np.float32)[:, ::2]
    np.testing.assert_array_equal(op(z, out=strided), wanted)
    same_memory = z.copy()
    assert op(same_memory, out=same_memory) is same_memory
    np.testing.assert_array_equal(same_memory, wanted)
    transposed = z.copy().T
    wanted = op(z.T.copy(), axis=0)  # another axis may be another kernel
    np.testing.assert_array_equal(op(transposed, axis=0, out=transposed), wanted)
    masked = z.copy()
    np.testing.assert_array_equal(op(masked, mask=masked > 0, out=masked), op(z, mask=z > 0))


@pytest.mark.parametrize(
    ("logits", "options", "error", "sentence"),
    [
        (3.0, {}, ValueError, "logits must have a class axis; got the single number 3.0"),
        ([1.0, 2.0], {"axis": 1}, ValueError, r"axis 1 is out of range: the logits have 1 dimension \(shape \(2,\)\)"),
        ([1.0, 2.0], {"axis": None}, TypeError, "axis must be one integer; got None"),
        ([1.0, 2.0], {"axis": True}, TypeError, "axis must be one integer"),
        (["a", "b"], {}, TypeError, "logits must be real numbers .* got dtype <U1"),
        ([1j, 2], {}, TypeError, "got dtype complex128"),
        ([[1.0], [1.0, 2.0]], {}, ValueError, "logits is not a rectangular array of numbers"),
        (np.zeros(2, np.longdouble), {}, TypeError, "got dtype float128"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), {}, TypeError, r"pass logits.data, and its mask as mask=~logits.mask"),
        ([1.0, 2.0], {"temperature": -1}, ValueError, "temperature must be 0 or more .* got -1.0"),
        ([1.0, 2.0], {"temperature": NAN}, ValueError, "temperature must be 0 or more .* got nan"),
        ([[1.0, 2.0]], {"temperature": [[1.0], [-2.0]]}, ValueError, r"got -2.0 at index \(1, 0\)"),
        ([[1.0, 2.0]], {"temperature": [1.0, 2.0]}, ValueError, r"broadcast to shape \(1, 1\).* got shape \(2,\)"),
        ([1.0, 2.0], {"mask": [1, 0]}, TypeError, "mask must be bool, True = takes part; got dtype int64"),
        ([1.0, 2.0], {"mask": [True] * 3}, ValueError, r"mask must broadcast .*\(2,\); got shape \(3,\)"),
        (
            [1.0, 2.0],
            {"out": np.zeros(3)},
            ValueError,
            r"out must be float64 of shape \(2,\); got float64 of shape \(3,\)",
        ),
        ([1.0, 2.0], {"out": np.zeros(2, "f4")}, ValueError, r"out must be float64 .* got float32"),
        ([1.0, 2.0], {"out": [0.0, 0.0]}, TypeError, "out must be a NumPy array; got list"),
    ],
)
def test_bad_input_gets_one_clear_sentence(logits, options, error, sentence):
    with pytest.raises(error, match=sentence):
        sa.softmax(logits, **options)


def test_out_that_overlaps_in_part_or_is_read_only():
    memory = np.arange(8.0)
    with pytest.raises(ValueError, match="out overlaps the logits in part"):
        sa.softmax(memory[:6], out=memory[2:])
    interleaved = np.arange(8.0)
    result = sa.softmax(interleaved[::2], out=interleaved[1::2])  # apart, though interleaved
    np.testing.assert_array_equal(result, sa.softmax([0.0, 2.0, 4.0, 6.0]))
    with pytest.raises(ValueError, match="out overlaps the logits in part"):
        sa.softmax(memoryview(memory[:6]), out=memory[2:])
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        sa.softmax([1.0, 2.0, 3.0], out=frozen)


def test_temperature_broadcasts_against_the_logits(engine):
    z = draws(0, 12, 5, 3, np.float64).reshape(3, 4, 5)
    t = np.random.default_rng(0).uniform(0.5, 3, (3, 4, 1))
    wanted = np.stack([[sa.softmax(z[i, j] / t[i, j, 0]) for j in range(4)] for i in range(3)])
    np.testing.assert_allclose(sa.softmax(z, temperature=t), wanted, rtol=1e-13)
    np.testing.assert_allclose(np.exp(sa.log_softmax(z, temperature=t)), wanted, rtol=1e-13)
    row = t[0]  # (4, 1) broadcasts over the first dimension
    np.testing.assert_allclose(sa.softmax(z, temperature=row)[2], sa.softmax(z[2], temperature=row), rtol=1e-15)


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax])
@pytest.mark.parametrize("extreme", [1e-300, 1e300, 0.0, INF])
def test_a_row_does_not_depend_on_the_temperature_of_another(op, extreme, engine):
    z = draws(0, 3, 40, 3, np.float32)
    together = op(z, temperature=[[1.0], [2.5], [extreme]])
    np.testing.assert_array_equal(together[:2], op(z[:2], temperature=[[1.0], [2.5]]))
    np.testing.assert_array_equal(together[2], op(z[2], temperature=extreme))
    in_place = z.copy()
    np.testing.assert_array_equal(op(in_place, temperature=[[1.0], [2.5], [extreme]], out=in_place), together)


# ---- logits_from_probs ----


def test_logits_from_probs_is_the_log_with_exact_zeros_kept():
    p = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [1, 0, 0]])
    z = sa.logits_from_probs(p)
    np.testing.assert_array_equal(z == -INF, p == 0)
    np.testing.assert_allclose(sa.softmax(z), p, rtol=1e-15)
    floored = sa.logits_from_probs(p, floor=1e-12)
    np.testing.assert_allclose(floored[p == 0], math.log(1e-12))
    np.testing.assert_array_equal(floored[p > 0], z[p > 0])
    assert sa.logits_from_probs(np.array([1, 0])).dtype == np.float64
    for dtype in FLOATS:
        assert sa.logits_from_probs(np.array([0.25, 0.75], dtype)).dtype == dtype
    assert np.isfinite(sa.logits_from_probs(np.float32([1, 0]), floor=1e-50)).all()  # below the range of float32
    assert sa.logits_from_probs(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("probs", "options", "sentence"),
    [
        ([[0.5, 0.5], [0.5, 0.6]], {}, "probs must be probabilities .* row 1 sums to 1.1$"),
        ([[2.0, 1.0, 0.1]], {}, "row 0 holds 2 and sums to 3.1; these look like logits"),
        ([[0.5, 0.5], [-1.0, 2.0]], {}, "row 1 holds -1 and sums to 1; these look like logits"),
        ([[0.5, NAN]], {}, "row 0 holds NaN"),
        (0.5, {}, "probs must have a class axis"),
        ([0.5, 0.5], {"floor": 0.0}, "floor must be a probability"),
        (np.zeros((2, 0)), {}, "row 0 sums to 0"),
    ],
)
def test_logits_from_probs_refuses_what_is_no_distribution(probs, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sa.logits_from_probs(probs, **options)


def test_logits_from_probs_takes_rounded_sums():
    sa.logits_from_probs(np.full((1, 3), 1 / 3, np.float16))
    for k in (1000, 100_000):
        p = np.full(k, 1 / k, np.float32)
        assert np.isfinite(sa.logits_from_probs(p)).all()
    with pytest.raises(ValueError, match="row 0 sums to 1.00"):
        sa.logits_from_probs([[0.5, 0.5015]])


@pytest.mark.parametrize("op", [sa.softmax, sa.log_softmax, sa.logsumexp, sa.entropy])
@pytest.mark.parametrize("shape", [(0, 3), (0, 40), (2, 3, 0), (2, 40, 0), (0, 3, 5)])
def test_no_rows_with_a_mask(op, shape, engine):
    mask = np.ones((3 if 3 in shape else 40, *(1 for _ in shape[2:])), bool)
    wanted = shape if op in (sa.softmax, sa.log_softmax) else shape[:1] + shape[2:]
    for each in (mask, np.ones(shape, bool)):
        assert op(np.zeros(shape), axis=1, mask=each).shape == wanted
