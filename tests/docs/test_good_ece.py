"""What is a good ECE: the tables of the page are those of their script, and a simulation finds what they say."""

import numpy as np
import pytest

import softargmax as sa
from tests.docs import measured
from tests.docs.test_calibration_pages import DOCS, FIGURES

PAGE = (DOCS / "good-ece.md").read_text()


def test_the_tables_are_those_of_their_script():
    assert FIGURES.with_tables(PAGE) == PAGE
    assert FIGURES.with_tables(PAGE.replace("0.064", "0.065")) == PAGE


def table(head):
    """By its first column and the rows, each number of the table of null values that `head` begins."""
    start = PAGE.index(f"| {head}")
    rows = measured.rows(PAGE[start:].split("\n\n")[0])
    return {(next(iter(row.values())), key): value for row in rows for key, value in row.items()}


def simulated(n, n_classes, mean, repeats):
    """The mean ECE of calibrated models whose confidences have this mean, and its standard error."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((max(n, 4000), n_classes))
    low, high = 0.0, 400.0
    for _ in range(30):
        spread = (low + high) / 2
        confidence = sa.softmax(spread * logits).max(axis=1).mean()
        low, high = (spread, high) if confidence < mean else (low, spread)
    found = []
    for _ in range(repeats):
        logits = spread * rng.standard_normal((n, n_classes))
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        found.append(sa.evaluate(labels, logits=logits).ece)
    return np.mean(found), np.std(found) / np.sqrt(repeats)


@pytest.mark.parametrize(
    ("n", "n_classes", "mean"), [(1000, 10, 0.6), (1000, 10, 0.9), (1000, 100, 0.9), (100, 2, 0.9)]
)
def test_calibrated_models_show_the_null_value(n, n_classes, mean):
    by_mean, by_class = table("mean confidence, K = 10"), table("K, mean confidence 90%")
    rows = f"{n:,} rows"
    said = float(by_mean[f"{mean:.0%}", rows] if n_classes == 10 else by_class[f"{n_classes:,}", rows])
    seen, error = simulated(n, n_classes, mean, 200)
    assert seen == pytest.approx(said, rel=0.04, abs=3 * error)


def test_where_mistakes_are_few_the_table_says_too_much():
    assert float(table("mean confidence, K = 10")["99%", "100 rows"]) == 0.017
    seen, error = simulated(100, 10, 0.99, 400)
    assert error < 0.0005
    assert seen == pytest.approx(0.013, abs=0.001)
    assert "There 0.013 is what is seen, not 0.017" in PAGE
