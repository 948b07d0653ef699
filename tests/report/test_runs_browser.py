"""The page of runs in a real browser: its slider computes, by mouse and by keyboard, and without a script it is whole.

The numbers of the script are compared with softargmax.softmax.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softargmax import TemperatureScaling, softmax
from softargmax.report import runs_page
from softargmax.training import Run
from tests.report.test_browser import CHROMIUM, LOWEST_CONTRAST, TOO_WIDE, opened
from tests.report.test_training import make_run

pytestmark = pytest.mark.minutes

TEN = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

SHARES = """kind => [...document.querySelectorAll('.tempered')].map(root => [...root.querySelectorAll(kind)].map(
  card => [...card.querySelectorAll('.bars li')].map(bar => bar.style.getPropertyValue('--share'))))"""
WORDS = """() => [...document.querySelectorAll('.tempered .share')].map(share => share.textContent)"""
WIDTHS = """() => [...document.querySelectorAll('.tempered .bar')].map(bar =>
  parseFloat(getComputedStyle(bar, '::before').width) / bar.getBoundingClientRect().width)"""
SMALL_OR_OUTSIDE = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  return [...svg.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
    return scale * parseFloat(getComputedStyle(t).fontSize) < 9.9 || r.left < box.left - 1 || r.right > box.right + 1
      || r.top < box.top - 1 || r.bottom > box.bottom + 1; }).map(t => t.textContent); })"""
OVERLAPPING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, r], i) => boxes.slice(i + 1).filter(([b, s]) =>
    Math.min(r.right, s.right) - Math.max(r.left, s.left) > 2 &&
    Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 4).map(([b]) => [a, b])); })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, names=TEN), make_run(folder, names=TEN, seed=1, pooling=None)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, runs: list[Run]) -> Path:
    path = tmp_path_factory.mktemp("pages") / "runs.html"
    path.write_text(runs_page(runs), encoding="utf-8")
    return path


def wanted(run: Run, temperature: float) -> np.ndarray:
    """(12, 6): the shares of the five largest, and of all the others, of the example images."""
    firsts, mistakes = run.examples.rows[:8], run.examples.rows[len(TEN) : len(TEN) + 4]
    probs = softmax(run.test.scores[[*firsts, *mistakes]], temperature=temperature)
    ordered = -np.sort(-probs, axis=1)
    return np.concatenate([ordered[:, :5], ordered[:, 5:].sum(axis=1, keepdims=True)], axis=1)


def shares(tab: Any) -> np.ndarray:
    return np.array(tab.evaluate(SHARES, ".cards:not(.rows) > .card"), dtype=float)


def shares_of_rows(tab: Any, which: int) -> list[np.ndarray]:
    return [np.array(row, dtype=float) for row in tab.evaluate(SHARES, ".rows > .card")[which]]


