import math

import pytest

from softargmax.report.words import count, number, percent, plain, shortened, whole_percent


@pytest.mark.parametrize(
    ("fraction", "said"),
    [
        (0.5875, "59%"),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.9999, "more than 99%"),
        (0.995, "more than 99%"),
        (0.994, "99%"),
        (1e-9, "less than 1%"),
        (0.006, "1%"),
        (math.nan, "not defined"),
    ],
)
def test_whole_percent_never_rounds_to_certainty(fraction: float, said: str) -> None:
    assert whole_percent(fraction) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.12447, "0.1245"),
        (0.0, "0"),
        (1.234e-5, "1.23e−05"),
        (math.inf, "infinite"),
        (-math.inf, "minus infinite"),
        (math.nan, "not defined"),
        (12.0, "12.0000"),
        (1e300, "1e+300"),
        (-1e300, "−1e+300"),
    ],
)
def test_number(value: float, said: str) -> None:
    assert number(value) == said


def test_percent_and_counts() -> None:
    assert (percent(0.81034), percent(math.nan)) == ("81.03%", "not defined")
    assert count(1e100, "row") == "1e+100 rows"
    assert (count(1, "row"), count(10_000, "row"), count(0, "row"), count(2.5)) == (
        "1 row",
        "10,000 rows",
        "0 rows",
        "2.5",
    )


def test_plain_is_one_printable_line_that_utf8_can_hold() -> None:
    text = plain("a\tb\nc\x00d\ud800e\u202ef 猫 é")
    assert text == "a b c d e f 猫 é"
    assert text.encode("utf-8")


def test_shortened_keeps_both_ends() -> None:
    assert shortened("short", 5) == "short"
    for width in range(2, 12):
        cut = shortened("abcdefghijkl", width)
        assert len(cut) == width
        assert cut[0] == "a"
    assert shortened("a long name number one", 12) != shortened("a long name number two", 12)
