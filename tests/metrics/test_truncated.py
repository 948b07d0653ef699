import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from softargmax.metrics import evaluate
from softargmax.metrics.truncated import evaluate_top_k

SHARED = ("accuracy", "mean_confidence", "ece", "ece_l2", "mce", "ece_mass", "smooth_ece", "aurc", "excess_aurc")


def model(n=600, k=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * 2
    logits[np.arange(n), labels] += 2
    return labels, softmax(logits, axis=1)


def largest(probs, m):
    classes = np.argsort(-probs, axis=1, kind="stable")[:, :m]
    return classes, np.take_along_axis(probs, classes, axis=1)


@pytest.mark.parametrize("m", [1, 3, 5, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_defined_equals_the_whole(m, weighted):
    labels, probs = model()
    weights = np.random.default_rng(1).exponential(size=len(labels)) if weighted else None
    classes, kept = largest(probs, m)
    whole = evaluate(labels, probs=probs, weights=weights)
    found = evaluate_top_k(labels, classes, probs=kept, weights=weights)
    for name in SHARED:
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-14), name
    for name in ("accuracy", "mean_confidence", "ece"):
        assert found.interval(name) == pytest.approx(whole.interval(name), rel=1e-9)
    assert found.null("ece") == pytest.approx(whole.null("ece"), rel=1e-12)
    if m >= 5:
        assert found.top(5) == pytest.approx(whole.top5, rel=1e-12)
    if m == 12:
        assert found.nll == pytest.approx(whole.nll, rel=1e-12)
    np.testing.assert_array_equal(found.reliability.count, whole.reliability.count)


def test_the_order_of_the_list_and_logarithms_change_nothing():
    labels, probs = model(k=30)
    classes, kept = largest(probs, 5)
    one = evaluate_top_k(labels, classes, probs=kept)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(5), (len(labels), 1)), axis=1)
    mixed = [np.take_along_axis(each, order, axis=1) for each in (classes, kept)]
    assert evaluate_top_k(labels, mixed[0], probs=mixed[1]).to_json() == one.to_json()
    of_logs = evaluate_top_k(labels, classes, log_probs=np.log(kept))
    for name in SHARED:
        assert getattr(of_logs, name) == pytest.approx(getattr(one, name), rel=1e-9), name


def test_empty_places_of_shorter_lists():
    of = evaluate_top_k([2, 5], [[2, -1], [4, 5]], probs=[[0.7, 0.0], [0.5, 0.4]])
    assert (of.n_missing, of.accuracy, of.top(2)) == (0, 0.5, 1.0)
    assert of.nll == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2)
    of = evaluate_top_k([2, 5], [[2, -1], [4, 5]], log_probs=[[-0.1, -np.inf], [-1.0, -2.0]])
    assert of.accuracy == 0.5


def test_the_nll_is_refused_where_a_label_is_not_listed():
    of = evaluate_top_k([9, 3], [[1, 2], [3, 4]], probs=[[0.5, 0.3], [0.5, 0.3]])
    with pytest.raises(AttributeError, match=r"^nll is not defined: the label of 1 of 2 rows is not listed"):
        _ = of.nll
    assert "nll" not in of.to_dict()
    assert of.to_dict()["n_missing"] == 1
    assert "the label of 1 rows is not listed" in str(of)


@pytest.mark.parametrize("name", ["brier", "classwise_ece", "confusion", "per_class", "balanced_accuracy", "auroc"])
def test_what_needs_all_classes_is_refused_by_name(name):
    of = evaluate_top_k([3], [3], probs=[0.9])
    with pytest.raises(AttributeError, match=rf"^{name} is not defined for truncated outputs: it needs "):
        getattr(of, name)
    with pytest.raises(AttributeError, match=r"^a TopKEvaluation has no elephant$"):
        _ = of.elephant


