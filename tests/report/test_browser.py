"""The page in a real browser: what no parser sees."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from softargmax.report import Story, page

pytestmark = pytest.mark.minutes

CHROMIUM = shutil.which("chromium")

# the contrast of every text with the first opaque background behind it
LOWEST_CONTRAST = """() => {
  const rgb = s => s.match(/[0-9.]+/g).map(Number);
  const linear = x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const light = c => { const v = c.slice(0, 3).map(x => linear(x / 255));
                       return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                        if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim()) continue;
    const style = getComputedStyle(e), ink = rgb(e.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), walk.currentNode.data.trim()]);
  }
  return found.sort((x, y) => x[0] - y[0]).concat([[99, String(found.length)]]);
}"""

# elements wider than the page that do not lie in a box which scrolls by itself
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.box *')
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName)"""


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
def files(tmp_path_factory: pytest.TempPathFactory, story: Story, make_story: Callable[..., Story]) -> dict[str, Path]:
    long = tuple(f"an_unbroken_class_name_of_forty_letters_{k}" for k in range(3))
    stories = {
        "ten": story,
        "long": make_story(300, 3, class_names=long, source="/a/folder" * 30, notes=("word" * 60,)),
        "two": make_story(400, 2),
        "many": make_story(4000, 30, class_names=tuple(f"category number {k}" for k in range(30))),
        "thousand": make_story(3000, 1000),
        "none": Story(make_story(0, 3).before),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, of in stories.items():
        (folder / f"{name}.html").write_text(page(of), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in stories}


def opened(browser: Any, file: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab, events = context.new_page(), []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("request", lambda request: events.append(f"request: {request.url}"))
    tab.goto(file.as_uri())
    return tab, events


@pytest.mark.parametrize("name", ["ten", "long", "two", "many", "thousand", "none"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_is_readable_and_keeps_to_itself(
    browser: Any, files: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    tab, events = opened(browser, files[name], width, scheme)
    try:
        assert events == [f"request: {files[name].as_uri()}"]
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate(TOO_WIDE) == []
        texts = tab.evaluate(LOWEST_CONTRAST)
        assert len(texts) > 20
        assert texts[0][0] >= 4.5, texts[0]
        backgrounds = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (backgrounds == "rgb(255, 255, 255)") == (scheme == "light")
    finally:
        tab.context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_words_of_a_figure_are_large_inside_and_apart(browser: Any, files: dict[str, Path], width: int) -> None:
    sizes = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
      const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
      return [...svg.querySelectorAll('text')].map(t => { const r = t.getBoundingClientRect();
        return [scale * parseFloat(getComputedStyle(t).fontSize), t.textContent, r.left >= box.left - 1
          && r.right <= box.right + 1 && r.top >= box.top - 1 && r.bottom <= box.bottom + 1]; }); })"""
    overlaps = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
      const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
      return boxes.flatMap(([a, r], i) => boxes.slice(i + 1).filter(([b, s]) =>
        Math.min(r.right, s.right) - Math.max(r.left, s.left) > 2 &&
        Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 4).map(([b]) => [a, b])); })"""
    for name in ("ten", "long", "two", "many", "thousand"):
        tab, _ = opened(browser, files[name], width, "light")
        try:
            assert tab.evaluate("document.querySelectorAll('svg text').length") > 20
            assert tab.evaluate(overlaps) == []
            assert [said for said in tab.evaluate(sizes) if said[0] < 9.99 or not said[2]] == []
        finally:
            tab.context.close()


def test_only_what_is_too_wide_scrolls_and_shows_it(browser: Any, files: dict[str, Path]) -> None:
    scrolling = """() => [...document.querySelectorAll('.box')].filter(b => b.scrollWidth > b.clientWidth)
      .map(b => b.getAttribute('aria-label'))"""
    expected = {"ten": ["Classes"], "long": ["Classes"], "many": ["The confusion figure", "Classes"]}
    for name, labels in expected.items():
        tab, _ = opened(browser, files[name], 360, "light")
        try:
            assert tab.evaluate(scrolling) == labels
            box = tab.locator(".box[aria-label=Classes]")
            start = corner(box)
            box.evaluate("b => b.scrollLeft = b.scrollWidth")
            assert start < corner(box) == 255  # darker where there is more
        finally:
            tab.context.close()


def corner(box: Any) -> int:
    """The grey level at the upper right, above all words."""
    with Image.open(io.BytesIO(box.screenshot())) as image:
        return int(image.convert("L").getpixel((image.width - 2, 3)))


def test_the_measure_of_contrast_and_width_can_fail(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        '<body style="margin:0"><p style="color:#999;width:2000px">pale and wide</p></body>', encoding="utf-8"
    )
    tab, _ = opened(browser, file, 360, "light")
    try:
        assert tab.evaluate(LOWEST_CONTRAST)[0][0] < 3
        assert tab.evaluate(TOO_WIDE) == ["P"]
        assert tab.evaluate("document.documentElement.scrollWidth") == 2000
    finally:
        tab.context.close()
