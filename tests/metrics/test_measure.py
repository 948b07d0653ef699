"""`evaluate` beyond one array of logits: batches, groups, temperatures, libraries, shapes; and what it sums."""

import itertools
import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.metrics import balanced_accuracy_score

from softargmax import TemperatureScaling
from softargmax.metrics import evaluate, evaluate_batches
from softargmax.metrics.calibration_error import classwise_ece, ece, smooth_ece
from softargmax.metrics.decompositions import brier_parts, nll_parts
from softargmax.metrics.ranking import auroc
from softargmax.metrics.selective import aurc_error, risk_coverage
from tests.cases import libraries

ARRAYS = [case for case in libraries.typed(dtypes=("bfloat16", "float32")) if case != ("numpy", "bfloat16")]


def model(n=400, k=7, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * scale
    logits[np.arange(n), labels] += scale
    return labels, logits


def same(a, b, rtol=1e-12):
    """The headline numbers of two evaluations agree."""
    assert (a.n, a.n_classes, a.n_infinite_nll) == (b.n, b.n_classes, b.n_infinite_nll)
    np.testing.assert_array_equal(a.reliability.count, b.reliability.count)
    for name in ("accuracy", "balanced_accuracy", "nll", "brier", "ece", "classwise_ece", "mean_confidence", "aurc"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=rtol, nan_ok=True), name


# ---- what a class has in bins


@pytest.mark.parametrize("k", [2, 3, 10, 24, 25, 60])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 4, 15, 40])
def test_class_bins_are_those_of_a_loop(k, weighted, n_bins, engine):
    labels, logits = model(n=150, k=k, seed=k)
    logits[7, (labels[7] + 1) % k] = -np.inf
    weights = np.random.default_rng(1).exponential(size=150) if weighted else None
    w = np.ones(150) if weights is None else weights
    probs = softmax(logits, axis=1)
    for result in (
        evaluate(labels, logits=logits, weights=weights, n_bins=n_bins),
        evaluate(labels, probs=probs, weights=weights, n_bins=n_bins),
    ):
        for c in range(k):
            bins = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], probs[:, c], side="left")
            found = result.class_reliability(c)
            np.testing.assert_array_equal(found.count, np.bincount(bins, minlength=n_bins))
            with np.errstate(invalid="ignore"):
                total = np.bincount(bins, w, n_bins)
                mean = np.bincount(bins, w * probs[:, c], n_bins) / total
                share = np.bincount(bins, w * (labels == c), n_bins) / total
            np.testing.assert_allclose(found.confidence, mean, rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(found.accuracy, share, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("k", [2, 10, 40])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_by_class_equal_their_functions(k, weighted):
    labels, logits = model(n=700, k=k)
    weights = np.random.default_rng(1).exponential(size=700) if weighted else None
    given = {"logits": logits, "weights": weights}
    result = evaluate(labels, **given)
    assert result.classwise_ece == pytest.approx(classwise_ece(labels, **given), rel=1e-12)
    assert result.ece == pytest.approx(ece(labels, **given), rel=1e-12)
    assert result.ece_l2 == pytest.approx(ece(labels, norm="l2", **given), rel=1e-12)
    assert result.mce == pytest.approx(ece(labels, norm="max", **given), rel=1e-12)
    np.testing.assert_allclose(result.brier_parts, brier_parts(labels, **given), rtol=1e-11, atol=1e-14)
    assert result.brier_parts.brier == pytest.approx(result.brier, rel=1e-12)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1), sample_weight=weights)
    assert result.balanced_accuracy == pytest.approx(expected, rel=1e-12)
    assert result.interval("balanced_accuracy")[0] < expected < result.interval("balanced_accuracy")[1]


