import io
import math

import numpy as np
import pytest
from rich.console import Console

from softargmax.metrics import evaluate
from softargmax.report import Story, class_rows, metric_rows, mistakes, terminal_table

from .conftest import predictions

PERCENT = {"Accuracy": "accuracy", "Top-5 accuracy": "top5", "Mean confidence": "mean_confidence"}
PLAIN = {"ECE": "ece", "Class-wise ECE": "classwise_ece", "NLL (nats)": "nll", "Brier score": "brier"}


def test_every_number_is_the_evaluations(story: Story) -> None:
    rows = {row.name: row for row in metric_rows(story)}
    assert set(rows) == {*PERCENT, *PLAIN, "ECE if perfect", "Temperature"}
    for names, factor, places in ((PERCENT, 100, 2), (PLAIN, 1, 4)):
        for name, key in names.items():
            for estimate, evaluation in zip(rows[name].estimates, (story.before, story.after), strict=True):
                assert estimate.value == getattr(evaluation, key)
                assert estimate.interval == evaluation.interval(key)
                words = [estimate.text, *estimate.beside.split(";")[0].split(" to ")]
                numbers = [getattr(evaluation, key), *evaluation.interval(key)]
                for word, exact in zip(words, numbers, strict=True):
                    assert float(word.rstrip("%")) == pytest.approx(factor * exact, abs=0.501 * 10**-places)
                    assert word.endswith("%") == (factor == 100)
    assert [e.value for e in rows["ECE if perfect"].estimates] == [story.before.null("ece"), story.last.null("ece")]
    assert [str(e) for e in rows["Temperature"].estimates] == ["1", "2.5 (2.4 to 2.6)"]


def test_five_classes_have_no_top5() -> None:
    logits, labels = predictions(50, 5)
    assert "Top-5 accuracy" not in [row.name for row in metric_rows(Story(evaluate(labels, logits=logits)))]


def test_an_infinite_nll_comes_with_its_rows() -> None:
    story = Story(evaluate([0, 1, 1], probs=[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]))
    (nll,) = next(row for row in metric_rows(story) if row.name == "NLL (nats)").estimates
    assert str(nll) == "infinite (1 row gave the truth probability 0)"
    assert nll.value == math.inf


def test_no_rows_are_said_in_words() -> None:
    for row in metric_rows(Story(evaluate([], logits=np.empty((0, 6))))):
        assert [str(e) for e in row.estimates] == ["not defined"]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((3.0, math.inf), "9 (at least 3)"),
        ((0.0, 12.0), "9 (at most 12)"),
        ((0.0, math.inf), "9 (not determined by these rows)"),
        ((3.0, 12.0), "9 (3 to 12)"),
        (None, "9"),
    ],
)
def test_open_intervals(story: Story, interval: tuple[float, float] | None, said: str) -> None:
    open_ended = Story(story.before, story.after, temperature=9.0, temperature_interval=interval)
    assert str(metric_rows(open_ended)[-1].estimates[1]) == said


def test_an_ece_above_its_own_interval_is_marked() -> None:
    marked = []
    for seed in range(20):
        logits, labels = predictions(2000, 10, seed=seed)
        evaluation = evaluate(labels, logits=logits)
        (ece,) = next(row for row in metric_rows(Story(evaluation)) if row.name == "ECE").estimates
        above = evaluation.ece > evaluation.interval("ece")[1]
        assert ece.beside.endswith("; the estimate itself is biased upward") == above
        marked.append(above)
    assert set(marked) == {False, True}  # both cases are met


def test_huge_numbers_stay_short() -> None:
    weighted = evaluate([0, 1], logits=[[0.0, 1e300], [0.0, 1.0]], weights=[1e100, 1.0])
    for evaluation in (evaluate([0, 1], logits=[[0.0, 1e300], [0.0, 1.0]]), weighted):
        for row in metric_rows(Story(evaluation)):
            assert all(len(text) < 60 for e in row.estimates for text in (e.text, e.beside))
            assert len(row.meaning) < 100


def test_the_terminal_table_fits_80_columns_without_colour(story: Story) -> None:
    out = io.StringIO()
    Console(file=out, width=80, no_color=True).print(terminal_table(story))
    text = out.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    rows = metric_rows(story)
    assert len([line for line in lines if line.strip()]) == len(rows) + 2  # head and rule: no row had to be folded
    for row in rows:
        line = next(line for line in lines if line.startswith(f"{row.name} "))
        for estimate in row.estimates:
            assert str(estimate) in line


def test_class_rows(story: Story) -> None:
    of = class_rows(story)
    exact = story.last.per_class
    assert of.left_out == 0
    assert of.index.tolist() == list(range(10))
    for name in ("support", "predicted", "precision", "recall", "f1"):
        np.testing.assert_array_equal(getattr(of, name), getattr(exact, name))
    np.testing.assert_array_equal(of.mean_probability[:, 0], story.before.per_class.mean_probability)
    np.testing.assert_array_equal(of.mean_probability[:, 1], exact.mean_probability)
    np.testing.assert_allclose(of.frequency, exact.support / 2000)


def test_of_many_classes_the_worst_are_listed() -> None:
    n_classes = 60
    labels = np.repeat(np.arange(59), 4)  # class 59 never comes and is never called: its F1 is undefined
    predicted = labels.copy()
    predicted[labels == 41] = 40
    predicted[np.flatnonzero(labels == 12)[:2]] = 13
    of = class_rows(Story(evaluate(labels, logits=9.0 * np.eye(n_classes)[predicted])))
    assert of.index[:4].tolist() == [41, 12, 40, 13]  # F1 0, 2/3, 2/3, 4/5
    assert len(of.index) == 20
    assert of.left_out == 40
    assert 59 not in of.index
    assert (np.diff(of.f1) >= 0).all()


def test_mistakes_come_by_count_then_class() -> None:
    labels = np.array([0] * 5 + [1] * 4 + [2] * 6)
    predicted = np.array([0, 0, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0])
    story = Story(evaluate(labels, logits=3.0 * np.eye(3)[predicted]))
    found = mistakes(story)
    assert found is not None
    listed = [(m.true, m.predicted, m.count) for m in found]
    assert listed == [(2, 0, 3), (0, 1, 2), (1, 2, 2), (0, 2, 1)]
    assert [m.share for m in found] == [3 / 6, 2 / 5, 2 / 4, 1 / 5]
    assert len(mistakes(story, most=2) or ()) == 2


def test_no_mistakes_and_none_kept() -> None:
    assert mistakes(Story(evaluate([0, 1], logits=5 * np.eye(2)))) == []
    assert mistakes(Story(evaluate([5], logits=5 * np.eye(1001)[[5]]))) is None
