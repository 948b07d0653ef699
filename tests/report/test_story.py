import dataclasses

import numpy as np
import pytest

from softargmax.metrics import evaluate
from softargmax.report import Story, headline, verdict

from .conftest import confident, predictions


def test_ninety_percent_before_and_after() -> None:
    before, after = confident([(0.9, 1000, 590), (0.99, 500, 400)]), confident([(0.91, 1000, 890), (0.6, 500, 100)])
    assert headline(Story(before)) == "When this model says 90%, it is right 59% of the time."
    assert (
        headline(Story(before, after))
        == "When this model says 90%, it is right 59% of the time; after calibration 89%."
    )


@pytest.mark.parametrize("n_bins", [10, 15, 16, 20, 30, 100])
def test_the_bin_is_the_one_that_holds_ninety_percent(n_bins: int) -> None:
    # 0.9 is an edge for 10, 20, 30, 100 bins: a left-closed choice would take the next bin, which is 0% right here;
    # round(0.9 * n_bins) would take the one below for 16, which is always right here
    evaluation = confident([(0.9, 200, 140), (0.9 + 1e-9, 200, 0), (0.86, 200, 200)], n_bins=n_bins)
    edges = np.linspace(0, 1, n_bins + 1)
    (b,) = np.flatnonzero((edges[:-1] < 0.9) & (edges[1:] >= 0.9))
    confidence = np.repeat([0.9, 0.9 + 1e-9, 0.86], 200)
    right = np.concatenate([np.arange(200) < k for k in (140, 0, 200)])
    share = right[(confidence > edges[b]) & (confidence <= edges[b + 1])].mean()
    assert f"is right {share:.0%} of the time" in headline(Story(evaluation))


def test_a_bin_whose_mean_is_elsewhere_is_called_by_its_range() -> None:
    evaluation = confident([(0.81, 300, 150), (0.95, 300, 300)], n_bins=10)
    assert headline(Story(evaluation)) == "When this model says 80% to 90%, it is right 50% of the time."


def test_few_rows_are_counted() -> None:
    evaluation = confident([(0.9, 30, 15)])
    said = "When this model says 90%, it is right 50% of the time (measured on as few as 30 such predictions)."
    assert headline(Story(evaluation)) == said


@pytest.mark.parametrize("rows", [0, 29])
def test_on_average_where_the_bin_is_empty_or_thin(rows: int) -> None:
    before, after = confident([(0.9, rows, rows), (0.99, 991, 700)]), confident([(0.7, 991 + rows, 700 + rows)])
    said = f"On average this model claims 99% and is right {before.accuracy:.0%} of the time"
    assert headline(Story(before)) == f"{said}."
    assert headline(Story(before, after)) == f"{said}; after calibration it claims 70%."


def test_on_average_where_only_the_bin_after_is_empty() -> None:
    before, after = confident([(0.9, 1000, 600)]), confident([(0.6, 1000, 650)])
    said = "On average this model claims 90% and is right 60% of the time"
    assert headline(Story(before, after)) == f"{said}; after calibration it claims 60% and is right 65% of the time."


def test_wide_bins_speak_of_averages() -> None:
    evaluation = confident([(0.95, 400, 200), (0.55, 400, 200)], n_bins=2)
    assert headline(Story(evaluation)) == "On average this model claims 75% and is right 50% of the time."


def test_almost_always_is_not_always() -> None:
    evaluation = confident([(0.9, 1000, 999)])
    assert headline(Story(evaluation)) == "When this model says 90%, it is right more than 99% of the time."


def test_no_rows() -> None:
    story = Story(evaluate([], logits=np.empty((0, 3))))
    assert headline(story) == "There are no predictions here to measure."
    assert verdict(story) == "Nothing can be said about its probabilities."


def test_one_row() -> None:
    said = "On average this model claims 75% and is right 100% of the time (measured on 1 prediction)."
    assert headline(Story(evaluate([0], probs=[[0.75, 0.25]]))) == said


def test_no_story_says_nan() -> None:
    for n in (0, 1, 2, 20, 300):
        for n_classes in (2, 3, 30):
            for n_bins in (1, 2, 15, 1000):
                logits, labels = predictions(n, n_classes)
                first, second = (evaluate(labels, logits=t * logits, n_bins=n_bins) for t in (3.0, 1.0))
                for said in (headline(Story(first)), headline(Story(first, second)), verdict(Story(first, second))):
                    assert "nan" not in said
                    assert "not defined" not in said
                    assert said.endswith(".")


