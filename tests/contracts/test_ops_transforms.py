"""The ops inside what people wrap around them: jit, vmap, compile, autocast, export, forward mode, training loops."""

import functools
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import softargmax as sa
from tests.cases import definitions, libraries
from tests.cases.compare import agrees, close
from tests.cases.libraries import EPS, rounded
from tests.cases.ops import EVERYWHERE, OPS

INF, NAN = math.inf, math.nan
every_op = pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in EVERYWHERE])


def usual(op, n=6, k=4, dtype="float32"):
    """Arguments on ordinary rows, some masked, and the definition's result."""
    rng = np.random.default_rng(0)
    z = rounded(rng.standard_normal((n, k)) * 3, dtype)
    mask = rng.random((n, k)) < 0.8
    mask[:, 0] = True
    args, options = op.arguments(z, mask, rounded(rng.uniform(0.5, 2, (n, 1)), dtype))
    return args, options, op.define(*args, **options)


# ---- over a new first dimension ----


@every_op
@pytest.mark.parametrize("of", ["torch", "jax", "tensorflow"])
def test_vmap_is_the_batch(op, of):
    """Row by row under the library's vmap, which hides the values, what all rows say at once."""
    library = libraries.get(of)
    if op.name == "for_sampling" and of == "jax":
        pytest.skip("JAX has no float64 here, see test_ops_bad_input.py")
    args, options, wanted = usual(op)
    # numbers and arrays without rows are for all of them
    for_all = {key: a for key, a in options.items() if a.ndim == 0 or key == "class_weights"}
    args, options = op.converted(library, "float32", args, {k: a for k, a in options.items() if k not in for_all})
    _, for_all = op.converted(library, "float32", (), for_all)
    keys = tuple(options)

    def one(*arrays):
        return op(*arrays[: len(args)], **dict(zip(keys, arrays[len(args) :], strict=True)), **for_all)

    arrays = (*args, *options.values())
    if of == "tensorflow":
        result = library.xp.vectorized_map(lambda each: one(*each), arrays)
    else:
        result = (library.xp.vmap if of == "jax" else library.xp.func.vmap)(one)(*arrays)
    agrees(library, result, wanted, op.result_dtype("float32"))


@every_op
@pytest.mark.parametrize("of", ["torch", "jax"])
def test_vmap_along_another_axis(op, of):
    library = libraries.get(of)
    if op.elementwise or op.name in ("logits_from_probs", "for_sampling"):
        pytest.skip("has no axis")
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((4, 3, 2)), rng.integers(0, 3, (4, 2))
    rest = {"cross_entropy": (y,), "log_prob": (y,), "kl_divergence": (z[::-1].copy(),)}.get(op.name, ())
    arrays = [library.array(a, "float32" if a.dtype.kind == "f" else None) for a in (z, *rest)]
    vmap = library.xp.vmap if of == "jax" else library.xp.func.vmap
    result = vmap(lambda *one: op(*one, axis=0))(*arrays)
    eager = library.numpy(op(*arrays, axis=1))  # perhaps by a kernel; near 0 the error of logsumexp is absolute
    np.testing.assert_allclose(library.numpy(result), eager, rtol=1e-6, atol=8 * EPS["float32"])


@pytest.mark.parametrize("of", ["torch", "jax"])
def test_the_hessian_of_logsumexp_is_the_jacobian_of_softmax(of):
    library = libraries.get(of)
    z = np.array([1.0, 3.0, -INF, 2.5])
    array = library.array(z, "float32")
    transform = library.xp if of == "jax" else library.xp.func
    for written in (transform.hessian(sa.logsumexp), transform.jacrev(sa.softmax), transform.jacfwd(sa.softmax)):
        np.testing.assert_allclose(
            library.numpy(written(array)), definitions.softmax_jacobian(z[None])[0], atol=8 * EPS["float32"]
        )
    by_row = library.xp.vmap if of == "jax" else library.xp.func.vmap
    rows = library.array(np.array([[1.0, 2.0, 0.5], [0.0, INF, 1.0]]), "float32")
    hessians = by_row(transform.hessian(sa.logsumexp))(rows)
    np.testing.assert_allclose(library.numpy(hessians[0]), library.numpy(sa.softmax_jacobian(rows[0])), atol=1e-6)
    np.testing.assert_array_equal(library.numpy(hessians[1]), np.zeros((3, 3)))


