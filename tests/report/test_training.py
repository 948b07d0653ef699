from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from softargmax import TemperatureScaling
from softargmax.data import Predictions
from softargmax.report import answers_figure, save_run_figures
from softargmax.report.palette import DARK, LIGHT, STANDINS
from softargmax.report.plots import inline
from softargmax.report.training import (
    curves_figure,
    filters_figure,
    maps_figure,
    mistakes_figure,
    run_figures,
    run_names,
    save_prediction,
    shown_pictures,
    sure_mistakes,
)
from softargmax.training import Epoch, Examples, Inputs, Run, Settings

ODD = ("$a_1$ & <b>", '" onload="x', "]]> cat</script>")


def make_run(folder: Path, *, seed: int = 0, pooling: str | None = "max", names: tuple[str, ...] = ODD) -> Run:
    """A run of numbers drawn: logits that claim too much, images that are noise."""
    rng = np.random.default_rng(seed)
    k = len(names)
    labels = np.random.default_rng(7).integers(0, k, 300)
    logits = 3 * (2 * np.eye(k)[labels] + rng.gumbel(size=(300, k)))
    calibrator = TemperatureScaling().fit(logits[150:], labels[150:])
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    sure = wrong[np.argsort(-calibrator.predict_proba(logits)[wrong].max(axis=1), kind="stable")][:12]
    rows = np.array([*(int(np.argmax(labels == c)) for c in np.unique(labels)), *sure])
    examples = Examples(
        rows=rows,
        images=rng.integers(0, 256, (len(rows), 8, 8)).astype(np.uint8),
        filters=rng.normal(size=(10, 3, 3)),
        first=np.maximum(rng.normal(size=(10, 4, 4)), 0),
        second=np.maximum(rng.normal(size=(17, 2, 2)), 0),
    )
    return Run(
        folder=folder,
        status="complete",
        settings=Settings("a <set>", pooling=pooling, epochs=3),
        inputs=Inputs((8, 8), 0.0, 1.0, 0.0),
        class_names=names,
        data_sha256="0" * 64,
        n_parameters=1234,
        n_calibration=150,
        history=tuple(Epoch(1 / e, 0.9 / e + seed, 0.5 + 0.1 * e, 0.8 / e, 1.5, 2.0) for e in (1, 2, 3)),
        test=Predictions(logits, "logits", labels, names),
        calibrator=calibrator,
        examples=examples,
    )


def without_convolutions(run: Run) -> Run:
    examples = dataclasses.replace(run.examples, filters=None, first=None, second=None)
    return dataclasses.replace(run, examples=examples, settings=Settings("a <set>", model="mlp", pooling=None))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Run:
    return make_run(tmp_path, seed=1, pooling=None)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]


def test_two_runs_of_one_network_are_told_apart_by_number(run: Run, other: Run) -> None:
    assert run_names([run, other]) == ("cnn with max pooling", "cnn without pooling")
    assert run_names([run, run]) == ("cnn with max pooling (1)", "cnn with max pooling (2)")


@pytest.mark.parametrize("n", [0, 3])
def test_other_numbers_of_runs_are_refused(run: Run, n: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"one, or two to compare; got {n}"):
        save_run_figures([run] * n, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_curves_are_the_numbers_of_the_epochs(run: Run, other: Run) -> None:
    figure = curves_figure([run, other])
    assert figure is not None
    losses, accuracy = figure.axes
    drawn = [line.get_ydata().tolist() for line in losses.lines]
    expected = [
        [getattr(epoch, field) for epoch in each.history]
        for each in (run, other)
        for field in ("train_nll", "nll", "calibrated_nll")
    ]
    assert drawn == expected
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[0.6, 0.7, 0.8]] * 2
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in (*losses.lines, *accuracy.lines))
    assert losses.get_xlim() == accuracy.get_xlim()
    # apart without colour: marks by quantity, lines by run
    assert len({line.get_marker() for line in losses.lines[:3]}) == 3
    assert losses.lines[0].get_linestyle() != losses.lines[3].get_linestyle()