@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=20, deadline=None)
def test_any_split_merges_to_the_whole(seed, cuts):
    labels, probs = model(n=40, seed=seed)
    classes, kept = largest(probs, 4)
    whole = evaluate_top_k(labels, classes, probs=kept)
    edges = [0, *sorted(cuts), 40]
    parts = [evaluate_top_k(labels[a:b], classes[a:b], probs=kept[a:b]) for a, b in itertools.pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert (merged.n, merged.n_missing) == (whole.n, whole.n_missing)
    np.testing.assert_array_equal(merged.confidences.bins.high[:2], whole.confidences.bins.high[:2])
    np.testing.assert_array_equal(merged.top_sums.value, whole.top_sums.value)
    np.testing.assert_allclose(merged.confidences.bins.value, whole.confidences.bins.value, rtol=1e-12)
    np.testing.assert_allclose(merged.mean_sums.value, whole.mean_sums.value, rtol=1e-12)


def test_ignored_rows_rows_of_weight_zero_and_no_rows():
    labels, probs = model(n=50)
    classes, kept = largest(probs, 3)
    whole = evaluate_top_k(labels[:40], classes[:40], probs=kept[:40])
    ignored = np.where(np.arange(50) < 40, labels, -100)
    assert evaluate_top_k(ignored, classes, probs=kept, ignore_index=-100).ece == pytest.approx(whole.ece, rel=1e-12)
    broken = np.where((np.arange(50) < 40)[:, None], kept, np.nan)
    weights = (np.arange(50) < 40).astype(float)
    assert evaluate_top_k(labels, classes, probs=broken, weights=weights).ece == pytest.approx(whole.ece, rel=1e-12)
    empty = evaluate_top_k([], np.empty((0, 3), int), probs=np.empty((0, 3)))
    assert (empty.n, math.isnan(empty.accuracy), math.isnan(empty.ece), math.isnan(empty.top(2))) == (
        0,
        True,
        True,
        True,
    )


def test_rounding_beyond_one_is_taken_and_more_is_not():
    of = evaluate_top_k([1], [[1, 2]], probs=np.array([[0.9, 0.1009]]))
    assert of.accuracy == 1.0
    json.loads(of.to_json(), parse_constant=pytest.fail)
    with pytest.raises(
        ValueError, match=r"must not sum to more than 1 as probabilities .* row 0 holds \[0\.9, 0\.11\]"
    ):
        evaluate_top_k([1], [[1, 2]], probs=[[0.9, 0.11]])


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (([0], [[0]]), TypeError, "wants exactly one of probs= and log_probs=; got neither"),
        (([0], [[0]], [[0.5]], [[0.5]]), TypeError, "got both"),
        (([0], [[0, 1]], [[0.5]]), ValueError, r"must have one shape, \(n, k\) .*; got \(1, 2\) and \(1, 1\)"),
        (([0], [[0.0]], [[0.5]]), TypeError, "classes must be integers; got dtype float64"),
        (([0, 0], [[1], [0]], [[0.5], [-0.5]]), ValueError, "must be probabilities, 0 or more; row 1 holds"),
        (([0], [[1]], [[np.nan]]), ValueError, r"row 0 holds \[nan\]"),
        (([0], [[1, 1]], [[0.5, 0.2]]), ValueError, "row 0 lists a class twice"),
        (([0], [[1, -2]], [[0.5, 0.2]]), ValueError, "or -1 for an empty place"),
        (([0], [[1, -1]], [[0.5, 0.2]]), ValueError, "an empty place, class -1, must have probability 0"),
        (([0], [[-1, -1]], [[0.0, 0.0]]), ValueError, "every row must list a class"),
        (([-5], [[1]], [[0.5]]), ValueError, "labels must lie in"),
        (([0, 1], [[1]], [[0.5]]), ValueError, "labels must have shape"),
    ],
)
def test_errors_say_what_came_and_what_to_do(arguments, kind, sentence):
    names = dict(zip(("labels", "classes", "probs", "log_probs"), arguments, strict=False))
    with pytest.raises(kind, match=sentence):
        evaluate_top_k(**names)


def test_merge_and_top_name_what_differs():
    one, two = evaluate_top_k([0], [0], probs=[0.5]), evaluate_top_k([0], [[0, 1]], probs=[[0.5, 0.2]])
    with pytest.raises(ValueError, match="same number of classes listed; got 1 and 2"):
        one.merge(two)
    with pytest.raises(ValueError, match=r"k must lie in 1 to 2, the classes listed in a row; got 3"):
        two.top(3)
    with pytest.raises(ValueError, match="there is no interval for 'nll'"):
        one.interval("nll")


# ---- saved outputs of 32 networks: figures of the data's own page


