"""Every calibrator on the arrays of torch, JAX and TensorFlow: the numbers are NumPy's, the arrays the caller's."""

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from sklearn.base import clone

import softargmax as sa
from softargmax import backends, calibration
from softargmax._checks import WrongKindError
from softargmax.backends._backend import Backend
from softargmax.calibration import _arrays
from softargmax.calibration._base import LogitCalibrator
from tests.cases import libraries

METHODS = [
    found
    for found in (getattr(calibration, name) for name in calibration.__all__)
    if isinstance(found, type) and issubclass(found, LogitCalibrator)
]
PREDICTIONS = ("transform", "predict_proba", "predict_log_proba", "decision_function")
FOREIGN = ("array_api_strict", "torch", "jax", "tensorflow")


def rows(n=60, k=4):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((n, k)) * 3).astype(np.float32)
    return logits, (logits / 2 + rng.gumbel(size=(n, k))).argmax(-1), rng.integers(1, 4, n).astype(np.float32)


def fitted(method, *given, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(**options).fit(*given)


@pytest.fixture(scope="module", params=METHODS)
def in_numpy(request):
    """Each method fitted to NumPy arrays."""
    return fitted(request.param, *rows())


def nearest_bfloat16(values):
    """The nearest bfloat16 of each float64, ties to even, by what lies on both sides; not through float32."""
    size = np.abs(values)
    table = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)  # 0 to the largest, in order
    above = np.clip(np.searchsorted(table, size), 1, len(table) - 1)
    middle = (table[above - 1] + table[above]) / 2
    nearest = np.where((size > middle) | ((size == middle) & (above % 2 == 0)), above, above - 1)
    return np.copysign(table[nearest], values)


def in_dtype(values, dtype):
    """float64 values as arrays of `dtype` hold them, rounded once, in float64."""
    if dtype == "bfloat16":
        return nearest_bfloat16(values)
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype).astype(np.float64)


def there(library, values, dtype):
    """An array of the library, and its values as float64: what it can hold of them."""
    array = library.array(values, dtype)
    return array, library.numpy(array)


