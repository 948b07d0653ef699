"""Wrong input, on every library: one clear sentence each, and the built-in exception that fits.

Traced, shapes and dtypes are known and raise; values are not, and their rows are NaN: never another class's number.
"""

import math

import numpy as np
import pytest

import softargmax as sa
from tests.cases import libraries
from tests.cases.libraries import DIFFERENTIABLE
from tests.cases.ops import EVERYWHERE, OPS

INF, NAN = math.inf, math.nan
every_op = pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in EVERYWHERE])
Z = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
CLASS_AXIS = [op for op in EVERYWHERE if not op.elementwise]


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 400, text
    assert "Traceback" not in text
    assert text[0].islower() or text[0].isdigit() or text.startswith(("0-d", "JAX")), text


def refused(error, pattern, call):
    with pytest.raises(error, match=pattern) as caught:
        call()
    assert isinstance(caught.value, error)
    one_sentence(caught)


def floats(library, values, dtype="float32"):
    return library.array(np.asarray(values, float), dtype)


# ---- values, where they can be read: each a call on a library, the exception, and what its sentence says ----

BAD = {
    "axis too large": (lambda a, n: sa.softmax(a(Z), axis=2), ValueError, r"axis 2 is out of range"),
    "axis too small": (lambda a, n: sa.logsumexp(a(Z), axis=-3), ValueError, r"axis -3 is out of range"),
    "axis of no integer": (lambda a, n: sa.entropy(a(Z), axis=None), TypeError, "axis must be one integer; got None"),
    "mask of integers": (lambda a, n: sa.softmax(a(Z), mask=n([1, 0, 1])), TypeError, "mask must be bool.*int"),
    "mask of floats": (lambda a, n: sa.logsumexp(a(Z), mask=a([1, 0, 1])), TypeError, "mask must be bool.*float32"),
    "mask of another shape": (
        lambda a, n: sa.log_softmax(a(Z), mask=n([True, False])),
        ValueError,
        r"mask must broadcast to .*\(2, 3\).*got shape \(2,\)",
    ),
    "mask with more dimensions": (
        lambda a, n: sa.softmax(a(Z), mask=n(np.ones((1, 2, 3), bool))),
        ValueError,
        r"mask must broadcast",
    ),
    "binary mask of another shape": (
        lambda a, n: sa.binary_cross_entropy(a(Z), n(np.ones((2, 3), int)), mask=n([True, False])),
        ValueError,
        "mask must broadcast",
    ),
    "temperature below 0": (
        lambda a, n: sa.softmax(a(Z), temperature=-0.5),
        ValueError,
        "temperature must be 0 or more.*-0.5",
    ),
    "temperature NaN": (lambda a, n: sa.softmax(a(Z), temperature=NAN), ValueError, "temperature must be 0 or more"),
    "one temperature below 0": (
        lambda a, n: sa.log_softmax(a(Z), temperature=a([[1.0], [-2.0]])),
        ValueError,
        r"temperature must be 0 or more.*-2.* at index \(1, 0\)",
    ),
    "temperature a class": (
        lambda a, n: sa.softmax(a(Z), temperature=a([1.0, 2.0, 3.0])),
        ValueError,
        r"temperature must be one number or broadcast to shape \(2, 1\).*\(3,\)",
    ),
    "float labels": (lambda a, n: sa.cross_entropy(a(Z), a([0.0, 1.0])), TypeError, "labels must be integers"),
    "bool labels": (lambda a, n: sa.log_prob(a(Z), n([True, False])), TypeError, "labels must be integers"),
    "label too large": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 3])),
        ValueError,
        r"labels must lie in \[0, 2\].*got 3 at index 1",
    ),
    "label below 0": (
        lambda a, n: sa.log_prob(a(Z), n([-1, 0])),
        ValueError,
        r"labels must lie in .*got -1 at index 0",
    ),
    "label that is not the ignored one": (
        lambda a, n: sa.cross_entropy(a(Z), n([-1, -100]), ignore_index=-100),
        ValueError,
        "got -1 at index 0",
    ),
    "labels of another shape": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1, 2])),
        ValueError,
        r"labels .*\(2,\).*got shape \(3,\)",
    ),
    "integer one-hot targets": (
        lambda a, n: sa.cross_entropy(a(Z), n([[1, 0, 0], [0, 1, 0]])),
        TypeError,
        "targets .*float.*argmax",
    ),
    "targets of sum 1.4": (
        lambda a, n: sa.cross_entropy(a(Z), a([[1.0, 0.0, 0.0], [0.7, 0.7, 0.0]])),
        ValueError,
        "targets must be probabilities.*row 1 sums to 1.4",
    ),
    "targets below 0": (
        lambda a, n: sa.cross_entropy(a(Z), a([[1.5, -0.5, 0.0], [1.0, 0.0, 0.0]])),
        ValueError,
        "targets must be probabilities.*row 0 holds -0.5",
    ),
    "targets with NaN": (
        lambda a, n: sa.cross_entropy(a(Z), a([[NAN, 1.0, 0.0], [1.0, 0.0, 0.0]])),
        ValueError,
        "row 0 holds NaN",
    ),
    "ignored targets": (
        lambda a, n: sa.cross_entropy(a(Z), a([[1.0, 0, 0], [1.0, 0, 0]]), ignore_index=0),
        ValueError,
        "ignore_index goes with integer labels",
    ),
    "weights below 0": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), weights=a([1.0, -1.0])),
        ValueError,
        "weights must be finite and not negative; got -1.0 at index 1",
    ),
    "weights NaN": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), weights=a([NAN, 1.0])),
        ValueError,
        "weights must be finite and not negative; got nan at index 0",
    ),
    "weights of another shape": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), weights=a([1.0, 1.0, 1.0])),
        ValueError,
        r"weights must have shape \(2,\).*got shape \(3,\)",
    ),
    "class weights below 0": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), class_weights=a([1.0, 1.0, -1.0])),
        ValueError,
        "class_weights must be finite and not negative; got -1.0 at index 2",
    ),
    "class weights of another shape": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), class_weights=a([1.0, 1.0])),
        ValueError,
        r"class_weights must have shape \(3,\)",
    ),
    "smoothing above 1": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), label_smoothing=1.5),
        ValueError,
        r"label_smoothing must lie in \[0, 1\]; got 1.5",
    ),
    "unknown reduction": (
        lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), reduction="avg"),
        ValueError,
        'reduction must be "mean", "sum" or "none"',
    ),
    "unknown binary reduction": (
        lambda a, n: sa.binary_cross_entropy(a(Z), a(Z * 0), reduction="batchmean"),
        ValueError,
        'reduction must be "mean", "sum" or "none"',
    ),
    "unknown empty": (lambda a, n: sa.cross_entropy(a(Z), n([0, 1]), empty="skip"), ValueError, "empty must be"),
    "no classes, a label": (
        lambda a, n: sa.cross_entropy(a(np.zeros((2, 0))), n([0, 0])),
        ValueError,
        "logits must have at least one class",
    ),
    "no classes, a label's probability": (
        lambda a, n: sa.log_prob(a(np.zeros((2, 0))), n([0, 0])),
        ValueError,
        "logits must have at least one class",
    ),
    "binary label 2": (
        lambda a, n: sa.binary_cross_entropy(a(Z), n([[0, 1, 1], [0, 2, 0]])),
        ValueError,
        r"labels must be 0 or 1.*got 2.* at index \(1, 1\)",
    ),
    "binary target 1.5": (
        lambda a, n: sa.binary_cross_entropy(a(Z), a([[0, 1.5, 1], [0, 1, 0]])),
        ValueError,
        r"labels must be .*\[0, 1\].*got 1.5 at index \(0, 1\)",
    ),
    "binary labels of another shape": (
        lambda a, n: sa.binary_cross_entropy(a(Z), n([0, 1])),
        ValueError,
        r"labels must have the shape of the logits \(2, 3\).*got .*\(2,\)",
    ),
    "pos_weight below 0": (
        lambda a, n: sa.binary_cross_entropy(a(Z), a(Z * 0), pos_weight=a([1.0, -1.0, 1.0])),
        ValueError,
        "pos_weight must be finite and not negative; got -1.0 at index 1",
    ),
    "binary weights a row": (
        lambda a, n: sa.binary_cross_entropy(a(Z), a(Z * 0), weights=a([1.0, 2.0])),
        ValueError,
        r"weights must broadcast .*\(2, 3\).*got shape \(2,\)",
    ),
    "distributions of two shapes": (
        lambda a, n: sa.kl_divergence(a(Z), a(Z[:, :2])),
        ValueError,
        r"p_logits and q_logits must have one shape; got \(2, 3\) and \(2, 2\)",
    ),
    "probabilities that are logits": (
        lambda a, n: sa.logits_from_probs(a(Z)),
        ValueError,
        "probs must be probabilities.*row 0 .*these look like logits",
    ),
    "one number of probability": (
        lambda a, n: sa.logits_from_probs(a(0.5)),
        ValueError,
        "probs must have a class axis",
    ),
    "floor 0": (lambda a, n: sa.logits_from_probs(a([0.5, 0.5]), floor=0), ValueError, "floor must be a probability"),
    "probabilities of no classes": (
        lambda a, n: sa.logits_from_probs(a(np.zeros((2, 0)))),
        ValueError,
        "probs must be probabilities.*row 0 sums to 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_sentence(case, library):
    call, error, pattern = BAD[case]
    refused(error, pattern, lambda: call(lambda x: floats(library, x), lambda x: library.array(np.asarray(x))))


def test_jax_has_no_float64_to_sample_from():
    library = libraries.get("jax")
    refused(ValueError, "jax_enable_x64", lambda: sa.for_sampling(floats(library, [0.5, 0.5])))


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in CLASS_AXIS])
def test_one_number_has_no_class_axis(op, library):
    args, _ = op.arguments(Z, np.ones((2, 3), bool), np.ones((2, 1)))
    args, _ = op.converted(library, "float32", args, {})
    name = "probs" if op.name in ("logits_from_probs", "for_sampling") else "logits"
    if op.name == "for_sampling" and library.name == "jax":
        pytest.skip("JAX has no float64 here")
    refused(ValueError, f"{name} must have a class axis", lambda: op.function(floats(library, 1.5), *args[1:]))


