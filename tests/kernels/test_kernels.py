import ctypes
import math
import os
import signal
import subprocess
import sys
import textwrap

import mpmath
import numpy as np
import pytest

from softargmax.kernels import cross_entropy, reductions, simd, softmax, temperature
from softargmax.kernels._compile import interrupts_after, kernel
from softargmax.ops.evaluation import EvaluationTally, RowFacts


@kernel
def exp_of(x, out):
    one = x.dtype.type(1)
    for i in range(0, len(x), simd.LANES):
        simd.store(out, i, simd.exp(simd.load(one, x, i)))


@kernel
def log_of(x, out):
    one = x.dtype.type(1)
    for i in range(0, len(x), simd.LANES):
        simd.store(out, i, simd.log(simd.load(one, x, i)))


@kernel
def reductions_of(x, n, out):
    one = x.dtype.type(1)
    v = simd.load_part(one, x, 0, n, -np.inf)
    out[0] = simd.max_of_lanes(v)
    out[1] = simd.sum_of_lanes(simd.load_part(one, x, 0, n, 0.0))


def ulps(values, exact, dtype):
    spacing = np.spacing(np.abs(np.array([float(e) for e in exact])).astype(dtype)).astype(float)
    return np.array([abs(mpmath.mpf(float(v)) - e) for v, e in zip(values, exact, strict=True)], float) / spacing


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -87.3), (np.float64, -708.3)])
def test_exp_is_within_one_ulp(dtype, lowest):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(lowest, 0, 2000), -rng.exponential(1e-3, 990), [0, -0.0], np.zeros(8)]).astype(
        dtype
    )
    x = x[: len(x) // simd.LANES * simd.LANES]
    out = np.empty_like(x)
    exp_of(x, out)
    with mpmath.workdps(40):
        assert ulps(out, [mpmath.exp(mpmath.mpf(float(v))) for v in x], dtype).max() < 1
    assert np.all(out <= 1)
    assert out[np.flatnonzero(x == 0)].tolist() == [1.0] * int((x == 0).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_far_below_is_zero_and_nan_stays(dtype):
    x = np.full(16, -np.inf, dtype)
    x[1:5] = [-1e4, -1000, np.finfo(dtype).min, np.nan]
    out = np.ones_like(x)
    exp_of(x, out)
    assert np.isnan(out[4])
    assert np.all(np.delete(out, 4) == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_is_within_one_ulp_of_the_larger_of_one_and_the_result(dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([np.exp(rng.uniform(-80, 80, 1000)), 1 + rng.exponential(1e-3, 990), [1, 2, 0.5, 1e30], [1] * 6])
    x = x.astype(dtype)
    out = np.empty_like(x)
    log_of(x, out)
    with mpmath.workdps(40):
        exact = [mpmath.log(mpmath.mpf(float(v))) for v in x]
        error = np.array([abs(mpmath.mpf(float(v)) - e) for v, e in zip(out, exact, strict=True)], float)
    assert np.all(error <= np.spacing(np.maximum(np.abs(out), 1).astype(dtype)))
    assert out[np.flatnonzero(x == 1)].tolist() == [0.0] * int((x == 1).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", range(1, 17))
def test_partial_loads_read_nothing_beyond(n, dtype):
    # the memory after the row would poison both reductions
    x = np.full(16, np.nan, dtype)
    x[:n] = np.random.default_rng(n).standard_normal(n)
    out = np.zeros(2, dtype)
    reductions_of(x, n, out)
    assert out[0] == x[:n].max()
    assert out[1] == pytest.approx(x[:n].astype(float).sum(), abs=1e-5)


def by_definition(x):
    """softmax, its log, logsumexp, entropy of rows, in float64."""
    z = x.astype(np.float64)
    top = z.max(-1, keepdims=True)
    e = np.exp(z - top)
    log_p = z - top - np.log(e.sum(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True), log_p, np.log(e.sum(-1)) + top[:, 0], -(np.exp(log_p) * log_p).sum(-1)


# the last axis, and a middle one of so many entries beside each other
LAYOUTS = [(k, 1) for k in (1, 2, 3, 4, 7, 16, 17, 24, 25, 31, 32, 33, 64, 1023, 1024, 1025, 2100)]
LAYOUTS += [(k, b) for k in (1, 3, 17, 1030) for b in (2, 7, 16, 130)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("k", "b"), LAYOUTS)
def test_kernels_write_their_rows_and_nothing_else(k, b, dtype):
    computed = np.float64 if dtype == np.float64 else np.float32
    rng = np.random.default_rng(k)
    n, start, stop = 11 * b, 2 * b + 1, 9 * b - (b > 1)
    x = (rng.standard_normal((n // b, k, b)) * 3).astype(dtype)
    rows = np.moveaxis(x, 1, 2).reshape(n, k)
    y = rng.integers(0, k, n)
    p, log_p, sums, entropies = by_definition(rows)
    losses = -log_p[np.arange(n), y]
    gradients = p - (np.arange(k) == y[:, None])
    rtol = {np.float16: 1e-3, np.float32: 2e-5, np.float64: 1e-13}[dtype]
    inside = slice(start, stop)
    one, width = np.ones(1, computed), 64
    in_rows = b == 1 and k > 16
    scratch = np.empty(k + 16, np.float32) if dtype == np.float16 else None

    def array(run):
        memory = np.full(n * k + 64, 7, dtype)  # a guard on both sides
        out = memory[32 : 32 + n * k]
        run(out.view(np.uint16) if dtype == np.float16 else out)
        assert np.all(memory[:32] == 7)
        assert np.all(memory[32 + n * k :] == 7)
        found = np.moveaxis(out.reshape(x.shape), 1, 2).reshape(n, k)
        assert np.all(found[:start] == 7)
        assert np.all(found[stop:] == 7)
        return found[inside].astype(float)

    def numbers(run):
        out = np.full(n + 64, 7, computed)
        run(out)
        assert np.all(out[:start] == 7)
        assert np.all(out[stop:] == 7)
        return out[inside]

    flat = x.reshape(-1).view(np.uint16) if dtype == np.float16 else x.reshape(-1)
    tiled = (k, b, one, 0, None, (0, 0, 0), width, start, stop)
    lined = (k, one, 0, None, 0)
    if in_rows:
        found = array(lambda o: softmax.softmax_rows(flat, o, *lined, scratch, start, stop))
        logs = array(lambda o: softmax.log_softmax_rows(flat, o, *lined, start, stop))
    else:
        found = array(lambda o: softmax.softmax_tiles(flat, o, *tiled))
        logs = array(lambda o: softmax.log_softmax_tiles(flat, o, *tiled))
    np.testing.assert_allclose(found, p[inside], rtol=rtol, atol=1e-7 if dtype == np.float16 else 0)
    np.testing.assert_allclose(logs, log_p[inside], rtol=rtol, atol=rtol)
    of_rows = (k, b, None, (0, 0, 0), None if in_rows else width, start, stop)
    rtol = min(rtol, 2e-5)
    found = numbers(lambda o: reductions.logsumexp_rows(flat, o, *of_rows))
    np.testing.assert_allclose(found, sums[inside], rtol=rtol)
    found = numbers(lambda o: reductions.label_loss_rows(flat, y, o, *of_rows))
    np.testing.assert_allclose(found, losses[inside], rtol=rtol, atol=rtol)
    found = numbers(lambda o: reductions.entropy_rows(flat, o, *of_rows))
    np.testing.assert_allclose(found, entropies[inside], rtol=rtol, atol=rtol)
    results = np.full(n + 64, 7, computed)
    given = (flat, y, np.ones(n), results)
    if in_rows:
        found = array(lambda o: cross_entropy.cross_entropy_rows(*given, o, k, None, 0, scratch, start, stop))
    else:
        tiled = (k, b, None, (0, 0, 0), width, start, stop)
        found = array(lambda o: cross_entropy.cross_entropy_tiles(*given, o, *tiled))
    np.testing.assert_allclose(found, gradients[inside], rtol=rtol, atol=1e-3 if dtype == np.float16 else 1e-6)
    np.testing.assert_allclose(results[inside], losses[inside], rtol=rtol, atol=rtol)
    assert np.all(results[:start] == 7)
    assert np.all(results[stop:] == 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("k", [2, 10, 24, 25, 1500])
def test_the_evaluation_of_rows_against_the_definition(k, dtype):
    rng = np.random.default_rng(k)
    rows = (rng.standard_normal((70, k)) * 3).astype(dtype)
    rows[3] = np.round(rows[3])  # ties: the first of equal largest is predicted
    n = len(rows)
    y = rng.integers(0, k, n)
    y[::2] = rows[::2].argmax(-1)
    found = RowFacts.empty(n)
    assert EvaluationTally(k, 15).add(rows, y, np.ones(n), 1.0, found) == -1
    p, log_p, _, _ = by_definition(rows)
    own = rows[np.arange(n), y][:, None]
    ahead = ((rows > own) | ((rows == own) & (np.arange(k) < y[:, None]))).sum(axis=1)
    np.testing.assert_array_equal(found.predicted, rows.argmax(-1))
    np.testing.assert_array_equal(found.top5, ahead < 5)
    np.testing.assert_allclose(found.confidence, p.max(-1), rtol=1e-14)
    np.testing.assert_allclose(found.nll, -log_p[np.arange(n), y], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(found.brier, ((p - (np.arange(k) == y[:, None])) ** 2).sum(-1), rtol=1e-13, atol=1e-15)


def objective_by_mpmath(x, y, w, t):
    """Loss, and its derivatives in log T by differentiating the definition numerically with 50 digits."""
    with mpmath.workdps(50):

        def loss(log_t):
            total = mpmath.mpf(0)
            for row, label, weight in zip(x, y, w, strict=True):
                z = [mpmath.mpf(float(v)) * mpmath.exp(-log_t) for v in row]
                total += weight * (mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z)) - z[label])
            return total

        at = mpmath.log(mpmath.mpf(float(t)))
        return [float(loss(at)), float(mpmath.diff(loss, at)), float(mpmath.diff(loss, at, 2))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 10, 16, 17, 50])
def test_temperature_objective_against_mpmath(k, dtype):
    rng = np.random.default_rng(k)
    n = 19
    x = (rng.standard_normal((n, k)) * 4).astype(dtype)
    y = rng.integers(0, k, n)
    w = rng.integers(0, 3, n).astype(float)
    temperatures = np.array([0.3, 1.0, 2.5])
    sums = np.zeros((3, 3))
    temperature.temperature_objective_rows(x.reshape(-1), y, w, k, 1 / temperatures, sums, 0, n)
    for t, row in zip(temperatures, sums, strict=True):
        np.testing.assert_allclose(row, objective_by_mpmath(x, y, w, t), rtol=1e-11)


@pytest.mark.parametrize("k", [10, 50])
def test_temperature_objective_keeps_its_range(k):
    x = np.random.default_rng(0).standard_normal((8, k))
    y = np.arange(8)
    for scale in (1e-200, 1.0, 1e200):
        sums = np.zeros((1, 3))
        temperature.temperature_objective_rows(
            (x * scale).reshape(-1), y, np.ones(8), k, np.array([1 / scale]), sums, 0, 8
        )
        wanted = np.zeros((1, 3))
        temperature.temperature_objective_rows(x.reshape(-1), y, np.ones(8), k, np.ones(1), wanted, 0, 8)
        np.testing.assert_allclose(sums, wanted, rtol=1e-12)
    low = x.copy()
    low[:, -1] = -np.inf
    sums = np.zeros((1, 3))
    temperature.temperature_objective_rows(low.reshape(-1), y, np.ones(8), k, np.ones(1), sums, 0, 8)
    without = np.zeros((1, 3))
    cut = np.ascontiguousarray(low[:, :-1])
    temperature.temperature_objective_rows(cut.reshape(-1), y, np.ones(8), k - 1, np.ones(1), without, 0, 8)
    np.testing.assert_allclose(sums, without, rtol=1e-13)


class Ended(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_callback_of_the_compiler_is_not_lost(number, monkeypatch):
    def handler(*_):
        raise Ended

    before = signal.signal(number, handler)
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lost.append(what.exc_type))
    ends = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(number))
    went_on = []

    def compile_something():
        with interrupts_after():
            ends()
            went_on.append(True)

    try:
        ends()  # what Python makes of it
        assert lost == [Ended]
        with pytest.raises(Ended):
            compile_something()
        assert went_on == [True]
        assert lost == [Ended]
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def in_a_fresh_interpreter(program, **environment):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


SHOW = """
    import numpy as np, softargmax as sa
    z = (np.random.default_rng(0).standard_normal((5, 40)) * 3).astype(np.float32)
    print(sa.softmax(z).tobytes().hex(), sa.logsumexp(z).tobytes().hex())
"""


def decode(shown):
    return [np.frombuffer(bytes.fromhex(part), np.float32) for part in shown.split()]


def test_without_numba_the_results_agree():
    usual = decode(in_a_fresh_interpreter(SHOW))
    without = (
        "import sys; sys.modules['numba'] = None\n" + textwrap.dedent(SHOW) + "assert sys.modules['numba'] is None"
    )
    for one, other in zip(usual, decode(in_a_fresh_interpreter(without)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2 * (8 + math.log(40) + 40) * np.finfo(np.float32).eps)
    switched_off = decode(in_a_fresh_interpreter(SHOW, NUMBA_DISABLE_JIT="1"))
    for one, other in zip(usual, switched_off, strict=True):
        np.testing.assert_allclose(one, other, rtol=2 * (8 + math.log(40) + 40) * np.finfo(np.float32).eps)


def test_a_cache_folder_that_cannot_be_written_is_no_error():
    # nothing can be created below /proc, for root too; NUMBA_CACHE_DIR comes before every other place
    program = """
        import tempfile, numba.core.caching as caching
        def refuse(self): raise OSError("read-only")
        caching._CacheLocator.ensure_cache_path = refuse
    """
    usual = in_a_fresh_interpreter(SHOW)
    assert in_a_fresh_interpreter(SHOW, NUMBA_CACHE_DIR="/proc/nowhere") == usual
    assert in_a_fresh_interpreter(textwrap.dedent(program) + textwrap.dedent(SHOW)) == usual


def test_a_full_disk_while_caching_is_no_error(tmp_path):
    full = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    """
    shown = in_a_fresh_interpreter(textwrap.dedent(full) + textwrap.dedent(SHOW), NUMBA_CACHE_DIR=str(tmp_path))
    assert shown == in_a_fresh_interpreter(SHOW)
    assert not list(tmp_path.rglob("*.nbc"))


def test_the_cache_is_used_and_a_damaged_entry_is_compiled_anew(tmp_path):
    first = in_a_fresh_interpreter(SHOW, NUMBA_CACHE_DIR=str(tmp_path))
    entries = list(tmp_path.rglob("*.nbc"))
    assert len(entries) == 2  # softmax and logsumexp of float32
    before = {path: path.stat().st_mtime_ns for path in entries}
    assert in_a_fresh_interpreter(SHOW, NUMBA_CACHE_DIR=str(tmp_path)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == before
    for damaged in (b"", entries[0].read_bytes()[:100], b"\x00not a kernel"):
        entries[0].write_bytes(damaged)
        assert in_a_fresh_interpreter(SHOW, NUMBA_CACHE_DIR=str(tmp_path)) == first


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 5, 16, 17, 100, 2100])
def test_row_spread_against_plain_loops(k, dtype, engine):
    from softargmax.ops.spread import row_spread

    rng = np.random.default_rng(k)
    x = (rng.standard_normal((12, k)) * 5).astype(dtype)
    x[1, 0], x[2], x[3, -1], x[4, k // 2] = -np.inf, -np.inf, np.nan, np.inf
    x[5, 0], x[6] = np.finfo(dtype).max, np.finfo(dtype).max / 2
    spread = row_spread(x)
    for r, row in enumerate(x.astype(float)):
        finite = [v for v in row.tolist() if math.isfinite(v)]
        np.testing.assert_equal(spread.top[r], math.nan if np.isnan(row).any() else max(row.tolist()))
        assert spread.lowest[r] == min(finite, default=math.inf)
        assert spread.n_low[r] == (row == -math.inf).sum()
        if not finite:
            assert np.isnan(spread.mean[r])
        elif math.isfinite(sum(finite)):
            assert spread.mean[r] == pytest.approx(math.fsum(finite) / len(finite), rel=1e-12, abs=1e-13)
