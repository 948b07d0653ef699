import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softargmax.metrics.measure import evaluate
from softargmax.metrics.streaming import EvaluationMetric

NUMBERS = ("accuracy", "nll", "brier", "mean_confidence", "ece", "classwise_ece")


def model(n=300, k=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * 2
    logits[np.arange(n), labels] += 2
    return labels, logits


def fed(parts, **options) -> EvaluationMetric:
    metric = EvaluationMetric(**options)
    for labels, scores in parts:
        metric.update(labels, **scores)
    return metric


def assert_same(one, other) -> None:
    assert (one.n, one.n_classes, one.n_bins, one.weighted) == (other.n, other.n_classes, other.n_bins, other.weighted)
    np.testing.assert_array_equal(one.reliability.count, other.reliability.count)
    if one.weighted:
        np.testing.assert_allclose(one.confusion, other.confusion, rtol=1e-12, atol=1e-300)
    else:
        np.testing.assert_array_equal(one.confusion, other.confusion)
    for name in NUMBERS:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12, abs=1e-14, nan_ok=True), name


def law_batches_are_the_whole(compute, sizes=(100, 1, 199)) -> None:
    labels, logits = model()
    cuts = np.cumsum(sizes)[:-1]
    parts = list(zip(np.split(labels, cuts), np.split(logits, cuts), strict=True))
    assert_same(compute(parts), evaluate(labels, logits=logits))


def test_batches_are_the_whole():
    law_batches_are_the_whole(lambda parts: fed([(y, {"logits": z}) for y, z in parts]).compute())
    tensors = torch.from_numpy
    law_batches_are_the_whole(lambda parts: fed([(tensors(y), {"logits": tensors(z)}) for y, z in parts]).compute())


def test_the_law_of_batches_rejects_the_last_batch():
    with pytest.raises(AssertionError):
        law_batches_are_the_whole(lambda parts: evaluate(parts[-1][0], logits=parts[-1][1]))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_batches_of_any_size(sizes, weighted, grouped, seed):
    rng = np.random.default_rng(seed)
    labels, logits = model(n=sum(sizes), k=3, seed=seed)
    options = {}
    if weighted:
        options["weights"] = rng.integers(0, 3, len(labels)) * rng.exponential(1e3, len(labels))
    if grouped:
        options["groups"] = rng.integers(0, 4, len(labels))
    metric, halves = EvaluationMetric(), (EvaluationMetric(), EvaluationMetric(n_classes=3))
    for i, rows in enumerate(np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])):
        batch = {"logits": logits[rows], **{name: value[rows] for name, value in options.items()}}
        metric.update(labels[rows], **batch)
        halves[i % 2].update(labels[rows], **batch)
    whole = evaluate(labels, logits=logits, **options)
    assert_same(metric.compute(), whole)
    halves[0].merge(halves[1])
    assert_same(halves[0].compute(), whole)
    if grouped:
        np.testing.assert_array_equal(metric.compute().groups.ids, whole.groups.ids)


def test_options_are_those_of_evaluate():
    labels, logits = model(n=64, k=3)
    labels[::9] = -100
    images = logits.reshape(4, 4, 4, 3).transpose(0, 3, 1, 2)
    masks = labels.reshape(4, 4, 4)
    options = {"axis": 1, "ignore_index": -100, "n_bins": 10, "temperature": 1.7, "ranking": True}
    metric = fed([(masks[:1], {"logits": images[:1]}), (masks[1:], {"logits": images[1:]})], **options)
    expected = evaluate(masks, logits=images, **options)
    assert_same(metric.compute(), expected)
    np.testing.assert_allclose(metric.compute().auroc.per_class, expected.auroc.per_class, rtol=1e-12)
    assert metric.compute().n == np.sum(labels >= 0)


def test_a_calibrator_is_applied():
    class Halving:
        def predict_log_proba(self, logits):
            return np.log(np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True))

    labels, logits = model()
    metric = fed([(labels, {"logits": logits})], calibrator=Halving())
    assert metric.compute().nll == pytest.approx(evaluate(labels, logits=logits / 2).nll, rel=1e-12)


