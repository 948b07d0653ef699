"""Eager torch tensors on the CPU go through NumPy's kernels, in their own memory: its bits, gradients, no copies."""

import concurrent.futures
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pytest

import softargmax as sa
from softargmax.kernels import threads
from tests.cases import definitions

torch = pytest.importorskip("torch")

INF, NAN = np.inf, np.nan
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).rpartition(".")[2])

# z, labels, a mask, temperatures, weights, axis
OPS = {
    "softmax": lambda z, y, m, t, w, a: sa.softmax(z, axis=a),
    "softmax at one T": lambda z, y, m, t, w, a: sa.softmax(z, axis=a, temperature=1.7),
    "softmax at many T": lambda z, y, m, t, w, a: sa.softmax(z, axis=a, temperature=t, mask=m),
    "log_softmax": lambda z, y, m, t, w, a: sa.log_softmax(z, axis=a),
    "log_softmax at many T": lambda z, y, m, t, w, a: sa.log_softmax(z, axis=a, temperature=t, mask=m),
    "logsumexp": lambda z, y, m, t, w, a: sa.logsumexp(z, axis=a, mask=m),
    "logsumexp, kept": lambda z, y, m, t, w, a: sa.logsumexp(z, axis=a, keepdims=True),
    "entropy": lambda z, y, m, t, w, a: sa.entropy(z, axis=a, mask=m),
    "log_prob": lambda z, y, m, t, w, a: sa.log_prob(z, y, axis=a, mask=m),
    "losses": lambda z, y, m, t, w, a: sa.cross_entropy(z, y, axis=a, reduction="none", ignore_index=1),
    "their sum": lambda z, y, m, t, w, a: sa.cross_entropy(z, y, axis=a, mask=m, weights=w, reduction="sum"),
    "their mean": lambda z, y, m, t, w, a: sa.cross_entropy(z, y, axis=a, weights=w, mask=m, empty="nan"),
    "weighted by class": lambda z, y, m, t, w, a: sa.cross_entropy(
        z, y, axis=a, class_weights=[0.5 + k for k in range(z.shape[a])]
    ),
}


