"""The name of a peer -> how it does a piece of work, on arrays of its own that are made before the clock starts.

Every peer gets as many threads as our kernels use, where it can be told. What computes later than it returns (JAX) is
waited for. Where a peer cannot write into memory that is there, its fresh result is measured, and called so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from softargmax.bench.timing import Call
from softargmax.bench.works import TEMPERATURE, Contender, How, Inputs, Way, Work, numbers
from softargmax.kernels.threads import n_threads
from softargmax.parity import Library
from softargmax.parity.libraries import Jax, TensorFlow, Torch

N_BINS, TOP = 15, 5


class Peer(Library):
    """A library of functions on NumPy arrays, in one thread."""

    threads = "1 thread"

    def ways(self) -> Mapping[str, Way]:
        """The op of a piece of work -> how this library does it."""
        raise NotImplementedError

    def contender(self, work: Work, inputs: Inputs) -> Contender | None:
        """None where the library has nothing for it."""
        way = self.ways().get(work.op)
        return None if way is None else way(work, inputs)


class SciPy(Peer):
    """scipy.special, which makes fresh arrays."""

    module = "scipy"
    name = "SciPy"

    def ways(self) -> Mapping[str, Way]:
        """No losses."""
        special = importlib.import_module("scipy.special")

        def fresh(function: Any) -> Way:
            return lambda work, of: Contender(lambda: function(of.logits, axis=work.axis), "fresh", "steps")

        return {
            "softmax": fresh(special.softmax),
            "log_softmax": fresh(special.log_softmax),
            "logsumexp": lambda work, of: numbers(lambda: special.logsumexp(of.logits, axis=work.axis), "steps"),
        }


class NumPyPeer(Peer):
    """The formulas as one writes them, the maximum taken off."""

    def ways(self) -> Mapping[str, Way]:
        """All of them."""

        def fresh(function: Any) -> Way:
            return lambda work, of: Contender(lambda: function(of.logits, work.axis), "fresh", "steps")

        def loss_and_gradient(work: Work, of: Inputs) -> Contender:
            return Contender(lambda: _np_loss_and_gradient(of.logits, of.labels), "fresh", "steps")

        return {
            "softmax": fresh(_np_softmax),
            "log_softmax": fresh(_np_log_softmax),
            "logsumexp": lambda work, of: numbers(lambda: _np_logsumexp(of.logits), "steps"),
            "cross_entropy": lambda work, of: numbers(lambda: _np_loss(of.logits, of.labels), "steps"),
            "cross_entropy_and_grad": loss_and_gradient,
            "temperature_objective": lambda work, of: numbers(lambda: _np_objective(of), "steps"),
            "evaluate": lambda work, of: numbers(lambda: _np_evaluate(of.logits, of.labels), "steps"),
        }


def _np_softmax(z: Any, axis: int) -> Any:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _np_log_softmax(z: Any, axis: int) -> Any:
    u = z - z.max(axis=axis, keepdims=True)
    return u - np.log(np.exp(u).sum(axis=axis, keepdims=True))


def _np_logsumexp(z: Any) -> Any:
    top = z.max(axis=-1)
    return top + np.log(np.exp(z - top[:, None]).sum(axis=-1))


def _np_loss(z: Any, y: Any) -> Any:
    return np.mean(_np_logsumexp(z) - z[np.arange(len(y)), y])


def _np_loss_and_gradient(z: Any, y: Any) -> Any:
    p, rows = _np_softmax(z, -1), np.arange(len(y))
    loss = -np.mean(np.log(p[rows, y]))
    p[rows, y] -= 1
    p /= len(y)
    return loss, p


def _np_objective(of: Inputs) -> Any:
    z = of.logits.astype(np.float64)
    u = (z - z.max(axis=-1, keepdims=True)) / TEMPERATURE
    own = u[np.arange(len(u)), of.labels]
    e = np.exp(u)
    total = e.sum(axis=-1)
    p = e / total[:, None]
    mean = (p * u).sum(axis=-1)
    variance = (p * u**2).sum(axis=-1) - mean**2
    return np.stack([of.weights @ x for x in (np.log(total) - own, own - mean, variance + mean - own)])


def _np_rows(logits: Any, y: Any) -> Any:
    """Of each row: the prediction, its probability, NLL, Brier score."""
    log_p, rows = _np_log_softmax(logits.astype(np.float64), -1), np.arange(len(y))
    p = np.exp(log_p)
    predicted = log_p.argmax(axis=-1)
    return predicted, p[rows, predicted], -log_p[rows, y], (p * p).sum(axis=-1) - 2 * p[rows, y] + 1


def _np_evaluate(logits: Any, y: Any) -> Any:
    """Accuracy, top-5, NLL, Brier score, calibration error; and the confusion matrix up to 1000 classes."""
    predicted, confidence, nll, brier = _np_rows(logits, y)
    right, k = predicted == y, logits.shape[-1]
    in_top = (logits > logits[np.arange(len(y)), y][:, None]).sum(axis=-1) < TOP
    bins = np.ceil(confidence * N_BINS).astype(np.int64) - 1
    gaps = np.bincount(bins, weights=right - confidence, minlength=N_BINS)
    if k <= 1000:
        np.bincount(y * k + predicted, minlength=k * k)
    return np.stack([right.mean(), in_top.mean(), nll.mean(), brier.mean(), np.abs(gaps).sum() / len(y)])


class TorchPeer(Peer, Torch):
    """torch, eager, on the CPU."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        module.set_num_threads(n_threads())
        self.threads = _threads(module.get_num_threads())

    def on_every_device(self) -> Iterator[Library]:
        """The CPU alone."""
        yield self

    def ways(self) -> Mapping[str, Way]:
        """softmax is one kernel; losses, their gradients and what has no function of its own are several."""
        torch, functional = self.xp, self.xp.nn.functional

        def same_size(op: str) -> Way:
            def way(work: Work, of: Inputs) -> Contender:
                z = torch.from_numpy(of.logits)
                if work.result == "out":
                    function, out = getattr(torch, op), torch.from_numpy(of.out)
                    return Contender(lambda: function(z, work.axis, out=out), "out", "fused")
                function = getattr(torch, op)
                return Contender(lambda: function(z, work.axis), "fresh", "fused")

            return way

        def reduced(function: Any) -> Way:
            def way(work: Work, of: Inputs) -> Contender:
                z, y, w = (torch.from_numpy(x) for x in (of.logits, of.labels, of.weights))
                return numbers(lambda: function(z, y, w), "steps")

            return way

        def loss_and_gradient(work: Work, of: Inputs) -> Contender:
            z, y = torch.from_numpy(of.logits).clone().requires_grad_(), torch.from_numpy(of.labels)

            def run() -> Any:
                loss = functional.cross_entropy(z, y)
                return loss.detach(), torch.autograd.grad(loss, z)[0]

            return Contender(run, "fresh", "steps")

        def objective(logits: Any, y: Any, w: Any) -> Any:
            z = logits.double()
            u = (z - z.amax(-1, keepdim=True)) / TEMPERATURE
            own = u.gather(1, y[:, None])[:, 0]
            log_p = torch.log_softmax(u, -1)
            p = log_p.exp()
            mean = (p * u).sum(-1)
            variance = (p * u**2).sum(-1) - mean**2
            return torch.stack([w @ x for x in (-log_p.gather(1, y[:, None])[:, 0], own - mean, variance + mean - own)])

        def rows(logits: Any, y: Any) -> Any:
            log_p = torch.log_softmax(logits.double(), -1)
            p, own = log_p.exp(), y[:, None]
            confidence, predicted = p.max(-1)
            return predicted, confidence, -log_p.gather(1, own)[:, 0], (p * p).sum(-1) - 2 * p.gather(1, own)[:, 0] + 1

        def evaluate(z: Any, y: Any, w: Any) -> Any:
            predicted, confidence, nll, brier = rows(z, y)
            right, k = predicted == y, z.shape[-1]
            in_top = (z > z.gather(1, y[:, None])).sum(-1) < TOP
            bins = torch.ceil(confidence * N_BINS).long() - 1
            gaps = torch.bincount(bins, weights=right.double() - confidence, minlength=N_BINS)
            if k <= 1000:
                torch.bincount(y * k + predicted, minlength=k * k)
            means = [x.double().mean() for x in (right, in_top, nll, brier)]
            return torch.stack([*means, gaps.abs().sum() / len(y)])

        return {
            "softmax": same_size("softmax"),
            "log_softmax": same_size("log_softmax"),
            "logsumexp": reduced(lambda z, y, w: torch.logsumexp(z, -1)),
            "cross_entropy": reduced(lambda z, y, w: functional.cross_entropy(z, y)),
            "cross_entropy_and_grad": loss_and_gradient,
            "temperature_objective": reduced(objective),
            "evaluate": reduced(evaluate),
        }