def test_logits_and_probs_are_what_their_names_say():
    metric = EvaluationMetric()
    metric.update([1], probs=[[0.25, 0.75]])
    assert metric.compute().mean_confidence == 0.75
    with pytest.warns(UserWarning, match="look like probabilities"):
        metric.update([1], logits=[[0.25, 0.75]])
    assert metric.compute().mean_confidence == pytest.approx((0.75 + 1 / (1 + np.exp(-0.5))) / 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_any_dtype_are_their_values(dtype):
    labels, logits = model()
    tensor = torch.tensor(logits, dtype=dtype, requires_grad=True)
    metric = fed([(torch.tensor(labels, dtype=torch.int32), {"logits": tensor})])
    assert_same(metric.compute(), evaluate(labels, logits=tensor.detach().double().numpy()))


def law_nothing_of_a_batch_is_kept(update) -> None:
    """Neither the tensors nor the graph behind them, nor what the caller may write over."""
    labels, logits = model()
    parameter = torch.ones(1, dtype=torch.float64, requires_grad=True)
    features, targets = torch.tensor(logits), torch.tensor(labels)
    scores = features * parameter
    result = update(targets, scores)
    expected = evaluate(labels, logits=logits).to_json()
    features.zero_()
    targets.zero_()
    with torch.no_grad():
        scores.zero_()
    assert result().to_json() == expected
    kept = [weakref.ref(each) for each in (scores, targets, features)]
    del scores, targets, features
    gc.collect()
    assert all(reference() is None for reference in kept)


def test_nothing_of_a_batch_is_kept():
    def update(labels, logits):
        metric = EvaluationMetric()
        metric.update(labels, logits=logits)
        return metric.compute

    law_nothing_of_a_batch_is_kept(update)


def test_the_law_of_what_is_kept_rejects_a_list_of_batches():
    def update(labels, logits):
        batches = [(labels, logits)]
        return lambda: evaluate(batches[0][0], logits=batches[0][1])

    with pytest.raises(AssertionError):
        law_nothing_of_a_batch_is_kept(update)


def test_a_tensor_comes_to_the_host_once(monkeypatch):
    labels, logits = model()
    came, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: came.append(tuple(tensor.shape)) or cpu(tensor))
    batch = {"logits": torch.tensor(logits), "weights": torch.ones(300), "groups": torch.arange(300)}
    fed([(torch.tensor(labels), batch)]).compute()
    assert sorted(came) == [(300,), (300,), (300,), (300, 7)]


def test_reset_and_no_batch():
    labels, logits = model()
    metric = EvaluationMetric(n_bins=10)
    with pytest.raises(ValueError, match=r"^no batch has come, so that nothing says the number of classes; pass n_cla"):
        metric.compute()
    metric.update(labels, logits=logits)
    before = metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match=r"^no batch has come"):
        metric.compute()
    metric.update(labels[:9], logits=logits[:9])
    assert (before.n, metric.compute().n) == (300, 9)

    known = EvaluationMetric(n_classes=7, n_bins=10)
    for _ in range(2):
        assert (known.compute().n, known.compute().n_classes, known.compute().n_bins) == (0, 7, 10)
        assert np.isnan(known.compute().nll)
        known.merge(metric)
        assert known.compute().n == 9
        known.reset()


def test_merge_leaves_the_other_as_it_was():
    labels, logits = model()
    one, other = fed([(labels[:99], {"logits": logits[:99]})]), fed([(labels[99:], {"logits": logits[99:]})])
    before = other.compute().to_json()
    one.merge(other)
    one.merge(EvaluationMetric())
    assert_same(one.compute(), evaluate(labels, logits=logits))
    one.update(labels, logits=logits)
    assert other.compute().to_json() == before


def test_a_batch_that_is_refused_leaves_the_metric_as_it_was():
    labels, logits = model()
    metric = fed([(labels, {"logits": logits, "groups": np.arange(300)})])
    before = metric.compute().to_json()
    bad = np.where(np.arange(7) == 2, np.nan, logits[:5])
    for batch, kind, message in (
        (
            {"logits": bad, "groups": np.arange(5)},
            ValueError,
            r"^logits must be finite or -inf, .* row 0 .* holds NaN$",
        ),
        ({"logits": logits[:5]}, ValueError, r"made without groups"),
        ({"logits": logits[:5, :6]}, ValueError, r"^(the metric counts 7 classes; got scores of 6|labels must lie in)"),
        ({"logits": logits[:4], "groups": np.arange(4)}, ValueError, r"^labels must have shape \(4,\)"),
        ({}, TypeError, r"exactly one of logits= and probs=; got neither$"),
    ):
        with pytest.raises(kind, match=message):
            metric.update(labels[:5], **batch)
        assert metric.compute().to_json() == before


def test_another_number_of_classes_is_named():
    known, seen = EvaluationMetric(n_classes=3), fed([([0], {"logits": [[3.0, 1.0, 0.0]]})])
    for metric in (known, seen):
        with pytest.raises(ValueError, match=r"^the metric counts 3 classes; got scores of 2$"):
            metric.update([0], logits=[[3.0, 1.0]])
    with pytest.raises(ValueError, match=r"^the metric counts 3 classes; got scores of 2$"):
        known.merge(fed([([0], {"logits": [[3.0, 1.0]]})]))
    with pytest.raises(ValueError, match=r"same n_bins; got 15 and 10$"):
        seen.merge(fed([([0], {"logits": [[3.0, 1.0, 0.0]]})], n_bins=10))
    with pytest.raises(TypeError, match=r"^only an EvaluationMetric merges with an EvaluationMetric; got Evaluation$"):
        seen.merge(seen.compute())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n_classes": 1}, ValueError, r"^n_classes must be an integer of at least 2; got 1$"),
        ({"n_classes": 3.0}, ValueError, r"^n_classes must be an integer of at least 2; got 3.0$"),
        ({"n_bins": 0}, ValueError, r"^n_bins must be an integer of at least 1; got 0$"),
        ({"temperature": -1.0}, ValueError, r"^temperature must be one number in .*; got -1.0$"),
        ({"calibrator": 3}, TypeError, r"^calibrator must be fitted"),
    ],
)
def test_wrong_options_are_refused_at_once(options, kind, message):
    with pytest.raises(kind, match=message):
        EvaluationMetric(**options)
