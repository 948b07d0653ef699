"""The array libraries, each with the few words the contracts need. A library is imported when it is first asked for."""

import contextlib
import functools

import numpy as np
import pytest

FLOATS = {
    "numpy": ("float16", "bfloat16", "float32", "float64"),
    "array_api_strict": ("float32", "float64"),
    "torch": ("float16", "bfloat16", "float32", "float64"),
    "jax": ("float16", "bfloat16", "float32", "float64"),  # float64 inside `precision` alone
    "tensorflow": ("float16", "bfloat16", "float32", "float64"),
}
NAMES = tuple(FLOATS)
DIFFERENTIABLE = ("torch", "jax", "tensorflow")
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def typed(names=NAMES, dtypes=tuple(EPS)):
    """(library, dtype) for every library of `names` and each of `dtypes` that it has."""
    return [(name, dtype) for name in names for dtype in FLOATS[name] if dtype in dtypes]


def computed(dtype):
    """The dtype of sums and losses."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def numpy_dtype(name):
    """bfloat16 is that of ml_dtypes, which JAX and TensorFlow bring."""
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def rounded(values, dtype):
    """The values as every library holds them in `dtype`, in float64."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float64).astype(numpy_dtype(dtype)).astype(np.float64)


def spacing(values, dtype):
    """The distance of neighbours of `dtype` near each value; inf where there is none."""
    size = np.abs(np.asarray(values, np.float64))
    _, exponent = np.frexp(np.maximum(np.where(np.isfinite(size), size, 1.0), TINY[dtype]))
    return np.ldexp(EPS[dtype], exponent - 1)


class Library:
    """NumPy itself; the others say what is different."""

    name = "numpy"
    traced = False  # it compiles a function from one run with placeholders
    default_float = "float64"

    def __init__(self):
        self.array_type = (np.ndarray, np.generic)

    def precision(self, dtype):
        """In here arrays of `dtype` can be made."""
        return contextlib.nullcontext()

    def array(self, values, dtype=None):
        """An array of the library, of a dtype by name; without it floats stay what NumPy made them."""
        values = np.asarray(values)
        return self._new(values, dtype or values.dtype.name)

    def _new(self, values, dtype):
        return values.astype(numpy_dtype(dtype))

    def numpy(self, array):
        """Floats as float64, the rest as they are."""
        array = np.asarray(array)
        return array if array.dtype.kind in "iub" else array.astype(np.float64)

    def dtype(self, array):
        return array.dtype.name

    def compiled(self, f):
        """`f` as the library compiles it."""
        raise NotImplementedError

    def quick(self, f):
        """`f` in the way the library runs fast for one call: JAX compiles every single operation anew."""
        return f

    def vjp(self, f, inputs, cotangent, compiled=False):
        """The gradient of <f(*inputs), cotangent> at the inputs, one for each."""
        raise NotImplementedError

    def second(self, f, inputs, cotangent, direction):
        """The gradient at the inputs of <vjp of the first input, direction>."""
        raise NotImplementedError

    def jvp(self, f, inputs, tangents):
        """The derivative of f in one direction, in forward mode."""
        raise NotImplementedError


class ArrayApiStrict(Library):
    name = "array_api_strict"

    def __init__(self):
        self.xp = pytest.importorskip("array_api_strict")
        self.array_type = type(self.xp.asarray(0))

    def _new(self, values, dtype):
        return self.xp.asarray(np.array(values), dtype=getattr(self.xp, dtype))

    def numpy(self, array):
        return super().numpy(np.from_dlpack(array))

    def dtype(self, array):
        return str(array.dtype).rpartition(".")[2]