def test_verdict_names_the_direction() -> None:
    logits, labels = predictions(5000, 5)
    over, fine, under = (evaluate(labels, logits=t * logits) for t in (3.0, 1.0, 0.3))
    assert "overconfident" in verdict(Story(over))
    assert "underconfident" in verdict(Story(under))
    assert "cannot be told from perfectly calibrated" in verdict(Story(fine))
    assert f"by up to {100 * fine.interval('ece')[1]:.1f} percentage points" in verdict(Story(fine))
    both = verdict(Story(over, fine))
    assert both.startswith(f"Before calibration, claim and truth differed by {100 * over.ece:.1f} percentage points")


def law_the_verdict_and_p_agree(said: str, p: float, low: float) -> None:
    assert ("cannot be told from perfectly calibrated" in said) == (p >= 0.05 and low <= 0)
    assert ("more than chance explains" in said) == (p < 0.05)


def test_the_verdict_and_p_agree() -> None:
    rng = np.random.default_rng(4)
    logits = 4 * rng.normal(size=(113, 2))
    labels = (2 * logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    found = [evaluate(labels, logits=t * logits) for t in (0.5, 0.7, 1.0, 2.0, 5.0)]
    numbers = [(each.ece_p_value, each.interval("ece")[0]) for each in found]
    assert any(p < 0.05 and low <= 0 for p, low in numbers)  # of few rows the interval is the more careful of the two
    assert any(p >= 0.05 for p, _ in numbers)
    for each, (p, low) in zip(found, numbers, strict=True):
        law_the_verdict_and_p_agree(verdict(Story(each)), p, low)
    of_the_interval_alone = "its probabilities cannot be told from perfectly calibrated ones"
    with pytest.raises(AssertionError):
        law_the_verdict_and_p_agree(of_the_interval_alone, *next(each for each in numbers if each[0] < 0.05))


def test_of_groups_p_says_nothing() -> None:
    logits, labels = predictions(300, 3)
    rows = np.repeat(np.arange(300), 20)  # each 20 times: for p they are 6,000 rows
    story = Story(evaluate(labels[rows], logits=logits[rows], groups=rows))
    assert story.last.ece_p_value < 0.05
    assert "chance" not in verdict(story)


def test_a_calibration_that_makes_the_nll_worse_says_so() -> None:
    logits, labels = predictions(500, 4)
    fine, soft = evaluate(labels, logits=logits), evaluate(labels, logits=0.5 * logits)
    assert verdict(Story(fine, soft)).endswith(
        f" Calibration made the NLL of these rows worse: {fine.nll:.4f} before, {soft.nll:.4f} after."
    )
    for before, after in ((soft, fine), (fine, fine)):
        assert "worse" not in verdict(Story(before, after))
    assert "worse" not in verdict(Story(soft))


def test_verdict_on_errors_that_cancel() -> None:
    evaluation = confident([(0.9, 2000, 1400), (0.7, 2000, 1800)])
    assert "too much in places and too little in others" in verdict(Story(evaluation))


def test_a_story_that_does_not_hang_together_is_refused() -> None:
    two, three = evaluate([0], logits=[[2.0, 0.0]]), evaluate([0], logits=[[2.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="n_classes is 2 before and 3 after"):
        Story(two, three)
    with pytest.raises(ValueError, match="n is 1 before and 2 after"):
        Story(two, two.merge(two))
    with pytest.raises(ValueError, match="n_bins is 15 before and 3 after"):
        Story(two, evaluate([0], logits=[[2.0, 0.0]], n_bins=3))
    with pytest.raises(ValueError, match="one name a class: 2; got 1"):
        Story(two, class_names=("a",))
    with pytest.raises(ValueError, match="pass after="):
        Story(two, temperature=2.0)


def test_a_story_cannot_be_changed(story: Story) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        story.source = "elsewhere"  # type: ignore[misc]


def test_names_and_labels() -> None:
    evaluation = evaluate([0], logits=[[2.0, 0.0]])
    assert Story(evaluation).names == ("0", "1")
    alike = ("the same beginning A the same end", "the same beginning B the same end")
    short = Story(evaluation, class_names=alike).labels(14)
    assert short[0].startswith("0 ")
    assert short[0] != short[1]
