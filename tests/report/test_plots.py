import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from softargmax.metrics import evaluate
from softargmax.report import (
    Story,
    confidence_figure,
    confidence_histograms,
    confusion_figure,
    confusion_shares,
    draw_confidence,
    draw_confusion,
    draw_counts,
    draw_reliability,
    reliability_curves,
    reliability_figure,
    save,
    svg,
)
from softargmax.report.palette import DARK, LIGHT, STANDINS, css

NAMES = ("reliability", "confidence", "confusion")


def axes_of_a_user() -> matplotlib.axes.Axes:
    return Figure().add_subplot()


def test_reliability_draws_its_numbers_on_the_given_axes(story: Story) -> None:
    curves, axes = reliability_curves(story), axes_of_a_user()
    assert draw_reliability(axes, curves) is axes
    marked = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert [line.get_marker() for line in marked] == ["o", "s"]  # apart without colour
    for line, curve in zip(marked, curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.confidence)
        np.testing.assert_array_equal(line.get_ydata(), curve.accuracy)
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert axes.get_aspect() == 1


def test_counts_are_bars_of_rows(story: Story) -> None:
    curves, axes = reliability_curves(story), axes_of_a_user()
    assert draw_counts(axes, curves) is axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_array_equal(heights, np.concatenate([c.count for c in curves]))
    lefts = [bar.get_x() for bar in axes.patches]
    rights = [bar.get_x() + bar.get_width() for bar in axes.patches]
    for curve, part in zip(curves, (slice(0, 15), slice(15, 30)), strict=True):
        assert (np.array(lefts[part]) > curve.edges[:-1]).all()
        assert (np.array(rights[part]) < curve.edges[1:]).all()


def test_counts_of_millions_have_short_ticks(story: Story) -> None:
    curve = dataclasses.replace(reliability_curves(story)[0], count=np.geomspace(1, 3e9, 15))
    axes = draw_counts(axes_of_a_user(), [curve])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["1", "100", "10k", "1M", "100M"]


def test_nothing_of_a_saved_figure_is_cut_off(story: Story, tmp_path: Path) -> None:
    for name in NAMES:
        save(story, name, tmp_path / "f.png")
        pixels = np.asarray(Image.open(tmp_path / "f.png").convert("L"))
        assert pixels.min() < 100
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 255, name


def test_confidence_bars_are_stacked(story: Story) -> None:
    histogram, axes = confidence_histograms(story)[0], axes_of_a_user()
    assert draw_confidence(axes, histogram) is axes
    right, wrong = axes.patches[:15], axes.patches[15:]
    np.testing.assert_allclose([bar.get_height() for bar in right], histogram.right)
    np.testing.assert_allclose([bar.get_y() for bar in wrong], histogram.right)
    np.testing.assert_allclose([bar.get_height() for bar in wrong], histogram.wrong)
    assert [line.get_xdata()[0] for line in axes.lines] == [histogram.mean_confidence, histogram.accuracy]


