"""Numbers -> words: what a reader sees in place of nan, inf, and roundings that would overstate."""

from __future__ import annotations

import math

UNDEFINED = "not defined"


def whole_percent(fraction: float) -> str:
    """A fraction in whole percent; never 0% or 100% unless it is exactly that.

    >>> whole_percent(0.5875), whole_percent(0.9991), whole_percent(1.0)
    ('59%', 'more than 99%', '100%')
    """
    if math.isnan(fraction):
        return UNDEFINED
    percent = round(100 * fraction)
    if percent >= 100 and fraction < 1:
        return "more than 99%"
    if percent <= 0 and fraction > 0:
        return "less than 1%"
    return f"{percent}%"


def percent(fraction: float) -> str:
    """A fraction in percent with two decimals: `81.03%`."""
    return UNDEFINED if math.isnan(fraction) else f"{100 * fraction:.2f}%"


def number(value: float) -> str:
    """Four decimals, or three digits where those would hide the number: `0.1245`, `1.2e−05`, `infinite`.

    The minus is one, no hyphen: at that a line of a page may end.
    """
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        return digits(value)
    return minus(f"{value:.4f}")


def digits(value: float, n: int = 3) -> str:
    """The first `n` digits: `0.00278`, `1.2e−05`."""
    return minus(f"{value:.{n}g}")


def minus(text: str) -> str:
    """A number whose hyphens are minus signs."""
    return text.replace("-", "−")


def count(value: float, noun: str = "") -> str:
    """A count with its noun, plural where needed: `1 row`, `10,000 rows`; sums of weights keep one decimal."""
    form = ".3g" if value >= 1e15 else ",.0f" if value == round(value) else ",.1f"
    text = f"{value:{form}}"
    return f"{text} {noun}{'' if value == 1 else 's'}" if noun else text


def plain(text: str) -> str:
    """One line of printable characters: line breaks, NUL, lone surrogates and marks of direction become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters, cut in the middle, where names differ least.

    >>> shortened("a long name number one", 12)
    'a long…r one'
    """
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