@every_op
def test_wrong_dtypes(op, library):
    args, _ = op.arguments(Z, np.ones((2, 3), bool), np.ones((2, 1)))
    args, _ = op.converted(library, "float32", args, {})
    kinds = [library.array(Z, "complex64")]
    if library.name == "numpy":
        kinds += [np.array([["a", "b", "c"]] * 2), Z.astype(object), Z.astype("datetime64[s]"), Z.astype(np.longdouble)]
        kinds += [[["a", "b", "c"]] * 2, {"a": 1}, None]
    if library.name == "tensorflow":
        kinds += [library.xp.constant([["a", "b", "c"]] * 2)]
    for logits in kinds:
        refused(TypeError, r"must be real numbers|only .* arrays", lambda logits=logits: op.function(logits, *args[1:]))


def test_ragged_sparse_and_wrapped_arrays_are_not_guessed():
    ragged = [[1.0], [1.0, 2.0]]
    refused(ValueError, "logits is not a rectangular array", lambda: sa.softmax(ragged))
    refused(TypeError, "masked array", lambda: sa.softmax(np.ma.masked_array([1.0, 2.0], [0, 1])))


def test_torch_tensors_that_are_not_dense():
    torch = libraries.get("torch").xp
    refused(TypeError, "logits must be a dense tensor", lambda: sa.softmax(torch.eye(3).to_sparse()))
    refused(TypeError, "logits is a list of .*stack", lambda: sa.softmax([torch.zeros(3), torch.zeros(3)]))


