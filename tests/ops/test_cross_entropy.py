import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import softargmax as sa
from tests.cases.cross_entropy import reduced, reference
from tests.cases.rows import exact_log_softmax

FLOATS = [np.float16, np.float32, np.float64]
INF, NAN = math.inf, math.nan


def example(dtype, k=5, n=7, seed=0):
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((n, k)) * 3).astype(dtype)
    labels = rng.integers(0, k, n)
    targets = rng.dirichlet(np.ones(k), n)
    mask = rng.random((n, k)) < 0.7
    mask[1] = False
    mask[2, labels[2]] = False  # a label outside the mask costs inf
    weights = rng.integers(0, 4, n).astype(float)
    class_weights = rng.uniform(0, 2, k)
    class_weights[0] = 0
    return z, labels, targets, mask, weights, class_weights


OPTIONS = list(
    itertools.product(
        ["labels", "targets"],
        [False, True],  # mask
        [False, True],  # class weights
        [False, True],  # weights
        [None, 3, -100],  # ignore_index
        [0.0, 0.1, 1.0],  # smoothing
    )
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "masked", "by_class", "weighted", "ignore", "smoothing"), OPTIONS)
def test_the_whole_product_of_options(kind, masked, by_class, weighted, ignore, smoothing, dtype):
    z, labels, targets, mask, weights, class_weights = example(dtype)
    if kind == "targets":
        if ignore is not None:
            with pytest.raises(ValueError, match="ignore_index goes with integer labels"):
                sa.cross_entropy(z, targets, ignore_index=ignore)
            return
        targets = targets.astype(dtype)
    elif ignore == -100:
        labels[4] = -100
    y = labels if kind == "labels" else targets
    options = {
        "mask": mask if masked else None,
        "class_weights": class_weights if by_class else None,
        "weights": weights if weighted else None,
        "ignore_index": ignore,
        "label_smoothing": smoothing,
    }
    losses, totals = reference(z, y, **options)
    eps = np.finfo(np.float64 if dtype == np.float64 else np.float32).eps
    for reduction in ("mean", "sum", "none"):
        value = sa.cross_entropy(z, y, reduction=reduction, **options)
        again, _ = sa.cross_entropy_and_grad(z, y, reduction=reduction, **options)
        np.testing.assert_array_equal(again, value)
        assert value.dtype == (np.float64 if dtype == np.float64 else np.float32)
        np.testing.assert_allclose(value, reduced(losses, totals, reduction), rtol=40 * eps)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_axis(axis):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3, 4, 5))
    k = z.shape[axis]
    rows = np.moveaxis(z, axis, -1)
    labels = rng.integers(0, k, rows.shape[:-1])
    mask = rng.random(z.shape) < 0.9
    weights = rng.random(labels.shape)
    loss, grad = sa.cross_entropy_and_grad(z, labels, axis=axis, mask=mask, weights=weights, reduction="none")
    options = {"mask": np.moveaxis(mask, axis, -1), "weights": weights, "reduction": "none"}
    wanted, wanted_grad = sa.cross_entropy_and_grad(rows, labels, **options)
    np.testing.assert_array_equal(loss, wanted)
    np.testing.assert_array_equal(grad, np.moveaxis(wanted_grad, -1, axis))
    targets = np.moveaxis(rng.dirichlet(np.ones(k), labels.shape), -1, axis)
    np.testing.assert_array_equal(
        sa.cross_entropy(z, targets, axis=axis), sa.cross_entropy(rows, np.moveaxis(targets, axis, -1))
    )


# ---- the gradient ----


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("kind", "masked", "by_class", "weighted", "ignore", "smoothing"), OPTIONS[::3])
def test_the_gradient_is_the_finite_difference_and_the_formula(
    kind, masked, by_class, weighted, ignore, smoothing, reduction
):
    z, labels, targets, mask, weights, class_weights = example(np.float64)
    mask[2] = True  # a finite loss everywhere
    mask[np.arange(7), labels] |= mask.any(-1)
    y = labels if kind == "labels" else np.where(mask | ~mask.any(-1, keepdims=True), targets, 0)
    if kind == "targets":
        y, ignore = y / y.sum(-1, keepdims=True), None
        masked = False
    options = {
        "mask": mask if masked else None,
        "class_weights": class_weights if by_class else None,
        "weights": weights if weighted else None,
        "ignore_index": ignore,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    _, grad = sa.cross_entropy_and_grad(z, y, **options)
    h = 1e-5
    numeric = np.zeros_like(z)
    for i, j in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i, j] = h
        up, down = sa.cross_entropy(z + step, y, **options), sa.cross_entropy(z - step, y, **options)
        difference = (up - down) / (2 * h)
        numeric[i, j] = difference[i] if reduction == "none" else difference
    np.testing.assert_allclose(grad, numeric, atol=1e-8)
    if masked:
        assert np.all(grad[~mask] == 0)