def move(tab: Any, value: float, which: int = 0) -> None:
    tab.locator(".tempered input").nth(which).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change')); }", value
    )


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names without a break, a fitted temperature beyond the slider, two runs of one network."""
    folder = tmp_path_factory.mktemp("long")
    run = make_run(folder, names=tuple(f"an_unbroken_class_name_of_forty_letters_{k}" for k in range(3)))
    scores = 40 * run.test.scores
    calibrator = TemperatureScaling().fit(scores[150:], run.test.labels[150:])
    run = dataclasses.replace(run, test=dataclasses.replace(run.test, scores=scores), calibrator=calibrator)
    assert calibrator.temperature_ > 10
    (folder / "long.html").write_text(runs_page([run, run]), encoding="utf-8")
    return folder / "long.html"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("names", ["file", "long"])
def test_the_page_fits_is_readable_and_keeps_to_itself(
    browser: Any, request: pytest.FixtureRequest, names: str, width: int, scheme: str
) -> None:
    file = request.getfixturevalue(names)
    tab, events = opened(browser, file, width, scheme)
    try:
        move(tab, 1)
        assert [event for event in events if not event.startswith("request: data:")] == [f"request: {file.as_uri()}"]
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate(TOO_WIDE) == []
        texts = tab.evaluate(LOWEST_CONTRAST)
        assert len(texts) > 100
        assert texts[0][0] >= 4.5, texts[0]
        assert tab.evaluate(SMALL_OR_OUTSIDE) == []
        assert tab.evaluate(OVERLAPPING) == []
    finally:
        tab.context.close()


def test_the_slider_computes_what_the_library_does(browser: Any, file: Path, runs: list[Run]) -> None:
    tab, _ = opened(browser, file, 1280, "light")
    try:
        still = wanted(runs[1], runs[1].calibrator.temperature_)
        for value in (-1, -0.5, 0, 0.37, 1):
            move(tab, value)
            found = shares(tab)
            np.testing.assert_allclose(found[0], wanted(runs[0], 10.0**value), rtol=1e-12, atol=1e-300)
            np.testing.assert_allclose(found[1], still, rtol=1e-12)  # each run has a slider of its own
            every = [share for root in tab.evaluate(SHARES, ".card") for card in root for share in card]
            assert len(every) == found.size + 2 * (3 + 6 + 6)
            np.testing.assert_allclose(tab.evaluate(WIDTHS), np.array(every, dtype=float), atol=0.01)
            words = tab.evaluate(WORDS)[:6]
            assert all(word.endswith("%") for word in words)
            assert "100%" not in words
    finally:
        tab.context.close()


def test_the_slider_moves_rows_without_a_picture(browser: Any, file: Path, runs: list[Run]) -> None:
    tab, _ = opened(browser, file, 1280, "light")
    try:
        rows = tab.get_by_role("group", name="Temperature of cnn with max pooling").locator(".rows > .card")
        numbers = [int(text) for text in re.findall(r"test row (\d+)", " ".join(rows.all_inner_texts()))]
        assert len(numbers) == 2
        still = shares_of_rows(tab, 1)
        for value in (-1, -0.5, 0, 0.37, 1):
            move(tab, value)
            simple, *others = shares_of_rows(tab, 0)
            np.testing.assert_allclose(simple, softmax([2, 1, 0.1], temperature=10**value), rtol=1e-12)
            for found, number in zip(others, numbers, strict=True):
                ordered = -np.sort(-softmax(runs[0].test.scores[number], temperature=10**value))
                np.testing.assert_allclose(found, [*ordered[:5], ordered[5:].sum()], rtol=1e-9)
        claimed = wanted(runs[0], 10.0)[:, 0].mean()  # of the images alone, as it says
        status = tab.locator("[role=status]").first.inner_text()
        assert f"{100 * claimed:.0f}% on average on these 12 images" in status
        assert rows.first.inner_text().split("\n")[-6:] == ["A: 2", "37%", "B: 1", "33%", "C: 0.1", "30%"]
        assert all(np.array_equal(*pair) for pair in zip(still, shares_of_rows(tab, 1), strict=True))
    finally:
        tab.context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_slider_is_in_sight_of_the_rows(browser: Any, file: Path, width: int) -> None:
    tab, _ = opened(browser, file, width, "light")
    try:
        last = tab.locator(".rows > .card").nth(2)
        last.evaluate("e => e.scrollIntoView({ block: 'end' })")
        for seen in (tab.locator(".tempered input").first, last.locator(".share").last):
            box = seen.bounding_box()
            assert 0 <= box["y"] < box["y"] + box["height"] <= 800
        control = tab.locator(".control").first.bounding_box()
        assert last.bounding_box()["y"] >= control["y"] + control["height"]  # not beneath it
    finally:
        tab.context.close()


def test_the_comparison_rejects_a_script_that_forgets_the_temperature(
    browser: Any, file: Path, runs: list[Run], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    text = file.read_text(encoding="utf-8")
    assert text.count("(z - top) / t") == 1
    broken.write_text(text.replace("(z - top) / t", "(z - top)"), encoding="utf-8")
    tab, _ = opened(browser, broken, 1280, "light")
    try:
        move(tab, 1)
        assert np.abs(shares(tab)[0] - wanted(runs[0], 10.0)).max() > 0.1
    finally:
        tab.context.close()


def test_the_keyboard_alone_moves_it_and_it_is_read_out(browser: Any, file: Path, runs: list[Run]) -> None:
    fitted = f"{runs[0].calibrator.temperature_:.4g}"
    tab, _ = opened(browser, file, 1280, "light")
    try:
        group = tab.get_by_role("group", name="Temperature of cnn with max pooling")
        slider, status = group.get_by_role("slider", name="temperature T"), group.get_by_role("status")
        button = group.get_by_role("button", name=f"fitted T = {fitted}")
        assert slider.get_attribute("aria-valuetext") == f"T = {fitted}"
        start = status.inner_text()
        assert start.startswith(f"At T = {fitted} it claims")
        slider.focus()
        tab.keyboard.press("Home")
        assert slider.get_attribute("aria-valuetext") == group.locator(".now").inner_text() == "T = 0.1"
        assert status.inner_text().startswith("At T = 0.1 it claims")
        tab.keyboard.press("End")
        assert slider.get_attribute("aria-valuetext") == "T = 10"
        tab.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == "T = 9.77"
        claimed = wanted(runs[0], 10**0.99)[:, 0].mean()
        assert f"claims {100 * claimed:.0f}% on average on these 12 images" in status.inner_text()
        tab.keyboard.press("Tab")
        assert button.evaluate("e => e === document.activeElement")
        tab.keyboard.press("Enter")
        assert slider.get_attribute("aria-valuetext") == f"T = {fitted}"
        assert status.inner_text() == start
        np.testing.assert_allclose(shares(tab)[0], wanted(runs[0], runs[0].calibrator.temperature_), rtol=1e-12)
    finally:
        tab.context.close()


def test_dragging_is_shown_at_once_and_read_out_at_its_end(browser: Any, file: Path) -> None:
    tab, _ = opened(browser, file, 1280, "light")
    try:
        start = tab.locator("[role=status]").first.inner_text()
        tab.locator(".tempered input").first.scroll_into_view_if_needed()
        box = tab.locator(".tempered input").first.bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
        assert tab.locator(".now").first.inner_text() == "T = 10"
        assert tab.locator("[role=status]").first.inner_text() == start
        tab.mouse.up()
        assert tab.locator("[role=status]").first.inner_text().startswith("At T = 10 it claims")
    finally:
        tab.context.close()


def test_without_a_script_the_bars_stand_at_the_fitted_temperature(browser: Any, file: Path, runs: list[Run]) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, java_script_enabled=False)
    try:
        tab = context.new_page()
        tab.goto(file.as_uri())
        assert tab.locator(".control").count() == 2
        assert not tab.locator(".control").first.is_visible()
        assert tab.locator(".tempered .bar").first.is_visible()
        texts = tab.locator(".tempered .share").all_inner_texts()
    finally:
        context.close()
    live, _ = opened(browser, file, 1280, "light")
    try:
        for which, run in enumerate(runs):
            live.locator(".tempered button").nth(which).click()
            np.testing.assert_allclose(shares(live)[which], wanted(run, run.calibrator.temperature_), rtol=1e-12)
        assert live.evaluate(WORDS) == texts  # the script and the page say the same
    finally:
        live.context.close()