def test_tensorflow_tensors_that_are_not_dense():
    tf = libraries.get("tensorflow").xp
    refused(TypeError, "logits must be a dense tensor", lambda: sa.softmax(tf.ragged.constant([[1.0], [1.0, 2.0]])))
    refused(TypeError, "logits must be a dense tensor", lambda: sa.softmax(tf.sparse.from_dense([[1.0, 0.0]])))


def test_a_mask_inside_a_list_is_not_lost():
    rows = [np.array([1.0, 2.0]), np.ma.array([5.0, 6.0], mask=[1, 0])]
    refused(TypeError, "masked array", lambda: sa.softmax(rows))


def test_an_expanded_tensor_is_no_place_to_write():
    torch = libraries.get("torch").xp
    out = torch.zeros(1).expand(3)
    refused(ValueError, "out is an expanded tensor", lambda: sa.softmax(torch.zeros(3), out=out))


# ---- two libraries, two devices ----


@pytest.mark.parametrize("other", libraries.NAMES)
@pytest.mark.parametrize("one", libraries.NAMES)
def test_two_libraries_in_one_call(one, other):
    if one == other:
        pytest.skip("one library")
    a, b = libraries.get(one), libraries.get(other)
    z = floats(a, Z)
    calls = {
        "mask": lambda: sa.softmax(z, mask=b.array(np.ones(3, bool))),
        "temperature": lambda: sa.softmax(z, temperature=floats(b, 2.0)),
        "labels": lambda: sa.cross_entropy(z, b.array(np.array([0, 1]))),
        "weights": lambda: sa.cross_entropy(z, [0, 1], weights=floats(b, [1, 1])),
        "class_weights": lambda: sa.cross_entropy(z, [0, 1], class_weights=floats(b, [1, 1, 1])),
        "q_logits": lambda: sa.kl_divergence(z, floats(b, Z)),
        "pos_weight": lambda: sa.binary_cross_entropy(z, [[0, 1, 1], [0, 1, 0]], pos_weight=floats(b, 1.0)),
    }
    for name, call in calls.items():
        refused(TypeError, f"{name} is an? .*{other.partition('_')[0]}.*one library|{name} is a numpy", call)