def test_a_run_without_an_epoch_has_no_curves(run: Run, other: Run) -> None:
    stopped = dataclasses.replace(run, history=(), status="interrupted")
    assert curves_figure([stopped]) is None
    figure = curves_figure([stopped, other])
    assert figure is not None
    assert len(figure.axes[0].lines) == 6


def test_filters_are_tiles_on_one_scale_centred_at_zero(run: Run) -> None:
    filters = np.zeros((10, 3, 3))
    filters[0, 0, 0], filters[9, 2, 2] = 2.0, -1.0
    figure = filters_figure(dataclasses.replace(run, examples=dataclasses.replace(run.examples, filters=filters)))
    assert figure is not None
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn.shape == (2 * 13 - 1, 8 * 13 - 1, 4)  # 8 in a row, each weight 4 x 4, one between tiles
    most, half, none = drawn[0, 0], drawn[13 + 11, 13 + 11], drawn[0, 4]
    assert (most[3], half[3], none[3]) == (255, 255, 255)
    assert np.ptp(none[:3].astype(int)) < 5  # 0 has no hue
    assert none[:3].min() > 240
    assert most[2] > most[1] < most[0]  # violet above 0
    assert half[0] > half[1] > half[2]  # orange below
    assert (drawn[12, :, 3] == 0).all()  # nothing between the rows
    assert (drawn[13:, 2 * 13 :, 3] == 0).all()  # nor where there is no filter
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["−2", "0", "2"]


def test_maps_stand_beside_the_image_they_are_of(run: Run) -> None:
    figure = maps_figure(run)
    assert figure is not None
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), run.examples.images[0])
    said = texts(figure)
    assert "first convolution: 10 maps, 4 × 4" in said
    assert "second convolution: 17 maps, 2 × 2" in said


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_dead_maps_are_drawn(run: Run, value: float) -> None:
    dead = dataclasses.replace(run.examples, first=np.full((3, 4, 4), value), filters=np.full((3, 3, 3), value))
    found = run_figures([dataclasses.replace(run, examples=dead)])
    assert {"filters", "maps"} <= set(found)


def test_a_network_without_convolutions_has_no_such_figures(run: Run) -> None:
    assert list(run_figures([without_convolutions(run)])) == ["curves", "answers", "mistakes"]


def test_shown_are_one_of_each_class_then_mistakes(run: Run) -> None:
    shown = shown_pictures(run)
    assert len(shown.rows) == 12
    assert shown.labels[:3].tolist() == [0, 1, 2]
    assert (shown.called[3:] != shown.labels[3:]).all()
    z = shown.logits / run.calibrator.temperature_
    np.testing.assert_allclose(shown.probs, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), rtol=1e-12)


def test_mistakes_are_the_surest_of_the_whole_test_part(run: Run) -> None:
    found = sure_mistakes(run)
    z = run.test.scores / run.calibrator.temperature_
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    wrong = [row for row in range(300) if p[row].argmax() != run.test.labels[row]]
    assert found.rows.tolist() == sorted(wrong, key=lambda row: -p[row].max())[:12]
    figure = mistakes_figure(run)
    assert figure is not None
    assert len(figure.axes) == 12
    first = [text.get_text() for text in figure.axes[0].texts]
    assert first[0].startswith("✗ ")
    assert first[0].endswith("% sure")
    assert first[1].startswith("says ")
    assert first[2].startswith("is ")


def test_without_mistakes_there_is_no_such_figure(run: Run) -> None:
    right = Predictions(9 * np.eye(3)[run.test.labels], "logits", run.test.labels, ODD)
    assert mistakes_figure(dataclasses.replace(run, test=right)) is None