def in_numpy(tensor):
    """The same numbers as NumPy's; bfloat16 is that of ml_dtypes."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(pytest.importorskip("ml_dtypes").bfloat16)
    return tensor.numpy()


def same_bits(tensor, array):
    tensor = tensor.detach()
    bits = tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    assert str(tensor.dtype).rpartition(".")[2] == array.dtype.name
    assert tensor.shape == array.shape
    nan = np.isnan(array)  # has many bit patterns
    np.testing.assert_array_equal(torch.isnan(tensor), nan)
    assert bits[~nan].tobytes() == np.asarray(array)[~nan].tobytes()


def arguments(shape, axis, dtype, seed=0):
    rng = np.random.default_rng(seed)
    z = torch.tensor(rng.standard_normal(shape) * 4).to(dtype)
    z.view(-1)[::31] = -INF
    z.view(-1)[5::113] = INF
    z.view(-1)[7::101] = NAN
    labels = np.delete(shape, axis).tolist()
    y = torch.tensor(rng.integers(0, shape[axis], labels))
    mask = torch.tensor(rng.random(shape) < 0.8)
    t = rng.uniform(0.3, 3, labels)
    t.reshape(-1)[::5] = 0
    t.reshape(-1)[1::7] = INF
    t.reshape(-1)[2::7] = 1e-40
    t = torch.tensor(np.expand_dims(t, axis))
    return z, y, mask, t, torch.tensor(rng.integers(0, 4, labels) * 0.3)


# ---- the same bits ----


@every_dtype
@pytest.mark.parametrize(
    ("shape", "axis"), [((37, 5), 1), ((37, 90), -1), ((1, 3000), 1), ((90, 7), 0), ((3, 21, 50), 1), ((4, 3, 2), -3)]
)
@pytest.mark.parametrize("op", OPS)
def test_the_bits_are_those_of_numpy(op, shape, axis, dtype):
    arrays = arguments(shape, axis, dtype)
    same_bits(OPS[op](*arrays, axis), OPS[op](*map(in_numpy, arrays), axis))


LAYOUTS = {
    "every second row": lambda z: z[::2],
    "every second entry": lambda z: z[:, ::2],
    "transposed": lambda z: z.T,
    "not from the beginning": lambda z: z[3:, 1:],
    "expanded": lambda z: z[:1].expand(9, -1),
    "one row": lambda z: z[3],
    "no rows": lambda z: z[:0],
}


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bits_of_any_layout(layout, dtype):
    z = LAYOUTS[layout](arguments((40, 30), 1, dtype)[0])
    for op in (sa.softmax, sa.log_softmax, sa.logsumexp, sa.entropy):
        same_bits(op(z), np.asarray(op(in_numpy(z))))
        same_bits(op(z.requires_grad_()), np.asarray(op(in_numpy(z.detach()))))
        z = z.detach()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8, torch.bool])
def test_integers_in_the_default_float(dtype):
    z = torch.tensor([[3, 0, 1], [0, 0, 1]]).to(dtype)
    for op in (sa.softmax, sa.log_softmax, sa.logsumexp, sa.entropy):
        same_bits(op(z), op(z.numpy().astype(np.float32)))


@every_dtype
def test_into_out_and_in_place(dtype):
    z = arguments((40, 30), 1, dtype)[0]
    for op in (sa.softmax, sa.log_softmax):
        wanted = op(in_numpy(z))
        whole = torch.zeros(40, 60).to(dtype)
        for out in (torch.empty_like(z), whole[:, ::2], torch.empty(30, 40).to(dtype).T):
            assert op(z, out=out) is out
            same_bits(out.contiguous(), wanted)
        assert torch.equal(whole[:, 1::2], torch.zeros(40, 30).to(dtype))
        copy = z.clone()
        assert op(copy, out=copy) is copy
        same_bits(copy, wanted)


def test_autograd_sees_that_out_was_written():
    x, saved = torch.ones(3, requires_grad=True), torch.ones(3)
    product = (x * saved).sum()
    sa.softmax(torch.zeros(3), out=saved)
    with pytest.raises(RuntimeError, match="inplace operation"):
        product.backward()


@every_dtype
def test_temperatures_that_float32_does_not_hold(dtype):
    z = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.5, -1.0, 2.0]]).to(dtype)
    t = torch.tensor([[1e-40], [1e40], [1.3]], dtype=torch.float64)
    p = sa.softmax(z, temperature=t)
    assert p[0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(p[1].double(), 1 / 3, rtol=4e-3)
    same_bits(p[2], sa.softmax(in_numpy(z), temperature=1.3)[2])
    same_bits(sa.softmax(z, temperature=t, out=z), in_numpy(p))


# ---- the memory of the caller ----


def test_nothing_is_copied():
    """In a process of its own: 200 MB of logits, and hardly more for results that are small or go into `out`."""
    resource = pytest.importorskip("resource")
    code = """
        import resource, sys, torch, softargmax as sa

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

        def calls(z, y):
            sa.logsumexp(z), sa.entropy(z), sa.log_prob(z, y), sa.cross_entropy(z, y)
            sa.log_softmax(z, out=z), sa.softmax(z, temperature=2.0, out=z)
            half = z.view(torch.bfloat16)
            sa.softmax(half, out=half)

        calls(torch.zeros(40, 50), torch.zeros(40, dtype=torch.long))
        sa.logsumexp(torch.zeros(40, 50, requires_grad=True)).sum().backward()
        z, y = torch.randn(50_000, 1000), torch.zeros(50_000, dtype=torch.long)
        before = peak()
        calls(z, y)
        print(peak() - before)
        before = peak()
        z.requires_grad_()
        sa.logsumexp(z).sum().backward()
        print(peak() - before)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    forward, backward = map(int, run.stdout.split())
    assert forward < 20e6
    assert backward < 220e6  # the gradient itself
    del resource


def test_memory_is_given_back_after_backward():
    z = torch.randn(4, 5, requires_grad=True) * 2
    there = weakref.ref(z)
    loss = sa.cross_entropy(z, torch.tensor([0, 1, 2, 3])) + sa.softmax(z)[0, 0]
    del z
    assert there() is not None
    loss.backward()
    assert there() is None


@pytest.mark.parametrize("which", range(4))
def test_what_changes_before_backward_is_refused(which):
    """As of torch itself: the gradient would be that of other numbers."""
    z, labels, mask, weights = arrays = (
        torch.randn(4, 5, requires_grad=True) * 1,
        torch.tensor([0, 1, 2, 3]),
        torch.ones(4, 5, dtype=torch.bool),
        torch.ones(4),
    )
    loss = sa.cross_entropy(z, labels, mask=mask, weights=weights)
    with torch.no_grad():
        arrays[which].zero_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_many_threads_at_once():
    z = torch.randn(300, 700)
    y = torch.arange(300) % 700
    small = torch.randn(3, 10)

    def work(_):
        x = z.clone().requires_grad_()
        sa.cross_entropy(x, y).backward()
        return sa.softmax(z), x.grad, sa.log_softmax(small)

    first = work(0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(40)):
            assert all(torch.equal(one, other) for one, other in zip(results, first, strict=True))


