from types import SimpleNamespace

import numpy as np
import pytest

import softargmax as sa
from softargmax.report import Fit, Story
from softargmax.report import page as html


def test_one_half_is_fitted_and_the_other_measured(run, preds, tmp_path):
    ran = run("report", preds, "-o", "r.html")
    assert (ran.code, ran.err) == (0, "")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "200 rows" in page
    assert ran.out.startswith("wrote r.html; open it in a browser: file:///")
    assert "after calibration" in ran.out


def test_a_calibrator_is_measured_on_every_row(run, preds, tmp_path, overconfident):
    logits, labels = overconfident
    sa.TemperatureScaling().fit(logits, labels).save("cal.json")
    assert run("report", preds, "--calibrator", "cal.json", "-o", "r.html").code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "400 rows" in page
    assert "frog" in page


def test_same_predictions_same_page(run, preds, tmp_path):
    run("report", preds, "-o", "a.html")
    run("report", preds, "-o", "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("n", "labels", "note"),
    [(19, [0, 1], "19 rows are too few"), (1, [0], "1 row are too few"), (40, [1], "on one half of the rows, ")],
)
def test_what_cannot_be_calibrated_is_shown_as_it_is_and_why(run, tmp_path, n, labels, note):
    logits = np.random.default_rng(0).normal(size=(n, 3))
    np.savez(tmp_path / "p.npz", logits=logits, labels=np.resize(labels, n))
    ran = run("report", "p.npz", "-o", "r.html")
    assert ran.code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"Not calibrated, measured as they came: {note}" in page
    assert "after calibration" not in ran.out
    assert f"Note: Not calibrated, measured as they came: {note}" in ran.out


def test_warnings_are_on_the_page_too(run, tmp_path, overconfident):
    logits, labels = overconfident
    np.savez(tmp_path / "p.npz", logits=sa.softmax(logits), labels=labels)
    ran = run("report", "p.npz", "-o", "r.html")
    assert "look like probabilities" not in ran.out  # once on the terminal: it is a line on stderr
    assert (tmp_path / "r.html").read_text("utf-8").count("the logits look like probabilities") == 1


def test_a_calibrator_of_another_model(run, tmp_path, preds):
    np.savez(tmp_path / "four.npz", logits=np.zeros((3, 4)), labels=np.array([0, 1, 2]))
    run("calibrate", preds, "-o", "cal.json", "--method", "TemperatureScaling")
    ran = run("report", "four.npz", "--calibrator", "cal.json", "-o", "r.html")
    assert (ran.code, ran.out) == (2, "")
    assert "cal.json calibrates 3 classes, four.npz has 4" in ran.err
    ran = run("report", preds, "--calibrator", "cal.json", "-o", "cal.json")
    assert ran.code == 2
    assert "-o cal.json is the file that is read" in ran.err


def test_what_was_fitted_is_shown(run, preds, tmp_path, overconfident):
    logits, labels = overconfident
    run("report", preds, "-o", "r.html", "--method", "TemperatureScaling")
    page = (tmp_path / "r.html").read_text("utf-8")
    order = np.random.default_rng(0).permutation(400)
    fitted = sa.TemperatureScaling().fit(logits[order[:200]], labels[order[:200]])
    low, high = fitted.interval()
    assert "<h2>What was fitted, and how sure it is</h2>" in page
    assert "TemperatureScaling, on 200 rows." in page
    assert f"T = {fitted.temperature_:.3f} ({low:.2f} to {high:.2f}): the model was over-confident" in page
    assert f"{fitted.nll_before_:.4f} before, {fitted.nll_after_:.4f} after" in page
    assert "The first choice of every row stays" in page


def test_a_scale_inside_another_method_is_no_temperature(run, preds, tmp_path):
    run("report", preds, "-o", "r.html", "--method", "VectorScaling")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<dt>Temperature</dt>" not in page
    assert "scores are divided by it" not in page
    assert "The first choice of a row may change" in page


def test_what_is_mixed_stands_in_a_table_the_largest_first():
    mixture = SimpleNamespace(  # what the page asks of a calibrator that mixes others
        classes_=np.arange(3), absent_classes_=np.array([1]), nll_before_=0.9, nll_after_=0.5, preserves_argmax=False,
        weights_={"<raw>": 0.25, "temperature": 0.75}, summary_="Little differs & much helps.", at_bound_=True,
        held_out_nll_={"matrix": 0.61, "<raw>": 0.9, "temperature": 0.62, "mixture": 0.6},
    )  # fmt: skip
    fit = Fit.of(mixture, ("cat", "d<o>g", "frog"))
    assert fit.parts == (("temperature", 0.75, 0.62), ("<raw>", 0.25, 0.9), ("matrix", 0.0, 0.61))
    assert fit.absent == ("d<o>g",)
    evaluation = sa.evaluate([0, 1, 2], logits=2 * np.eye(3))
    page = html(Story(evaluation, evaluation, fit=fit))
    assert "Little differs &amp; much helps." in page
    assert "The calibration rows do not determine it" in page
    first, second = "temperature</th><td>75%</td><td>0.6200<", "&lt;raw&gt;</th><td>25%</td><td>0.9000<"
    assert page.index(first) < page.index(second)
    assert "<dd>d&lt;o&gt;g</dd>" in page
    with pytest.raises(ValueError, match="fit describe a calibrator; pass after="):
        Story(evaluation, fit=fit)


def test_a_calibrator_that_is_fitted_needs_no_method(run, preds):
    run("calibrate", preds, "-o", "cal.json", "--method", "TemperatureScaling")
    ran = run("report", preds, "--calibrator", "cal.json", "--method", "TemperatureScaling", "-o", "r.html")
    assert (ran.code, ran.out) == (2, "")
    assert "--calibrator cal.json is fitted already: leave out --method, or --calibrator" in ran.err