def test_confusion_cells_hold_whole_percents(story: Story) -> None:
    confusion, axes = confusion_shares(story), axes_of_a_user()
    assert confusion is not None
    assert draw_confusion(axes, confusion) is axes
    written = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    expected = {(i, j): f"{100 * share:.0f}" for (i, j), share in np.ndenumerate(confusion.shares) if share > 0.005}
    assert written == expected
    (cells,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert len(cells.get_paths()) == np.count_nonzero(confusion.shares)
    assert [t.get_text() for t in axes.get_yticklabels()] == list(story.names)


@pytest.mark.parametrize(
    ("n_classes", "image", "named"), [(2, 0, 2), (20, 0, 20), (21, 1, 21), (30, 1, 30), (31, 1, 0)]
)
def test_larger_confusions_lose_numbers_then_names(
    make_story: Callable[..., Story], n_classes: int, image: int, named: int
) -> None:
    figure = confusion_figure(make_story(500, n_classes, class_names=tuple(f"class {k}" for k in range(n_classes))))
    assert figure is not None
    (axes,) = figure.axes
    assert len(axes.images) == image
    assert bool(axes.texts) == (not image)
    assert len([t for t in axes.get_yticklabels() if t.get_text().startswith("class")]) == named


@pytest.mark.parametrize(
    ("names", "turned"),
    [
        (("benign", "malignant"), False),
        (tuple("abcdefghij"), False),
        (tuple(f"a long name {k}" for k in range(10)), True),
        (tuple(f"name {k}" for k in range(30)), True),
        (None, False),
    ],
)
def test_only_turned_names_take_height(
    make_story: Callable[..., Story], names: tuple[str, ...] | None, turned: bool
) -> None:
    figure = confusion_figure(make_story(500, len(names or range(120)), class_names=names))
    assert figure is not None
    (axes,) = figure.axes
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {90.0 if turned else 0.0}
    below = axes.get_position().y0 * figure.get_figheight()
    assert (below > 0.6) == turned
    words = axes.get_tightbbox()  # everything, the words "true" and "predicted" too, lies in the figure
    assert words is not None
    assert words.x0 >= 0
    assert words.y0 >= 0
    assert words.x1 <= figure.bbox.x1
    assert words.y0 / figure.dpi < 0.2  # and nothing but words


def test_an_image_takes_its_hue_from_the_page(make_story: Callable[..., Story], tmp_path: Path) -> None:
    story = make_story(500, 40)
    text = svg(story, "confusion", "") or ""
    root = ElementTree.fromstring(text)
    (mask,) = [node for node in root.iter() if node.tag.endswith("mask")]
    (image,) = [node for node in root.iter() if node.tag.endswith("image")]
    (tinted,) = [node for node in root.iter() if node.get("mask") == f"url(#{mask.get('id')})"]
    assert list(mask) == [image]
    assert "var(--spot)" in tinted.get("style", "")
    save(story, "confusion", tmp_path / "c.png")  # alone, it holds its hue
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    assert (pixels[..., 2] - pixels[..., 0]).max() > 60


def test_figures_of_one_thousand_and_one_classes() -> None:
    story = Story(evaluate([5], logits=5 * np.eye(1001)[[5]]))
    assert confusion_figure(story) is None
    assert svg(story, "confusion", "") is None


@pytest.mark.parametrize("name", NAMES)
def test_svg_takes_its_colours_from_the_page(story: Story, name: str) -> None:
    text = svg(story, name, 'said "aloud" <b>')
    assert text is not None
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", text)) == set()
    used = set(re.findall(r"var\(--([a-z]+)\)", text))
    assert "ink" in used
    assert used <= set(LIGHT)
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'said "aloud" <b>'
    assert root.get("width") is None  # as wide as its place
    assert all(node.get("id", name).startswith(name) for node in root.iter())


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_same_every_time(story: Story, name: str, tmp_path: Path) -> None:
    assert svg(story, name, "") == svg(story, name, "")
    save(story, name, tmp_path / "a.svg")
    save(story, name, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_ids_of_two_figures_do_not_clash(story: Story) -> None:
    ids = [re.findall(r' id="([^"]+)"', svg(story, name, "") or "") for name in NAMES]
    assert all(len(set(of)) == len(of) for of in ids)
    assert ids[0]  # clip paths at least
    assert not set(ids[0]) & set(ids[1])
    for name in NAMES:
        text = svg(story, name, "") or ""
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) == set(re.findall(r' id="([^"]+)"', text))


def test_class_names_are_words_not_mathematics_nor_markup(make_story: Callable[..., Story]) -> None:
    names = ("$a_1$ & $b$", "<script>", 'id="x" url(#y)', "猫")
    text = svg(make_story(200, 4, class_names=names), "confusion", "") or ""
    written = [node.text for node in ElementTree.fromstring(text).iter() if node.tag.endswith("text")]
    for name in ("$a_1$ & $b$", "<script>", 'id="x" url(#y)', "猫"):
        assert written.count(name) == 2, written


def test_nothing_is_set_globally_and_pyplot_is_not_loaded() -> None:
    program = """
import sys, warnings
warnings.simplefilter("error")
import softargmax.report
assert not {"matplotlib", "rich"} & set(sys.modules), "loaded before it is needed"
from softargmax.metrics import evaluate
from softargmax.report import Story, svg
import matplotlib
before = matplotlib.rcParams.copy()
story = Story(evaluate([0, 1], logits=[[3.0, 0.0], [2.0, 0.0]]))
for name in ("reliability", "confidence", "confusion"):
    assert svg(story, name, "")
assert "matplotlib.pyplot" not in sys.modules
changed = [k for k in before if k != "backend" and before[k] != matplotlib.rcParams[k]]  # reading that loads pyplot
assert not changed, changed
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_save_writes_a_light_file_that_stands_alone(story: Story, tmp_path: Path) -> None:
    save(story, "reliability", tmp_path / "r.png", dpi=100)
    with Image.open(tmp_path / "r.png") as image:
        assert image.size[0] == 430
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    save(story, "confidence", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "var(--" not in text
    assert LIGHT["wrong"] in text
    assert not any(standin in text for standin in STANDINS.values())


def test_save_says_what_it_cannot_do(story: Story, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        save(story, "confidence", tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="name must be one of reliability"):
        save(story, "histogram", tmp_path / "c.png")
    large = Story(evaluate([5], logits=5 * np.eye(1001)[[5]]))
    with pytest.raises(ValueError, match="no confusion figure of 1001 classes"):
        save(large, "confusion", tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_figures_of_hardly_any_rows(n: int) -> None:
    story = Story(evaluate([0] * n, logits=np.ones((n, 3)) * [3.0, 1.0, 0.0]))
    for figure in (reliability_figure(story), confidence_figure(story), confusion_figure(story)):
        assert figure is not None
        figure.savefig(io.BytesIO(), format="svg")


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def blended(color: str, over: str, opacity: float) -> str:
    pairs = [(int(color[i : i + 2], 16), int(over[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_themes_are_readable(theme: dict[str, str]) -> None:
    for role in ("ink", "quiet"):
        assert contrast(theme[role], theme["page"]) >= 4.5
        assert contrast(theme[role], theme["panel"]) >= 4.5
    assert contrast(theme["ink"], blended(theme["cell"], theme["page"], 0.7)) >= 4.5  # a share of 1
    assert contrast(theme["page"], blended(theme["spot"], theme["page"], 0.02**0.5)) >= 1.15  # a share of 2% is seen
    for role in ("before", "after", "wrong"):
        assert contrast(theme[role], theme["page"]) >= 3
    assert contrast(theme["right"], theme["wrong"]) >= 1.8  # apart in grey
    assert set(theme) == set(STANDINS)
    assert all(f"--{role}: {value};" in css() for role, value in theme.items())