class JaxPeer(Peer, Jax):
    """jax.nn under jax.jit."""

    name = "JAX"

    def __init__(self, module: Any) -> None:
        os.environ.setdefault("PJRT_NPROC", str(n_threads()))  # read when its client starts: at the next line
        super().__init__(module)
        self.threads = _threads(int(os.environ["PJRT_NPROC"])) if os.environ["PJRT_NPROC"].isdigit() else "its own"

    def ways(self) -> Mapping[str, Way]:
        """It makes fresh arrays; float64 has to be asked of the whole process, so what needs it is left out."""
        jax, jnp = self.xp, self.np

        def jitted(function: Any, result: Any) -> Way:
            def way(work: Work, of: Inputs) -> Contender:
                z, y = jnp.asarray(of.logits), jnp.asarray(of.labels.astype(np.int32))
                compiled = jax.jit(lambda z, y: function(z, y, work.axis))
                return Contender(lambda: jax.block_until_ready(compiled(z, y)), result, "jit")

            return way

        def loss(z: Any, y: Any, axis: int) -> Any:
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=-1))

        return {
            "softmax": jitted(lambda z, y, axis: jax.nn.softmax(z, axis=axis), "fresh"),
            "log_softmax": jitted(lambda z, y, axis: jax.nn.log_softmax(z, axis=axis), "fresh"),
            "logsumexp": jitted(lambda z, y, axis: jax.nn.logsumexp(z, axis=axis), "numbers"),
            "cross_entropy": jitted(loss, "numbers"),
            "cross_entropy_and_grad": jitted(lambda z, y, axis: jax.value_and_grad(loss)(z, y, axis), "fresh"),
        }


