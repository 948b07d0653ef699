"""A model of a table explains itself: what pushes which class, in numbers, table, figure and page."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from softargmax import TemperatureScaling
from softargmax.data import Predictions
from softargmax.metrics import evaluate
from softargmax.report import (
    Pushes,
    coefficient_rows,
    coefficient_table,
    coefficients,
    coefficients_figure,
    headline,
    metric_rows,
    save_table_figures,
    table_page,
    table_story,
)
from softargmax.report import table as table_module
from softargmax.report.coefficients import panel_figure
from softargmax.report.palette import DARK, LIGHT, STANDINS
from softargmax.report.plots import inline
from softargmax.report.table import certificate, penalty_figure, table_figures
from softargmax.training.findings import Findings
from softargmax.training.table import TableRun, TableSettings
from tests.report.test_browser import CHROMIUM, LOWEST_CONTRAST, TOO_WIDE, opened
from tests.report.test_html import Page
from tests.report.test_runs_browser import OVERLAPPING, SMALL_OR_OUTSIDE

LONG = tuple(f"a_column_of_a_name_that_does_not_fit_anywhere_{j}" for j in range(8))
ODD = (
    "<script>alert(1)</script>", "", "a\nbreak", '$a_1$ & "b"', "שם העמודה הארוכה מאוד", "猫" * 200, "same", "same",
    "mmmmWWWW" * 9, "\u202eright", '" onload="alert(2)', "\x00\ud800 ]]>", "[red]brackets[/red]",
)  # fmt: skip
SIZES = {"two": 2, "three": 3, "ten": 10, "thirty": 30, "long": 2, "odd": 3}


def table_run(
    n_classes: int = 3,
    n_features: int = 8,
    *,
    features: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
) -> TableRun:
    """A run of numbers drawn: class k of many has the more test rows, the smaller it is."""
    names = names or tuple(f"class {k}" for k in range(n_classes))
    features = features or tuple(f"feature {j}" for j in range(n_features))
    k, n, rng = len(names), 60 * len(names), np.random.default_rng(0)
    labels = rng.choice(k, n, p=np.arange(2 * k, k, -1) / np.arange(2 * k, k, -1).sum())
    logits = 3 * (2 * np.eye(k)[labels] + rng.gumbel(size=(n, k)))
    if k == 2:
        logits -= logits[:, :1]
    tried = np.logspace(-4, 4, 10)
    fields: dict[str, Any] = {
        "folder": Path("run"),
        "settings": TableSettings("people.csv", "job"),
        "findings": Findings(
            n_rows=3 * n,
            class_counts=tuple((3 * np.bincount(labels, minlength=k)).tolist()),
            columns=dict.fromkeys(features, "number"),
            missing={features[0]: 17},
            like_ids=(),
            like_dates=(),
            n_duplicates=0,
            n_across=0,
        ),
        "class_names": names,
        "data_sha256": "0" * 64,
        "feature_names": features,
        "coef": rng.normal(size=(1 if k == 2 else k, len(features))),
        "intercept": rng.normal(size=1 if k == 2 else k),
        "scales": rng.uniform(0.2, 5, len(features)),
        "C": float(tried[4]),
        "Cs": tried,
        "nll": 0.5 + 0.02 * (np.arange(10) - 4) ** 2 + 0.03 * rng.normal(size=(5, 1)),
        "objective": 120.0,
        "gap": 3e-5,
        "tol": 1e-6,
        "converged": True,
        "folds_converged": True,
        "n_iter": 14,
        "n_fitted": n,
        "test": Predictions(logits, "logits", labels, names),
        "calibrator": TemperatureScaling().fit(logits, labels),
        "rows": {part: np.arange(n) + i * n for i, part in enumerate(("train", "calibration", "test"))},
    }
    return TableRun(**fields)


def odd_run() -> TableRun:
    """Names nobody wants, and everything that a page may have to say of a table."""
    run = table_run(features=ODD, names=ODD[:3])
    kinds = ("number", "category", "constant", "id", "text", "number", "category")
    found = Findings(
        n_rows=540,
        class_counts=(300, 150, 90),
        columns={name: kinds[j % 7] for j, name in enumerate(ODD)},
        missing={name: 5 + j for j, name in enumerate(ODD)},
        like_ids=(ODD[0], ODD[4]),
        like_dates=(ODD[3],),
        n_duplicates=300,
        n_across=7,
    )
    return dataclasses.replace(run, findings=found, converged=False, folds_converged=False, gap=3.0, Cs=None, nll=None)


@pytest.fixture(scope="module")
def pages(runs: dict[str, TableRun]) -> dict[str, str]:
    return {name: table_page(runs[name]) for name in ("two", "three", "thirty", "odd")}


@pytest.fixture(scope="module")
def runs() -> dict[str, TableRun]:
    known = {"long": table_run(features=LONG, names=LONG[:2]), "odd": odd_run()}
    return {name: known.get(name) or table_run(k, 64) for name, k in SIZES.items()}


# ---- numbers ----


def log_probs(run: TableRun, x: np.ndarray) -> np.ndarray:
    z = run.coef @ x + run.intercept
    z = np.array([0.0, z[0]]) if len(z) == 1 else z
    return z - np.log(np.exp(z).sum())


def added(run: TableRun, j: int) -> np.ndarray:
    """What one deviation more of feature j adds to log-probabilities, against their mean over the classes, (K,)."""
    x = np.random.default_rng(1).normal(size=len(run.feature_names))
    more = x + run.scales * (np.arange(len(x)) == j)
    change = log_probs(run, more) - log_probs(run, x)
    return change - change.mean()


def agree(run: TableRun, rows: tuple[Pushes, ...]) -> None:
    for k, pushes in enumerate(rows):
        for name, value in zip(pushes.features, pushes.values, strict=True):
            change = added(run, run.feature_names.index(name))
            expected = change[1] - change[0] if len(change) == 2 else change[k]
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_a_push_is_what_one_deviation_adds(k: int) -> None:
    run = table_run(k)
    rows = coefficient_rows(run)
    assert [each.towards for each in rows] == (["class 1"] if k == 2 else list(run.class_names))
    assert [each.away for each in rows] == (["class 0"] if k == 2 else [None] * k)
    agree(run, rows)


def test_the_law_rejects_coefficients_that_forget_the_deviation_or_the_other_classes() -> None:
    run = table_run()
    unscaled = dataclasses.replace(run, scales=np.ones(8))
    shifted = [dataclasses.replace(each, values=each.values + 0.1) for each in coefficient_rows(run)]
    for wrong in (coefficient_rows(unscaled), tuple(shifted)):
        with pytest.raises(AssertionError):
            agree(run, wrong)


def test_what_is_added_to_all_classes_pushes_none() -> None:
    run = table_run()
    same = dataclasses.replace(run, coef=run.coef + np.arange(8.0))
    for one, other in zip(coefficient_rows(run), coefficient_rows(same), strict=True):
        assert one.features == other.features
        np.testing.assert_allclose(one.values, other.values, atol=1e-12)


@pytest.mark.parametrize(("k", "most"), [(2, 10), (3, 6), (4, 5), (5, 4), (10, 3), (30, 3)])
def test_the_strongest_of_each_side_are_there_and_no_others(k: int, most: int) -> None:
    run = table_run(k, 40)
    coef = run.coef if k == 2 else run.coef - run.coef.mean(axis=0)
    for pushes in coefficient_rows(run):
        row = 0 if k == 2 else run.class_names.index(pushes.towards)
        every = sorted(((c * s, n) for c, s, n in zip(coef[row], run.scales, run.feature_names, strict=True)))
        assert pushes.features == tuple(n for _, n in every[: -most - 1 : -1] + every[most - 1 :: -1])
        assert (np.diff(pushes.values) <= 0).all()


def test_features_that_push_nothing_are_left_out() -> None:
    run = table_run(2, 5)
    coef, scales = np.array([[1.0, 0.0, -2.0, 3.0, 0.0]]), np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    (pushes,) = coefficient_rows(dataclasses.replace(run, coef=coef, scales=scales))
    assert pushes.features == ("feature 0", "feature 2")
    silent = dataclasses.replace(run, coef=0 * coef)
    assert coefficient_rows(silent)[0].features == ()
    assert "no feature does" in words_of(coefficients_figure(silent))
    assert "Features that push towards class 1: none; towards class 0: none." in table_page(silent)


def test_of_many_classes_those_with_most_test_rows() -> None:
    run = table_run(30)
    labels = np.concatenate([np.repeat(np.arange(11), 5), np.repeat(np.arange(11, 30), 9), [3, 3, 3, 3, 3]])
    run = dataclasses.replace(run, test=dataclasses.replace(run.test, labels=labels))
    shown = [3, *range(11, 20)]  # 3 has most, of equals the first
    assert [each.towards for each in coefficient_rows(run)] == [f"class {k}" for k in shown]
    assert coefficients.left_out(run) == "The 10 classes with most test rows; 20 not shown."
    assert coefficients.left_out(table_run(10)) == ""


# ---- the table of the terminal ----


def printed(run: TableRun, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(coefficient_table(run))
    return console.file.getvalue()


@pytest.mark.parametrize("name", SIZES)
def test_the_table_reads_in_eighty_columns(runs: dict[str, TableRun], name: str) -> None:
    text, rows = printed(runs[name]), coefficient_rows(runs[name])
    flat = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"[+−]\d", text)) == sum(len(each.values) for each in rows)
    assert "Features that go together share their push" in flat
    assert "one standard deviation more of the feature" in flat
    assert ("20 not shown" in flat) == (name == "thirty")


def test_the_table_has_both_sides_the_strongest_first() -> None:
    run = table_run(2, 4, names=("benign", "malignant"))
    text = printed(dataclasses.replace(run, coef=np.array([[0.5, -3.0, 2.0, -0.25]]), scales=np.ones(4)))
    head, _, *lines = text.splitlines()
    assert head.split() == ["towards", "malignant", "towards", "benign"]
    assert lines[0].split() == ["+2.00", "feature", "2", "−3.00", "feature", "1"]
    assert lines[1].split() == ["+0.50", "feature", "0", "−0.25", "feature", "3"]


def test_names_in_the_table_are_no_markup(runs: dict[str, TableRun]) -> None:
    assert "[red]x[/red]" in printed(table_run(features=("[red]x[/red]", "y"), names=("[b]", "[i]")))
    assert "towards [i]" in printed(table_run(names=("[b]", "[i]")))
    text = printed(runs["odd"])
    assert "(no name)" in text
    assert re.search(r"\d+ same\b", text)


# ---- figures ----


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def boxes_of(figure: Figure) -> list[tuple[str, Any]]:
    """Every text with its place in inches."""
    figure.draw_without_rendering()  # a legend finds its place
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    to_inches = figure.dpi_scale_trans.inverted()
    return [(t.get_text(), t.get_window_extent(renderer).transformed(to_inches)) for t in texts]


def check_room(figure: Figure) -> None:
    """No text leaves the figure or lies on another."""
    boxes = boxes_of(figure)
    width, height = figure.get_size_inches()
    for i, (said, box) in enumerate(boxes):
        assert box.x0 >= 0 <= box.y0, said
        assert box.x1 <= width, said
        assert box.y1 <= height, said
        for other, its in boxes[i + 1 :]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            down = min(box.y1, its.y1) - max(box.y0, its.y0)
            assert across <= 0 or down <= 0.03, (said, other)


@pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")
@pytest.mark.parametrize("name", SIZES)
def test_nothing_overlaps_or_is_cut_off(runs: dict[str, TableRun], name: str) -> None:
    rows = coefficient_rows(runs[name])
    check_room(coefficients_figure(runs[name]))
    for pushes in rows:
        check_room(panel_figure(pushes, rows))
    for scale in (1e-9, 1e-3, 1e3):  # numbers of other lengths
        check_room(coefficients_figure(dataclasses.replace(runs[name], coef=scale * runs[name].coef)))


def test_the_check_of_room_rejects_names_that_are_not_cut(
    runs: dict[str, TableRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coefficients, "_fitting", lambda name, width, measure: name)
    with pytest.raises(AssertionError, match="a_column_of_a_name"):
        check_room(coefficients_figure(runs["long"]))


@pytest.mark.parametrize("name", ["two", "three", "ten", "thirty"])
def test_bars_are_the_pushes_on_one_scale(runs: dict[str, TableRun], name: str) -> None:
    rows, figure = coefficient_rows(runs[name]), coefficients_figure(runs[name])
    assert len(figure.axes) == len(rows)
    sizes = {tuple(np.round(axes.get_position().width * figure.get_size_inches(), 9)[:1]) for axes in figure.axes}
    assert len({axes.get_xlim() for axes in figure.axes}) == len(sizes) == 1
    for axes, pushes in zip(figure.axes, rows, strict=True):
        assert [bar.get_width() for bar in axes.patches] == pushes.values.tolist()
        colors = [LIGHT["after"] if value > 0 else LIGHT["before"] for value in pushes.values]
        assert [bar.get_facecolor() for bar in axes.patches] == [rgba(color) for color in colors]
        said = [text.get_text() for text in axes.texts]
        assert set(pushes.features) <= set(said)
        tip, foot = axes.texts[0], axes.texts[1]  # the number at the end of the bar, the name opposite
        assert (tip.xy, foot.xy) == ((pushes.values[0], 0), (0, 0))
        assert (tip.get_ha(), foot.get_ha()) == ("left", "right")
    assert ("The 10 classes with most test rows; 20 not shown." in words_of(figure)[-1]) == (name == "thirty")


def rgba(color: str) -> tuple[float, ...]:
    return (*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)


@pytest.mark.parametrize(
    ("peak", "said"),
    [(2.875, "+2.88"), (28.76, "+28.8"), (2875.0, "+2875"), (0.02875, "+0.0288"), (3e-9, "+3.00e−09"), (1.0, "+1.00")],
)
def test_numbers_have_three_digits_of_the_largest(peak: float, said: str) -> None:
    run = dataclasses.replace(table_run(2, 2), coef=np.array([[peak, -peak / 100]]), scales=np.ones(2))
    assert said in words_of(coefficients_figure(run))


def test_the_curve_of_C_is_the_folds_their_mean_and_the_choice() -> None:
    run = table_run()
    figure = penalty_figure(run)
    assert figure is not None
    assert run.nll is not None
    *folds, mean, chosen = figure.axes[0].lines
    np.testing.assert_array_equal([line.get_ydata() for line in folds], run.nll)
    np.testing.assert_allclose(mean.get_ydata(), run.nll.mean(axis=0))
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (run.C, run.nll.mean(axis=0)[4])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "chosen: C = 0.359",
        "mean of 5 folds",
        "each fold",
    ]
    assert penalty_figure(dataclasses.replace(run, Cs=None, nll=None)) is None


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_figures_are_drawn_in_both_themes(runs: dict[str, TableRun], colors: dict[str, str]) -> None:
    for run in (runs["two"], runs["three"]):
        for name, figure in table_figures(run, colors=colors).items():
            words = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
            words += [text for legend in figure.legends for text in legend.get_texts()]
            found = {to_hex(text.get_color()) for text in words if text.get_text()}
            assert {colors["ink"]} <= found <= {colors["ink"], colors["quiet"]}, name


def test_names_in_a_figure_are_words_not_mathematics_nor_markup(runs: dict[str, TableRun]) -> None:
    figure = coefficients_figure(runs["odd"], colors=STANDINS)
    text = inline(figure, "coefficients", 'said "aloud" <b>')
    root = ElementTree.fromstring(text)
    written = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert {'$a_1$ & "b"', "(no name)", "a break"} <= set(written)
    assert not any(standin in text for standin in STANDINS.values())
    assert all(each.startswith("coefficients-") for each in re.findall(r' id="([^"]+)"', text))


def test_a_kind_that_is_none_is_told_before_figures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "table_figures", lambda run: pytest.fail("drawn"))
    with pytest.raises(ValueError, match="png or svg; got 'pdf'"):
        save_table_figures(table_run(), tmp_path, kind="pdf")


def test_saved_figures_stand_alone_are_whole_and_the_same_again(runs: dict[str, TableRun], tmp_path: Path) -> None:
    stems = ["coefficients", "penalty", "reliability", "confusion"]
    for name in ("two", "odd"):
        files = save_table_figures(runs[name], tmp_path / name)
        assert [file.name for file in files] == [f"{s}.png" for s in stems if (name, s) != ("odd", "penalty")]
        for file in files:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L"))
            assert pixels.min() < 100
            for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
                assert edge.min() == 255, file  # nothing is cut off
    again = save_table_figures(runs["three"], tmp_path / "again", kind="svg")
    for file, same in zip(save_table_figures(runs["three"], tmp_path / "svg", kind="svg"), again, strict=True):
        text = file.read_text()
        assert text == same.read_text()
        ElementTree.fromstring(text)
        assert "var(--" not in text
        assert not any(standin in text for standin in STANDINS.values())
    with pytest.raises(ValueError, match="png or svg; got 'pdf'"):
        save_table_figures(runs["three"], tmp_path / "pdf", kind="pdf")
    assert not (tmp_path / "pdf").exists()


# ---- the story ----


@pytest.mark.parametrize("k", [2, 3])
def test_the_story_is_of_the_test_part_before_and_after(k: int) -> None:
    run = table_run(k)
    story, t = table_story(run), run.calibrator.temperature_
    assert story.before.nll == evaluate(run.test.labels, logits=run.test.scores).nll
    assert story.after is not None
    assert story.after.nll == pytest.approx(evaluate(run.test.labels, logits=run.test.scores / t).nll, rel=1e-12)
    assert (story.temperature, story.temperature_interval) == (t, run.calibrator.interval())
    assert (story.n_fitted, story.held_out, story.class_names) == (60 * k, True, run.class_names)
    assert (story.source, story.notes) == ("softmax regression on people.csv", ())


def test_what_should_make_a_reader_careful_is_noted() -> None:
    notes = table_story(odd_run()).notes
    assert len(notes) == 5
    assert notes[0].startswith("The fit did not converge in 14 iterations: its objective may be above the smallest")
    assert "by 0.025 of itself, where 1e−06 was asked for. Train again with a smaller --C" in notes[0]
    assert notes[1].startswith("Some of the fits that C was chosen by did not converge")
    assert notes[2].startswith("7 rows of the calibration and test parts have the same features")
    assert notes[3].startswith("Columns that seem to number the rows: <script>alert(1)</script>, שם העמודה")
    assert notes[4].startswith('Columns that look like dates: $a_1$ & "b". A date is no number here')
    unknown = dataclasses.replace(table_run(), converged=False, gap=np.inf)
    assert "nothing is proven of how far its objective is above" in table_story(unknown).notes[0]


@pytest.mark.parametrize(
    ("objective", "gap", "said"),
    [
        (120.0, 3e-5, "smaller by more than 1 part in 4,000,000."),
        (3.0, 0.02, "smaller by more than 1 part in 150."),
        (3.0, 0.3, "smaller by more than 10.00%."),
        (5.0, 0.0, "have a smaller objective, to rounding."),
        (5.0, -1e-17, "have a smaller objective, to rounding."),
        (5.0, 5.0, "The bound says nothing"),
        (5.0, np.nan, "The bound says nothing"),
        (5.0, np.inf, "The bound says nothing"),
        (0.0, 0.0, "The bound says nothing"),
    ],
)
def test_the_certificate_in_words(objective: float, gap: float, said: str) -> None:
    assert said in certificate(dataclasses.replace(table_run(), objective=objective, gap=gap))


# ---- the page ----


@pytest.mark.parametrize(("name", "panels"), [("two", 1), ("three", 3), ("thirty", 10), ("odd", 3)])
def test_the_page_is_whole_and_semantic(
    runs: dict[str, TableRun], pages: dict[str, str], name: str, panels: int
) -> None:
    text = pages[name]
    parsed = Page(text)
    names = [tag for tag, _ in parsed.tags]
    assert text.startswith("<!DOCTYPE html>\n")
    assert ("h1", headline(table_story(runs[name]))) in parsed.texts
    assert names.count("h1") == names.count("main") == 1
    assert names.count("section") == names.count("h2") == 8
    assert (
        names.count("svg") == panels + (runs[name].Cs is not None) + 5
    )  # two of calibration, confusion, two of classes
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in parsed.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', re.sub("&quot;.*?&quot;", "", text))) == set(ids)
    boxes = [attrs["aria-label"] for _, attrs in parsed.tags if attrs.get("role") == "region"]
    assert len(set(boxes)) == len(boxes)


def test_the_page_asks_nothing_of_the_network_and_is_the_same_again(
    runs: dict[str, TableRun], pages: dict[str, str]
) -> None:
    text = pages["three"]
    assert "://" not in text
    assert not re.search(r"<script|<link|<iframe|<img|@import", text)
    assert text == table_page(runs["three"])


def test_every_number_of_the_story_is_on_the_page(runs: dict[str, TableRun], pages: dict[str, str]) -> None:
    cells = Page(pages["three"]).cells()
    for row in metric_rows(table_story(runs["three"])):
        assert row.name in cells
        assert {estimate.text for estimate in row.estimates} <= set(cells)


def told(text: str) -> str:
    """All words of a page in one line."""
    parsed = Page(text)
    return " ".join(" ".join(said.split()) for tag, said in parsed.texts if tag != "style")


def test_what_was_found_is_told() -> None:
    run = table_run()
    counts = run.findings.class_counts
    columns = {"age": "number", "size": "number", "town": "category", "told": "text", "same": "constant", "key": "id"}
    found = dataclasses.replace(run.findings, columns=columns, missing={"age": 27, "town": 54}, n_duplicates=4)
    said = told(table_page(dataclasses.replace(run, findings=found)))
    assert "people.csv has 540 rows: 180 to fit the model, 180 for the calibration, 180 for the test." in said
    assert "Columns used: 2 of numbers, 1 of categories, 1 of text; they make 8 features." in said
    assert "Left out, because all rows have the same value: same ." in said
    assert "Left out, because hardly a value comes twice: key ." in said
    assert "with a row before: 4; such rows are kept in the same part. Intervals and p count each as" in said
    assert "town 54 10.00% age 27 5.00%" in said  # the most first
    for k, rows in enumerate(counts):
        assert f"class {k} {rows:,} {100 * rows / 540:.2f}% {rows // 3}" in said
    most = int(np.argmax(counts))
    assert f"Always saying “ class {most} ” is right for {100 * counts[most] / 540:.2f}% of the test rows" in said
    assert f"this model for {100 * table_story(run).last.accuracy:.2f}%." in said
    numbered = dataclasses.replace(run, findings=dataclasses.replace(found, like_ids=("age", "size"), n_across=2))
    said = told(table_page(numbered))
    assert "Rows that agree in all features, apart from age , size , with a row before: 4;" in said
    assert "have the same features, apart from age, size, as a row the model was fitted to" in said
    bare = told(table_page(dataclasses.replace(run, findings=dataclasses.replace(found, missing={}, n_duplicates=0))))
    assert "No two rows agree in all features." in bare
    assert "Cells without a value There are none." in bare


def test_rows_on_both_sides_of_the_split_are_told(pages: dict[str, str]) -> None:
    said = told(pages["odd"])
    assert "a row before: 300; rows of the calibration and test parts that agree with a training row: 7." in said
    assert "Intervals and p count each as a row of its own, and are surer than they should be." in said


def test_long_findings_are_cut_and_say_so(runs: dict[str, TableRun]) -> None:
    run = runs["thirty"]
    columns = {f"column {j}": "constant" for j in range(25)}
    found = dataclasses.replace(run.findings, columns=columns, missing={name: 1 for name in columns})
    said = told(table_page(dataclasses.replace(run, findings=found)))
    assert "column 9 and 15 more." in said
    assert "The 20 most frequent of 30." in said
    assert "The 20 most frequent of 25." in said
    assert "The 10 classes with most test rows; 20 not shown." in said


def test_the_fit_is_told() -> None:
    run = table_run()
    assert run.Cs is not None
    said = told(table_page(run))
    assert "Of 10 values, C = 0.359 has the smallest mean surprise" in said
    assert "in 5 folds; of equals the stronger penalty is taken." in said
    assert (
        "No other weights of this model, at this C, have an objective smaller by more than 1 part in 4,000,000." in said
    )
    assert "the objective is 120, and the smallest possible one is at most 3e−05 below it." in said
    assert "Asked for was 1e−06 of the objective; it took 14 iterations." in said
    assert "better still" not in said
    smallest = told(table_page(dataclasses.replace(run, C=float(run.Cs[0]))))
    assert "It is the smallest tried: a smaller one may be better still." in smallest
    given = told(
        table_page(dataclasses.replace(run, Cs=None, nll=None, settings=TableSettings("p.csv", "job", C=0.359)))
    )
    assert "C = 0.359 It was given, not chosen." in given
    assert "smallest mean surprise" not in given


def test_no_cause_is_claimed(pages: dict[str, str]) -> None:
    for name in ("two", "three"):
        said = told(pages[name])
        assert "This is what the model does with a feature, not what the feature causes." in said
        assert "Features that go together share their push" in said
        assert not re.search(r"\b(because of|leads to|due to|effect of|drives|importan)", said)


def test_what_the_data_say_is_text(pages: dict[str, str]) -> None:
    text = pages["odd"]
    parsed = Page(text)
    tags = [tag for tag, _ in parsed.tags]
    assert text.encode("utf-8")
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    names = [
        said for tag, said in parsed.texts if tag == "bdi"
    ]  # a name that is written to the left turns no other word
    for name in ("<script>alert(1)</script>", "(no name)", "a break", "שם העמודה הארוכה מאוד", '" onload="alert(2)'):
        assert name in names
    assert max(map(len, names)) == 80
    assert not re.search("[\x00\u202e]", text)


def test_no_line_ends_within_a_number() -> None:
    settings = TableSettings("people.csv", "job", C=1e-10)
    run = dataclasses.replace(table_run(), objective=1.2e-7, gap=3e-12, C=1e-10, Cs=None, nll=None, settings=settings)
    said = told(table_page(run))
    assert "1.2e−07" in said
    assert "3e−12" in said
    assert "1e−10" in said
    assert not re.search(r"\de-\d", said)


# ---- the command ----


def test_a_run_of_a_table_has_a_report_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from softargmax.cli import main
    from softargmax.training.table import train_table

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    lines = [f"{a + 2 * k:.3f},{b:.3f},{'yes' if k else 'no'}" for (a, b), k in zip(x, y.tolist(), strict=True)]
    Path("new.csv").write_text("\n".join(["width,depth,sold", *lines]) + "\n")
    run = train_table("run", TableSettings("new.csv", "sold", C=1.0))
    assert main(["report", "run", "-o", "r.html"]) == 0
    assert capsys.readouterr().out.startswith("wrote r.html; open it in a browser: file:///")
    text = Path("r.html").read_text("utf-8")
    assert text == table_page(run)
    assert "Features that push towards yes: width (" in text
    for words, said in (
        (["--beside", "run"], "--beside compares two runs on images; run is a run on a table: leave out --beside"),
        (["--method", "TemperatureScaling"], "run is a run, which has its own calibrator: leave out --method"),
    ):
        assert main(["report", "run", "-o", "other.html", *words]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("other.html").exists()


def test_the_command_rejects_a_table_that_is_read_as_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from softargmax.cli import main

    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run", "run.json").write_text('{"format": "softargmax run", "version": 1, "kind": "table"}')
    assert main(["report", "run", "-o", "r.html"]) == 2
    said = capsys.readouterr().err
    assert "has no status" in said
    assert "epoch" not in said


# ---- in a browser ----


@pytest.mark.minutes
@pytest.mark.parametrize("name", SIZES)
def test_the_page_fits_is_readable_and_keeps_to_itself(runs: dict[str, TableRun], name: str, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file = tmp_path / "table.html"
    file.write_text(table_page(runs[name]), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (360, 1280):
            for scheme in ("light", "dark"):
                tab, events = opened(browser, file, width, scheme)
                assert events == [f"request: {file.as_uri()}"]
                assert tab.evaluate("document.documentElement.scrollWidth") == width
                assert tab.evaluate(TOO_WIDE) == []
                assert tab.evaluate(LOWEST_CONTRAST)[0][0] >= 4.5
                assert tab.evaluate(SMALL_OR_OUTSIDE) == []
                assert tab.evaluate(OVERLAPPING) == []
                tab.context.close()
        browser.close()