def test_a_wrong_rule_for_the_first_bin_is_seen():
    """Entries of the first bin are what the others leave: a hit counted there as well would show at once."""
    labels, probs = model(n=50, k=3)[0], softmax(model(n=50, k=3)[1], axis=1)
    result = evaluate(labels, probs=probs)
    of_all = sum(result.class_reliability(c).count.sum() for c in range(3))
    assert of_all == 150
    first = [(probs[:, c] <= 1 / 15).sum() for c in range(3)]
    assert [result.class_reliability(c).count[0] for c in range(3)] == first
    assert first != [50, 50, 50]


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("n", [30, 3000])
def test_what_comes_from_the_fine_histogram_is_near_the_rows(n, scale):
    labels, logits = model(n=n, scale=scale)
    result = evaluate(labels, logits=logits)
    assert result.smooth_ece == pytest.approx(smooth_ece(labels, logits=logits), abs=2e-3)
    curve = risk_coverage(labels, logits=logits)
    confidence, weight, right = (each[::-1] for each in result.confidences.points())
    bound = aurc_error(weight, right, confidence)
    assert abs(result.aurc - curve.aurc) <= bound + 1e-12
    assert abs(result.excess_aurc - curve.excess_aurc) <= bound + 1e-12
    assert bound < 0.02
    # an edge moves by the rows of one cell at most, each of them with an error of at most 1
    most = weight.max() / weight.sum()
    assert abs(result.ece_mass - ece(labels, logits=logits, scheme="mass")) <= 2 * 15 * most
    assert result.confidences.fine.value[0].sum() == n
    exact = nll_parts(labels, logits=logits, by="isotonic")  # which may also order the rows of a cell
    assert exact.refinement - 1e-9 <= result.isotonic_parts.refinement <= exact.refinement + (0.02 if n == 30 else 1e-3)
    # rows of a cell are within 1/512 of each other in confidence, or 1/128 of their doubt
    assert sum(result.isotonic_parts) == pytest.approx(sum(exact), abs=2e-3)


def test_fine_cells_are_narrow_and_hold_their_rows():
    """Alone in a cell, a row's mean is itself: cells are in the order of confidence, and resolve 1 - 1e-12."""
    doubt = np.concatenate([10.0 ** -np.arange(0.4, 15, 0.02), np.linspace(0.3, 0.89, 250)])
    confidence = 1 - doubt
    probs = np.stack([confidence, doubt / 2, doubt / 2], axis=1)
    logits = np.log(np.stack([confidence, doubt / 2, doubt / 2], axis=1)[confidence > 0.5])
    result = evaluate(np.zeros(len(logits), int), logits=logits)
    weight, _, of_doubt = result.confidences.fine.value
    found = (of_doubt / np.where(weight > 0, weight, np.nan))[weight > 0]
    assert np.all(np.diff(found) <= 0)
    wanted = np.sort(doubt[confidence > 0.5])[::-1]
    for value in wanted:  # above 1/2 a cell is 1/128 of its doubt wide
        assert np.min(np.abs(found / value - 1)) < 1 / 128
    assert len(probs) == len(doubt)


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_ranks_are_kept_when_asked_for(kind):
    labels, logits = model(n=3000, k=5)
    scores = logits if kind == "logits" else softmax(logits, axis=1)
    exact = auroc(labels, **{kind: scores})
    result = evaluate(labels, ranking=True, **{kind: scores})
    halves = [evaluate(labels[half], ranking=True, **{kind: scores[half]}) for half in (slice(900), slice(900, None))]
    for found in (result, halves[0].merge(halves[1])):
        assert np.all(np.abs(found.auroc.per_class - exact.per_class) <= found.ranking.auroc_error() + 1e-12)
        assert found.to_dict()["auroc_macro"] == found.auroc.macro
    with pytest.raises(ValueError, match="holds no ranks: pass ranking=True"):
        _ = evaluate(labels, **{kind: scores}).auroc
    with pytest.raises(ValueError, match="made without ranking"):
        result.merge(evaluate(labels, **{kind: scores}))


def test_the_p_value_is_small_where_the_model_is_wrong_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1500, 4)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert evaluate(labels, logits=logits).ece_p_value > 0.05
    assert evaluate(labels, logits=3 * logits).ece_p_value < 0.001
    values = []
    for _ in range(200):
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        values.append(evaluate(labels, logits=logits).ece_p_value)
    assert 2 <= np.sum(np.array(values) < 0.05) <= 20  # of 200, 10 expected
    assert 0.4 < np.mean(values) < 0.6
    assert math.isnan(evaluate([], logits=np.empty((0, 3))).ece_p_value)


# ---- temperature and calibrator in the same read


@pytest.mark.parametrize("k", [2, 10, 30])
def test_a_temperature_is_that_of_divided_logits(k, engine):
    labels, logits = model(k=k)
    logits[3, (labels[3] + 1) % k] = -np.inf
    same(evaluate(labels, logits=logits, temperature=2.5), evaluate(labels, logits=logits / 2.5))
    fitted = TemperatureScaling().fit(logits[4:], labels[4:])
    by_number = evaluate(labels[4:], logits=logits[4:], temperature=fitted.temperature_)
    same(evaluate(labels[4:], logits=logits[4:], calibrator=fitted), by_number)
    assert by_number.nll == pytest.approx(fitted.nll_after_, rel=1e-9)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "2", [1.0, 2.0]])