class TensorFlowPeer(Peer, TensorFlow):
    """tf.nn, eager."""

    name = "TensorFlow"

    def __init__(self, module: Any) -> None:
        threading = module.config.threading
        with contextlib.suppress(RuntimeError):  # it has begun to compute: as it is
            threading.set_intra_op_parallelism_threads(n_threads())
            threading.set_inter_op_parallelism_threads(1)
        super().__init__(module)
        self.threads = _threads(threading.get_intra_op_parallelism_threads())

    def ways(self) -> Mapping[str, Way]:
        """It makes fresh arrays."""
        tf = self.xp

        def tensors(of: Inputs) -> Any:
            with tf.device("CPU"):
                return tf.constant(of.logits), tf.constant(of.labels)

        def fresh(function: Any) -> Way:
            def way(work: Work, of: Inputs) -> Contender:
                z, _ = tensors(of)
                how: How = "fused" if work.axis == -1 else "steps"  # it transposes, twice
                return Contender(lambda: function(z, axis=work.axis), "fresh", how)

            return way

        def logsumexp(work: Work, of: Inputs) -> Contender:
            z, _ = tensors(of)
            return numbers(lambda: tf.reduce_logsumexp(z, axis=-1), "steps")

        def mean_loss(z: Any, y: Any) -> Any:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z))

        def loss(work: Work, of: Inputs) -> Contender:
            z, y = tensors(of)
            return numbers(lambda: mean_loss(z, y), "steps")

        def loss_and_gradient(work: Work, of: Inputs) -> Contender:
            z, y = tensors(of)

            def run() -> Any:
                with tf.GradientTape() as tape:
                    tape.watch(z)
                    value = mean_loss(z, y)
                return value, tape.gradient(value, z)

            return Contender(run, "fresh", "steps")

        return {
            "softmax": fresh(tf.nn.softmax),
            "log_softmax": fresh(tf.nn.log_softmax),
            "logsumexp": logsumexp,
            "cross_entropy": loss,
            "cross_entropy_and_grad": loss_and_gradient,
        }


class OnnxRuntime(Peer):
    """ONNX Runtime: a session of one node. Results go into bound memory, or come from `run` as fresh arrays."""

    module = "onnxruntime"
    name = "ONNX Runtime"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.onnx = importlib.import_module("onnx")
        self.threads = _threads(n_threads())

    def ways(self) -> Mapping[str, Way]:
        """No gradients."""

        def same_size(op: str) -> Way:
            def way(work: Work, of: Inputs) -> Contender:
                session = self._session(op, work.dtype, axis=work.axis)
                if work.result == "out":
                    return Contender(_bound(session, of.logits, of.out), "out", "fused")
                return Contender(lambda: session.run(None, {"x": of.logits})[0], "fresh", "fused")

            return way

        def logsumexp(work: Work, of: Inputs) -> Contender:
            session = self._session("ReduceLogSumExp", work.dtype, axes=[work.axis], keepdims=0)
            return numbers(lambda: session.run(None, {"x": of.logits})[0], "fused")

        def loss(work: Work, of: Inputs) -> Contender:
            session = self._session("SoftmaxCrossEntropyLoss", work.dtype, labels=True, reduction="mean")
            return numbers(lambda: session.run(None, {"x": of.logits, "labels": of.labels})[0], "steps")

        return {
            "softmax": same_size("Softmax"),
            "log_softmax": same_size("LogSoftmax"),
            "logsumexp": logsumexp,
            "cross_entropy": loss,
        }

    def _session(self, op: str, dtype: str, *, labels: bool = False, **attributes: Any) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        number = types.FLOAT16 if dtype == "float16" else types.FLOAT
        x, result = (helper.make_tensor_value_info(name, number, None) for name in ("x", "result"))
        inputs = [x, helper.make_tensor_value_info("labels", types.INT64, None)] if labels else [x]
        node = helper.make_node(op, [i.name for i in inputs], ["result"], **attributes)
        graph = helper.make_graph([node], op, inputs, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = self.xp.SessionOptions()
        options.intra_op_num_threads = n_threads()
        # its threads wait for more work in a loop: within a call, not after it, where they would slow down others
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return self.xp.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bound(session: Any, x: Any, out: Any) -> Call:
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output("result", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return out

    return run


def _threads(n: int) -> str:
    return "as many threads as it likes" if n == 0 else f"{n} thread{'' if n == 1 else 's'}"


PEERS: tuple[type[Peer], ...] = (SciPy, NumPyPeer, TorchPeer, JaxPeer, TensorFlowPeer, OnnxRuntime)