@pytest.mark.parametrize("of", ["torch", "jax"])
def test_gradients_one_a_row(of):
    """vmap of grad: per-example gradients of the loss, p - q."""
    library = libraries.get(of)
    z, labels = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 0.5]]), np.array([2, 0])
    transform = library.xp if of == "jax" else library.xp.func
    gradients = transform.vmap(transform.grad(sa.cross_entropy))(library.array(z, "float32"), library.array(labels))
    np.testing.assert_allclose(library.numpy(gradients), definitions.softmax(z) - np.eye(3)[labels], atol=1e-6)


# ---- JAX ----


def test_jax_pytrees_scans_and_checkpoints():
    jax = libraries.get("jax").xp
    z, labels = jax.numpy.asarray(np.float32([[1, 2, 0], [3, -1, 0.5]])), jax.numpy.asarray([2, 0])

    def over_rows(total, row):
        return total + sa.cross_entropy(*row), sa.softmax(row[0])

    total, p = jax.lax.scan(over_rows, 0.0, (z, labels))
    wanted = definitions.log_prob(np.asarray(z, float), np.asarray(labels))
    assert float(total) == pytest.approx(-wanted.sum(), rel=1e-6)
    close(np.asarray(p, float), definitions.softmax(np.asarray(z, float)), "float32")
    plain = jax.grad(sa.cross_entropy)(z, labels)
    saved = jax.jit(jax.grad(jax.checkpoint(sa.cross_entropy)))(z, labels)
    np.testing.assert_allclose(saved, plain, atol=1e-6)
    with jax.debug_nans(True):  # nothing inside makes a NaN that a `where` then hides
        jax.grad(sa.cross_entropy)(z, labels).block_until_ready()
        sa.softmax(z, mask=z > 0).block_until_ready()


# ---- PyTorch ----


@pytest.fixture
def torch():
    return libraries.get("torch").xp