@pytest.mark.parametrize(("name", "dtype"), [each for each in libraries.typed() if each[0] != "numpy"])
def test_predictions_are_numpys_in_the_library_and_dtype_of_X(in_numpy, name, dtype):
    library = libraries.get(name)
    with library.precision(dtype):
        X, held = there(library, rows()[0], dtype)
        for prediction in PREDICTIONS:
            got = getattr(in_numpy, prediction)(X)
            assert isinstance(got, library.array_type)
            assert library.dtype(got) == dtype
            wanted = in_dtype(getattr(in_numpy, prediction)(held), dtype)
            np.testing.assert_array_equal(library.numpy(got), wanted, prediction)
        labels = in_numpy.predict(X)
        assert isinstance(labels, library.array_type)
        np.testing.assert_array_equal(library.numpy(labels), in_numpy.predict(held))
        assert library.dtype(labels) == ("int32" if name == "jax" and dtype != "float64" else "int64")


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("mixed", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_fit_to_arrays_of_any_library_is_that_to_numpys(in_numpy, name, mixed):
    library = libraries.get(name)
    given = [library.array(values) if foreign else values for foreign, values in zip(mixed, rows(), strict=True)]
    other = fitted(type(in_numpy), *given)
    X = rows()[0]
    np.testing.assert_array_equal(other.predict_log_proba(X), in_numpy.predict_log_proba(X))
    assert other.classes_.tolist() == in_numpy.classes_.tolist()
    assert type(other.classes_) is np.ndarray
    for name, value in vars(other).items():  # a calibrator holds nothing of the library
        assert type(value).__module__.partition(".")[0] not in ("torch", "jaxlib", "tensorflow"), name


def test_the_law_rejects_a_result_that_is_rounded_twice():
    """Through float32 to bfloat16: 1 + 2**-8 + 2**-30 becomes a tie in float32."""
    torch = pytest.importorskip("torch")
    values = np.array([1 + 2.0**-8 + 2.0**-30, 1 + 2.0**-8, 1 + 2.0**-8 - 2.0**-30, 1e39, -1e39, 1e-45, -np.inf])
    origin = _arrays.in_numpy("X", torch.zeros(1, dtype=torch.bfloat16))[1]
    once = origin.result(values).double().numpy()
    assert once.tolist() == [1 + 2.0**-7, 1.0, 1.0, np.inf, -np.inf, 0.0, -np.inf]
    np.testing.assert_array_equal(once[:3], nearest_bfloat16(values[:3]))
    twice = torch.from_numpy(values).float().bfloat16().double().numpy()
    assert twice[0] != nearest_bfloat16(values)[0]


@pytest.mark.parametrize("name", FOREIGN)
def test_integers_come_back_in_the_librarys_default_float(name):
    library = libraries.get(name)
    whole = np.round(rows()[0] * 3).astype(np.int64)
    calibrator = fitted(sa.TemperatureScaling, *rows())
    got = calibrator.predict_proba(library.array(whole))
    assert library.dtype(got) == library.default_float
    np.testing.assert_array_equal(library.numpy(got), in_dtype(calibrator.predict_proba(whole), library.default_float))


@pytest.mark.parametrize("name", FOREIGN)
def test_classes_that_the_library_cannot_hold_are_numpys(name):
    library = libraries.get(name)
    logits, labels, _ = rows()
    X = library.array(logits)
    for classes in (["a", "b", "c", "d"], [1.5, 2.5, 3.5, 4.5], [1 << 40, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], [7, 5, 3, 1]):
        calibrator = fitted(sa.TemperatureScaling, X, np.array(classes)[labels], classes=classes)
        got = calibrator.predict(X)
        narrow = name == "jax" and classes[0] in (1 << 40, 0.1)
        assert isinstance(got, np.ndarray if classes[0] == "a" or narrow else library.array_type)
        values = got if isinstance(got, np.ndarray) else library.numpy(got)
        np.testing.assert_array_equal(values, calibrator.predict(logits))


@pytest.mark.parametrize("name", FOREIGN)
def test_one_column_two_classes_and_minus_infinity(name):
    library = libraries.get(name)
    logits, _, _ = rows()
    for X in (logits[:, :1], logits[:, :2]):
        labels = (logits[:, 0] > 0.5).astype(int)
        calibrator = fitted(sa.TemperatureScaling, library.array(X), library.array(labels))
        for prediction in PREDICTIONS:
            got = library.numpy(getattr(calibrator, prediction)(library.array(X)))
            np.testing.assert_array_equal(got, getattr(calibrator, prediction)(X).astype(np.float64))
    low = logits.copy()
    low[::7, 2] = -np.inf
    calibrator = fitted(sa.TemperatureScaling, library.array(low), logits.argmax(-1), keep_zero=False)
    assert calibrator.n_lifted_ == 9
    np.testing.assert_array_equal(
        library.numpy(calibrator.predict_proba(library.array(low))), calibrator.predict_proba(low)
    )


@pytest.mark.parametrize("name", FOREIGN)
def test_bad_values_in_tensors_are_worded_as_ever(name):
    library = libraries.get(name)
    logits, labels, weights = rows()
    with_nan = logits.copy()
    with_nan[4, 1] = np.nan
    calibrator = fitted(sa.TemperatureScaling, logits, labels)
    for given, sentence in (
        ((with_nan, labels), "row 4 holds NaN"),
        ((logits, labels[:-1]), "same length; got 60 rows and 59 labels"),
        ((logits, labels + 1), "labels must lie in"),
        ((logits, labels, -weights), "sample_weight must be finite and not negative"),
        ((logits[0], labels[:4]), "Expected 2D array, got 1D array"),
    ):
        with pytest.raises(ValueError, match=sentence):
            sa.TemperatureScaling().fit(*map(library.array, given))
    with pytest.raises(ValueError, match="row 4 holds NaN"):
        calibrator.predict_proba(library.array(with_nan))
    with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 4 features"):
        calibrator.predict_proba(library.array(logits[:, :3]))


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_warnings_point_at_the_callers_line(name):
    library = libraries.get(name)
    logits, labels, _ = rows()
    with pytest.warns(sa.LikelyProbabilitiesWarning) as caught:
        sa.TemperatureScaling().fit(library.array(sa.softmax(logits)), labels)
    assert [warning.filename for warning in caught] == [__file__]


def test_scikit_learns_own_words_on_tensors():
    torch = pytest.importorskip("torch")
    logits, labels, _ = rows()
    calibrator = fitted(sa.TemperatureScaling, torch.tensor(logits), torch.tensor(labels))
    assert calibrator.score(torch.tensor(logits), torch.tensor(labels)) == calibrator.score(logits, labels)
    fit_transform = clone(calibrator).fit_transform(torch.tensor(logits), torch.tensor(labels))
    np.testing.assert_array_equal(fit_transform.numpy(), calibrator.transform(logits))


# ---- gradients, traces, devices ----


def test_a_tensor_that_requires_a_gradient_gives_one_that_is_detached(in_numpy):
    torch = pytest.importorskip("torch")
    logits, labels, weights = rows()
    X = torch.tensor(logits, requires_grad=True)
    calibrator = fitted(type(in_numpy), X, labels, torch.tensor(weights, requires_grad=True))
    for prediction in PREDICTIONS:
        got = getattr(calibrator, prediction)(X)
        assert not got.requires_grad
        np.testing.assert_array_equal(got.numpy(), getattr(in_numpy, prediction)(logits))
        got += 1  # its memory is its own
    np.testing.assert_array_equal(X.detach().numpy(), logits)


def test_other_kinds_of_tensors():
    torch = pytest.importorskip("torch")
    logits, labels, _ = rows()
    calibrator = fitted(sa.TemperatureScaling, logits, labels)
    wanted = calibrator.predict_proba(logits)

    class Named(torch.Tensor):
        pass

    X = torch.tensor(logits)
    for variant in (X.T.contiguous().T, X.as_subclass(Named), torch.nn.Parameter(X), X.neg()._neg_view()):
        np.testing.assert_array_equal(calibrator.predict_proba(variant).detach().numpy(), wanted)
    with torch.inference_mode():
        np.testing.assert_array_equal(calibrator.predict_proba(torch.tensor(logits)).numpy(), wanted)
    labels_of_a_subclass = torch.tensor(labels).as_subclass(Named)
    assert fitted(sa.TemperatureScaling, X, labels_of_a_subclass).temperature_ == calibrator.temperature_
    for wrong, sentence in (
        (X.to_sparse(), "logits must be a dense tensor; got layout torch.sparse_coo; pass logits.to_dense"),
        (X.to(torch.complex64), "logits must be real numbers .* got dtype complex64"),
        ([X, X], "logits is a list of torch.Tensor; stack them into one array"),
    ):
        with pytest.raises(WrongKindError, match=sentence):
            calibrator.predict_proba(wrong)


def test_keras_variables_are_those_of_their_library():
    keras = pytest.importorskip("keras")
    logits, labels, _ = rows()
    calibrator = fitted(sa.TemperatureScaling, keras.Variable(logits), keras.Variable(labels))
    assert calibrator.temperature_ == fitted(sa.TemperatureScaling, logits, labels).temperature_
    got = calibrator.predict_proba(keras.Variable(logits))
    assert keras.ops.is_tensor(got)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(got), calibrator.predict_proba(logits))
    with pytest.raises(WrongKindError, match=r"logits is a symbolic keras.KerasTensor, which has no values"):
        calibrator.predict_proba(keras.Input((4,)))