def test_two_devices_in_one_call():
    torch = libraries.get("torch").xp
    z = torch.zeros(2, 3)
    for call in (
        lambda: sa.cross_entropy(z, torch.zeros(2, dtype=torch.long, device="meta")),
        lambda: sa.softmax(z, mask=torch.ones(3, dtype=torch.bool, device="meta")),
        lambda: sa.softmax(z.to("meta"), temperature=torch.ones(2, 1)),
        lambda: sa.kl_divergence(z, z.to("meta")),
    ):
        refused(ValueError, "is on (meta|cpu) and the logits are on (meta|cpu)", call)
    xp = libraries.get("array_api_strict").xp
    there = xp.ones((2, 3), device=xp.Device("device1"), dtype=xp.float32)
    assert sa.softmax(there).device == xp.Device("device1")
    refused(ValueError, "bring them to one device", lambda: sa.kl_divergence(there, xp.ones((2, 3), dtype=xp.float32)))


def test_cross_entropy_and_grad_is_for_numpy(library):
    if library.name == "numpy":
        pytest.skip("NumPy")
    labels = library.array(np.array([0, 1]))
    refused(
        TypeError,
        "cross_entropy_and_grad .*NumPy.*cross_entropy",
        lambda: sa.cross_entropy_and_grad(floats(library, Z), labels),
    )


# ---- traced: what is known raises, what is not is NaN in its row ----


def bad_rows(library):
    """Calls on arrays whose values are wrong in some rows: functions of the arrays, and which results are NaN."""
    z = floats(library, np.concatenate([Z, Z + 0.25]))
    labels, good = library.array(np.array([0, 7, -1, 2])), library.array(np.array([0, 1, 2, 2]))
    targets = floats(library, [[1, 0, 0], [0.7, 0.7, 0], [1.5, -0.5, 0], [NAN, 1, 0]])
    column = floats(library, [[1.0], [-1.0], [NAN], [INF]])
    weights = floats(library, [1, -1, NAN, 2])
    p = floats(library, [[0.25, 0.25, 0.5], [0.7, 0.7, 0], [1.5, -0.5, 0], [NAN, 1, 0]])
    y = floats(library, [[0, 1, 0.5], [2, 1, 0], [-1, 0, 0], [NAN, 1, 0]])
    none = {"reduction": "none"}
    return [
        (lambda z, y: sa.cross_entropy(z, y, **none), (z, labels), [0, 1, 1, 0]),
        (lambda z, y: sa.cross_entropy(z, y, ignore_index=-1, **none), (z, labels), [0, 1, 0, 0]),
        (lambda z, y: sa.cross_entropy(z, y, label_smoothing=0.1, **none), (z, labels), [0, 1, 1, 0]),
        (lambda z, y: sa.cross_entropy(z, y), (z, labels), 1),
        (lambda z, y: sa.log_prob(z, y), (z, labels), [0, 1, 1, 0]),
        (lambda z, q: sa.cross_entropy(z, q, **none), (z, targets), [0, 1, 1, 1]),
        (lambda z, w: sa.cross_entropy(z, [0, 1, 2, 2], weights=w, **none), (z, weights), [0, 1, 1, 0]),
        (lambda z, y, c: sa.cross_entropy(z, y, class_weights=c, **none)[1:], (z, good, weights[:3]), [1, 1, 1]),
        (lambda z, t: sa.softmax(z, temperature=t), (z, column), [[0] * 3, [1] * 3, [1] * 3, [0] * 3]),
        (lambda z, t: sa.log_softmax(z, temperature=t), (z, column), [[0] * 3, [1] * 3, [1] * 3, [0] * 3]),
        (lambda p: sa.logits_from_probs(p), (p,), [[0] * 3, [1] * 3, [1] * 3, [1] * 3]),
        (
            lambda z, y: sa.binary_cross_entropy(z, y, **none),
            (z, y),
            [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]],
        ),
        (
            lambda z, w: sa.binary_cross_entropy(z, [[0, 1, 1]] * 4, weights=w, **none),
            (z, column),
            [[0] * 3, [1] * 3, [1] * 3, [1] * 3],
        ),
    ]