def test_torch_agrees_with_its_own_gradient_checks(torch):
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    t = torch.tensor([[0.7], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    mask, labels = torch.tensor(rng.random((3, 4)) < 0.8) | torch.eye(3, 4, dtype=torch.bool), torch.arange(3)
    for f in (
        lambda z, t: sa.softmax(z, temperature=t, mask=mask),
        lambda z, t: sa.log_softmax(z, temperature=t)[mask],
        lambda z, t: sa.logsumexp(z / t, mask=mask),
        lambda z, t: sa.cross_entropy(z * t, labels, mask=mask, label_smoothing=0.1),
        lambda z, t: sa.entropy(z * t, mask=mask),
        lambda z, t: sa.kl_divergence(z, z.flip(0) * t),
        lambda z, t: sa.softmax_jacobian(z * t),
        lambda z, t: sa.binary_cross_entropy(z * t, mask.to(z.dtype), pos_weight=2.0),
        lambda z, t: sa.log_sigmoid(z * t) + sa.sigmoid(z),
        lambda z, t: sa.log_prob(z * t, labels),
    ):
        assert torch.autograd.gradcheck(f, (z, t))
        assert torch.autograd.gradgradcheck(f, (z, t))


@pytest.mark.parametrize("sizes", [(6,), pytest.param((6, 9, 12), marks=pytest.mark.minutes)])
def test_torch_inductor(torch, sizes):
    """Compiled to machine code, forward and backward; the first time for one size, then for any."""
    if not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++")))):
        pytest.skip("no C++ compiler, which inductor needs")
    torch.compiler.reset()

    def loss(z, labels, mask, t):
        return sa.cross_entropy(sa.log_softmax(z, temperature=t, mask=mask), labels)

    compiled = torch.compile(loss, fullgraph=True)
    for n in sizes:
        rng = np.random.default_rng(n)
        z, labels = rounded(rng.standard_normal((n, 5)), "float32"), np.arange(n) % 5
        z[0, 1], z[2, 3] = -INF, INF
        mask = rng.random((n, 5)) < 0.7
        mask[np.arange(n), labels] = True
        arrays = torch.tensor(z, dtype=torch.float32, requires_grad=True), torch.tensor(labels), torch.tensor(mask)
        t = torch.tensor(0.7, requires_grad=True)
        eager, value = loss(*arrays, t), compiled(*arrays, t)
        at_eager = torch.autograd.grad(eager, (arrays[0], t))
        for one, other in zip((value, *torch.autograd.grad(value, (arrays[0], t))), (eager, *at_eager), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_torch_compiles_once_for_all_batch_sizes(torch):
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda z, y: sa.cross_entropy(sa.softmax(z), y), fullgraph=True, backend=counter)
    for n in range(2, 14):
        z, y = torch.zeros(n, 4), torch.zeros(n, dtype=torch.long)
        assert compiled(z, y).item() == pytest.approx(math.log(4), rel=1e-6)
    assert counter.frame_count <= 2  # one for the first size, one for any


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_torch_autocast_leaves_the_arithmetic_in_float32(torch, half):
    rng = np.random.default_rng(0)
    x, w = torch.tensor(rng.standard_normal((5, 8)), dtype=torch.float32), torch.nn.Linear(8, 4)
    single = torch.tensor(rng.standard_normal((5, 4)) * 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=getattr(torch, half)):
        z = w(x)
        assert z.dtype == getattr(torch, half)
        for op in (sa.softmax, sa.log_softmax, sa.logsumexp, sa.entropy, sa.sigmoid, sa.softmax_jacobian):
            inside = op(single), op(z.detach())
            with torch.autocast("cpu", enabled=False):
                for one, other in zip(inside, (op(single), op(z.detach())), strict=True):
                    assert one.dtype == other.dtype
                    assert torch.equal(one, other)
        loss = sa.cross_entropy(z, torch.arange(5) % 4)
        loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(w.weight.grad).all()
    exact = -definitions.log_prob(z.detach().double().numpy(), np.arange(5) % 4).mean()
    assert loss.item() == pytest.approx(exact, rel=1e-6)


def test_torch_modes_parameters_and_views(torch):
    z = torch.nn.Parameter(torch.tensor([[1.0, 2.0, 0.5]]))
    p = sa.softmax(z)
    assert type(p) is torch.Tensor
    assert p.requires_grad
    with torch.no_grad():
        assert not sa.softmax(z).requires_grad
    with torch.inference_mode():
        assert torch.equal(sa.softmax(z), p)
        assert sa.cross_entropy(z, torch.tensor([1])).is_inference()
    on_meta = sa.softmax(torch.zeros(2, 3, device="meta"), mask=torch.ones(3, dtype=torch.bool, device="meta"))
    assert on_meta.device.type == "meta"
    assert on_meta.shape == (2, 3)
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    assert sa.cross_entropy(torch.zeros(2, 3, device="meta"), labels).shape == ()
    torch.set_default_dtype(torch.float64)
    try:
        assert sa.softmax(torch.tensor([1, 2])).dtype == torch.float64
        assert sa.softmax(torch.tensor([1.0, 2.0], dtype=torch.float32)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_torch_export(torch):
    class Calibrated(torch.nn.Module):
        def forward(self, z, t):
            return sa.softmax(z, temperature=t), sa.logsumexp(z)

    z, t = torch.tensor([[1.0, 2.0, -INF], [0.0, 3.0, 1.0]]), torch.tensor([[0.5], [2.0]])
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Calibrated(), (z, t), dynamic_shapes=({0: rows}, {0: rows}))
    more = torch.cat([z, z + 1]), torch.cat([t, t])
    for one, other in zip(program.module()(*more), Calibrated()(*more), strict=True):
        torch.testing.assert_close(one, other)


def test_torch_exports_losses_of_any_batch(torch):
    class Loss(torch.nn.Module):
        def forward(self, z, labels, targets):
            return sa.cross_entropy(z, labels), sa.binary_cross_entropy(z, targets)

    def arrays(n):
        rng = np.random.default_rng(n)
        z, y = torch.tensor(rng.standard_normal((n, 3)), dtype=torch.float32), torch.tensor(rng.integers(0, 3, n))
        return z, y, torch.nn.functional.one_hot(y, 3).float()

    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Loss(), arrays(4), dynamic_shapes=({0: rows},) * 3)
    for n in (5, 5000):
        for one, other in zip(program.module()(*arrays(n)), Loss()(*arrays(n)), strict=True):
            torch.testing.assert_close(one, other)


def test_torch_jit_trace(torch):
    def both(z, y):
        return sa.cross_entropy(z, y, reduction="none"), sa.softmax(z, temperature=2.0)

    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, and speaks of what it makes constant
        traced = torch.jit.trace(both, (z, y), check_trace=False)
    more = torch.cat([z, z + torch.eye(4, 3)]), torch.cat([y, y])
    for one, other in zip(traced(*more), both(*more), strict=True):
        torch.testing.assert_close(one, other)


def test_torch_inductor_keeps_the_digits_of_a_small_divergence(torch):
    if not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++")))):
        pytest.skip("no C++ compiler, which inductor needs")
    rng = np.random.default_rng(0)
    z = rounded(rng.standard_normal((50, 1000)) * 10, "float32")
    q = rounded(z + rng.standard_normal((50, 1000)) * 1e-3, "float32")
    arrays = torch.tensor(z, dtype=torch.float32), torch.tensor(q, dtype=torch.float32)
    torch.compiler.reset()
    for divergence in (sa.kl_divergence, torch.compile(sa.kl_divergence)):
        values = divergence(*arrays).numpy()
        assert np.all(values >= 0)
        np.testing.assert_allclose(values, definitions.kl_divergence(z, q), rtol=0.02, atol=1e-11)


def cuda_or_skip(torch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device in this machine")


@every_op
@pytest.mark.parametrize("dtype", libraries.FLOATS["torch"])
def test_torch_on_cuda(torch, op, dtype):
    cuda_or_skip(torch)
    library = libraries.get("torch")
    args, options, wanted = usual(op, dtype=dtype)
    args, options = op.converted(library, dtype, args, options)
    result = op(*(a.cuda() for a in args), **{key: a.cuda() for key, a in options.items()})
    assert result.device.type == "cuda"
    agrees(library, result.cpu(), wanted, op.result_dtype(dtype), 256)


def test_torch_on_cuda_does_not_wait_and_does_not_lie(torch):
    cuda_or_skip(torch)
    z, labels = torch.zeros(3, 4, device="cuda"), torch.tensor([0, 9, -1], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = sa.cross_entropy(z, labels, reduction="none")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_array_equal(torch.isnan(losses).cpu(), [False, True, True])
    with pytest.raises(ValueError, match="on cuda:0"):
        sa.cross_entropy(z, labels.cpu())


# ---- TensorFlow ----


@pytest.fixture
def tf():
    return libraries.get("tensorflow").xp


@every_op
def test_tensorflow_signatures_of_unknown_extents(tf, op):
    """One graph for every number of rows and classes."""
    library = libraries.get("tensorflow")
    args, options, _ = usual(op)
    arrays, named = op.converted(library, "float32", args, options)
    keys = tuple(named)
    signature = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in (*arrays, *named.values())]

    @tf.function(input_signature=signature)
    def graph(*inputs):
        return op(*inputs[: len(arrays)], **dict(zip(keys, inputs[len(arrays) :], strict=True)))

    for n, k in ((6, 4), (3, 7), (2, 1)):
        args, options, wanted = usual(op, n, k)
        arrays, named = op.converted(library, "float32", args, options)
        agrees(library, graph(*arrays, *named.values()), wanted, op.result_dtype("float32"))
    assert graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("jit", [False, True])
def test_tensorflow_extents_that_do_not_fit_are_found_when_it_runs(tf, jit):
    """Where the graph does not know extents, operations would broadcast what is not one a row or one a class."""
    z = tf.constant([[1.0, 2.0, 4.0], [3.0, 3.0, 1.0]])
    one, two, three = tf.constant([1.0]), tf.constant([1.0, 1.0]), tf.constant([1.0, 1.0, 1.0])
    labels = tf.constant([0, 1])
    calls = {
        "labels": (lambda z, y: sa.cross_entropy(z, y), (z, labels), (z, tf.constant([1])), (z[:1], labels)),
        "scored": (lambda z, y: sa.log_prob(z, y), (z, labels), (z, tf.constant([1]))),
        "targets": (lambda z, q: sa.cross_entropy(z, q), (z, sa.softmax(z)), (z, sa.softmax(z[:1]))),
        "transposed": (lambda z, q: sa.kl_divergence(z, q), (z, z), (z, tf.transpose(z))),
        "weights": (lambda z, w: sa.cross_entropy(z, labels, weights=w), (z, two), (z, one)),
        "classes": (lambda z, c: sa.cross_entropy(z, labels, class_weights=c), (z, three), (z, one)),
        "binary": (lambda z, y: sa.binary_cross_entropy(z, y), (z, sa.sigmoid(z)), (z, sa.sigmoid(z[:1]))),
        "mask": (lambda z, m: sa.softmax(z, mask=m), (z, z > 1), (z[:1], z > 1)),
        "temperature": (lambda z, t: sa.softmax(z, temperature=t), (z, z[:, :1]), (z, z[:1])),
    }
    for name, (call, fitting, *others) in calls.items():
        signature = [tf.TensorSpec([None] * a.shape.rank, a.dtype) for a in fitting]
        graph = tf.function(call, input_signature=signature, jit_compile=jit)
        np.testing.assert_allclose(graph(*fitting).numpy(), call(*fitting).numpy(), rtol=1e-5, err_msg=name)
        for arrays in others:
            with pytest.raises(tf.errors.InvalidArgumentError):
                print(name, graph(*arrays))


def test_tensorflow_gradients_in_a_graph_of_unknown_extents(tf):
    @tf.function(input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)])
    def gradient(z, labels):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = sa.cross_entropy(z, labels, label_smoothing=0.1)
        return tape.gradient(loss, z)

    for n, k in ((2, 3), (4, 5)):
        z, labels = np.random.default_rng(n).standard_normal((n, k)), np.arange(n) % k
        wanted = (definitions.softmax(z) - 0.9 * np.eye(k)[labels] - 0.1 / k) / n
        actual = gradient(tf.constant(z, tf.float32), tf.constant(labels))
        np.testing.assert_allclose(actual.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "sigmoid"])