def without_values(name):
    """Ways to call a function with arrays that have no values."""
    library = libraries.get(name)
    X = library.array(rows()[0])
    if name == "jax":
        jax = library.xp
        for transform in (jax.jit, lambda f: lambda X: jax.vmap(f)(X[None]), lambda f: jax.grad(lambda X: f(X).sum())):
            yield lambda f, transform=transform: transform(f)(X)
    elif name == "tensorflow":
        yield lambda f: library.xp.function(f, autograph=False)(X)
    else:
        torch = library.xp
        yield lambda f: f(X.to("meta"))
        yield lambda f: torch.func.vmap(f)(X[None])
        yield lambda f: torch.jit.trace(f, (X,))
        yield lambda f: torch.compile(f, backend="eager")(X)


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is (deprecated|not supported).*")
def test_arrays_without_values_get_one_sentence(name):
    logits, labels, _ = rows()
    calibrator = fitted(sa.TemperatureScaling, logits, labels)
    for call in without_values(name):
        for argument, f in (
            ("logits", calibrator.predict_proba),
            ("logits", calibrator.predict),
            ("logits", lambda X: sa.TemperatureScaling().fit(X, labels).predict_proba(X)),
            ("labels", lambda X: sa.TemperatureScaling().fit(logits, X[:, 0]).predict_proba(logits)),
            ("sample_weight", lambda X: sa.TemperatureScaling().fit(logits, labels, X[:, 0]).predict_proba(logits)),
        ):
            sentence = rf"{argument} is a \w+\.\w+ without values, and this computes with numbers: call it outside"
            with pytest.raises(WrongKindError, match=sentence):
                call(f)