def test_a_temperature_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"temperature must be one number in \[1e-300, 1e300\]; got"):
        evaluate([0], logits=[[0.0, 2.0]], temperature=value)


def test_temperature_and_calibrator_want_logits_and_one_of_them():
    fitted = TemperatureScaling().fit(model()[1], model()[0])
    with pytest.raises(ValueError, match="pass temperature or calibrator, not both"):
        evaluate([0], logits=[[0.0, 2.0]], temperature=2.0, calibrator=fitted)
    with pytest.raises(ValueError, match="temperature and calibrator want logits"):
        evaluate([0], probs=[[0.5, 0.5]], temperature=2.0)
    with pytest.raises(TypeError, match="calibrator must be fitted and have predict_log_proba; got builtins.int"):
        evaluate([0], logits=[[0.0, 2.0]], calibrator=3)


# ---- batches


@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 90), max_size=6), form=st.sampled_from(["one", "w", "g"]))
@settings(max_examples=30, deadline=None)
def test_batches_are_the_whole(seed, cuts, form):
    labels, logits = model(n=90, k=5, seed=seed)
    more = {}
    if form == "w":
        more = {"weights": np.random.default_rng(seed).exponential(size=90)}
    if form == "g":
        more = {"groups": np.random.default_rng(seed).integers(0, 9, 90)}
    whole = evaluate(labels, logits=logits, **more)
    batches = (
        {"labels": labels[a:b], "logits": logits[a:b]} | {name: value[a:b] for name, value in more.items()}
        for a, b in itertools.pairwise([0, *sorted(cuts), 90])
    )
    found = evaluate_batches(batches)
    same(found, whole)
    assert found.weighted == whole.weighted
    for name in ("accuracy", "nll", "ece"):
        assert found.interval(name) == pytest.approx(whole.interval(name), rel=1e-9)


def test_what_a_batch_may_not_be():
    good = {"labels": [0], "logits": [[0.0, 2.0]]}
    with pytest.raises(ValueError, match="there is no batch: the iterator was empty, or was read before"):
        evaluate_batches(iter([]))
    with pytest.raises(ValueError, match="batch 1: it has 3 classes, those before it 2"):
        evaluate_batches([good, {"labels": [0], "logits": [[0.0, 1.0, 2.0]]}])
    with pytest.raises(ValueError, match="batch 1: labels must lie in"):
        evaluate_batches([good, {"labels": [2], "logits": [[0.0, 2.0]]}])
    with pytest.raises(ValueError, match="batch 1: weights is in some batches and not in others"):
        evaluate_batches([good, good | {"weights": [1.0]}])
    with pytest.raises(ValueError, match="batch 0: a batch has the fields .*; got 'label'"):
        evaluate_batches([{"label": [0], "logits": [[0.0, 2.0]]}])
    with pytest.raises(ValueError, match="batch 0: it has no labels"):
        evaluate_batches([{"logits": [[0.0, 2.0]]}])
    with pytest.raises(TypeError, match="batch 0: a batch must be a mapping"):
        evaluate_batches([([0], [[0.0, 2.0]])])
    with pytest.raises(TypeError, match="exactly one of logits= and probs=; got neither"):
        evaluate_batches([{"labels": [0]}])
    assert evaluate_batches([good | {"weights": [0.0]}, good | {"weights": [2.0]}]).n == 1


def test_an_iterator_takes_no_more_memory_than_its_batches():
    rng = np.random.default_rng(0)
    batch = {"labels": rng.integers(0, 10, 20_000), "logits": rng.normal(size=(20_000, 10)).astype(np.float32)}
    evaluate_batches([batch])
    peaks = []
    for many in (3, 60):
        tracemalloc.start()
        evaluate_batches(batch for _ in range(many))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 50e6
    assert peaks[1] < 1.2 * peaks[0]


# ---- groups