# ---- gradients ----


FUNCTIONS = {
    "softmax": lambda z, m: sa.softmax(z, mask=m),
    "softmax at T": lambda z, m: sa.softmax(z, axis=0, temperature=[[0.7, 1.0, 2.0, 1.5, 0.6]]),
    "log_softmax": lambda z, m: sa.log_softmax(z, temperature=0.7)[m],
    "logsumexp": lambda z, m: sa.logsumexp(z, axis=0),
    "logsumexp, kept": lambda z, m: sa.logsumexp(z, mask=m, keepdims=True),
    "entropy": lambda z, m: sa.entropy(z, mask=m),
    "log_prob": lambda z, m: sa.log_prob(z, [0, 1, 2]),
    "losses": lambda z, m: sa.cross_entropy(z, torch.tensor([0, 1, 9]), ignore_index=9, reduction="none"),
    "sum": lambda z, m: sa.cross_entropy(z, [0, 1, 2, 1, 0], axis=0, weights=[1.0, 2, 0, 3, 1], reduction="sum"),
    "mean": lambda z, m: sa.cross_entropy(z, [4, 3, 2], mask=m, class_weights=[1.0, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_gradient_checks_of_torch(function):
    rng = np.random.default_rng(0)
    mask = torch.tensor(rng.random((3, 5)) < 0.7)
    mask[[0, 1, 2], [4, 3, 2]] = True

    def f(z):
        return FUNCTIONS[function](z, mask)

    for layout in (lambda z: z, lambda z: z.T.contiguous().T):
        z = layout(torch.tensor(rng.standard_normal((3, 5)))).requires_grad_()
        assert torch.autograd.gradcheck(f, z, check_batched_grad=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, z, check_batched_grad=True)


def test_gradients_keep_their_digits_near_probability_one():
    for gap in (5.0, 16.942385, 60.0):
        z = torch.tensor([[gap, 0.0], [0.0, gap]], requires_grad=True)
        wanted = np.exp(-gap) / (1 + np.exp(-gap)) * np.array([[-1, 1], [1, -1]])
        labels = torch.tensor([0, 1])
        for value in (
            sa.cross_entropy(z, labels, reduction="sum"),
            -sa.log_prob(z, labels).sum(),
            -sa.log_softmax(z).gather(1, labels[:, None]).sum(),
        ):
            (gradient,) = torch.autograd.grad(value, z)
            np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
        (gradient,) = torch.autograd.grad(sa.softmax(z)[:, 0].sum(), z)
        np.testing.assert_allclose(gradient, wanted * [[-1], [1]] / (1 + np.exp(-gap)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_loss_keeps_small_gradients_of_half_precision(dtype):
    z = torch.tensor(np.random.default_rng(0).standard_normal((2000, 500))).to(dtype).requires_grad_()
    labels = torch.zeros(2000, dtype=torch.long)
    (sa.cross_entropy(z, labels) * 65536).backward()
    exact = (definitions.softmax(z.detach().double().numpy()) - (np.arange(500) == 0)) / 2000 * 65536
    np.testing.assert_allclose(z.grad.double(), exact, rtol=torch.finfo(dtype).eps)


def test_backward_twice_and_hooks():
    z = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    calls = []
    z.register_hook(calls.append)
    value = sa.softmax(z)[0, 0]
    value.backward(retain_graph=True)
    first = z.grad.clone()
    value.backward()
    assert torch.equal(z.grad, 2 * first)
    value = sa.softmax(z)[0, 0]
    (again,) = torch.autograd.grad(value, z, create_graph=True)
    torch.testing.assert_close(again, first)
    assert len(calls) == 3


GRADIENTS = {
    "softmax": lambda z, y, g, a: (sa.softmax(z, axis=a, temperature=1.3), g),
    "log_softmax": lambda z, y, g, a: (sa.log_softmax(z, axis=a), g),
    "logsumexp": lambda z, y, g, a: (sa.logsumexp(z, axis=a), g.select(a, 0)),
    "entropy": lambda z, y, g, a: (sa.entropy(z, axis=a), g.select(a, 0)),
    "log_prob": lambda z, y, g, a: (sa.log_prob(z, y, axis=a), g.select(a, 0)),
    "losses": lambda z, y, g, a: (sa.cross_entropy(z, y, axis=a, reduction="none"), g.select(a, 0)),
}


def gradient(op, z, y, g, axis):
    z = z.detach().requires_grad_()
    value, incoming = GRADIENTS[op](z, y, g, axis)
    return torch.autograd.grad(value, z, incoming.to(value.dtype))[0]


def in_bits(tensor):
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "axis"), [((133, 10), 1), ((133, 100), 1), ((5, 21, 50), 1), ((5, 40, 1100), 1)])
@pytest.mark.parametrize("op", GRADIENTS)
def test_a_row_s_gradient_does_not_depend_on_the_batch(op, shape, axis, dtype):
    z, y, *_ = arguments(shape, axis, dtype)
    g = torch.randn(shape).to(dtype)
    whole = gradient(op, z, y, g, axis)
    for part in (slice(0, 1), slice(2, 5), slice(3, 4)):
        assert torch.equal(in_bits(gradient(op, z[part], y[part], g[part], axis)), in_bits(whole[part]))


@pytest.mark.parametrize(("shape", "axis"), [((150_000, 10), 1), ((40, 40_000), 1), ((9, 30, 5000), 1)])
@pytest.mark.parametrize("op", GRADIENTS)
def test_gradients_by_any_number_of_threads(op, shape, axis, monkeypatch):
    z, y, *_ = arguments(shape, axis, torch.float32)
    g = torch.randn(shape)
    results = []
    for n in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "n_threads", lambda n=n: n)
        results.append(gradient(op, z, y, g, axis))
    assert all(torch.equal(in_bits(results[0]), in_bits(other)) for other in results[1:])


# ---- where the definitions stay ----


def losses(z, y, mask):
    return sa.cross_entropy(sa.log_softmax(z, temperature=1.7, mask=mask), y), sa.entropy(z), sa.log_prob(z, y)


def test_compiled_and_exported_programs_give_the_same():
    z, y = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 4, 1, 2, 3, 0])
    mask = torch.rand(6, 5) < 0.7
    mask[torch.arange(6), y] = True

    class Losses(torch.nn.Module):
        def forward(self, z, y, mask):
            return losses(z, y, mask)

    torch.compiler.reset()
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Losses(), (z.detach(), y, mask)).module()
    traced = torch.fx.experimental.proxy_tensor.make_fx(losses)(z.detach(), y, mask)
    eager = losses(z, y, mask)
    wanted = torch.autograd.grad(sum(value.sum() for value in eager), z)
    for program in (compiled, exported, traced):
        results = program(z, y, mask)
        for one, other in zip(results, eager, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(torch.autograd.grad(sum(value.sum() for value in results), z), wanted)


def test_modes_that_watch_see_every_operation():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    z, y, seen = torch.randn(2, 3), torch.tensor([0, 1]), []
    with Watching():
        sa.softmax(z), sa.cross_entropy(z, y)
    assert torch.ops.aten.exp.default in seen
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(z)
        assert sa.softmax(fake).shape == (2, 3)
        assert type(sa.log_softmax(fake)) is type(fake)


def test_a_subclass_stays_what_it_is():
    class Named(torch.Tensor):
        pass

    z = torch.randn(2, 3)
    p = sa.softmax(z.as_subclass(Named))
    assert type(p) is Named
    torch.testing.assert_close(p.as_subclass(torch.Tensor), sa.softmax(z))


def test_a_view_that_is_negated_lazily():
    z = torch.imag(torch.complex(torch.zeros(4), torch.arange(4.0)).conj())
    assert z.is_neg()
    torch.testing.assert_close(sa.softmax(z), sa.softmax(-torch.arange(4.0)))


def test_temperatures_and_weights_learn():
    z, t = torch.randn(3, 4), torch.tensor(1.5, requires_grad=True)
    w = torch.ones(3, requires_grad=True)
    (slope,) = torch.autograd.grad(sa.softmax(z, temperature=t)[:, 0].sum(), t)
    numeric = (sa.softmax(z.double(), temperature=1.5001) - sa.softmax(z.double(), temperature=1.4999))[
        :, 0
    ].sum() / 2e-4
    torch.testing.assert_close(slope.double(), numeric, rtol=1e-4, atol=1e-6)
    (slopes,) = torch.autograd.grad(sa.cross_entropy(z, [0, 1, 2], weights=w, reduction="sum"), w)
    torch.testing.assert_close(slopes, sa.cross_entropy(z, [0, 1, 2], reduction="none"))


def test_what_holds_a_tensor_learns_too():
    """As keras.Variable: a temperature in it must not become a constant."""

    class Variable:
        def __init__(self, value):
            self.value = value

    Variable.__module__ = "keras.fake"
    z, t = torch.randn(3, 4), torch.tensor(1.5, requires_grad=True)
    assert sa.softmax(z, temperature=Variable(t)).requires_grad
    assert sa.cross_entropy(z, [0, 1, 2], weights=Variable(torch.ones(3, requires_grad=True))).requires_grad