class Elsewhere:
    """An array of a library whose device NumPy cannot read; the device is kept by its library's own words."""

    def __init__(self, array, device):
        self.array, self.device = array, device
        self.shape, self.dtype = array.shape, array.dtype

    def cpu(self):
        return Elsewhere(self.array, "cpu")


class OfElsewhere(Backend):
    def known(self, array):
        return array.array if array.device == "cpu" else None

    def from_numpy(self, array, like):
        return Elsewhere(array, like.device)


def test_arrays_come_from_another_device_and_go_back_to_it(monkeypatch):
    """A GPU that is not there: known() is None until cpu() was called, as for torch, and from_numpy follows X."""
    backend = OfElsewhere("torch", None)
    for module in (_arrays, backends):
        monkeypatch.setattr(module, "_library", lambda value: "torch" if isinstance(value, Elsewhere) else None)
        monkeypatch.setattr(module, "backend_of", lambda name, value: (backend, value))
    logits, labels, weights = rows()
    wanted = fitted(sa.TemperatureScaling, logits, labels, weights)
    calibrator = fitted(sa.TemperatureScaling, *(Elsewhere(values, "gpu:1") for values in (logits, labels, weights)))
    assert calibrator.temperature_ == wanted.temperature_
    for prediction in (*PREDICTIONS, "predict"):
        got = getattr(calibrator, prediction)(Elsewhere(logits, "gpu:1"))
        assert got.device == "gpu:1"
        np.testing.assert_array_equal(got.array, getattr(wanted, prediction)(logits))


def test_jax_arrays_stay_on_their_device():
    """A process of its own: the number of devices is said before JAX starts."""
    pytest.importorskip("jax")
    program = """
        import jax, numpy as np, softargmax as sa
        here, there = jax.devices()
        logits = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
        X = jax.device_put(logits, there)
        calibrator = sa.TemperatureScaling().fit(X, jax.device_put(np.arange(40) % 3, here))
        for predict in (calibrator.predict_proba, calibrator.transform, calibrator.predict):
            assert predict(X).devices() == {there}, predict(X).devices()
            assert predict(X.astype("bfloat16")).devices() == {there}
            assert predict(jax.device_put(X, here)).devices() == {here}
        mesh = jax.sharding.Mesh(np.array([here, there]), ("rows",))
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows", None))
        got = calibrator.predict_proba(jax.device_put(X, split))
        assert (calibrator.predict(jax.device_put(X, split)) == calibrator.predict(logits)).all()
        assert got.sharding == split, got.sharding
        np.testing.assert_array_equal(np.asarray(got), calibrator.predict_proba(logits))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_torch_on_a_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    logits, labels, weights = (torch.tensor(values, device="cuda") for values in rows())
    calibrator = fitted(sa.TemperatureScaling, logits, labels, weights)
    wanted = fitted(sa.TemperatureScaling, *rows())
    assert calibrator.temperature_ == wanted.temperature_
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for prediction in (*PREDICTIONS, "predict"):
            got = getattr(calibrator, prediction)(logits.to(dtype))
            assert got.device == logits.device
            here = getattr(wanted, prediction)(logits.to(dtype).cpu())
            assert got.dtype == here.dtype
            assert torch.equal(got.cpu(), here)