def test_tensorflow_compiled_by_xla(tf, name):
    op, library = OPS[name], libraries.get("tensorflow")
    args, options, wanted = usual(op)
    args, options = op.converted(library, "float32", args, options)
    compiled = tf.function(functools.partial(op, **options), jit_compile=True)
    agrees(library, compiled(*args), wanted, "float32")


def test_tensorflow_variables_and_second_derivatives(tf):
    z = tf.Variable([[1.0, 2.0, 0.5], [0.0, -INF, 3.0]])
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            total = sa.logsumexp(z)
        gradient = inner.gradient(total, z)
    hessian = outer.batch_jacobian(gradient, z)
    wanted = definitions.softmax_jacobian(z.numpy().astype(float))
    np.testing.assert_allclose(hessian.numpy(), wanted, atol=1e-6)


# ---- a step of training is the peer's ----


def training_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)).astype(np.float32)
    y = (x @ rng.standard_normal((6, 3))).argmax(-1)
    return x, y, rng.standard_normal((6, 3)).astype(np.float32) * 0.1


def trained(of, loss):
    """Weights after ten steps of gradient descent."""
    library = libraries.get(of)
    x, y, start = training_data()
    inputs, labels, w = library.array(x), library.array(y), start.astype(float)
    one = library.array(np.array(1.0), "float32")
    for _ in range(10):
        (slope,) = library.vjp(lambda w: loss(inputs @ w, labels), [library.array(w, "float32")], one)
        w = rounded(w - library.numpy(slope), "float32")
    return w