def clustered(n_groups=60, size=50, seed=0):
    """Rows of a group are right or wrong together."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n_groups), size)
    right = np.repeat(rng.random(n_groups) < 0.8, size)
    labels = np.where(right, 1, 0)
    return labels, np.tile([0.0, 2.0], (len(ids), 1)) + rng.normal(size=(len(ids), 2)) * 0.1, ids


def test_intervals_of_groups_hold_the_truth_where_those_of_rows_do_not():
    held = {"rows": 0, "groups": 0}
    for seed in range(60):
        labels, logits, ids = clustered(seed=seed)
        for name, more in (("rows", {}), ("groups", {"groups": ids})):
            low, high = evaluate(labels, logits=logits, **more).interval("accuracy")
            held[name] += low <= 0.8 <= high
    assert held["groups"] >= 52  # of 60; 57 expected
    assert held["rows"] < 30


def test_groups_broadcast_and_are_counted():
    labels, logits = model(n=600, k=4)
    images = labels.reshape(6, 10, 10), logits.reshape(6, 10, 10, 4)
    found = evaluate(images[0], logits=images[1], groups=np.arange(6)[:, None, None])
    flat = evaluate(labels, logits=logits, groups=np.repeat(np.arange(6), 100))
    assert found.to_json() == flat.to_json()
    assert found.to_dict()["n_groups"] == 6
    assert "600 rows in 6 groups" in str(found)
    for name in ("accuracy", "nll", "brier", "mean_confidence", "ece"):
        low, high = found.interval(name)
        assert low <= high
        assert (low, high) != evaluate(labels, logits=logits).interval(name)
    with pytest.raises(ValueError, match="there is no interval for classwise_ece by groups"):
        found.interval("classwise_ece")
    with pytest.raises(ValueError, match="one of the evaluations was made without groups"):
        found.merge(evaluate(labels, logits=logits))
    with pytest.raises(ValueError, match=r"for one id a line pass groups\[:, None, None\]"):
        evaluate(images[0], logits=images[1], groups=np.arange(6))


# ---- shapes and libraries


@pytest.mark.parametrize("k", [3, 40])
def test_pixels_and_tokens(k):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, k, 6, 5)).astype(np.float32)
    labels = rng.integers(0, k, (4, 6, 5))
    labels[0, :3] = 255
    found = evaluate(labels, logits=logits, axis=1, ignore_index=255)
    flat = np.moveaxis(logits, 1, -1).reshape(-1, k)
    kept = labels.reshape(-1) != 255
    same(found, evaluate(labels.reshape(-1)[kept], logits=flat[kept]))
    tokens = np.moveaxis(logits, 1, -1).reshape(4, 30, k)
    same(evaluate(labels.reshape(4, 30), logits=tokens, ignore_index=255), found)


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_one_column_is_the_score_of_class_one(kind):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 300)
    two = np.concatenate([np.zeros_like(z), z], axis=1)
    if kind == "probs":
        two = softmax(two, axis=1)
        z = two[:, 1:]
    same(evaluate(labels, **{kind: z}), evaluate(labels, **{kind: two}), rtol=1e-6)
    assert evaluate(labels, **{kind: z}).n_classes == 2
    with pytest.raises(ValueError, match=rf"that of class 1 of two, pass {kind}\[:, None\]"):
        evaluate(labels, **{kind: z[:, 0]})


def test_one_column_of_impossible_probabilities_is_refused():
    with pytest.raises(ValueError, match="row 1 "):
        evaluate([0, 1], probs=[[0.5], [1.5]])


@pytest.mark.parametrize(("name", "dtype"), ARRAYS)
def test_arrays_of_every_library(name, dtype):
    library = libraries.get(name)
    labels, logits = model(n=64, k=6)
    with library.precision(dtype):
        array = library.array(libraries.rounded(logits, dtype), dtype)
        found = evaluate(library.array(labels, "int64") if name != "array_api_strict" else labels, logits=array)
    same(found, evaluate(labels, logits=libraries.rounded(logits, dtype)))


def test_a_tensor_that_asks_for_gradients():
    torch = pytest.importorskip("torch")
    labels, logits = model(n=50)
    tensor = torch.tensor(logits, requires_grad=True)
    same(evaluate(torch.tensor(labels), logits=tensor), evaluate(labels, logits=logits))
    assert tensor.grad is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, bool])
def test_dtypes_are_computed_in_float64(dtype):
    labels, logits = model(n=200)
    rounded = (logits > 0 if dtype is bool else np.rint(logits)).astype(dtype)
    rounded[0] = 1
    same(evaluate(labels, logits=rounded), evaluate(labels, logits=rounded.astype(np.float64)))
    expected = -log_softmax(rounded.astype(float), axis=1)[np.arange(200), labels].mean()
    assert evaluate(labels, logits=rounded).nll == pytest.approx(expected, rel=1e-12)


def test_the_same_bits_for_every_number_of_threads(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import numpy as np\n"
        "from softargmax.metrics import evaluate\n"
        "for n, k in ((150_000, 10), (20_000, 60)):\n"
        "    rng = np.random.default_rng(0)\n"
        "    z, w = rng.normal(size=(n, k)).astype('f4') * 3, rng.exponential(size=n)\n"
        "    print(evaluate(rng.integers(0, k, n), logits=z, weights=w).to_json())\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, script], env=os.environ | {"NUMBA_NUM_THREADS": threads}, check=True, capture_output=True
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("k", [4, 50])
def test_rows_that_are_not_sound_are_found_by_kernel_and_definition(kind, k, engine):
    labels, logits = model(n=300, k=k)
    scores = logits if kind == "logits" else softmax(logits, axis=1)
    bad = {"logits": (np.nan, np.inf), "probs": (np.nan, np.inf, -0.2, 1.2)}[kind]
    for value in bad:
        wrong = scores.copy()
        wrong[123, 2] = value
        with pytest.raises(ValueError, match="row 123 "):
            evaluate(labels, **{kind: wrong})
        weights = np.ones(300)
        weights[123] = 0
        kept = np.delete(np.arange(300), 123)
        same(evaluate(labels, weights=weights, **{kind: wrong}), evaluate(labels[kept], **{kind: scores[kept]}))


# ---- corners


class Fixed:
    """A calibrator that gives what it is told."""

    def __init__(self, function):
        self.predict_log_proba = function


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda z: np.zeros((3000, 4)), r"of the shape of the logits, \(50, 4\); got \(3000, 4\)"),
        (lambda z: z[:, :2], r"got \(50, 2\)"),
        (lambda z: z[:20], r"got \(20, 4\)"),
        (lambda z: z * np.nan, r"calibrator.predict_log_proba gave NaN, \+inf or rows of -inf"),
    ],
)
def test_a_calibrator_that_gives_something_else_is_refused(function, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate([0] * 50, logits=np.zeros((50, 4)), calibrator=Fixed(function))


def test_a_label_is_in_the_bin_of_its_entry(engine):
    """Its probability is a rounding from an edge: computed in two ways it would lie in two bins."""
    logits = np.full((1, 100), -np.inf)
    logits[0, [2, 35, 56, 58]] = [-0.2653099309887283, -1.1816006628628832, -1.1816006628628832, -1.8747478434228284]
    result = evaluate([56], logits=logits, n_bins=10)
    found = result.class_reliability(56)
    assert found.count.sum() == 1
    assert found.accuracy[found.count == 1] == 1.0
    assert np.isnan(found.accuracy[found.count == 0]).all()
    assert result.per_class.ece[56] == pytest.approx(0.8)


def test_half_precision_is_left_before_anything_is_computed():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    logits = np.zeros((2000, 2), np.float16)
    logits[:, 1] = (2 * labels - 1) * 1e-3 + rng.normal(size=2000) * 1e-3
    given = {"temperature": 1e4, "ranking": True}
    wide = evaluate(labels, logits=logits.astype(np.float64), **given)
    assert evaluate(labels, logits=logits, **given).auroc.macro == wide.auroc.macro
    column = np.full((100, 1), 1e-4, np.float16)
    assert evaluate([0] * 100, probs=column).nll == evaluate([0] * 100, probs=column.astype(np.float64)).nll > 9e-5


def test_probabilities_that_nearly_vanish_have_a_null_value():
    result = evaluate([0] * 4, logits=[[0.0, -400.0, -800.0]] * 4)
    assert 0 < result.null("classwise_ece") < 1e-170
    assert "classwise ece" in str(result)


def test_the_first_bin_keeps_a_small_weight_beside_large_ones():
    result = evaluate([0, 0], probs=[[0.9, 0.1], [0.01, 0.99]], weights=[1e17, 1.0])
    assert result.class_reliability(0).accuracy[0] == 1.0
    rng = np.random.default_rng(0)
    weights = rng.random(400) ** 8
    result = evaluate(rng.integers(0, 3, 400), logits=rng.normal(size=(400, 3)), weights=weights)
    assert all(np.nanmax(result.class_reliability(k).accuracy) <= 1 + 1e-12 for k in range(3))


def test_losses_beyond_every_number_are_infinite(engine):
    assert evaluate([1] * 40, logits=[[1e308, 0.0]] * 40).nll == math.inf
    pair = evaluate([0, 1], logits=[[1e308, -1e308]] * 2, temperature=1e300)
    assert pair.nll == pytest.approx(1e8)
    assert evaluate([0, 1], logits=[[1e300, -1e300]] * 2, temperature=1e300).nll == pytest.approx(1.12693, abs=1e-5)


def test_no_group_and_one_group_say_nothing():
    with np.errstate(all="raise"):
        none = evaluate([], logits=np.empty((0, 3)), groups=[])
        one = evaluate([0, 1], logits=[[0, 2.0], [1, 3.0]], groups=[1, 1])
        assert math.isnan(none.interval("ece")[0])
        assert one.interval("ece") == (0.0, 1.0)
