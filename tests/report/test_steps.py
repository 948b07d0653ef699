import io
import itertools
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

import softargmax as sa
from softargmax.report import Steps
from softargmax.report.palette import DARK
from softargmax.report.steps import remarks, save_steps, steps_figure, terminal_steps

ROWS = [[2, 1, 0.1], [1000, 1001], [-3.5, 0.25, 7, 7], [-1000, -1001, 3e-5], [5], [1, -math.inf, 3], list(range(40))]
EDGES = [[math.inf, 1], [math.inf, 2, math.inf], [-math.inf, -math.inf], [1, math.nan, 2], [-math.inf], [1e308, -1e308]]


def by_hand(scores, temperature):
    shifted = [(z - max(scores)) / temperature for z in scores]
    exponentials = [math.exp(u) for u in shifted]
    total = math.fsum(exponentials)
    return shifted, exponentials, total, [e / total for e in exponentials]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def from_left(figure):
    return sorted(figure.axes, key=lambda axes: axes.get_position().x0)


def printed(steps, width=80, **how):
    out = io.StringIO()
    Console(file=out, width=width).print(terminal_steps(steps, width=width, **how), crop=False, overflow="ignore")
    return out.getvalue()


@pytest.mark.parametrize("scores", ROWS)
@pytest.mark.parametrize("temperature", [1, 5, 0.3])
def test_every_step_is_that_of_the_definition(scores, temperature):
    steps = Steps.of(scores, temperature=temperature)
    shifted, exponentials, total, probs = by_hand(scores, temperature)
    np.testing.assert_allclose(steps.shifted, shifted, rtol=1e-15)
    np.testing.assert_allclose(steps.exponentials, exponentials, rtol=1e-12)
    assert steps.total == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(steps.probs, probs, rtol=1e-12)


@pytest.mark.parametrize("scores", ROWS + EDGES)
@pytest.mark.parametrize("temperature", [0, 0.3, 1, 5, math.inf])
def test_the_shares_are_those_of_softmax_and_the_steps_lead_to_them(scores, temperature):
    steps = Steps.of(scores, temperature=temperature)
    assert steps.probs.tobytes() == sa.softmax(np.array(scores, float), temperature=temperature).tobytes()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(steps.exponentials / steps.total, steps.probs, rtol=1e-12)
    assert steps.names == tuple(str(k) for k in range(len(scores)))


def test_the_numbers_of_the_tutorials():
    steps = Steps.of([2, 1, 0.1])
    assert [f"{e:.3f}" for e in steps.raw] == ["7.389", "2.718", "1.105"]
    assert [f"{p:.3f}" for p in steps.probs] == ["0.659", "0.242", "0.099"]
    assert "7.389 + 2.718 + 1.105 = 11.21," in remarks(steps)[0]


@pytest.mark.parametrize(
    ("scores", "temperature", "said"),
    [
        ([1000, 1001], 1, "exp(score) overflows"),
        ([1000, 1001], 0.5, "exp(score / T) overflows"),
        ([709.7, 709.7], 1, "exp(score) overflows"),  # the sum does
        ([-1000, -1001], 1, "exp(score) underflows"),
        ([1000, 1001], 1000, "2.718 + 2.721 = 5.439"),
        (range(8), 1, "1 + 2.718 + 7.389 + 20.09 + ... + 1097 = 1734,"),
        ([1, -math.inf], 1, "-inf gets exactly 0"),
        ([1, math.inf], 1, "inf takes all"),
        ([1, math.inf, math.inf], 1, "2 scores of inf share all"),
        ([-math.inf] * 2, 1, "not defined"),
        ([1, math.nan], 1, "score is nan"),
        ([1, 2], 0, "largest score takes all"),
        ([1, 2], math.inf, "above -inf gets the same share"),
        ([1, 2], 5, "more even"),
        ([1, 2], 0.2, "gives the largest more"),
        ([3], 1, "always has the share 1"),
    ],
)
def test_what_is_special_is_said(scores, temperature, said):
    told = " ".join(remarks(Steps.of(list(scores), temperature=temperature)))
    assert said in told
    assert ("The shares sum to 1." in told) == (said not in ("not defined", "score is nan", "always has the share 1"))


def test_inf_takes_all_at_any_temperature():
    told = remarks(Steps.of([1, math.inf], temperature=math.inf))
    assert told[0] == "A score of inf takes all."
    assert "same share" not in " ".join(told)


def test_the_table_has_a_row_a_class_and_the_sums():
    lines = [line.split() for line in printed(Steps.of([2, 1, 0.1])).splitlines()]
    assert lines[1] == ["class", "score", "largest", "exp", "share"]
    assert [line[:5] for line in lines[3:6]] == [
        ["0", "2", "0", "1", "0.659"],
        ["1", "1", "-1", "0.3679", "0.242"],
        ["2", "0.1", "-1.9", "0.1496", "0.099"],
    ]
    assert [line[-1] for line in lines[3:6]] == ["66%", "24%", "10%"]
    assert lines[7] == ["sum", "1.517", "1.000"]
    bars = [len(line[5]) for line in lines[3:6]]
    assert bars[0] > 2 * bars[1] > 2 * bars[2] > 0