def test_the_gradient_of_one_labelled_row_is_p_minus_q_and_keeps_its_digits_where_p_is_near_one():
    z = np.array([[2.0, 1.0, 0.1]])
    _, grad = sa.cross_entropy_and_grad(z, [0])
    np.testing.assert_allclose(grad, sa.softmax(z) - [[1, 0, 0]], rtol=1e-14)
    _, sure = sa.cross_entropy_and_grad(np.float32([[16.942385, 0]]), [0])  # p - q in float32 is 0 here
    np.testing.assert_allclose(sure, [[-4.3855e-8, 4.3855e-8]], rtol=1e-4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_edges_cell_by_cell(dtype):
    cells = {
        "-inf elsewhere": ([0.0, -INF, 0.0], 0, math.log(2), [-0.5, 0, 0.5]),
        "-inf at the label": ([0.0, -INF, 0.0], 1, INF, [0.5, 0, 0.5]),
        "+inf at the label": ([INF, 1.0, 2.0], 0, 0.0, [0, 0, 0]),
        "+inf elsewhere": ([INF, 1.0, 2.0], 1, INF, [0, 0, 0]),
        "two +inf": ([INF, INF, 2.0], 1, math.log(2), [0, 0, 0]),
        "all -inf": ([-INF, -INF, -INF], 1, NAN, [0, 0, 0]),
        "NaN": ([NAN, 1.0, 2.0], 1, NAN, [NAN, NAN, NAN]),
        "NaN and -inf": ([NAN, 1.0, -INF], 1, NAN, [NAN, NAN, 0]),
        "NaN and +inf": ([NAN, INF, 1.0], 1, NAN, [NAN, NAN, NAN]),
        "one class below all": ([0.0, 0.0, -60000.0], 0, math.log(2), [-0.5, 0.5, 0]),
    }
    z = np.array([row for row, *_ in cells.values()], dtype)
    labels = [label for _, label, *_ in cells.values()]
    loss, grad = sa.cross_entropy_and_grad(z, labels, reduction="none")
    assert grad.dtype == dtype
    np.testing.assert_allclose(loss, [value for *_, value, _ in cells.values()], rtol=1e-6)
    np.testing.assert_allclose(grad, [g for *_, g in cells.values()], rtol=1e-3, atol=0)
    zeros = np.array([g for *_, g in cells.values()]) == 0
    assert np.all(grad[zeros] == 0)


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_rows_that_do_not_count_are_exactly_zero_whatever_their_logits(poison):
    z = np.array([[1.0, 2.0, 3.0], [poison] * 3, [poison, 1, 2], [0.5, poison, 1], [1.0, poison, 0.0]])
    labels = [0, -100, 1, 1, 2]
    weights = [1, 1, 0, 1, 1]
    mask = np.ones((5, 3), bool)
    mask[3] = False
    mask[4, 1] = False
    loss, grad = sa.cross_entropy_and_grad(z, labels, ignore_index=-100, weights=weights, mask=mask, reduction="none")
    np.testing.assert_array_equal(loss[1:4], 0)
    np.testing.assert_array_equal(grad[1:4], 0)
    assert grad[4, 1] == 0
    assert np.isfinite(loss).all()
    mean = sa.cross_entropy(z, labels, ignore_index=-100, weights=weights, mask=mask)
    kept = [sa.cross_entropy(z[0], 0), sa.cross_entropy(np.array([1.0, 0.0]), 1)]
    assert mean == pytest.approx(np.mean(kept), rel=1e-14)


def test_a_nan_row_stays_alone():
    z = np.array([[1.0, 2.0], [NAN, 1.0], [3.0, 1.0]])
    loss, grad = sa.cross_entropy_and_grad(z, [0, 1, 0], reduction="none")
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
    np.testing.assert_array_equal(np.isnan(grad).any(-1), [False, True, False])


def test_a_coefficient_of_zero_gives_zero_even_times_infinity():
    z = np.array([[0.0, -INF]])
    assert sa.cross_entropy(z, np.array([[1.0, 0.0]])) == 0
    assert sa.cross_entropy(z, [1], class_weights=[1, 0], reduction="sum") == 0
    assert sa.cross_entropy(z, [1]) == INF
    assert sa.cross_entropy(z, [0], label_smoothing=0.1) == INF  # smoothing asks for the impossible class
    assert sa.cross_entropy(z, [0], label_smoothing=0.1, mask=[[True, False]]) == 0  # … but not for a masked one


@pytest.mark.parametrize(
    ("logits", "labels", "options"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), {}),
        (np.zeros((0, 0)), np.zeros(0, int), {}),
        (np.zeros((2, 3)), [-1, -1], {"ignore_index": -1}),
        (np.zeros((2, 3)), [0, 1], {"weights": [0, 0]}),
        (np.full((2, 3), NAN), [0, 1], {"mask": np.zeros((2, 3), bool)}),
        (np.zeros((2, 3)), [0, 0], {"class_weights": [0, 1, 1]}),
    ],
)
def test_a_mean_over_nothing(logits, labels, options):
    loss, grad = sa.cross_entropy_and_grad(logits, labels, **options)
    assert loss == 0
    np.testing.assert_array_equal(grad, np.zeros(logits.shape))
    loss, grad = sa.cross_entropy_and_grad(logits, labels, empty="nan", **options)
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros(logits.shape))
    with pytest.raises(ValueError, match="no row counts"):
        sa.cross_entropy(logits, labels, empty="raise", **options)
    assert sa.cross_entropy(logits, labels, reduction="sum", empty="raise", **options) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 10, 1000])
