import numpy as np
import pytest

from softargmax.metrics import evaluate
from softargmax.report import Story, confidence_histograms, confusion_shares, reliability_curves

from .conftest import predictions


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return predictions(3000, 7)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_curves_and_histograms_against_a_loop_over_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = rows
    story = Story(evaluate(labels, logits=3 * logits, n_bins=12), evaluate(labels, logits=logits, n_bins=12))
    edges = np.linspace(0, 1, 13)
    for scale, curve, histogram in zip((3, 1), reliability_curves(story), confidence_histograms(story), strict=True):
        probs = softmax(scale * logits)
        confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
        for b in range(12):
            here = (confidence > edges[b]) & (confidence <= edges[b + 1])
            assert curve.count[b] == here.sum()
            assert histogram.right[b] == pytest.approx((here & right).sum() / len(labels), abs=1e-12)
            assert histogram.wrong[b] == pytest.approx((here & ~right).sum() / len(labels), abs=1e-12)
            if here.any():
                assert curve.confidence[b] == pytest.approx(confidence[here].mean(), abs=1e-12)
                assert curve.accuracy[b] == pytest.approx(right[here].mean(), abs=1e-12)
                assert 0 <= curve.lower[b] <= curve.accuracy[b] <= curve.upper[b] <= 1
            else:
                assert np.isnan([curve.confidence[b], curve.accuracy[b], curve.lower[b], curve.upper[b]]).all()
        assert (curve.count == 0).any()  # the case above is met
        assert (histogram.right + histogram.wrong).sum() == pytest.approx(1)
        assert histogram.mean_confidence == pytest.approx(confidence.mean())
        assert histogram.accuracy == right.mean()
    assert [c.name for c in reliability_curves(story)] == ["before", "after"]
    assert [c.name for c in reliability_curves(Story(story.before))] == ["model"]
    assert reliability_curves(story)[1].ece == story.last.ece


def test_no_rows_are_no_shares() -> None:
    (histogram,) = confidence_histograms(Story(evaluate([], logits=np.empty((0, 3)))))
    assert histogram.right.sum() == histogram.wrong.sum() == 0


def test_confusion_shares_are_of_the_last_evaluation(rows: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = rows
    labels = np.where(labels == 6, 5, labels)  # class 6 has no rows
    story = Story(evaluate(labels, logits=logits), evaluate(labels, logits=logits + np.eye(7)[2]))
    confusion = confusion_shares(story)
    assert confusion is not None
    predicted = (logits + np.eye(7)[2]).argmax(axis=1)
    for i in range(6):
        for j in range(7):
            assert confusion.shares[i, j] == pytest.approx((predicted[labels == i] == j).mean())
    assert np.isnan(confusion.shares[6]).all()
    assert confusion.labels == tuple("0123456")
    assert confusion.block == 1


def test_large_confusions_are_drawn_in_blocks_that_hide_no_mistake() -> None:
    n_classes = 401
    labels = np.arange(n_classes)
    predicted = labels.copy()
    predicted[400], predicted[7] = 3, 250
    confusion = confusion_shares(Story(evaluate(labels, logits=5.0 * np.eye(n_classes)[predicted])))
    assert confusion is not None
    assert confusion.block == 3
    assert confusion.labels == ()
    assert confusion.shares.shape == (134, 134)
    assert confusion.shares[400 // 3, 3 // 3] == 1
    assert confusion.shares[7 // 3, 250 // 3] == 1
    assert np.nansum(confusion.shares) == 134 + 2  # the diagonal (399 keeps its last block) and both mistakes


def test_beyond_a_thousand_classes_there_is_none() -> None:
    assert confusion_shares(Story(evaluate([5], logits=5 * np.eye(1001)[[5]]))) is None
