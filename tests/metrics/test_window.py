import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import softargmax as sa
from softargmax.metrics.evaluation import Evaluation
from softargmax.metrics.window import EvaluationWindow


def part(seed, n=None, k=3, weighted=False):
    """An evaluation of a few rows, none at times."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 6)) if n is None else n
    logits = 3 * rng.standard_normal((n, k))
    labels = rng.integers(0, k, n)
    return sa.evaluate(labels, logits=logits, weights=rng.random(n) + 0.1 if weighted else None)


PARTS = [part(seed, weighted=seed % 5 == 0) for seed in range(40)]


def merged(parts):
    first, *others = parts
    for other in others:
        first = first.merge(other)
    return first


def law_is_the_last_ones_merged(window, size, order):
    """At every step as many parts, and the same evaluation, as merging the last `size` of them one by one gives."""
    for step, i in enumerate(order):
        window.add(PARTS[i])
        last = [PARTS[j] for j in order[max(0, step + 1 - size) : step + 1]]
        assert len(window) == len(last)
        mine, wanted = window.evaluation, merged(last)
        assert mine.n == wanted.n
        np.testing.assert_array_equal(mine.reliability.count, wanted.reliability.count)
        np.testing.assert_allclose(mine.confusion, wanted.confusion, rtol=1e-12, atol=1e-12)
        for name in ("accuracy", "nll", "brier", "ece", "mean_confidence"):
            np.testing.assert_allclose(getattr(mine, name), getattr(wanted, name), rtol=1e-12, atol=1e-14)


ORDERS = st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=30)


@given(size=st.integers(1, 9), order=ORDERS)
def test_is_the_last_ones_merged(size, order):
    law_is_the_last_ones_merged(EvaluationWindow(size), size, order)


class OneTooMany(EvaluationWindow):
    """Turns round without dropping."""

    def _turn(self):
        super()._turn()
        self._older.append(self._older[-1])


class Backwards(EvaluationWindow):
    """Drops the youngest of the older parts."""

    def _turn(self):
        super()._turn()
        self._older.reverse()


class Reset(EvaluationWindow):
    """Begins anew instead of sliding."""

    def add(self, evaluation):
        if len(self) == self.size:
            self.__init__(self.size)
        super().add(evaluation)


@pytest.mark.parametrize("broken", [OneTooMany, Backwards, Reset])
def test_the_law_rejects(broken):
    with pytest.raises(AssertionError):
        law_is_the_last_ones_merged(broken(3), 3, list(range(1, 12)))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1000])
def test_a_step_costs_three_merges_on_average_whatever_the_size(size, monkeypatch):
    merges = []
    merge = Evaluation.merge
    monkeypatch.setattr(Evaluation, "merge", lambda self, other: merges.append(1) or merge(self, other))
    window, steps = EvaluationWindow(size), 3 * size + 20
    one = part(1, n=2)
    for _ in range(steps):
        window.add(one)
    assert len(merges) <= 3 * steps
    merges.clear()
    assert window.evaluation.n == 2 * size
    assert len(merges) <= 1


def test_a_model_that_changes_is_seen_when_the_window_has_left_the_old_rows():
    window = EvaluationWindow(5)
    accuracy = []
    for step in range(20):
        wrong = step >= 10
        window.add(sa.evaluate([int(wrong)] * 4, probs=np.tile([0.9, 0.1], (4, 1))))
        accuracy.append(window.evaluation.accuracy)
    np.testing.assert_allclose(accuracy, [1.0] * 10 + [0.8, 0.6, 0.4, 0.2] + [0.0] * 6, atol=1e-15)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_part_of_other_classes_changes_nothing(size):
    window = EvaluationWindow(size)
    for seed in range(1, 6):
        window.add(part(seed, n=4))
    before = window.evaluation
    with pytest.raises(ValueError, match="evaluations merge only with the same n_classes; got 3 and 4"):
        window.add(part(9, n=4, k=4))
    assert len(window) == size
    assert window.evaluation.to_json() == before.to_json()


def test_an_empty_window_and_sizes_that_make_no_sense():
    window = EvaluationWindow(3)
    assert len(window) == 0
    with pytest.raises(ValueError, match="the window is empty; add an evaluation first"):
        _ = window.evaluation
    for size in (0, -1, 2.5, "3", True, None):
        with pytest.raises(ValueError, match="size must be a whole number of parts, 1 or more; got"):
            EvaluationWindow(size)