def test_a_temperature_has_a_column_of_its_own():
    assert "/ T" not in printed(Steps.of([2, 1]))
    line = printed(Steps.of([2, -1e308, 1], temperature=0.5)).splitlines()[4]
    assert line.split()[:4] == ["1", "-1e+308", "overflows", "-inf"]


@pytest.mark.parametrize("temperature", [1, 5])
@pytest.mark.parametrize("width", [20, 40, 60, 80])
@pytest.mark.parametrize("scores", [*ROWS, [123456789.123, -1e-300, -1e300]])
def test_no_number_is_cut_however_narrow(scores, width, temperature):
    steps = Steps.of(scores, temperature=temperature)
    table = printed(steps, width)
    assert "…" not in table
    for words, z, p in zip([ln.split() for ln in table.splitlines()[3:]], steps.scores, steps.probs, strict=False):
        assert float(words[1]) == pytest.approx(z, rel=1e-8)
        assert float(words[5 if temperature == 5 else 4]) == pytest.approx(p, rel=0.05, abs=5e-4)
    if len(scores) == 3 and width >= 40 and max(scores) < 1000 and temperature == 1:
        assert max(map(len, table.splitlines())) <= width


def test_without_unicode_there_are_no_blocks():
    assert "#### " in printed(Steps.of([2, 1]), blocks=False)
    assert "█" not in printed(Steps.of([2, 1]), blocks=False)


@pytest.mark.parametrize("colors", [{}, {"colors": DARK}])
@pytest.mark.parametrize("temperature", [1, 5])
@pytest.mark.parametrize("scores", [*ROWS, *EDGES, [123456789.123, -1e-300, -1e300], [0, 0]])
def test_words_of_the_figure_lie_in_it_and_apart(scores, temperature, colors):
    figure = steps_figure(Steps.of(scores, temperature=temperature), **colors)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    for box in boxes:
        assert box.x0 > 0
        assert box.y0 > 0
        assert box.x1 < figure.bbox.x1
        assert box.y1 < figure.bbox.y1
    for (i, one), (j, other) in itertools.combinations(enumerate(boxes), 2):
        assert not one.overlaps(other), (texts(figure)[i], texts(figure)[j])
    for box, axes in itertools.product(boxes, figure.axes):
        assert not box.overlaps(axes.bbox)


def test_bars_are_as_long_as_their_numbers():
    figure = steps_figure(Steps.of([2, 1, -4]))
    panels = from_left(figure)
    scores, exponentials, shares = ([bar.get_width() for bar in panels[i].patches[3:]] for i in (0, 1, 3))
    np.testing.assert_allclose(scores, [0.5, 0.25, -1])
    np.testing.assert_allclose(exponentials, [1, math.exp(-1), math.exp(-6)])
    np.testing.assert_allclose(shares, by_hand([2, 1, -4], 1)[3])
    stack = panels[2].patches
    np.testing.assert_allclose([part.get_height() for part in stack], exponentials)
    assert stack[0].get_y() + stack[0].get_height() == pytest.approx(sum(exponentials))


def test_of_many_classes_the_largest_are_drawn_and_that_is_said():
    scores = np.random.default_rng(0).permutation(57)
    figure = steps_figure(Steps.of(scores / 10))
    largest = np.flatnonzero(scores >= 37)
    assert texts(figure)[2:22] == [str(k) for k in largest]
    assert "57 scores; drawn are the 20 largest" in texts(figure)[0]
    assert len(from_left(figure)[2].patches) == 21  # the rest of the sum is there
    assert "drawn" not in texts(steps_figure(Steps.of(scores[:20])))[0]


def test_a_figure_is_saved_whole_and_the_same_every_time(tmp_path):
    steps = Steps.of([2, 1, 0.1])
    save_steps(steps, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert pixels.min() < 100
    assert all(edge.min() == 255 for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    save_steps(steps, tmp_path / "a.svg")
    save_steps(steps, tmp_path / "b.SVG")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.SVG").read_bytes()


def test_what_is_wrong_is_said(tmp_path):
    for scores in ([], [[1, 2]], 3):
        with pytest.raises(ValueError, match=r"scores must have shape \(K,\)"):
            Steps.of(scores)
    with pytest.raises(TypeError, match="scores must be real numbers"):
        Steps.of(["1", "2"])
    with pytest.raises(ValueError, match="temperature must be 0 or more"):
        Steps.of([1, 2], temperature=-1)
    with pytest.raises(ValueError, match=r"ends in \.png or \.svg; got .*a\.jpg"):
        save_steps(Steps.of([1]), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