class Torch(Library):
    name = "torch"
    traced = True
    default_float = "float32"

    def __init__(self):
        self.xp = pytest.importorskip("torch")
        self.array_type = self.xp.Tensor

    def _new(self, values, dtype):
        return self.xp.from_numpy(np.array(values)).to(getattr(self.xp, dtype))

    def numpy(self, array):
        array = array.detach()
        return (array.to(self.xp.float64) if array.is_floating_point() else array).numpy()

    def dtype(self, array):
        return str(array.dtype).rpartition(".")[2]

    def compiled(self, f, backend="aot_eager"):
        self.xp.compiler.reset()  # its limit of recompilations is per line of source, here the same for all
        return self.xp.compile(f, fullgraph=True, backend=backend)

    def vjp(self, f, inputs, cotangent, compiled=False):
        inputs = [x.detach().clone().requires_grad_() for x in inputs]
        result = (self.compiled(f) if compiled else f)(*inputs)
        return self.xp.autograd.grad(result, inputs, cotangent, materialize_grads=True)

    def second(self, f, inputs, cotangent, direction):
        inputs = [x.detach().clone().requires_grad_() for x in inputs]
        first = self.xp.autograd.grad(f(*inputs), inputs[0], cotangent, create_graph=True)
        return self.xp.autograd.grad(first, inputs, [direction], materialize_grads=True)

    def jvp(self, f, inputs, tangents):
        return self.xp.func.jvp(f, tuple(inputs), tuple(tangents))[1]


class Jax(Library):
    name = "jax"
    traced = True
    default_float = "float32"

    def __init__(self):
        self.xp = pytest.importorskip("jax")
        self.array_type = self.xp.Array

    def precision(self, dtype):
        return self.xp.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()

    def _new(self, values, dtype):
        if dtype == "int64" and not self.xp.config.jax_enable_x64:
            dtype = "int32"
        return self.xp.numpy.asarray(values.astype(numpy_dtype(dtype)))

    def compiled(self, f):
        return self.xp.jit(f)

    quick = compiled

    def vjp(self, f, inputs, cotangent, compiled=False):
        def pull(inputs, cotangent):
            return self.xp.vjp(f, *inputs)[1](cotangent)

        return (self.xp.jit(pull) if compiled else pull)(inputs, cotangent)

    def second(self, f, inputs, cotangent, direction):
        def first(*inputs):
            return self.xp.vjp(f, *inputs)[1](cotangent)[0]

        return self.xp.vjp(first, *inputs)[1](direction)

    def jvp(self, f, inputs, tangents):
        return self.xp.jvp(f, tuple(inputs), tuple(tangents))[1]


class TensorFlow(Library):
    name = "tensorflow"
    traced = True
    default_float = "float32"

    def __init__(self):
        self.xp = pytest.importorskip("tensorflow")
        self.array_type = self.xp.Tensor

    def _new(self, values, dtype):
        return self.xp.constant(values.astype(numpy_dtype(dtype)))

    def numpy(self, array):
        return super().numpy(array.numpy())

    def dtype(self, array):
        return array.dtype.name

    def compiled(self, f):
        return self.xp.function(f)

    def vjp(self, f, inputs, cotangent, compiled=False):
        def pull(inputs, cotangent):
            with self.xp.GradientTape() as tape:
                tape.watch(inputs)
                result = f(*inputs)
            return tape.gradient(result, inputs, cotangent, unconnected_gradients="zero")

        return (self.xp.function(pull) if compiled else pull)(list(inputs), cotangent)

    def second(self, f, inputs, cotangent, direction):
        inputs = list(inputs)
        with self.xp.GradientTape() as outer:
            outer.watch(inputs)
            with self.xp.GradientTape() as inner:
                inner.watch(inputs)
                result = f(*inputs)
            first = inner.gradient(result, inputs[0], cotangent)
        return outer.gradient(first, inputs, direction, unconnected_gradients="zero")

    def jvp(self, f, inputs, tangents):
        with self.xp.autodiff.ForwardAccumulator(list(inputs), list(tangents)) as forward:
            result = f(*inputs)
        return forward.jvp(result)


@functools.cache
def get(name):
    """The library, or a skip that says what is not installed."""
    return {kind.name: kind for kind in (Library, ArrayApiStrict, Torch, Jax, TensorFlow)}[name]()