def the_good_values(values, nan):
    """Where nothing is wrong the result is that of a call in which nothing is."""
    np.testing.assert_array_equal(np.isnan(values), np.array(nan, bool))


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_wrong_values_in_a_trace_are_nan_in_their_row(of):
    library = libraries.get(of)
    cases = bad_rows(library)

    def everything(arrays):
        return [f(*of_case) for (f, *_), of_case in zip(cases, arrays, strict=True)]

    for result, (_, _, nan) in zip(
        library.compiled(everything)([arrays for _, arrays, _ in cases]), cases, strict=True
    ):
        the_good_values(library.numpy(result), nan)


@pytest.mark.parametrize("of", ["torch", "jax"])
def test_wrong_values_under_vmap_are_nan_in_their_row(of):
    library = libraries.get(of)
    vmap = library.xp.vmap if of == "jax" else library.xp.func.vmap
    z, labels = floats(library, np.concatenate([Z, Z])), library.array(np.array([0, 7, -1, 2]))
    the_good_values(library.numpy(vmap(sa.cross_entropy)(z, labels)), [0, 1, 1, 0])
    the_good_values(library.numpy(vmap(sa.log_prob)(z, labels)), [0, 1, 1, 0])
    p = vmap(lambda z, t: sa.softmax(z, temperature=t))(z, floats(library, [1.0, -1.0, NAN, 0.0]))
    the_good_values(library.numpy(p), [[0] * 3, [1] * 3, [1] * 3, [0] * 3])


@pytest.mark.parametrize("of", DIFFERENTIABLE)
def test_a_wrong_label_is_never_the_loss_of_another_class(of):
    """The peers clip or wrap it: this is the silent error that the NaN is for."""
    library = libraries.get(of)
    z, labels = floats(library, Z), library.array(np.array([3, -2]))
    losses = library.numpy(library.compiled(lambda z, y: sa.cross_entropy(z, y, reduction="none"))(z, labels))
    assert np.isnan(losses).all()
    if of == "jax":
        peer = library.xp.numpy.take_along_axis(library.xp.nn.log_softmax(z), labels[:, None] % 4, 1, mode="clip")
        with pytest.raises(AssertionError):
            the_good_values(np.asarray(peer)[:, 0], [1, 1])


TRACED = (
    "axis too large",
    "mask of integers",
    "mask of another shape",
    "float labels",
    "labels of another shape",
    "integer one-hot targets",
    "temperature a class",
    "binary labels of another shape",
)


@pytest.mark.parametrize("case", TRACED)
@pytest.mark.parametrize("of", ["jax", "tensorflow"])
def test_shapes_and_dtypes_raise_in_a_trace_too(of, case):
    library = libraries.get(of)
    call, error, pattern = BAD[case]

    def traced(x):
        def logits_or(values):  # the logits are what is traced
            return x if values is Z else floats(library, values)

        return call(logits_or, lambda y: library.array(np.asarray(y)))

    with pytest.raises(error, match=pattern):
        library.compiled(traced)(floats(library, Z))


def test_every_op_is_refused_something():
    """No op takes whatever comes: each is named in a test above."""
    assert {op.name for op in EVERYWHERE} | {"cross_entropy_and_grad"} == set(OPS)