def test_precision_of_labelled_losses(k, dtype):
    eps = np.finfo(dtype).eps
    rng = np.random.default_rng(k)
    for scale in (1, 10, 100):
        z = (rng.standard_normal((4, k)) * scale).astype(dtype)
        for row in z:
            exact = exact_log_softmax(row)
            second = np.diff(np.sort(row.astype(float))[-2:])[0]
            for label in {int(np.argmax(row)), 0, k - 1}:
                wanted = -exact[label]
                if wanted < np.finfo(dtype).tiny:
                    continue
                budget = (8 + 2 * math.log(k)) * eps + (2 * second * eps if label == np.argmax(row) else 0)
                assert abs(float(sa.cross_entropy(row, label)) - wanted) <= budget * wanted
    # the case of an old open issue of a peer: 0 there
    assert float(sa.cross_entropy(np.float32([16.942385, 0]), 0)) == pytest.approx(4.3855e-8, rel=1e-4)


def test_the_mean_equals_scikit_learns_log_loss():
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 6)) * 3
    y, w = rng.integers(0, 6, 50), rng.random(50)
    wanted = log_loss(y, sa.softmax(z), sample_weight=w, labels=np.arange(6))
    assert sa.cross_entropy(z, y, weights=w) == pytest.approx(wanted, rel=1e-13)


def test_weights_of_any_scale_give_the_same_mean():
    z, y = np.array([[1, 2], [3, 1]], np.float32), [0, 0]
    wanted = sa.cross_entropy(z, y)
    for scale in (5e-324, 1e-200, 1e-60, 1e60, 1e200, 1e308):  # outside float32, and squares outside float64
        assert sa.cross_entropy(z, y, weights=[scale, scale]) == wanted
        assert sa.cross_entropy(z, y, class_weights=[scale, scale]) == wanted


def test_unsigned_labels_are_compared_as_they_came():
    z, last = np.array([[1.0, 2, 3], [3, 2, 1]]), 2**64 - 1
    loss = sa.cross_entropy(z, np.array([0, last], np.uint64), ignore_index=last, label_smoothing=0.3)
    assert loss == sa.cross_entropy(z[:1], [0], label_smoothing=0.3)


def test_sums_with_weights_out_of_range_of_the_result():
    loss, grad = sa.cross_entropy_and_grad(np.float32([[1, 2]]), [0], weights=[1e60], reduction="sum")
    assert loss == INF  # of float32, without a floating-point warning
    np.testing.assert_array_equal(grad, [[-INF, INF]])


rows = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 20)),
    elements=st.one_of(st.floats(-50, 50), st.sampled_from([INF, -INF, NAN, 1e300, -1e300, 5e-324])),
)


@given(rows, st.data())
def test_any_rows_agree_with_the_reference(z, data):
    n, k = z.shape
    y = data.draw(npst.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    mask = data.draw(npst.arrays(bool, (n, k)))
    weights = data.draw(npst.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.5])))
    smoothing = data.draw(st.sampled_from([0.0, 0.2]))
    options = {"mask": mask, "weights": weights, "label_smoothing": smoothing}
    losses, _ = reference(z, y, **options)
    value, grad = sa.cross_entropy_and_grad(z, y, reduction="none", **options)
    np.testing.assert_allclose(value, losses, rtol=1e-13, atol=1e-300)
    assert np.all(grad[~mask] == 0)
    assert np.all(grad[weights == 0] == 0)
    finite = np.isfinite(np.where(mask, z, 0)).all(-1) & (weights > 0) & np.isfinite(losses)
    np.testing.assert_allclose(grad[finite].sum(-1), 0, atol=1e-12)  # no shift changes the loss