TOP5 = {  # accuracy, top-5, mean confidence, ECE of 15 bins
    "imagenet_keras_mobilenetV2": ("0.6998", "0.8949", "0.6480", "0.05181"),
    "imagenet_keras_xception": ("0.7718", "0.9349", "0.7206", "0.05115"),
    "imagenet_pytorch_resnet18": ("0.6837", "0.8856", "0.7100", "0.02750"),
    "imagenet_pytorch_resnet50": ("0.7506", "0.9248", "0.7878", "0.03905"),
    "imagenet_pytorch_resnet101": ("0.7664", "0.9330", "0.8150", "0.04921"),
    "imagenet_pytorch_densenet161": ("0.7692", "0.9349", "0.8251", "0.05608"),
    "imagenet_pytorch_vgg16": ("0.7066", "0.8993", "0.7272", "0.02480"),
    "imagenet_pytorch_alexnet": ("0.5450", "0.7764", "0.5802", "0.03535"),
    "imagenet_pytorch_squeezenet1_0": ("0.5649", "0.7906", "0.5788", "0.01813"),
    "cifar10_pytorch_densenet121": ("0.9414", "", "0.9445", "0.02084"),
    "cifar10_pytorch_densenet161": ("0.9424", "", "0.9460", "0.02521"),
    "cifar10_pytorch_inception_v3": ("0.9376", "", "0.9414", "0.02676"),
    "cifar10_pytorch_mobilenet_v2": ("0.9417", "", "0.9375", "0.02738"),
    "cifar10_pytorch_resnet18": ("0.9333", "", "0.9487", "0.01636"),
    "cifar10_pytorch_resnet34": ("0.9292", "", "0.9585", "0.02933"),
    "cifar10_pytorch_vgg11_bn": ("0.9209", "", "0.9520", "0.03130"),
    "cifar10_pytorch_vgg13_bn": ("0.9429", "", "0.9610", "0.01885"),
    "cifar10_pytorch_vgg16_bn": ("0.9391", "", "0.9676", "0.02863"),
}
TOP_LABEL = {  # rows, accuracy, mean confidence, ECE of 15 bins
    "cifar10_resnet110": (10_000, "0.9356", "0.9831", "0.04750"),
    "cifar10_densenet40": (10_000, "0.9242", "0.9791", "0.05500"),
    "cifar100_densenet40": (10_000, "0.7000", "0.9116", "0.21156"),
    "birds_resnet50": (2_897, "0.7314", "0.7329", "0.02353"),
    "imagenet_timm_densenetblur121d": (50_000, "0.7658", "0.6961", "0.06962"),
    "imagenet_timm_efficientnet_b1": (50_000, "0.7870", "0.6870", "0.10002"),
    "imagenet_timm_ese_vovnet19b_dw": (50_000, "0.7680", "0.6451", "0.12292"),
    "imagenet_timm_gluon_senet154": (50_000, "0.8122", "0.7616", "0.05064"),
    "imagenet_timm_mixnet_m": (50_000, "0.7726", "0.7077", "0.06487"),
    "imagenet_timm_mobilenetv3_large_100": (50_000, "0.7577", "0.6907", "0.06698"),
    "imagenet_timm_resnext50_32x4d": (50_000, "0.7976", "0.7396", "0.05799"),
    "imagenet_timm_tf_inception_v3": (50_000, "0.7786", "0.7665", "0.02023"),
    "imagenet_torchvision_densenet161": (50_000, "0.7714", "0.8278", "0.05642"),
    "imagenet_torchvision_resnet101": (50_000, "0.7737", "0.8227", "0.04917"),
}


@pytest.fixture
def saved():
    folder = os.environ.get("SOFTARGMAX_DATA")
    if not folder or not (Path(folder) / "logits").is_dir():
        pytest.skip("SOFTARGMAX_DATA names no folder with logits/top5 and logits/toplabel")
    return Path(folder) / "logits"


@pytest.mark.slow
@pytest.mark.parametrize("name", TOP5)
def test_five_classes_of_a_network(name, saved):
    with np.load(saved / "top5" / f"{name}.npz") as file:
        arrays = dict(file)
    labels = arrays.get("labels")
    if labels is None:
        with np.load(saved / "top5" / "imagenet_val_labels.npz") as file:
            labels = file[file.files[0]]
    of = evaluate_top_k(labels, arrays["top5_label"], probs=arrays["top5_prob"])
    accuracy, top5, confidence, ece = TOP5[name]
    assert (f"{of.accuracy:.4f}", f"{of.mean_confidence:.4f}", f"{of.ece:.5f}") == (accuracy, confidence, ece)
    assert not top5 or f"{of.top(5):.4f}" == top5


@pytest.mark.slow
@pytest.mark.parametrize("name", TOP_LABEL)
def test_the_top_class_of_a_network(name, saved):
    with np.load(saved / "toplabel" / f"{name}.npz") as file:
        of = evaluate_top_k(file["true_label"], file["pred_label"], probs=file["confidence"])
    found = (of.n, f"{of.accuracy:.4f}", f"{of.mean_confidence:.4f}", f"{of.ece:.5f}")
    assert found == TOP_LABEL[name]


def test_logarithms_too_small_for_probabilities_still_rank():
    assert evaluate_top_k([7], [[3, 7]], log_probs=[[-800.0, -750.0]]).accuracy == 1.0
    assert evaluate_top_k([-1, 1], [[0], [1]], probs=[[0.5], [0.5]], weights=[0, 1]).n == 1
    with pytest.raises(ValueError, match="classes must fit in int64"):
        evaluate_top_k([0], np.array([[2**64 - 1]], np.uint64), probs=[[0.5]])
    with pytest.raises(ValueError, match="weights must be 0 or lie in"):
        evaluate_top_k([0], [[0]], probs=[[0.5]], weights=[1e200])
    with pytest.raises(ValueError, match="k must lie in 1 to 1"):
        evaluate_top_k([0], [[0]], probs=[[0.5]]).top(1.5)
