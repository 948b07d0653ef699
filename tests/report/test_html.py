import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from softargmax import __version__
from softargmax.metrics import evaluate
from softargmax.report import Story, class_rows, headline, metric_rows, mistakes, page, verdict

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice on {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def cells(self) -> list[str]:
        return [text for tag, text in self.texts if tag in ("td", "th", "small")]


def test_the_parser_of_these_tests_rejects_a_broken_page() -> None:
    for broken in ("<p><b></p></b>", "<p>", "<p id=a id=b></p>"):
        with pytest.raises((AssertionError, IndexError)):
            Page(broken)


def test_the_page_is_whole_and_semantic(story: Story) -> None:
    text = page(story)
    parsed = Page(text)
    names = [tag for tag, _ in parsed.tags]
    assert text.startswith("<!DOCTYPE html>\n")
    assert ("html", {"lang": "en"}) in parsed.tags
    assert names.count("h1") == names.count("main") == names.count("header") == names.count("footer") == 1
    assert names.count("figure") == names.count("figcaption") == names.count("svg") == 6
    assert names.count("section") == names.count("h2") == 6
    assert all("scope" in attrs for tag, attrs in parsed.tags if tag == "th")
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in parsed.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert ids


def test_the_page_opens_with_the_sentence(story: Story) -> None:
    parsed = Page(page(story))
    assert ("h1", headline(story)) in parsed.texts
    assert ("title", headline(story)) in parsed.texts
    assert ("p", verdict(story)) in parsed.texts
    words = [text for _, text in parsed.texts]
    assert words.index(headline(story)) < words.index("The numbers") < words.index("Does it know what it knows?")


def test_the_page_asks_nothing_of_the_network(story: Story) -> None:
    text = page(story)
    assert "://" not in text
    assert not re.search(r"<script|<link|<iframe|@import|\bsrc=", text)
    assert all(reference.startswith("#") for reference in re.findall(r'href="([^"]*)"', text))
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", text))


def test_both_themes_are_there(story: Story) -> None:
    text = page(story)
    assert "@media (prefers-color-scheme: dark)" in text
    declared = set(re.findall(r"--([a-z]+):", text))
    used = set(re.findall(r"var\(--([a-z]+)\)", text))
    assert used <= declared
    assert all(len(re.findall(rf"--{name}:", text)) == 2 for name in declared)  # once light, once dark


def test_every_number_of_the_tables_is_on_the_page(story: Story) -> None:
    cells = Page(page(story)).cells()
    for row in metric_rows(story):
        assert row.name in cells
        for estimate in row.estimates:
            assert estimate.text in cells
            assert not estimate.beside or estimate.beside in cells
    of = class_rows(story)
    for i, name in enumerate(story.names):
        start = max(k for k, cell in enumerate(cells) if cell == name)
        shares = (of.precision[i], of.recall[i], of.f1[i], of.frequency[i], *of.mean_probability[i])
        expected = [f"{of.support[i]:.0f}", f"{of.predicted[i]:.0f}", *(f"{100 * share:.2f}%" for share in shares)]
        assert cells[start + 1 : start + 9] == expected
    for mistake in mistakes(story) or ():
        start = next(
            k
            for k in range(len(cells))
            if cells[k : k + 2] == [story.names[mistake.true], story.names[mistake.predicted]]
        )
        assert cells[start + 2 : start + 4] == [f"{mistake.count:.0f}", f"{100 * mistake.share:.1f}%"]


def test_risks_and_errors_of_classes_are_on_the_page(story: Story) -> None:
    parsed = Page(page(story))
    cells = parsed.cells()
    assert story.after is not None
    for share in (0.5, 0.9):
        start = max(k for k, cell in enumerate(cells) if cell == f"{share:.0%}")
        risks = [f"{100 * e.risk_coverage.risk_at(share):.2f}%" for e in (story.before, story.after)]
        assert cells[start + 1 : start + 3] == risks
        assert risks[0] != f"{100 * (1 - story.before.accuracy):.2f}%"
    drawn = {text for _, text in parsed.texts}
    errors = story.after.per_class.ece
    assert {f"{error:.4f}" for error in errors} <= drawn  # over the panels
    assert f"after: class-wise ECE {errors.mean():.4f}" in drawn
    (said,) = [attrs["aria-label"] for tag, attrs in parsed.tags if tag == "svg" and attrs["class"] == "errors"]
    assert said is not None
    assert f"the largest {errors.max():.4f}, of {story.names[int(errors.argmax())]}" in said


def test_what_users_write_is_text(make_story: Callable[..., Story]) -> None:
    evil = "<script>alert(1)</script>"
    names = (evil, '" onload="alert(2)', "&amp;", "c</text></svg>", "", "\x00\n", "\ud800", "$x$", "猫", "]]>")
    text = page(make_story(300, class_names=names, source=f"</p>{evil}", notes=(f"</ul>{evil}", "fine & good")))
    parsed = Page(text)
    assert "<script" not in text
    assert text.encode("utf-8")
    assert evil in parsed.cells()
    assert "&amp;" in parsed.cells()  # as written, not as an entity
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert any("fine & good" in said for _, said in parsed.texts)


def test_same_story_same_bytes_in_every_process() -> None:
    program = """
import hashlib
import numpy as np
from softargmax.metrics import evaluate
from softargmax.report import Story, page
logits = np.random.default_rng(0).normal(size=(300, 40))
print(hashlib.sha256(page(Story(evaluate(logits.argmax(axis=1), logits=logits))).encode()).hexdigest())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0]) > 60


@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000, 1001])
def test_pages_stay_small(make_story: Callable[..., Story], n_classes: int) -> None:
    text = page(make_story(4000, n_classes))
    Page(text)
    assert len(text.encode()) < 1_000_000
    assert ("are not listed" in text) == (n_classes > 50)
    assert ("confusion matrix is not kept" in text) == (n_classes > 1000)


def test_how_it_was_made_is_said(story: Story, make_story: Callable[..., Story]) -> None:
    text = page(story)
    assert "measured on 2,000 rows. The calibrator was fitted on 500 rows. None of the rows" in text
    assert "15 bins of equal width" in text
    assert f"Made with softargmax {__version__}." in text
    assert "Two classes have few rows." in text
    assert "which flatters the numbers" in page(make_story(300, 3, n_fitted=300, held_out=False))
    unknown = "not known here whether the calibrator was fitted on these same rows"
    assert unknown in page(Story(story.before, story.after))
    assert unknown not in text
    assert "fitted on" not in page(Story(story.before))
    said = " ".join(text.split())
    assert "it can lie above the upper end of its own interval" in said
    assert "the intervals of NLL and Brier score are too narrow" in said
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert "Rows have weights" in page(Story(evaluate([0, 0], logits=logits, weights=[0.5, 2.0])))
    assert "Rows have weights" not in text


def test_without_calibration_there_is_no_after(story: Story) -> None:
    text = page(Story(story.before))
    assert "after" not in [text for _, text in Page(text).texts]
    assert "before" not in [text for _, text in Page(text).texts]
    assert "nan" not in " ".join(said for _, said in Page(text).texts)


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_rows(n: int) -> None:
    evaluation = evaluate([0] * n, logits=np.zeros((n, 3)))
    for story in (Story(evaluation), Story(evaluation, evaluation)):
        said = [text for _, text in Page(page(story)).texts]
        assert headline(story) in said
        assert not any(re.search(r"\bnan\b", text) for text in said)
