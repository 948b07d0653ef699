"""Every contender computes what it is measured for: its values against definitions in float64 written here."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.special

from softargmax.bench import PEERS, chosen
from softargmax.bench.memory import _words, copy, read
from softargmax.bench.works import OURS, TEMPERATURE
from softargmax.metrics import Evaluation

SMALL = {
    (work.op, work.result, work.axis, work.dtype): replace(work, shape=(7, 12, 3) if work.axis == 1 else (30, 12))
    for work in chosen()
}
WORKS = [pytest.param(work, id=f"{work.name} {work.dtype}") for work in SMALL.values()]


RTOL = {"evaluate": 1e-9, "temperature_objective": 1e-5}  # float64; and that of differences
ATOL = {"float16": 1e-3, "evaluate": 0}


def loss(z, y):
    return float(np.mean(scipy.special.logsumexp(z, axis=-1) - z[np.arange(len(y)), y]))


def exact(work, inputs):
    z, y = inputs.logits.astype(np.float64), inputs.labels
    if work.op in ("softmax", "log_softmax", "logsumexp"):
        return [getattr(scipy.special, work.op)(z, axis=work.axis)]
    if work.op == "cross_entropy":
        return [loss(z, y)]
    p = scipy.special.softmax(z, axis=-1)
    if work.op == "cross_entropy_and_grad":
        return [loss(z, y), (p - np.eye(z.shape[1])[y]) / len(y)]
    if work.op == "temperature_objective":  # derivatives in log T by differences

        def at(log_t):
            return len(y) * loss(z / np.exp(log_t), y)

        t, h = np.log(TEMPERATURE), 1e-3
        return [[at(t), (at(t + h) - at(t - h)) / (2 * h), (at(t + h) - 2 * at(t) + at(t - h)) / h**2]]
    rows = np.arange(len(y))
    order = np.argsort(-z, axis=-1)
    confidence, right = p.max(axis=-1), order[:, 0] == y
    nll, brier = -np.log(p[rows, y]), ((p - np.eye(z.shape[1])[y]) ** 2).sum(axis=-1)
    ece = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        ece += abs(right[inside].sum() - confidence[inside].sum()) / len(y)
    return [[right.mean(), (order[:, :5] == y[:, None]).any(axis=-1).mean(), nll.mean(), brier.mean(), ece]]


def check(work, inputs, contender, values):
    result = contender.run()
    if isinstance(result, Evaluation):
        result = np.array([result.accuracy, result.top5, result.nll, result.brier, result.ece])
    parts = result if isinstance(result, tuple | list) else [result]
    found, wanted = [np.asarray(values(part)) for part in parts], exact(work, inputs)
    if work.op == "temperature_objective":  # ours are of several temperatures
        found = [found[0].reshape(3)]
    rtol = 2e-3 if work.dtype == "float16" else RTOL.get(work.op, 2e-5)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=ATOL.get(work.dtype, ATOL.get(work.op, 1e-6)))
    # named as what it does
    if contender.result == "out":
        np.testing.assert_array_equal(inputs.out, np.asarray(result))
    elif inputs.out.size:
        np.testing.assert_array_equal(inputs.out, 9)


def inputs_of(work):
    inputs = work.inputs()
    inputs.out.fill(9)
    return inputs


@pytest.mark.parametrize("work", WORKS)
def test_ours(work):
    inputs = inputs_of(work)
    contender = OURS[work.op](work, inputs)
    assert contender.result == work.result
    check(work, inputs, contender, np.asarray)


STEPS = ("temperature_objective", "evaluate")
NOTHING_FOR = {
    "SciPy": ("cross_entropy", "cross_entropy_and_grad", *STEPS),
    "JAX": STEPS,
    "TensorFlow": STEPS,
    "ONNX Runtime": ("cross_entropy_and_grad", *STEPS),
}


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("work", WORKS)
def test_peers(work, kind):
    peer = kind(pytest.importorskip(kind.module))
    inputs = inputs_of(work)
    contender = peer.contender(work, inputs)
    assert (contender is None) == (work.op in NOTHING_FOR.get(peer.name, ()))
    if contender is not None:
        check(work, inputs, contender, peer.values)


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_peers_get_as_many_threads(kind):
    pytest.importorskip(kind.module)
    # in a process of its own: some libraries cannot be told once they have computed
    program = f"""if True:
        import importlib
        from softargmax.bench.peers import {kind.__name__}
        from softargmax.kernels.threads import n_threads
        peer = {kind.__name__}(importlib.import_module("{kind.module}"))
        assert peer.threads in ("1 thread", f"{{n_threads()}} threads"), peer.threads
        if peer.name == "torch":
            assert peer.xp.get_num_threads() == n_threads()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n", [1, 3, 64, 1000, 1001, (1 << 21) + 5])
def test_memory_is_copied_and_read(n):
    from softargmax.kernels.bandwidth import copy_elements, read_elements

    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    for start, stop in ((0, n), (n // 3, n - n // 5)):
        out = np.full(n, np.nan, np.float32)
        copy_elements(x, out, start, stop)
        np.testing.assert_array_equal(out[start:stop], x[start:stop])
        assert np.isnan(out[:start]).all()
        assert np.isnan(out[stop:]).all()
        wanted = x[start:stop].astype(np.float64).sum()
        assert read_elements(x, start, stop) == pytest.approx(wanted, abs=1e-6 * float(np.abs(x).sum()))


def test_memory_of_an_odd_number_of_halves():
    work = replace(chosen(["float16"])[0], shape=(3, 5))
    of = work.inputs()
    copy(of)()
    read(of)()
    assert _words(of.logits).tobytes() == of.logits.tobytes()[:28]  # the last two bytes are no word