def loss_that_forgets_the_weights_in_the_mean(z, y, weights):
    return (weights * np.array([sa.cross_entropy(row, label) for row, label in zip(z, y, strict=True)])).mean()


def test_the_reference_rejects_a_mean_over_rows_instead_of_weights():
    z, y, _, _, weights, _ = example(np.float64)
    wanted = reduced(*reference(z, y, weights=weights))
    assert sa.cross_entropy(z, y, weights=weights) == pytest.approx(wanted, rel=1e-13)
    assert loss_that_forgets_the_weights_in_the_mean(z, y, weights) != pytest.approx(wanted, rel=1e-3)


def test_layouts_give_the_same(engine):
    z, y, *_ = example(np.float32, k=30, n=40)
    wanted = sa.cross_entropy_and_grad(z, y)
    read_only = z.copy()
    read_only.flags.writeable = False
    for variant in (np.asfortranarray(z), np.repeat(z, 2, axis=1)[:, ::2], read_only, z.astype(">f4")):
        got = sa.cross_entropy_and_grad(variant, y.astype(np.uint8))
        np.testing.assert_array_equal(got[0], wanted[0])
        np.testing.assert_array_equal(got[1], wanted[1])


@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "sentence"),
    [
        ([[1.0, 2.0]], [2], {}, ValueError, r"labels must lie in \[0, 1\] \(there are 2 classes\); got 2 at index 0"),
        ([[1.0, 2.0]] * 2, [0, -1], {}, ValueError, r"got -1 at index 1; .* ignore_index=-1"),
        ([[1.0, 2.0]] * 2, [1, 2], {}, ValueError, r"do they start at 1\? pass labels - 1"),
        (np.zeros((2, 3, 4)), np.full((2, 3), 4), {}, ValueError, r"got 4 at index \(0, 0\)"),
        ([[1.0, 2.0]], [0.0], {}, TypeError, r"labels must be integers; got dtype float64; .* labels.astype\(int\)"),
        ([[1.0, 2.0]], [True], {}, TypeError, r"got dtype bool; pass labels.astype\(int\)"),
        ([[1.0, 2.0]], [[1, 0]], {}, TypeError, r"got dtype int64; for one-hot rows pass targets.argmax"),
        ([[1.0, 2.0]], [[0.7, 0.7]], {}, ValueError, "targets must be probabilities .* row 0 sums to 1.4"),
        ([[1.0, 2.0]], [[3.0, -2.0]], {}, ValueError, "these look like logits"),
        ([[1.0, 2.0]] * 3, [0, 1], {}, ValueError, r"want labels of shape \(3,\) or targets .* got shape \(2,\)"),
        ([[1.0, 2.0]] * 3, [[0], [1], [1]], {}, ValueError, r"got shape \(3, 1\); pass labels\[..., 0\]"),
        (np.zeros((2, 3, 4)), np.zeros((2, 4), int), {}, ValueError, r"got shape \(2, 4\), which fits axis=1"),
        (
            [[1.0, 2.0]],
            [0],
            {"weights": [-1]},
            ValueError,
            "weights must be finite and not negative; got -1.0 at index 0",
        ),
        ([[1.0, 2.0]], [0], {"weights": [NAN]}, ValueError, "weights must be finite"),
        ([[1.0, 2.0]], [0], {"weights": [1, 2]}, ValueError, r"weights must have shape \(1,\)"),
        ([[1.0, 2.0]], [0], {"class_weights": [1]}, ValueError, r"class_weights must have shape \(2,\)"),
        ([[1.0, 2.0]], [0], {"class_weights": [1, INF]}, ValueError, "class_weights must be finite"),
        ([[1.0, 2.0]], [0], {"label_smoothing": 1.5}, ValueError, r"label_smoothing must lie in \[0, 1\]; got 1.5"),
        ([[1.0, 2.0]], [0], {"label_smoothing": NAN}, ValueError, "label_smoothing must lie"),
        ([[1.0, 2.0]], [0], {"label_smoothing": None}, TypeError, "label_smoothing must be one number; got None"),
        ([[1.0, 2.0]], [0], {"reduction": "avg"}, ValueError, 'reduction must be "mean", "sum" or "none"'),
        ([[1.0, 2.0]], [0], {"empty": "skip"}, ValueError, 'empty must be "zero", "nan" or "raise"'),
        ([[1.0, 2.0]], [0], {"ignore_index": 0.5}, TypeError, "ignore_index must be an integer"),
        (np.zeros((2, 0)), [0, 0], {}, ValueError, r"logits must have at least one class; got shape \(2, 0\)"),
    ],
)
def test_bad_input_gets_one_clear_sentence(logits, labels, options, error, sentence):
    with pytest.raises(error, match=sentence):
        sa.cross_entropy(logits, np.array(labels), **options)