def peer_loss(of):
    if of == "torch":
        return libraries.get(of).xp.nn.functional.cross_entropy
    if of == "jax":
        jax = libraries.get(of).xp
        return lambda z, y: -jax.numpy.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()
    tf = libraries.get(of).xp
    return lambda z, y: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))


@pytest.mark.parametrize("of", ["torch", "jax", "tensorflow"])
def test_training_goes_where_the_peer_goes(of):
    ours, theirs = trained(of, sa.cross_entropy), trained(of, peer_loss(of))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    x, y, start = training_data()
    before, after = (sa.cross_entropy(x @ w, y) for w in (start, ours))
    assert after < 0.7 * before
    assert np.abs(trained(of, lambda z, y: -sa.cross_entropy(z, y)) - theirs).max() > 0.1


# ---- Keras, whose tensors are those of its backend; one backend a process ----

KERAS = """
    import json, sys
    import keras, numpy as np, softargmax as sa
    from keras import ops

    rng = np.random.default_rng(0)
    z = rng.standard_normal((5, 4)).astype("float32")
    tensor, variable = ops.convert_to_tensor(z), keras.Variable(z)
    p = sa.softmax(tensor)
    result = {
        "backend": keras.backend.backend(),
        "native": type(p).__module__.partition(".")[0],
        "tensor": ops.convert_to_numpy(p).tolist(),
        "variable": ops.convert_to_numpy(sa.log_softmax(variable)).tolist(),
        "loss": float(sa.cross_entropy(variable, ops.convert_to_tensor([0, 1, 2, 3, 0]))),
    }
    try:
        sa.softmax(keras.Input((3,)))
    except TypeError as error:
        result["symbolic"] = str(error)

    class Probabilities(keras.layers.Layer):
        def call(self, logits):
            return sa.softmax(logits)

    x = rng.standard_normal((64, 6)).astype("float32")
    y = (x @ rng.standard_normal((6, 3))).argmax(-1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=lambda y, z: sa.cross_entropy(z, ops.cast(ops.reshape(y, (-1,)), "int32")))
    result["losses"] = model.fit(x, y, epochs=5, batch_size=16, shuffle=False, verbose=0).history["loss"]
    keras.utils.set_random_seed(0)
    peer = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    peer.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    result["peer"] = peer.fit(x, y, epochs=5, batch_size=16, shuffle=False, verbose=0).history["loss"]
    whole = keras.Sequential([model, Probabilities()])
    result["rows"] = whole.predict(x, verbose=0).sum(-1).tolist()
    json.dump(result, sys.stdout)
"""


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_keras(backend):
    pytest.importorskip(backend)
    if not any(os.path.isdir(os.path.join(path, "keras")) for path in sys.path):
        pytest.skip("keras is not installed")
    z = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32).astype(float)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KERAS)],
        env=os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert result["backend"] == backend
    assert result["native"] in {backend, "jaxlib"}
    close(np.array(result["tensor"]), definitions.softmax(z), "float32")
    close(np.array(result["variable"]), definitions.log_softmax(z), "float32")
    assert result["loss"] == pytest.approx(-definitions.log_prob(z, [0, 1, 2, 3, 0]).mean(), rel=1e-6)
    assert "symbolic" in result["symbolic"]
    np.testing.assert_allclose(result["losses"], result["peer"], rtol=1e-5)
    assert result["losses"][-1] < result["losses"][0]
    np.testing.assert_allclose(result["rows"], 1, atol=1e-6)