def test_answers_mark_the_truth_and_say_right_or_wrong() -> None:
    probs = np.array([[0.004, 0.996, 0.0, 0.0, 0.0, 0.0], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    figure = answers_figure(np.zeros((2, 4, 4), np.uint8), probs, tuple("abcdef"), np.array([1, 5]))
    said = texts(figure)
    assert "✓ right: b" in said
    assert "✗ wrong: says a, is f" in said
    first, second = figure.axes[1], figure.axes[3]
    assert [t.get_text() for t in first.get_yticklabels()] == ["▸ b", "a", "c", "d", "e"]
    assert [t.get_text() for t in first.texts] == [">99%", "<1%", "0%", "0%", "0%"]
    assert [t.get_text() for t in second.texts] == ["50%", "10%", "10%", "10%", "10%"]
    assert [bar.get_width() for bar in first.patches[5:]] == [0.996, 0.004, 0, 0, 0]


def test_answers_without_labels_claim_nothing_of_them() -> None:
    figure = answers_figure(np.zeros((1, 4, 4), np.uint8), np.array([[0.3, 0.7]]), ("a", "b"))
    assert not any(sign in text for text in texts(figure) for sign in "✓✗▸")


def test_answers_want_one_row_a_picture() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\), \(1, 2\) and none"):
        answers_figure(np.zeros((2, 4, 4), np.uint8), np.array([[0.3, 0.7]]), ("a", "b"))


def test_one_prediction_is_a_file(tmp_path: Path) -> None:
    save_prediction(tmp_path / "p.png", np.zeros((4, 4), np.uint8), np.array([0.3, 0.7]), ("a", "b"), title="$x$.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] == 860


def test_class_names_that_would_be_cut_alike_are_numbered() -> None:
    names = ("a name that is long, the first", "a name that was long, the first")
    figure = answers_figure(np.zeros((1, 4, 4), np.uint8), np.array([[0.3, 0.7]]), names)
    said = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert [text[0] for text in said] == ["1", "0"]
    assert max(map(len, said)) <= 13


def test_saved_figures_stand_alone_are_whole_and_the_same_again(run: Run, other: Run, tmp_path: Path) -> None:
    files = save_run_figures([run, other], tmp_path / "new" / "a")
    names = ["filters", "maps", "answers", "mistakes"]
    assert [file.name for file in files] == [f"{n}.png" for n in ["curves", *names, *(f"{n}-2" for n in names)]]
    again = save_run_figures([run, other], tmp_path / "b")
    for file, same in zip(files, again, strict=True):
        assert file.read_bytes() == same.read_bytes()
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.min() < 100
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 255, file.name  # nothing is cut off
    for file in save_run_figures([run], tmp_path / "c", kind="svg"):
        text = file.read_text()
        ElementTree.fromstring(text)
        assert "var(--" not in text
        assert not any(standin in text for standin in STANDINS.values())
    with pytest.raises(ValueError, match="png or svg; got 'pdf'"):
        save_run_figures([run], tmp_path / "d", kind="pdf")


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_figures_are_drawn_in_both_themes(run: Run, colors: dict[str, str]) -> None:
    for name, figure in run_figures([run], colors=colors).items():
        words = [text for axes in figure.axes for text in axes.texts]
        words += [text for axes in figure.axes if axes.axison for text in (*axes.get_xticklabels(), axes.yaxis.label)]
        assert {text.get_color() for text in words if text.get_text()} == {colors["ink"]}, name


def test_inline_figures_take_their_colours_from_the_page(run: Run) -> None:
    for name, figure in run_figures([run], colors=STANDINS).items():
        text = inline(figure, name, 'said "aloud" <b>')
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == 'said "aloud" <b>'
        assert "var(--ink)" in text
        assert not any(standin in text for standin in STANDINS.values())
        ids = re.findall(r' id="([^"]+)"', text)
        assert all(each.startswith(f"{name}-") for each in ids)
        assert set(re.findall(r'(?:url\(|[^:]href=")#([^)"]+)', text)) == set(ids)
    written = [node.text for node in ElementTree.fromstring(text).iter() if node.tag.endswith("text")]
    assert any("$a_1$ & <b>" in (words or "") for words in written)
